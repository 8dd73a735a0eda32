// INTERFACE for something that is no argument.
// finding: IFC06 on line 6
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS INTERFACE mode=s_axilite port=m
    n += 1;
}
