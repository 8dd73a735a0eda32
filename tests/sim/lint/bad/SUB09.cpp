// An array of variable length.
// finding: SUB09 on line 6
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[n];
    int b[4];
    a[0] = n;
    b[0] = n;
}
