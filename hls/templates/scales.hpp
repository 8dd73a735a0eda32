// What QUANTIZE keeps of each group (tensor, row or column): first its largest magnitude, then what its values are
// multiplied with. One half of the output memory holds it, the other the column factors; both as bits of float32.

#ifndef SYSTOLORA_SCALES_HPP
#define SYSTOLORA_SCALES_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "runs.hpp"
#include "types.hpp"

constexpr int kScalesInLine = kResultWords * kBusFloats;

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
            advance(place, kOutputLanes, 1);
        }
    }
    return words;
}

// The bits of what the values of a group are multiplied with; a NaN if the group holds a NaN or an infinity.
inline uint32_t inverse_of(uint32_t largest)
{
#pragma HLS INLINE
    const bool blank = largest < kSmallestAbsmax;  // 127 / absmax must not overflow
    const float inverse = 127.0f / (blank ? 127.0f : float_of(largest));
    const uint32_t bits = blank ? 0 : bits_of(inverse);
    return largest < kInfinity ? bits : kNan;
}

inline uint32_t scale_of(uint32_t largest)
{
#pragma HLS INLINE
    const float magnitude = largest < kSmallestAbsmax ? 127.0f : float_of(largest);
    const float scale = magnitude / 127.0f;
    return largest < kInfinity ? bits_of(scale) : kNan;
}

// Turns the largest magnitudes of groups into what their values are multiplied with, and gives their scales.
inline void invert_groups(uint32_t first, uint32_t count, OutputSegment groups[kOutputDepth][kOutputSegments],
                          BusWord scales[kResultWords])
{
#pragma HLS INLINE off
    OutputCursor place = cursor_of(first);
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
            segment.lane[i] = int32_t(inverse_of(largest));
            if (j + i < count) {
                set_word32(word, index + i, scale_of(largest));
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
        advance(place, kOutputLanes, 1);
    }
}

// Writes the scales; returns the number of bus words. Afterwards `groups` holds what values are multiplied with.
inline uint32_t store_scales(const QuantizeInstruction &op, uint64_t window_address, Port memory,
                             OutputSegment groups[kOutputDepth][kOutputSegments], BusWord line[kResultWords])
{
#pragma HLS INLINE off
    const uint64_t first = (op.scale_a_address - window_address) / kBusBytes;
    const uint32_t count = scale_count(op);
    const uint32_t words = divide_up(count, kBusFloats);
    RowWriter writer = begin_writing(rows_at(first, words, 1, words), 0);
lines:
    for (uint32_t group = 0; group < count; group += kScalesInLine) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
        const uint32_t in_line = least(count - group, kScalesInLine);
        invert_groups(group, in_line, groups, line);
        write_words(memory, writer, divide_up(in_line, kBusFloats), line);
    }
    await_writes(memory, writer.open);
    return words;
}

// What all values of a group are multiplied with.
inline uint32_t group_bits(uint32_t group, const OutputSegment groups[kOutputDepth][kOutputSegments])
{
#pragma HLS INLINE
    const OutputCursor place = cursor_of(group);
    return uint32_t(int32_t(groups[place.word][place.segment].lane[group % kOutputLanes]));
}

#endif
