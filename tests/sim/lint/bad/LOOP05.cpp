// Loops without a label.
// finding: LOOP05 on line 7
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[8] = {n};
    for (int i = 0; i < 8; ++i) {
        a[i] = i;
    }
named:
    for (int i = 0; i < 8; ++i) {
        a[i] = i;
    }
}
