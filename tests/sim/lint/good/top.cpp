// Load, compute and store overlap by explicit ping-pong: three calls on distinct arrays, the halves
// swapped by the two branches of one if.
#include "types.hpp"

#ifndef __SYNTHESIS__
#include <cstdio>
static void trace(int tile) {
    std::printf("tile %d\n", tile);
}
#endif

static int clamp_count(int count) {
    return count < 0 ? 0 : (count > kMostTiles ? kMostTiles : count);
}

static void load_tile(const InputWord* memory, int words, InputWord buffer[kDepth]) {
#pragma HLS INLINE off
load_words:
    for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kDepth avg=kDepth/2
#pragma HLS PIPELINE II=1
        buffer[i] = memory[i];
    }
}

// One clock of the array: high to low, so that each register takes its neighbour's old value.
static void array_clock(const InputWord& word, OutputWord& sums) {
    static data_t delay[kRows];
#pragma HLS ARRAY_PARTITION variable=delay type=complete
rows:
    for (int r = kRows - 1; r >= 0; --r) {
#pragma HLS UNROLL
    columns:
        for (int c = 0; c < kCols; ++c) {
#pragma HLS UNROLL
            sums.lane[c] += word.lane[r] * delay[r];
        }
        delay[r] = r == 0 ? word.lane[0] : delay[r - 1];
    }
}

static void compute_tile(const InputWord buffer[kDepth], int words, OutputWord result[kDepth]) {
#pragma HLS INLINE off
    static OutputWord sums;
#pragma HLS ARRAY_PARTITION variable=sums.lane dim=1 type=complete
steps:
    for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=256
#pragma HLS PIPELINE II=1
// Proof: iteration i writes result[i] and reads no element of it.
#pragma HLS DEPENDENCE variable=result type=inter dependent=false
        array_clock(buffer[i], sums);
        result[i] = sums;
    }
}

static void store_tile(const OutputWord result[kDepth], int words, int scale, OutputWord* memory) {
#pragma HLS INLINE off
store_words:
    for (int i = 0; i < words && words <= kDepth; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=256
#pragma HLS PIPELINE II=1
        OutputWord word = result[i];
    lanes:
        for (int c = 0; c < kCols; ++c) {
#pragma HLS UNROLL
            const sum_t product = word.lane[c] * scale;
#pragma HLS BIND_OP variable=product op=mul impl=dsp latency=3
            word.lane[c] = product >> 4;
        }
        memory[i] = word;
    }
}

static void run_step(const InputWord* input, OutputWord* output, int words, int scale,
                     InputWord loading[kDepth], InputWord working[kDepth],
                     OutputWord filling[kDepth], OutputWord storing[kDepth]) {
#pragma HLS INLINE off
    load_tile(input, words, loading);
    compute_tile(working, words, filling);
    store_tile(storing, words, scale, output);
}

void systolora_top(const InputWord* memory_input, OutputWord* memory_output, int tiles, int words,
                   int scale) {
#pragma HLS INTERFACE mode=m_axi port=memory_input bundle=load offset=slave depth=256 max_read_burst_length=64
#pragma HLS INTERFACE mode=m_axi port=memory_output bundle=store offset=slave depth=256 \
    num_write_outstanding=16
#pragma HLS INTERFACE mode=s_axilite port=memory_input offset=kAddressInput
#pragma HLS INTERFACE mode=s_axilite port=memory_output offset=0x1c
#pragma HLS INTERFACE mode=s_axilite port=tiles offset=0x28
#pragma HLS INTERFACE mode=s_axilite port=words offset=0x30
#pragma HLS INTERFACE s_axilite port=scale offset=0x38
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS ALLOCATION function instances=run_step limit=1
    static InputWord input_ping[kDepth];
    static InputWord input_pong[kDepth];
    static OutputWord output_ping[kDepth];
    static OutputWord output_pong[kDepth];
#pragma HLS BIND_STORAGE variable=input_ping type=ram_s2p impl=uram
#pragma HLS BIND_STORAGE variable=input_pong type=ram_s2p impl=uram
#pragma HLS BIND_STORAGE variable=output_ping type=ram_s2p impl=bram
#pragma HLS BIND_STORAGE variable=output_pong type=ram_s2p impl=bram
    const int count = clamp_count(tiles);
tiles:
    for (int tile = 0; tile < count; ++tile) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kMostTiles
        if (tile & 1) {
            run_step(memory_input, memory_output, words, scale, input_ping, input_pong, output_ping,
                     output_pong);
        } else {
            run_step(memory_input, memory_output, words, scale, input_pong, input_ping, output_pong,
                     output_ping);
        }
#ifndef __SYNTHESIS__
        trace(tile);
#endif
    }
}
