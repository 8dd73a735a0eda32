// Requests that may be of no words; the last three surely have some.
// finding: BRS02 on line 18
// finding: BRS02 on line 19
// finding: BRS02 on line 21
#include "../hls_burst_maxi.h"

static unsigned least(unsigned x, unsigned y)
{
    return x < y ? x : y;
}

void systolora_top(hls::burst_maxi<int> memory, unsigned n)
{
#pragma HLS INTERFACE mode=m_axi port=memory bundle=memory offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=memory
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    memory.read_request(0, n);
    memory.read_request(0, 0);
    if (n != 1) {
        memory.write_request(0, n);
    }
    if (n != 0) {
        memory.write_request(0, n);
    }
    memory.write_request(0, 3);
pieces:
    for (unsigned i = 0; i < n; i += 8) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=8
        memory.write_request(i, least(n - i, 8));
        memory.write(int(i) + memory.read());
        memory.write_response();
    }
}
