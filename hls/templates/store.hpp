// The store unit: finished C tiles, from one half of the output memory through the epilogue to device memory.

#ifndef SYSTOLORA_STORE_HPP
#define SYSTOLORA_STORE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "epilogue.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "runs.hpp"
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

// Reads `count` float32 from bus word `first` on into lines of kLanes; returns the number of bus words read.
template <int kLanes>
inline uint32_t load_floats(Port memory, uint64_t first, uint32_t count, float values[][kLanes])
{
#pragma HLS INLINE
    const uint32_t words = divide_up(count, kBusFloats);
    if (words != 0) {
        memory.read_request(first, words);
    }
words:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=kBusFloats
        const BusWord word = memory.read();
    floats:
        for (int i = 0; i < kBusFloats; ++i) {
#pragma HLS UNROLL
            const uint32_t place = w * kBusFloats + i;
            if (place < count) {
                values[place / kLanes][place % kLanes] = float_of(get_word32(word, i));
            }
        }
    }
    return words;
}

// Scales of the tile's rows, one for all of them in the first; returns the number of bus words read.
inline uint32_t load_row_scales(const GemmInstruction &op, const ResultTile &tile, uint64_t window_address,
                                Port memory, float scale[kOutputDepth][1])
{
#pragma HLS INLINE off
    const uint64_t first = (op.scale_a_address - window_address) / kBusBytes;
    uint32_t words = 0;
    if (op.scale_a == ScaleMode::vector) {
        words = load_floats(memory, first + tile.m0 / kBusFloats, tile.tile_m, scale);
    } else if (op.scale_a == ScaleMode::tensor) {
        words = load_floats(memory, first, 1, scale);
    } else {
        scale[0][0] = 1.0f;
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
        words += load_floats(memory, scales + first, columns, factors.scale);
    } else if (op.scale_b == ScaleMode::tensor && column == 0) {
        words += load_floats(memory, scales, 1, factors.scale);
    } else if (op.scale_b == ScaleMode::none) {
        factors.scale[0][0] = 1.0f;
    }
    if (op.bias) {
        words += load_floats(memory, biases + first, columns, factors.bias);
    }
    return words;
}

{% if odd_port %}
// Rows of C with an odd number go through the port of programs, which nobody else uses while a GEMM runs: of two ports that
// are slower than the loop each has every second row, and their buffers hold the difference.
struct RowSplit {
    bool odd_first;
    uint32_t even;
    uint32_t odd;
};

inline RowSplit split_rows(const ResultTile &tile)
{
#pragma HLS INLINE
    RowSplit split;
    split.odd_first = tile.m0 % 2 == 1;
    split.even = split.odd_first ? tile.tile_m / 2 : (tile.tile_m + 1) / 2;
    split.odd = tile.tile_m - split.even;
    return split;
}

{% endif %}
// Finishes and writes the rows of a group of columns: one loop over all of them, kEpilogueLanes columns a clock, but no
// more than a bus word holds. A row of C is read before it is written, and no two rows share a byte. `first` is the
// group's first word of the output memory; those of the next columns are `count` further on.
inline void finish_rows(const GemmInstruction &op,{{ " bool odd_first," if odd_port }} uint32_t count, uint32_t columns, uint32_t first,
                        const float scale_a[kOutputDepth][1], const ColumnFactors &factors, Port memory{{ odd_port }},
                        const OutputSegment output[kOutputDepth][kOutputSegments], RowReader &reader,
                        RowWriter &writer{{ ", RowReader &odd_reader, RowWriter &odd_writer" if odd_port }})
{
#pragma HLS INLINE off
    const bool half = op.result == Result::bfloat16;
    const int elements = half ? 2 * kBusFloats : kBusFloats;
    const uint32_t lanes = half ? kEpilogueLanes : kEpilogueFloats;
    const uint32_t steps = half ? divide_up(columns, kEpilogueLanes) : divide_up(columns, kEpilogueFloats);
    OutputCursor place = cursor_at(first);
    BusWord old = zero_bus_word();
    BusWord word = zero_bus_word();
    uint32_t row = 0;
    uint32_t column = 0;
    int index = 0;
{% if odd_port %}
    bool odd = odd_first;
{% endif %}
steps:
    for (uint32_t s = 0; s < count * steps; ++s) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth*kGroupColumns/kEpilogueFloats
#pragma HLS PIPELINE II=1
        if (op.accumulate && index == 0) {
{% if odd_port %}
            old = odd ? read_word(memory_odd, odd_reader) : read_word(memory, reader);
{% else %}
            old = read_word(memory, reader);
{% endif %}
        }
        const EpilogueLanes sums = read_epilogue_lanes(output, place, lanes);
        const float scale = scale_a[op.scale_a == ScaleMode::vector ? row : 0][0];
        finish_columns(op, columns, column, lanes, index, sums, old, scale, factors, word);
        column += lanes;
        index += lanes;
        const bool row_ends = column >= columns;
        if (index == elements || row_ends) {
{% if odd_port %}
            if (odd) {
                write_word(memory_odd, odd_writer, word);
            } else {
                write_word(memory, writer, word);
            }
{% else %}
            write_word(memory, writer, word);
{% endif %}
            word = zero_bus_word();
            index = 0;
        }
        advance(place, lanes, count);
        if (row_ends) {
            column = 0;
            ++row;
            place = cursor_at(first + row);
{% if odd_port %}
            odd = !odd;
{% endif %}
        }
    }
}

