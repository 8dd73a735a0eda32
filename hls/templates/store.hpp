// The store unit: finished C tiles, from one half of the output memory through the epilogue to device memory.

#ifndef SYSTOLORA_STORE_HPP
#define SYSTOLORA_STORE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "epilogue.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "types.hpp"

// A tile of C whose sums are complete.
struct ResultTile {
    bool valid;
    uint32_t m0;
    uint32_t tile_m;
    uint32_t n0;
    uint32_t tile_n;
};

// Bus words moved.
struct StoreCounts {
    uint32_t vector;
    uint32_t loaded;
    uint32_t stored;
};

// One burst between device memory and a line buffer.
inline void read_line(Port memory, uint64_t first, uint32_t words, BusWord *line)
{
#pragma HLS INLINE
    if (words != 0) {
        memory.read_request(first, words);
    }
read:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=1
        line[w] = memory.read();
    }
}

inline void write_line(Port memory, uint64_t first, uint32_t words, const BusWord *line)
{
#pragma HLS INLINE
    if (words != 0) {
        memory.write_request(first, words);
    }
write:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=1
        memory.write(line[w]);
    }
    if (words != 0) {
        memory.write_response();
    }
}

// Reads `count` float32 from bus word `first` on; returns the number of bus words read.
inline uint32_t load_floats(Port memory, uint64_t first, uint32_t count, float *values)
{
#pragma HLS INLINE
    const uint32_t words = divide_up(count, kBusFloats);
    memory.read_request(first, words);
words:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=kBusFloats
        const BusWord word = memory.read();
    floats:
        for (int i = 0; i < kBusFloats; ++i) {
#pragma HLS UNROLL
            if (w * kBusFloats + i < count) {
                values[w * kBusFloats + i] = float_of(get_word32(word, i));
            }
        }
    }
    return words;
}

// The same for values that lie in lines of kEpilogueLanes.
inline uint32_t load_lines(Port memory, uint64_t first, uint32_t count,
                           float values[kGroupColumns / kEpilogueLanes][kEpilogueLanes])
{
#pragma HLS INLINE
    const uint32_t words = divide_up(count, kBusFloats);
    memory.read_request(first, words);
words:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=kBusFloats
        const BusWord word = memory.read();
    floats:
        for (int i = 0; i < kBusFloats; ++i) {
#pragma HLS UNROLL
            const uint32_t column = w * kBusFloats + i;
            if (column < count) {
                values[column / kEpilogueLanes][column % kEpilogueLanes] = float_of(get_word32(word, i));
            }
        }
    }
    return words;
}

// Scales of the tile's rows, one for all of them in scale[0]; returns the number of bus words read.
inline uint32_t load_row_scales(const GemmInstruction &op, const ResultTile &tile, uint64_t window_address,
                                Port memory, float scale[kOutputDepth])
{
#pragma HLS INLINE off
    const uint64_t first = (op.scale_a_address - window_address) / kBusBytes;
    uint32_t words = 0;
    if (op.scale_a == ScaleMode::vector) {
        words = load_floats(memory, first + tile.m0 / kBusFloats, tile.tile_m, scale);
    } else if (op.scale_a == ScaleMode::tensor) {
        words = load_floats(memory, first, 1, scale);
    } else {
        scale[0] = 1.0f;
    }
    return words;
}

// Scales and bias of the tile's columns from `column` on; returns the number of bus words read.
inline uint32_t load_column_factors(const GemmInstruction &op, const ResultTile &tile, uint32_t column,
                                    uint32_t columns, uint64_t window_address, Port memory,
                                    ColumnFactors &factors)
{
#pragma HLS INLINE off
    const uint64_t scales = (op.scale_b_address - window_address) / kBusBytes;
    const uint64_t biases = (op.bias_address - window_address) / kBusBytes;
    const uint32_t first = (tile.n0 + column) / kBusFloats;
    uint32_t words = 0;
    if (op.scale_b == ScaleMode::vector) {
        words += load_lines(memory, scales + first, columns, factors.scale);
    } else if (op.scale_b == ScaleMode::tensor && column == 0) {
        words += load_lines(memory, scales, 1, factors.scale);
    } else if (op.scale_b == ScaleMode::none) {
        factors.scale[0][0] = 1.0f;
    }
    if (op.bias) {
        words += load_lines(memory, biases + first, columns, factors.bias);
    }
    return words;
}

