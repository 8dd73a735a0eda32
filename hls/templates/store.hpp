// The store unit: finished C tiles, from one half of the output memory through the epilogue to device memory.

#ifndef SYSTOLORA_STORE_HPP
#define SYSTOLORA_STORE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "epilogue.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "requests.hpp"
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
            if (w * kBusFloats + i < count) {
                values[w * kBusFloats + i] = float_of(get_word32(word, i));
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
        words += load_floats(memory, scales + first, columns, factors.scale);
    } else if (op.scale_b == ScaleMode::tensor && column == 0) {
        words += load_floats(memory, scales, 1, factors.scale);
    } else if (op.scale_b == ScaleMode::none) {
        factors.scale[0] = 1.0f;
    }
    if (op.bias) {
        words += load_floats(memory, biases + first, columns, factors.bias);
    }
    return words;
}

// The rows of C in a group of columns, and where the next run of them is that is asked for.
struct ResultRows {
    uint64_t first;   // in bus words from the window's first address
    uint64_t stride;  // in bus words
    uint32_t words;   // of a row
};

struct ResultCursor {
    uint64_t row;
    uint64_t first;
    uint32_t left;  // bus words of the row from here on
    uint32_t rows;  // left, this one included
};

inline Run next_result_run(const ResultRows &rows, ResultCursor &at)
{
#pragma HLS INLINE
    const uint32_t words = least(at.left, kBurstWords);
    const bool row_ends = words == at.left;
    Run run;
    run.exists = true;
    run.first = at.first;
    run.words = at.rows == 0 ? 0 : words;
    at.first = row_ends ? at.row + rows.stride : at.first + words;
    at.row = row_ends ? at.row + rows.stride : at.row;
    at.left = row_ends ? rows.words : at.left - words;
    at.rows = row_ends && at.rows != 0 ? at.rows - 1 : at.rows;
    return run;
}

// Old rows that are being read. A row of C is read before it is written, and no two rows share a byte.
struct ResultReader {
    ResultCursor at;
    AskedRuns asked;
};

// Asks for the first old rows.
inline void begin_old_rows(const ResultRows &rows, uint32_t count, Port memory, ResultReader &reader)
{
#pragma HLS INLINE off
    reader.at = {rows.first, rows.first, rows.words, count};
ahead:
    for (int i = 0; i < kAhead; ++i) {
#pragma HLS PIPELINE II=1
        const Run run = next_result_run(rows, reader.at);
        ask(memory, run);
        put_run(reader.asked, i, run);
    }
}

inline void read_old_row(const ResultRows &rows, Port memory, ResultReader &reader, BusWord line[kGroupWords])
{
#pragma HLS INLINE off
read:
    for (uint32_t w = 0; w < rows.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=1
        if (reader.asked.left == 0) {
            const Run later = next_result_run(rows, reader.at);
            ask(memory, later);
            begin_run(reader.asked, later);
        }
        --reader.asked.left;
        line[w] = memory.read();
    }
}

// Writes a row, in a function of its own so that it runs beside `finish_line`. `open` are the requests whose answer was
// not taken; of kRequests the oldest is waited for, whose words were written at least kAhead full requests, or a row,
// ago. A write is asked for with its first word and not before: the port sends no request before it has all its words.
inline void write_row(Port memory, uint64_t first, uint32_t words, const BusWord line[kGroupWords], uint32_t &open)
{
#pragma HLS INLINE off
write:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kGroupWords
#pragma HLS PIPELINE II=1
        if (w % kBurstWords == 0) {
            if (open == kRequests) {
                memory.write_response();
                --open;
            }
            memory.write_request(first + w, least(words - w, kBurstWords));
            ++open;
        }
        memory.write(line[w]);
    }
}

// Takes the answers that are left: afterwards all that was written is in device memory.
inline void await_writes(Port memory, uint32_t open)
{
#pragma HLS INLINE off
answers:
    for (uint32_t i = 0; i < open; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kRequests
        memory.write_response();
    }
}

