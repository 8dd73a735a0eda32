// UltraRAM that is deeper than a block, without clocks for the cascade; one block, and enough clocks, are right.
// finding: MEM03 on line 11
// finding: MEM03 on line 13
// finding: MEM03 on line 16
constexpr int kDepth = 4096;

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    static int unsaid[kDepth + 1];
#pragma HLS BIND_STORAGE variable=unsaid type=ram_s2p impl=uram
    static int quick[2][2 * kDepth];
#pragma HLS BIND_STORAGE variable=quick type=ram_s2p impl=uram latency=2
#pragma HLS ARRAY_PARTITION variable=quick type=complete dim=1
    static int deepest[5 * kDepth];
#pragma HLS BIND_STORAGE variable=deepest type=ram_s2p impl=uram_ecc latency=3
    static int block[2][kDepth];
#pragma HLS BIND_STORAGE variable=block type=ram_s2p impl=uram
#pragma HLS ARRAY_PARTITION variable=block type=complete dim=1
    static int right[4 * kDepth];
#pragma HLS BIND_STORAGE variable=right type=ram_s2p impl=uram latency=3
    static int other[4 * kDepth];
#pragma HLS BIND_STORAGE variable=other type=ram_s2p impl=bram
    n = unsaid[0] + quick[0][0] + deepest[0] + block[0][0] + right[0] + other[0];
}
