// Pragmas outside of functions.
// finding: PRG07 on line 4
// finding: PRG07 on line 6
#pragma HLS INLINE off
static int table[16];
#pragma HLS BIND_STORAGE variable=table type=ram_1p

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    table[n & 15] = n;
}
