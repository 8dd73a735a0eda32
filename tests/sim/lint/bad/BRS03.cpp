// Writes whose answer is never taken, once because it is taken before the request, once because it is taken sometimes.
// finding: BRS03 on line 14
// finding: BRS03 on line 20
#include "../hls_burst_maxi.h"

static void put(hls::burst_maxi<int> memory, int value)
{
    memory.write_request(0, 1);
    memory.write(value);
}

static void put_last(hls::burst_maxi<int> memory, int value)
{
    memory.write_request(1, 1);
    memory.write(value);
}

static void put_sometimes(hls::burst_maxi<int> memory, int value)
{
    memory.write_request(2, 1);
    memory.write(value);
    if (value == 8) {
        memory.write_response();
    }
}

void systolora_top(hls::burst_maxi<int> memory, int n)
{
#pragma HLS INTERFACE mode=m_axi port=memory bundle=memory offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=memory
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    put(memory, n);
    memory.write_response();
    put_sometimes(memory, n);
    if (n == 1) {
        put_last(memory, n);
    }
}
