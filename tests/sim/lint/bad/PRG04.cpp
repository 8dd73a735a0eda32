// Options that the pragma does not take.
// finding: PRG04 on line 8
// finding: PRG04 on line 11
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
#pragma HLS ARRAY_PARTITION variable=a factr=2 type=cyclic
sum:
    for (int i = 0; i < 4; ++i) {
#pragma HLS UNROLL factor=2 max=3
        n += a[i];
    }
}
