// Arrays that stay memories, and nobody says of what: cut into some, long, a field of a struct, left to the tool. Registers,
// finding: MEM01 on line 17
// finding: MEM01 on line 22
// finding: MEM01 on line 24
// finding: MEM01 on line 25
// constants, a short array in one piece, and what is bound are right.
struct Factors {
    float scale[32][4];
    float bias[32][4];
};

constexpr int kLong = 65;

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int lines[4][32] = {{n}};
    int bound[4][32] = {{n}};
#pragma HLS ARRAY_PARTITION variable=lines type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=bound type=complete dim=1
#pragma HLS BIND_STORAGE variable=bound type=ram_s2p impl=lutram
    int longer[kLong] = {n};
    int open[kLong] = {n};
#pragma HLS BIND_STORAGE variable=open type=ram_s2p impl=auto
    Factors factors;
#pragma HLS ARRAY_PARTITION variable=factors.scale type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=factors.bias type=complete dim=0
    factors.scale[0][0] = 1.0f;
    static const int table[kLong] = {1};
    int few[64] = {n};
    int registers[128] = {n};
#pragma HLS ARRAY_PARTITION variable=registers type=cyclic factor=128
    n = lines[0][0] + bound[0][0] + longer[0] + open[0] + table[0] + few[0] + registers[0];
}
