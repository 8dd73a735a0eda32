// A source that does not compile.
// finding: SRC01 on line 6
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    n = undeclared;
}
