// Variables that are not visible at the pragma.
// finding: PRG09 on line 15
// finding: PRG09 on line 18
// finding: PRG09 on line 20
// finding: PRG09 on line 21
// finding: PRG09 on line 22
// finding: PRG09 on line 27
struct Word {
    int lane[4];
};

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS BIND_STORAGE variable=late type=ram_1p
    int late[16] = {n};
    Word word = {};
#pragma HLS ARRAY_PARTITION variable=lat type=complete
#pragma HLS ARRAY_PARTITION variable=word.lane type=complete
#pragma HLS ARRAY_PARTITION variable=word.lanes type=complete
#pragma HLS ARRAY_PARTITION variable=n type=complete
#pragma HLS STREAM variable=n depth=2
    {
        int inner[2] = {late[0], word.lane[0]};
        n += inner[0];
    }
#pragma HLS BIND_STORAGE variable=inner type=ram_1p
}
