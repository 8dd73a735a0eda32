// Contradictions.
// finding: PRG10 on line 11
// finding: PRG10 on line 14
// finding: PRG10 on line 15
// finding: PRG10 on line 21
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
#pragma HLS BIND_STORAGE variable=a type=ram_1p impl=bram
#pragma HLS BIND_STORAGE variable=a type=ram_1p impl=uram
sum:
    for (int i = 0; i < 4; ++i) {
#pragma HLS PIPELINE II=1 II=2
#pragma HLS PIPELINE off
        n += a[i];
    }
copies:
    for (int i = 0; i < 4; ++i) {
#pragma HLS UNROLL
#pragma HLS PIPELINE II=1
        n += a[i];
    }
}
