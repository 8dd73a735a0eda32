// Unrolled loops of unknown length.
// finding: LOOP03 on line 8
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[8] = {n};
sum:
    for (int i = 0; i < n; ++i) {
#pragma HLS UNROLL factor=2
#pragma HLS LOOP_TRIPCOUNT min=0 max=8
        a[0] += i;
    }
fixed:
    for (int i = 0; i < 8; ++i) {
#pragma HLS UNROLL
        a[i] += i;
    }
}
