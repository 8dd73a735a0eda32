// Loops of unknown length.
// finding: LOOP02 on line 10
// finding: LOOP02 on line 14
// finding: LOOP02 on line 18
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[8] = {n};
sum:
    for (int i = 0; i < n; ++i) {
        a[0] += i;
    }
until:
    for (int i = 0; i < 8 && a[i] > 0; ++i) {
        a[0] += i;
    }
stopped:
    for (int i = 0; i < 8; ++i) {
        if (a[i] > n) break;
    }
told:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=8
        a[0] += i;
    }
}
