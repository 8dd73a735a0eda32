// Loops below a PIPELINE that cannot be unrolled.
// finding: LOOP04 on line 28
// finding: LOOP04 on line 37
static int sum(const int a[8], int n) {
    int s = 0;
sum:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=8
        s += a[i];
    }
    return s;
}
static int sum_all(const int a[8]) {
    int s = 0;
sum_all:
    for (int i = 0; i < 8; ++i) {
        s += a[i];
    }
    return s;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[8] = {n};
outer:
    for (int j = 0; j < 4; ++j) {
#pragma HLS PIPELINE II=1
    inner:
        for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=8
            a[j] += i;
        }
    }
calls:
    for (int j = 0; j < 4; ++j) {
#pragma HLS PIPELINE II=1
        a[j] = sum(a, j);
    }
fixed:
    for (int j = 0; j < 4; ++j) {
#pragma HLS PIPELINE II=1
        a[j] = sum_all(a);
    }
}
