// Calls that are said to run side by side and cannot: they share a port, an array, a count, or a result; the last stand in
// finding: PAR01 on line 49
// finding: PAR01 on line 50
// finding: PAR01 on line 55
// finding: PAR01 on line 60
// two blocks, or do not exist.
#include "../hls_burst_maxi.h"

typedef hls::burst_maxi<int> Port;

static int load(Port memory, int buffer[8])
{
#pragma HLS INLINE off
    memory.read_request(0, 1);
    buffer[0] = memory.read();
    return buffer[0];
}

static void store(Port memory, const int buffer[8], int &count)
{
#pragma HLS INLINE off
    memory.write_request(0, 1);
    memory.write(buffer[0]);
    memory.write_response();
    ++count;
}

static void work(const int &scale, int buffer[8], int &count)
{
#pragma HLS INLINE off
    buffer[1] = scale;
    ++count;
}

static void right(Port one, Port two, int ping[8], int pong[8], int other[8], const int &n, int count[2])
{
    int working = 0;
    int storing = 0;
    // Side by side: load, work, store
    count[0] = load(one, ping);
    work(n, pong, working);
    store(two, other, storing);
}

static void wrong(Port one, int ping[8], int pong[8], int &count)
{
    // Side by side: load, work, store
    const int first = load(one, ping);
    work(first, ping, count);
    store(one, pong, count);
}

static void blocks(Port one, int ping[8], int pong[8], int n, int &count)
{
    // Side by side: load, work
    load(one, ping);
    if (n > 2) {
        work(n, pong, count);
    }
    // Side by side: load, fill
}

void systolora_top(Port one, Port two, int n)
{
#pragma HLS INTERFACE mode=m_axi port=one bundle=one offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=one
#pragma HLS INTERFACE mode=m_axi port=two bundle=two offset=slave depth=64 num_read_outstanding=8 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=two
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int ping[8];
    int pong[8];
    int other[8];
    int counts[2] = {n, 0};
    right(one, two, ping, pong, other, n, counts);
    wrong(one, ping, pong, counts[0]);
    blocks(one, ping, pong, n, counts[1]);
}
