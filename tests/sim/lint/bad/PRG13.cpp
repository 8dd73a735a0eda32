// Arrays cut into more than 1024 pieces.
// finding: PRG13 on line 9
// finding: PRG13 on line 18
// finding: PRG13 on line 23
struct Row {
    int lane[64];
};
static void clear(int state[64][32]) {
#pragma HLS ARRAY_PARTITION variable=state dim=0 type=complete
    state[0][0] = 0;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    static int sums[64][32];
#pragma HLS ARRAY_PARTITION variable=sums dim=1 type=complete
#pragma HLS ARRAY_PARTITION variable=sums dim=2 complete
    static int rows[64][4096];
#pragma HLS ARRAY_PARTITION variable=rows dim=1 type=complete
#pragma HLS ARRAY_PARTITION variable=rows dim=2 type=cyclic factor=16
    static int line[1025];
#pragma HLS ARRAY_PARTITION variable=line type=complete
    static int words[1024];
#pragma HLS ARRAY_PARTITION variable=words type=complete
    Row upper = {{n}};
    Row lower = {{n}};
#pragma HLS ARRAY_PARTITION variable=upper.lane type=complete
#pragma HLS ARRAY_PARTITION variable=lower.lane type=complete
#pragma HLS BIND_STORAGE variable=rows type=ram_s2p impl=bram
    clear(sums);
    rows[0][0] = line[n & 1023] + words[n & 1023];
}