// Stores the rows of a group of columns. Requests whose answer was not taken go on to the next group in `open`.
inline void store_group(const GemmInstruction &op, const ResultTile &tile, uint32_t column, uint32_t columns,
                        uint64_t window_address, const float scale_a[kOutputDepth][1], const ColumnFactors &factors,
                        Port memory{{ odd_port }}, const OutputSegment output[kOutputDepth][kOutputSegments], uint32_t &open,
                        {{ "uint32_t &odd_open, " if odd_port }}StoreCounts &counts)
{
#pragma HLS INLINE off
    const uint32_t size = result_bytes(op.result);
    const uint64_t matrix = (op.c_address - window_address) / kBusBytes;
    const uint64_t stride = op.c_stride / kBusBytes;
    const uint64_t first = matrix + tile.m0 * stride + uint64_t(tile.n0 + column) * size / kBusBytes;
    const uint32_t words = divide_up(columns * size, kBusBytes);
    RowReader reader;
#pragma HLS ARRAY_PARTITION variable=reader.asked.words type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=reader.asked.exists type=complete dim=1
{% if odd_port %}
    RowReader odd_reader;
#pragma HLS ARRAY_PARTITION variable=odd_reader.asked.words type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=odd_reader.asked.exists type=complete dim=1
    const RowSplit split = split_rows(tile);
    const uint64_t even_at = split.odd_first ? first + stride : first;
    const uint64_t odd_at = split.odd_first ? first : first + stride;
    begin_reading(memory, rows_at(even_at, 2 * stride, op.accumulate ? split.even : 0, words), reader);
    begin_reading(memory_odd, rows_at(odd_at, 2 * stride, op.accumulate ? split.odd : 0, words), odd_reader);
    RowWriter writer = begin_writing(rows_at(even_at, 2 * stride, split.even, words), open);
    RowWriter odd_writer = begin_writing(rows_at(odd_at, 2 * stride, split.odd, words), odd_open);
    finish_rows(op, split.odd_first, tile.tile_m, columns, column / kCols * tile.tile_m, scale_a, factors, memory,
                memory_odd, output, reader, writer, odd_reader, odd_writer);
    odd_open = odd_writer.open;
{% else %}
    begin_reading(memory, rows_at(first, stride, op.accumulate ? tile.tile_m : 0, words), reader);
    RowWriter writer = begin_writing(rows_at(first, stride, tile.tile_m, words), open);
    finish_rows(op, tile.tile_m, columns, column / kCols * tile.tile_m, scale_a, factors, memory, output, reader,
                writer);
{% endif %}
    open = writer.open;
    counts.loaded += op.accumulate ? tile.tile_m * words : 0;
    counts.stored += tile.tile_m * words;
}

// Stores a tile. Nothing happens if it is not valid.
inline void store(const GemmInstruction &op, const ResultTile &tile, uint64_t window_address, Port memory{{ odd_port }},
                  const OutputSegment output[kOutputDepth][kOutputSegments], StoreCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY float scale_a[kOutputDepth][1];
    SYSTOLORA_MEMORY ColumnFactors factors;
#pragma HLS BIND_STORAGE variable=scale_a type=ram_s2p impl=bram
#pragma HLS ARRAY_PARTITION variable=factors.scale type=complete dim=2
#pragma HLS ARRAY_PARTITION variable=factors.bias type=complete dim=2
#pragma HLS BIND_STORAGE variable=factors.scale type=ram_s2p impl=lutram
#pragma HLS BIND_STORAGE variable=factors.bias type=ram_s2p impl=lutram
    counts.vector = 0;
    counts.loaded = 0;
    counts.stored = 0;
    if (tile.valid) {
        uint32_t open = 0;
{% if odd_port %}
        uint32_t odd_open = 0;
{% endif %}
        counts.vector = load_row_scales(op, tile, window_address, memory, scale_a);
    groups:
        for (uint32_t column = 0; column < tile.tile_n; column += kGroupColumns) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
            const uint32_t columns = least(tile.tile_n - column, kGroupColumns);
            counts.vector += load_column_factors(op, tile, column, columns, window_address, memory, factors);
            store_group(op, tile, column, columns, window_address, scale_a, factors, memory{{ odd_argument }}, output, open,{{ "\n                        odd_open," if odd_port }} counts);
        }
        await_writes(memory, open);
{% if odd_port %}
        await_writes(memory_odd, odd_open);
{% endif %}
    }
}

#endif
