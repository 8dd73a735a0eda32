// Names that no pragma has.
// finding: PRG02 on line 8
// finding: PRG02 on line 9
// finding: PRG02 on line 12
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS
#pragma HLS IN_LINE off
sum:
    for (int i = 0; i < 4; ++i) {
#pragma HLS PIPLINE II=1
        n += i;
    }
}