// A function of its own, so that it runs beside `finish_line`.
inline void write_row(Port memory, uint64_t first, uint32_t words, const BusWord line[kGroupWords])
{
#pragma HLS INLINE off
    write_line(memory, first, words, line);
}

// Finishes and writes the rows of a group of columns. A row is finished while the one before it is written.
inline void store_group(const GemmInstruction &op, const ResultTile &tile, uint32_t column, uint32_t columns,
                        uint64_t window_address, const float scale_a[kOutputDepth], const ColumnFactors &factors,
                        Port memory, const OutputSegment output[kOutputDepth][kOutputSegments],
                        StoreCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord old_line[kGroupWords];
    SYSTOLORA_MEMORY BusWord ping[kGroupWords];
    SYSTOLORA_MEMORY BusWord pong[kGroupWords];
#pragma HLS AGGREGATE variable=old_line compact=bit
#pragma HLS AGGREGATE variable=ping compact=bit
#pragma HLS AGGREGATE variable=pong compact=bit
#pragma HLS ALLOCATION instances=finish_line limit=1 type=function
#pragma HLS ALLOCATION instances=write_row limit=1 type=function
    const uint32_t size = result_bytes(op.result);
    const uint64_t stride = op.c_stride / kBusBytes;
    const uint64_t matrix = (op.c_address - window_address) / kBusBytes;
    const uint64_t first = matrix + tile.m0 * stride + uint64_t(tile.n0 + column) * size / kBusBytes;
    const uint32_t words = divide_up(columns * size, kBusBytes);
    const uint32_t block_word = column / kCols * tile.tile_m;
rows:
    for (uint32_t m = 0; m < tile.tile_m + 1; ++m) {
#pragma HLS LOOP_TRIPCOUNT min=2 max=kOutputDepth
        const bool finishing = m < tile.tile_m;
        const uint32_t finished = finishing ? columns : 0;
        const uint32_t written = m > 0 ? words : 0;
        const uint64_t before = first + (m - 1) * stride;
        const float scale = scale_a[op.scale_a == ScaleMode::vector && finishing ? m : 0];
        if (finishing && op.accumulate) {
            read_line(memory, first + m * stride, words, old_line);
            counts.loaded += words;
        }
        if (m % 2 == 0) {
            finish_line(op, finished, cursor_at(block_word + m), tile.tile_m, scale, factors, output, old_line, ping);
            write_row(memory, before, written, pong);
        } else {
            finish_line(op, finished, cursor_at(block_word + m), tile.tile_m, scale, factors, output, old_line, pong);
            write_row(memory, before, written, ping);
        }
        counts.stored += written;
    }
}

// Stores a tile. Nothing happens if it is not valid.
inline void store(const GemmInstruction &op, const ResultTile &tile, uint64_t window_address, Port memory,
                  const OutputSegment output[kOutputDepth][kOutputSegments], StoreCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY float scale_a[kOutputDepth];
    SYSTOLORA_MEMORY ColumnFactors factors;
#pragma HLS ARRAY_PARTITION variable=factors.scale type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=factors.bias type=complete dim=2
    counts.vector = 0;
    counts.loaded = 0;
    counts.stored = 0;
    if (tile.valid) {
        counts.vector = load_row_scales(op, tile, window_address, memory, scale_a);
    groups:
        for (uint32_t column = 0; column < tile.tile_n; column += kGroupColumns) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
            const uint32_t columns = least(tile.tile_n - column, kGroupColumns);
            counts.vector += load_column_factors(op, tile, column, columns, window_address, memory, factors);
            store_group(op, tile, column, columns, window_address, scale_a, factors, memory, output, counts);
        }
    }
}

#endif
