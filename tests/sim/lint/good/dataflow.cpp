// A canonical read, compute, write network.
#include <cstdint>

#include "stream.hpp"

static void read_words(const int8_t* memory, int words, hls::stream<int8_t>& values) {
read:
    for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=64 max=4096
#pragma HLS PIPELINE II=1
        values.write(memory[i]);
    }
}

static void square(hls::stream<int8_t>& values, int words, hls::stream<int32_t>& squares) {
squares:
    for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=64 max=4096
#pragma HLS PIPELINE II=1
        const int8_t value = values.read();
        squares.write(value * value);
    }
}

static void write_words(hls::stream<int32_t>& squares, int words, int32_t* memory) {
write:
    for (int i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=64 max=4096
#pragma HLS PIPELINE II=1
        memory[i] = squares.read();
    }
}

void systolora_top(const int8_t* input, int32_t* output, int words) {
#pragma HLS INTERFACE mode=m_axi port=input bundle=gmem0 offset=slave depth=4096
#pragma HLS INTERFACE mode=m_axi port=output bundle=gmem1 offset=slave depth=4096
#pragma HLS INTERFACE mode=s_axilite port=words
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    hls::stream<int8_t> values;
#pragma HLS STREAM variable=values depth=16
    hls::stream<int32_t> squares;
#pragma HLS STREAM variable=squares depth=16
    read_words(input, words, values);
    square(values, words, squares);
    write_words(squares, words, output);
}
