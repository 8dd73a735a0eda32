// Pragmas that compilers skip.
// finding: PRG01 on line 11
// finding: PRG01 on line 12
// finding: PRG01 on line 13
// finding: PRG01 on line 14
#define TEXT(x) _Pragma(#x)

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HSL INLINE off
#pragma hls INLINE off
#pragma AP inline off
    TEXT(HLS INLINE off)
    n += 1;
}
