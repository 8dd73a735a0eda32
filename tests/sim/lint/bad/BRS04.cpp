// More requests ahead than the port holds, and an unknown number of them; the last loop asks for as many as it holds.
// finding: BRS04 on line 14
// finding: BRS04 on line 18
#include "../hls_burst_maxi.h"

void systolora_top(hls::burst_maxi<int> memory, int n)
{
#pragma HLS INTERFACE mode=m_axi port=memory bundle=memory offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=memory
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int sum = 0;
many:
    for (int i = 0; i < 9; ++i) {
        memory.read_request(i, 1);
    }
unknown:
    for (int i = 0; i < n; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
        memory.read_request(i, 1);
    }
right:
    for (int i = 0; i < 8; ++i) {
        memory.read_request(i, 1);
    }
take:
    for (int i = 0; i < 8; ++i) {
        sum += memory.read();
    }
}
