// Exceptions.
// finding: SUB05 on line 5
// finding: SUB05 on line 12
static int halve(int n) {
    if (n & 1) throw n;
    return n / 2;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    try {
        n = halve(n);
    } catch (int) {
        n = 0;
    }
}
