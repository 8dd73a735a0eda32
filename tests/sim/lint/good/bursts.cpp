// A row of a matrix after the other through a port whose bursts are asked for by hand: four requests ahead of their words,
// answers of writes taken at the end.
#include "../hls_burst_maxi.h"

typedef hls::burst_maxi<int> Port;

constexpr int kAhead = 4;

static void ask_row(Port memory, int row, unsigned words) {
#pragma HLS INLINE
    if (words != 0) {
        memory.read_request(16 * row, words);
    }
}

static void load_rows(Port memory, unsigned words, int buffer[16]) {
#pragma HLS INLINE off
ahead:
    for (int row = 0; row < kAhead; ++row) {
#pragma HLS PIPELINE II=1
        ask_row(memory, row, words);
    }
rows:
    for (int row = 0; row < 16; ++row) {
        buffer[row] = 0;
        if (row + kAhead < 16) {
            ask_row(memory, row + kAhead, words);
        }
    words:
        for (unsigned w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=16
#pragma HLS PIPELINE II=1
            buffer[row] += memory.read();
        }
    }
}

static void store_rows(Port memory, const int buffer[16]) {
#pragma HLS INLINE off
rows:
    for (int row = 0; row < 8; ++row) {
        memory.write_request(row, 1);
        memory.write(buffer[row]);
    }
answers:
    for (int row = 0; row < 8; ++row) {
        memory.write_response();
    }
}

static void run_round(Port input, Port output, unsigned words, int filling[16], const int emptying[16]) {
#pragma HLS INLINE off
    // Side by side: load_rows, store_rows
    load_rows(input, words, filling);
    store_rows(output, emptying);
}

void systolora_top(Port input, Port output, unsigned words) {
#pragma HLS INTERFACE mode=m_axi port=input bundle=input offset=slave depth=256 num_read_outstanding=8
#pragma HLS INTERFACE mode=m_axi port=output bundle=output offset=slave depth=256 num_write_outstanding=8
#pragma HLS INTERFACE mode=s_axilite port=input
#pragma HLS INTERFACE mode=s_axilite port=output
#pragma HLS INTERFACE mode=s_axilite port=words
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS ALLOCATION instances=run_round limit=1 type=function
    int ping[16];
    int pong[16];
rounds:
    for (int round = 0; round < 4; ++round) {
        if (round % 2 == 0) {
            run_round(input, output, words, ping, pong);
        } else {
            run_round(input, output, words, pong, ping);
        }
    }
}
