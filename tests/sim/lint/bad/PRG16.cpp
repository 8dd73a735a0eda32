// Storage and operators that no device has.
// finding: PRG16 on line 13
// finding: PRG16 on line 14
// finding: PRG16 on line 15
// finding: PRG16 on line 16
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
    int b[16] = {n};
    int c[16] = {n};
    const int d = n * 3;
#pragma HLS BIND_STORAGE variable=a type=ram_3p impl=bram
#pragma HLS BIND_STORAGE variable=b type=ram_s2p impl=ultra
#pragma HLS BIND_STORAGE variable=c type=ram_2p impl=srl
#pragma HLS BIND_OP variable=d op=mul impl=dps
}
