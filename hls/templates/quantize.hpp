// QUANTIZE: column factors, the first pass (magnitudes.hpp), the scales, and the second pass for the integers.

#ifndef SYSTOLORA_QUANTIZE_HPP
#define SYSTOLORA_QUANTIZE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "magnitudes.hpp"
#include "memories.hpp"
#include "store.hpp"
#include "types.hpp"

constexpr int kScalesInLine = kLineWords * kBusFloats;
constexpr int kResultWords = kLineWords / 2;  // a line of bfloat16 gives half as many bus words of int8

// Reads the column factors into a half of the output memory; returns the number of bus words.
inline uint32_t load_factors(const QuantizeInstruction &op, uint64_t window_address, Port memory,
                             OutputSegment factors[kOutputDepth][kOutputSegments])
{
#pragma HLS INLINE off
    const uint64_t first = (op.scale_b_address - window_address) / kBusBytes;
    const uint32_t words = divide_up(op.n, kBusFloats);
    OutputCursor place = cursor_at(0);
    if (words != 0) {
        memory.read_request(first, words);
    }
words:
    for (uint32_t w = 0; w < words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
#pragma HLS PIPELINE II=kBusFloats/kOutputLanes
        const BusWord word = memory.read();
    pieces:
        for (int p = 0; p < kBusFloats; p += kOutputLanes) {
#pragma HLS UNROLL
            OutputSegment segment;
        lanes:
            for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
                segment.lane[i] = int32_t(get_word32(word, p + i));
            }
            if (w * kBusFloats + p < op.n) {
                factors[place.word][place.segment] = segment;
            }
            advance(place, 1);
        }
    }
    return words;
}

// Turns the largest magnitudes of groups into what their values are multiplied with, and gives their scales.
inline void invert_groups(uint32_t first, uint32_t count, OutputSegment groups[kOutputDepth][kOutputSegments],
                          BusWord scales[kLineWords])
{
#pragma HLS INLINE off
    OutputCursor place = group_at(first).segment;
    BusWord word = zero_bus_word();
    int index = 0;
    int w = 0;
segments:
    for (uint32_t j = 0; j < count; j += kOutputLanes) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kScalesInLine/kOutputLanes
#pragma HLS PIPELINE II=kOutputLanes
// Proof: each segment is visited once.
#pragma HLS DEPENDENCE variable=groups type=inter dependent=false
        OutputSegment segment = groups[place.word][place.segment];
    lanes:
        for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
            const uint32_t largest = uint32_t(int32_t(segment.lane[i]));
            const bool blank = largest < kSmallestAbsmax;  // 127 / absmax must not overflow
            const float magnitude = blank ? 127.0f : float_of(largest);
            const float scale = magnitude / 127.0f;
            const float inverse = 127.0f / magnitude;
            segment.lane[i] = int32_t(bits_of(blank ? 0.0f : inverse));
            if (j + i < count) {
                set_word32(word, index + i, bits_of(scale));
            }
        }
        groups[place.word][place.segment] = segment;
        index += kOutputLanes;
        if (index == kBusFloats || j + kOutputLanes >= count) {
            scales[w] = word;
            word = zero_bus_word();
            index = 0;
            ++w;
        }
        advance(place, 1);
    }
}

// Writes the scales; returns the number of bus words. Afterwards `groups` holds what the second pass multiplies with.
inline uint32_t store_scales(const QuantizeInstruction &op, uint64_t window_address, Port memory,
                             OutputSegment groups[kOutputDepth][kOutputSegments])
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord line[kLineWords];
#pragma HLS AGGREGATE variable=line compact=bit
    const uint64_t first = (op.scale_a_address - window_address) / kBusBytes;
    const uint32_t count = scale_count(op);
lines:
    for (uint32_t group = 0; group < count; group += kScalesInLine) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
        const uint32_t in_line = least(count - group, kScalesInLine);
        invert_groups(group, in_line, groups, line);
        write_line(memory, first + group / kBusFloats, divide_up(in_line, kBusFloats), line);
    }
    return divide_up(count, kBusFloats);
}

inline int8_t quantize_value(const QuantizeInstruction &op, float x, float inverse, uint32_t key, uint32_t index)
{
#pragma HLS INLINE
    const float v = multiply(x, inverse);
    const int32_t down = round_down(add(v, uniform(key, index)));
    const int32_t nearest = round_half_even(v);
    return int8_t(op.rounding == Rounding::stochastic ? down : nearest);
}

