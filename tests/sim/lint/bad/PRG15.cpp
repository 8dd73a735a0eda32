// Promises without proof.
// finding: PRG15 on line 10
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[16] = {n};
sum:
    for (int i = 0; i < 8; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=a inter false
        a[i] += a[i + 8];
    }
again:
    for (int i = 0; i < 8; ++i) {
#pragma HLS PIPELINE II=1
#pragma HLS DEPENDENCE variable=a type=inter dependent=true distance=8
        a[i] += a[i + 8];
    }
proved:
    for (int i = 0; i < 8; ++i) {
#pragma HLS PIPELINE II=1
// Proof: a[i] is written for i < 8 and a[i + 8] read, and these never meet.
#pragma HLS DEPENDENCE variable=a type=inter dependent=false
        a[i] += a[i + 8];
    }
}
