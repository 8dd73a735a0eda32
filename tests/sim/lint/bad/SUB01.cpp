// Storage whose size is not fixed.
// finding: SUB01 on line 11
// finding: SUB01 on line 13
// finding: SUB01 on line 14
// finding: SUB01 on line 15
#include <cstdlib>

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int* a = new int[n];
    a[0] = n;
    delete[] a;
    int* b = (int*)malloc(4);
    free(b);
}
