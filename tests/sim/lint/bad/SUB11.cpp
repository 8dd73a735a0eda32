// Jumps and assembly.
// finding: SUB11 on line 9
// finding: SUB11 on line 10
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
again:
    n -= 1;
    if (n > 0) goto again;
    asm("nop");
}
