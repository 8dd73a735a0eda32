// State shared by several call sites.
// finding: SUB13 on line 7
// finding: SUB13 on line 13
// finding: SUB13 on line 23
// finding: SUB13 on line 37
static int count_calls(int x) {
    static int calls = 0;
    static const int step[2] = {1, 2};
    calls += step[x & 1];
    return calls;
}
static int accumulate(int x) {
    static int sum = 0;
    sum += x;
    return sum;
}
static int step_once(int x) {
    static int state = 0;
    state ^= x;
    return state;
}
static int counted(int x) {
    static int total = 0;
    total += x;
    return total;
}
static int wrapper(int x) {
    return counted(x);
}
static int choose(int x) {
    static int last = 0;
    last += x;
    return last;
}
template <int kColumn>
static int twice(int x) {
    static int held = 0;
    held += x;
    return held;
}
template <int kColumn>
static int once(int x) {
    static int kept = 0;
    kept += x;
    return kept;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a = count_calls(n) + count_calls(n + 1);
copies:
    for (int i = 0; i < 4; ++i) {
#pragma HLS UNROLL
        a += accumulate(i);
    }
    a += twice<0>(n) + twice<1>(n) + twice<1>(a);
    a += once<0>(n) + once<1>(n);
    a += wrapper(n);
    a += wrapper(a);
    if (n & 1) {
        a += step_once(a);
    } else {
        a -= step_once(n);
    }
    switch (n) {
        case 0:
            a += choose(1);
            break;
        case 1:
            a += choose(2);
            break;
        default:
            a = 0;
    }
}
