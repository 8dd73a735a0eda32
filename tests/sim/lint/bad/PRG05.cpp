// Values of the wrong kind.
// finding: PRG05 on line 9
// finding: PRG05 on line 10
// finding: PRG05 on line 13
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
#pragma HLS ARRAY_PARTITION variable=a type=full
#pragma HLS INLINE off=1
sum:
    for (int i = 0; i < 4; ++i) {
#pragma HLS PIPELINE II=
        n += a[i];
    }
}
