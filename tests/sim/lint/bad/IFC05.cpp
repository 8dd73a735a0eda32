// INTERFACE below the top function.
// finding: IFC05 on line 4
static int twice(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
    return 2 * n;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    n = twice(n);
}
