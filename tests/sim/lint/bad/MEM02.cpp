// Line buffers that would take a block RAM or an UltraRAM each; in LUT RAM, in one piece or deeper they are right.
// finding: MEM02 on line 13
// finding: MEM02 on line 17
constexpr int kLanes = 16;
constexpr int kWords = 64;

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int ping[kLanes][kWords / 2] = {{n}};
    int pong[kLanes][kWords / 2] = {{n}};
#pragma HLS ARRAY_PARTITION variable=ping type=complete dim=1
#pragma HLS BIND_STORAGE variable=ping type=ram_s2p impl=bram
#pragma HLS ARRAY_PARTITION variable=pong type=complete dim=1
#pragma HLS BIND_STORAGE variable=pong type=ram_s2p impl=lutram
    int banks[4 * kWords] = {n};
#pragma HLS BIND_STORAGE variable=banks type=ram_s2p impl=uram
#pragma HLS ARRAY_PARTITION variable=banks type=cyclic factor=4
    int whole[kWords] = {n};
#pragma HLS BIND_STORAGE variable=whole type=ram_s2p impl=bram
    int deep[2][kWords + 1] = {{n}};
#pragma HLS ARRAY_PARTITION variable=deep type=complete dim=1
#pragma HLS BIND_STORAGE variable=deep type=ram_s2p impl=bram
    n = ping[0][0] + pong[0][0] + banks[0] + whole[0] + deep[0][0];
}
