// Volatile device memory.
// finding: IFC08 on line 3
void systolora_top(volatile int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    out[0] = n;
}
