// Output registers that show progress and are not volatile: here, in a called function, and through a call in a loop. Volatile, or
// finding: IFC10 on line 6
// finding: IFC10 on line 13
// finding: IFC10 on line 33
// written once behind the loop, is right.
static void run(int n, int &current) {
steps:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
        current = i;
    }
}
static void set(int &stage, int i) {
    stage = i;
}
static void volatile_run(int n, volatile int &current) {
steps:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
        current = i;
    }
}
static int sum(int n) {
    int total = 0;
steps:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
        total += i;
    }
    return total;
}
void systolora_top(int n,
                   int &done,
                   int &at,
                   int &stage,
                   volatile int &right,
                   int &last) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=done
#pragma HLS INTERFACE mode=s_axilite port=at
#pragma HLS INTERFACE mode=s_axilite port=stage
#pragma HLS INTERFACE mode=s_axilite port=right
#pragma HLS INTERFACE mode=s_axilite port=last
#pragma HLS INTERFACE mode=s_axilite port=return
    run(n, at);
    volatile_run(n, right);
steps:
    for (int i = 0; i < 4; ++i) {
        set(stage, i);
        ++done;
    }
    last = sum(n);
}
