// Scalars outside of the register map.
// finding: IFC04 on line 6
// finding: IFC04 on line 7
// finding: IFC04 on line 8
void systolora_top(int n, int& done) {
#pragma HLS INTERFACE mode=ap_none port=n
#pragma HLS INTERFACE mode=ap_vld port=done
#pragma HLS INTERFACE mode=ap_ctrl_hs port=return
    done = n;
}
