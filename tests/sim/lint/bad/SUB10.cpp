// long double.
// finding: SUB10 on line 4
// finding: SUB10 on line 11
static long double third(int n) {
    return n / 3.0L;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    long double a = third(n);
    double b = n;
}
