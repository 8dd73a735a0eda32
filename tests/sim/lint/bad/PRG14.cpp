// Bound multipliers of multiply-accumulates.
// finding: PRG14 on line 9
// finding: PRG14 on line 12
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int sum = 0;
    const int product = n * 3;
#pragma HLS BIND_OP variable=product op=mul impl=dsp
    sum += product;
    sum = sum + n * 5;
#pragma HLS BIND_OP variable=sum op=mul impl=dsp
    const int scaled = n * 7;
#pragma HLS BIND_OP variable=scaled op=mul impl=dsp latency=3
    const int plain = scaled >> 1;
}
