// Pragmas in the wrong place.
// finding: PRG08 on line 10
// finding: PRG08 on line 13
// finding: PRG08 on line 15
// finding: PRG08 on line 17
// finding: PRG08 on line 20
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS UNROLL factor=2
sum:
    for (int i = 0; i < 4; ++i)
#pragma HLS PIPELINE II=1
    {
#pragma HLS INLINE off
        if (i & 1) {
#pragma HLS PIPELINE II=1
            n += i;
        }
#pragma HLS OCCURRENCE cycle=4
    }
}
