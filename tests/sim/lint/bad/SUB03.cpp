// Recursion, direct and through another function.
// finding: SUB03 on line 5
// finding: SUB03 on line 9
// finding: SUB03 on line 12
static int factorial(int n) {
    return n < 2 ? 1 : n * factorial(n - 1);
}
static int odd(int n);
static int even(int n) {
    return n == 0 ? 1 : odd(n - 1);
}
static int odd(int n) {
    return n == 0 ? 0 : even(n - 1);
}
static int leaf(int n) {
    return n + 1;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a = factorial(n) + even(n) + leaf(n) + leaf(2);
}
