// Registers that overlap.
// finding: IFC07 on line 7
// finding: IFC07 on line 8
void systolora_top(const int* in, int n, int m, int k) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=in offset=0x10
#pragma HLS INTERFACE mode=s_axilite port=n offset=0x14
#pragma HLS INTERFACE mode=s_axilite port=m offset=0x0c
#pragma HLS INTERFACE mode=s_axilite port=k offset=0x18
#pragma HLS INTERFACE mode=s_axilite port=return
    n += in[0] + m + k;
}