// Finishes and writes the rows of a group of columns. A row is finished while the one before it is written.
inline void store_group(const GemmInstruction &op, const ResultTile &tile, uint32_t column, uint32_t columns,
                        uint64_t window_address, const float scale_a[kOutputDepth], const ColumnFactors &factors,
                        Port memory, const OutputSegment output[kOutputDepth][kOutputSegments], uint32_t &open,
                        StoreCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord old_line[kGroupWords];
    SYSTOLORA_MEMORY BusWord ping[kGroupWords];
    SYSTOLORA_MEMORY BusWord pong[kGroupWords];
{% for name in ("old_line", "ping", "pong") %}
#pragma HLS AGGREGATE variable={{ name }} compact=bit
#pragma HLS BIND_STORAGE variable={{ name }} type=ram_s2p impl=lutram
{% endfor %}
#pragma HLS ALLOCATION instances=finish_line limit=1 type=function
#pragma HLS ALLOCATION instances=write_row limit=1 type=function
    const uint32_t size = result_bytes(op.result);
    const uint64_t matrix = (op.c_address - window_address) / kBusBytes;
    ResultRows rows;
    rows.stride = op.c_stride / kBusBytes;
    rows.first = matrix + tile.m0 * rows.stride + uint64_t(tile.n0 + column) * size / kBusBytes;
    rows.words = divide_up(columns * size, kBusBytes);
    const uint32_t block_word = column / kCols * tile.tile_m;
    ResultReader reader;
#pragma HLS ARRAY_PARTITION variable=reader.asked.words type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=reader.asked.exists type=complete dim=1
    if (op.accumulate) {
        begin_old_rows(rows, tile.tile_m, memory, reader);
    }
    uint64_t before = rows.first;
rows:
    for (uint32_t m = 0; m < tile.tile_m + 1; ++m) {
#pragma HLS LOOP_TRIPCOUNT min=2 max=kOutputDepth
        const bool finishing = m < tile.tile_m;
        const uint32_t finished = finishing ? columns : 0;
        const uint32_t written = m > 0 ? rows.words : 0;
        const float scale = scale_a[op.scale_a == ScaleMode::vector && finishing ? m : 0];
        if (finishing && op.accumulate) {
            read_old_row(rows, memory, reader, old_line);
            counts.loaded += rows.words;
        }
        if (m % 2 == 0) {
            finish_line(op, finished, cursor_at(block_word + m), tile.tile_m, scale, factors, output, old_line, ping);
            write_row(memory, before, written, pong, open);
        } else {
            finish_line(op, finished, cursor_at(block_word + m), tile.tile_m, scale, factors, output, old_line, pong);
            write_row(memory, before, written, ping, open);
        }
        counts.stored += written;
        before += m > 0 ? rows.stride : 0;
    }
}

// Stores a tile. Nothing happens if it is not valid.
inline void store(const GemmInstruction &op, const ResultTile &tile, uint64_t window_address, Port memory,
                  const OutputSegment output[kOutputDepth][kOutputSegments], StoreCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY float scale_a[kOutputDepth];
    SYSTOLORA_MEMORY ColumnFactors factors;
#pragma HLS ARRAY_PARTITION variable=factors.scale type=cyclic factor=kOutputLanes dim=1
#pragma HLS ARRAY_PARTITION variable=factors.bias type=cyclic factor=kOutputLanes dim=1
    counts.vector = 0;
    counts.loaded = 0;
    counts.stored = 0;
    if (tile.valid) {
        uint32_t open = 0;
        counts.vector = load_row_scales(op, tile, window_address, memory, scale_a);
    groups:
        for (uint32_t column = 0; column < tile.tile_n; column += kGroupColumns) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
            const uint32_t columns = least(tile.tile_n - column, kGroupColumns);
            counts.vector += load_column_factors(op, tile, column, columns, window_address, memory, factors);
            store_group(op, tile, column, columns, window_address, scale_a, factors, memory, output, open, counts);
        }
        await_writes(memory, open);
    }
}

#endif
