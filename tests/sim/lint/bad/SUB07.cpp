// Calls through pointers.
// finding: SUB07 on line 8
// finding: SUB07 on line 9
// finding: SUB07 on line 15
static int twice(int x) {
    return 2 * x;
}
static int apply(int (*f)(int), int x) {
    return f(x);
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a = apply(twice, n);
    int b = twice(n);
}
