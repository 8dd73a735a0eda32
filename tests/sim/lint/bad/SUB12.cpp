// Casts between pointers to words of different make.
// finding: SUB12 on line 17
// finding: SUB12 on line 18
template <int W>
struct ap_int {
    unsigned char bits[(W + 7) / 8];
};
struct Fields {
    unsigned char op;
    unsigned char flags;
};

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    ap_int<16> word = {};
    Fields* fields = (Fields*)&word;
    short* raw = reinterpret_cast<short*>(&word);
    float real = float(n);
    int* bits = (int*)&real;
    const Fields* same = (const Fields*)fields;
}
