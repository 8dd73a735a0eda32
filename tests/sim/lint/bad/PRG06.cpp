// Required options left out.
// finding: PRG06 on line 10
// finding: PRG06 on line 20
// finding: PRG06 on line 21
// finding: PRG06 on line 22
static int sum(const int* a, int n) {
    int s = 0;
sum:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1
        s += a[i];
    }
    return s;
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
#pragma HLS BIND_STORAGE variable=a impl=uram
#pragma HLS ARRAY_PARTITION variable=a type=block
#pragma HLS INTERFACE port=n
    n = sum(a, n);
}
