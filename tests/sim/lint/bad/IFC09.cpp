// A pointer in the bundle of a port whose bursts are asked for by hand.
// finding: IFC09 on line 9
#include "../hls_burst_maxi.h"

void systolora_top(hls::burst_maxi<int> memory, int *other, int n)
{
#pragma HLS INTERFACE mode=m_axi port=memory bundle=memory offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=memory
#pragma HLS INTERFACE mode=m_axi port=other bundle=memory offset=slave depth=64
#pragma HLS INTERFACE mode=s_axilite port=other
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    memory.read_request(0, 1);
    other[n] = memory.read();
}