// The integers of a part, kOutputLanes of them a clock; bytes behind the last column are zero.
inline void quantize_part(const QuantizeInstruction &op, const Part &part, uint32_t key,
                          const BusWord line[kLineWords],
                          const OutputSegment groups[kOutputDepth][kOutputSegments],
                          const OutputSegment factors[kOutputDepth][kOutputSegments], BusWord integers[kResultWords])
{
#pragma HLS INLINE off
    const GroupPlace shared = group_at(op.axis == Axis::row && part.count != 0 ? part.row : 0);
    const acc_t shared_bits = groups[shared.segment.word][shared.segment.segment].lane[shared.lane];
    const bool by_column = op.axis == Axis::column;
    const uint32_t first_index = op.index_base + part.row * op.index_stride + part.column;
    OutputCursor place = group_at(part.column).segment;
    BusWord word = zero_bus_word();
    int index = 0;
    int w = 0;
segments:
    for (uint32_t j = 0; j < part.count; j += kOutputLanes) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords*2
#pragma HLS PIPELINE II=1
        const Values values = values_at(op, line, j, factors[own_word(op.multiply, place)][place.segment]);
        const OutputSegment own = groups[own_word(by_column, place)][place.segment];
    lanes:
        for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
            const acc_t bits = by_column ? own.lane[i] : shared_bits;
            const float inverse = float_of(uint32_t(int32_t(bits)));
            if (j + i < part.count) {
                const int8_t q = quantize_value(op, values.lane[i], inverse, key, first_index + j + i);
                word.byte[index + i] = uint8_t(q);
            }
        }
        index += kOutputLanes;
        if (index == kBusBytes || j + kOutputLanes >= part.count) {
            integers[w] = word;
            word = zero_bus_word();
            index = 0;
            ++w;
        }
        advance(place, 1);
    }
}

// Writes the integers of a part; returns the number of bus words.
inline uint32_t write_part(const QuantizeInstruction &op, const Part &part, uint64_t window_address, Port memory,
                           const BusWord integers[kResultWords])
{
#pragma HLS INLINE off
    const uint64_t matrix = (op.c_address - window_address) / kBusBytes;
    const uint64_t row = matrix + uint64_t(part.row) * (op.c_stride / kBusBytes);
    const uint32_t words = divide_up(part.count, kBusBytes);
    write_line(memory, row + part.column / kBusBytes, words, integers);
    return words;
}

// The second pass: one part is read while the one before it is quantized and the one before that is written.
inline void store_integers(const QuantizeInstruction &op, uint64_t parts, uint64_t window_address,
                           Port memory_input, Port memory_output,
                           const OutputSegment groups[kOutputDepth][kOutputSegments],
                           const OutputSegment factors[kOutputDepth][kOutputSegments], QuantizeCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord source_ping[kLineWords];
    SYSTOLORA_MEMORY BusWord source_pong[kLineWords];
    SYSTOLORA_MEMORY BusWord result_ping[kResultWords];
    SYSTOLORA_MEMORY BusWord result_pong[kResultWords];
#pragma HLS AGGREGATE variable=source_ping compact=bit
#pragma HLS AGGREGATE variable=source_pong compact=bit
#pragma HLS AGGREGATE variable=result_ping compact=bit
#pragma HLS AGGREGATE variable=result_pong compact=bit
#pragma HLS ALLOCATION instances=read_part limit=1 type=function
#pragma HLS ALLOCATION instances=quantize_part limit=1 type=function
#pragma HLS ALLOCATION instances=write_part limit=1 type=function
    const uint32_t key = mix(op.seed);
    Part reading = first_part(op);
    Part working = no_part();
    Part writing = no_part();
parts:
    for (uint64_t p = 0; p < parts + 2; ++p) {
#pragma HLS LOOP_TRIPCOUNT min=3 max=kOutputDepth
        if (p % 2 == 0) {
            counts.source += read_part(op, reading, window_address, memory_input, source_ping);
            quantize_part(op, working, key, source_pong, groups, factors, result_ping);
            counts.quantized += write_part(op, writing, window_address, memory_output, result_pong);
        } else {
            counts.source += read_part(op, reading, window_address, memory_input, source_pong);
            quantize_part(op, working, key, source_ping, groups, factors, result_pong);
            counts.quantized += write_part(op, writing, window_address, memory_output, result_ping);
        }
        writing = working;
        working = reading;
        reading = next_part(op, reading);
    }
}

// Executes a checked QUANTIZE.
inline ErrorCode quantize(const QuantizeInstruction &op, uint64_t window_address, Port memory_input,
                          Port memory_output, OutputSegment groups[kOutputDepth][kOutputSegments],
                          OutputSegment factors[kOutputDepth][kOutputSegments], QuantizeCounts &counts)
{
#pragma HLS INLINE off
    const uint64_t parts = uint64_t(op.m) * divide_up(op.n, part_columns(op));
    counts.vector = 0;
    counts.source = 0;
    counts.quantized = 0;
    if (op.multiply) {
        counts.vector = load_factors(op, window_address, memory_output, factors);
    }
    const bool finite = find_magnitudes(op, parts, window_address, memory_input, groups, factors, counts.source);
    if (!finite) {
        return ErrorCode::nonfinite;
    }
    counts.quantized = store_scales(op, window_address, memory_output, groups);
    store_integers(op, parts, window_address, memory_input, memory_output, groups, factors, counts);
    return ErrorCode::ok;
}

#endif
