// Data that passes a process by.
// finding: DFL04 on line 21
static void load(const int* in, int a[16], int b[16]) {
    a[0] = in[0];
    b[0] = in[1];
}
static void compute(const int a[16], int c[16]) {
    c[0] = a[0] * a[0];
}
static void store(const int c[16], const int b[16], int* out) {
    out[0] = c[0] + b[0];
}

void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    int a[16];
    int b[16];
    int c[16];
    load(in, a, b);
    compute(a, c);
    store(c, b, out);
}
