// Numbers that are unknown or out of range.
// finding: PRG11 on line 13
// finding: PRG11 on line 14
// finding: PRG11 on line 18
// finding: PRG11 on line 19
// finding: PRG11 on line 23
constexpr int kCols = 8;

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16][2] = {{n}};
#pragma HLS ARRAY_PARTITION variable=a dim=3 type=complete
#pragma HLS ARRAY_PARTITION variable=a dim=1 type=cyclic factor=kCol
#pragma HLS ARRAY_PARTITION variable=a dim=2 type=cyclic factor=kCols/4
sum:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=9 max=kCols
#pragma HLS PIPELINE II=0
        a[i & 15][0] += 1;
    }
    int b[16] = {n};
#pragma HLS ARRAY_PARTITION variable=b type=cyclic factor=kCols/8
#pragma HLS BIND_STORAGE variable=a type=ram_s2p impl=lutram
}
