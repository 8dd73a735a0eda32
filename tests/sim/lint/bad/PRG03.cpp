// Pragmas and options that were replaced.
// finding: PRG03 on line 8
// finding: PRG03 on line 11
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
#pragma HLS RESOURCE variable=a core=RAM_2P
sum:
    for (int i = 0; i < 4; ++i) {
#pragma HLS PIPELINE II=1 enable_flush
        n += a[i];
    }
}
