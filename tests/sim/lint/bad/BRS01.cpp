// Words that were never asked for: one read in the top function, one write in a function that one of its callers asks for.
// finding: BRS01 on line 8
// finding: BRS01 on line 18
#include "../hls_burst_maxi.h"

static void put(hls::burst_maxi<int> memory, int value)
{
    memory.write(value);
}

void systolora_top(hls::burst_maxi<int> memory, int n)
{
#pragma HLS INTERFACE mode=m_axi port=memory bundle=memory offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=memory
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    put(memory, n);
    const int first = memory.read();
    memory.read_request(4, 2);
    memory.write_request(0, 2);
    put(memory, first + memory.read());
    put(memory, memory.read());
    memory.write_response();
}
