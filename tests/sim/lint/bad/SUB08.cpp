// Pointers to pointers.
// finding: SUB08 on line 3
static int pick(int** table, int n) {
    return table[n][0];
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[2] = {n, n + 1};
    int* rows[2] = {&a[0], &a[1]};
    int b = pick(rows, 1);
}
