// Limits on functions that are not called there.
// finding: PRG12 on line 7
// finding: PRG12 on line 14
// finding: PRG12 on line 16
static int twice(int x) {
#pragma HLS INLINE off
#pragma HLS ALLOCATION function instances=twice limit=1
    return 2 * x;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS ALLOCATION function instances=thrice limit=1
#pragma HLS ALLOCATION function instances=twice limit=1
#pragma HLS ALLOCATION operation instances=mull limit=1
#pragma HLS ALLOCATION operation instances=mul limit=1
    n = twice(n);
}
