// The first pass of QUANTIZE: the largest magnitude of each group.
//
// One half of the output memory holds what stands for a group (tensor, row or column): first its largest magnitude,
// then the factor that its values are multiplied with. The other half holds the column factors. Both as bits of
// float32.

#ifndef SYSTOLORA_MAGNITUDES_HPP
#define SYSTOLORA_MAGNITUDES_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "store.hpp"
#include "types.hpp"

struct QuantizeCounts {
    uint32_t vector;
    uint64_t source;
    uint64_t quantized;
};

// Part of a row, as many elements as fit a line.
struct Part {
    uint32_t row;
    uint32_t column;
    uint32_t count;  // zero: no part
};

inline uint32_t part_columns(const QuantizeInstruction &op)
{
#pragma HLS INLINE
    return kLineWords * kBusBytes / source_bytes(op.source);
}

inline Part first_part(const QuantizeInstruction &op)
{
#pragma HLS INLINE
    Part part;
    part.row = 0;
    part.column = 0;
    part.count = least(op.n, part_columns(op));
    return part;
}

inline Part no_part()
{
#pragma HLS INLINE
    Part part;
    part.row = 0;
    part.column = 0;
    part.count = 0;
    return part;
}

inline Part next_part(const QuantizeInstruction &op, const Part &part)
{
#pragma HLS INLINE
    const bool row_ends = op.n - part.column <= part_columns(op);
    Part next;
    next.row = row_ends ? part.row + 1 : part.row;
    next.column = row_ends ? 0 : part.column + part_columns(op);
    next.count = next.row < op.m ? least(op.n - next.column, part_columns(op)) : 0;
    return next;
}

// Reads a part; returns the number of bus words.
inline uint32_t read_part(const QuantizeInstruction &op, const Part &part, uint64_t window_address,
                          Port memory, BusWord line[kLineWords])
{
#pragma HLS INLINE off
    const uint64_t matrix = (op.a_address - window_address) / kBusBytes;
    const uint64_t row = matrix + uint64_t(part.row) * (op.a_stride / kBusBytes);
    const uint32_t words = divide_up(part.count * source_bytes(op.source), kBusBytes);
    read_line(memory, row + part.column * source_bytes(op.source) / kBusBytes, words, line);
    return words;
}

// Where a column's own value stands. A matrix whose columns share their value may have more of them than the memory has
// places, so it must not be looked for there.
inline uint32_t own_word(bool owned, const OutputCursor &place)
{
#pragma HLS INLINE
    return owned ? place.word : 0;
}

// kOutputLanes values of a line, multiplied with their column factors.
struct Values {
    float lane[kOutputLanes];
};

inline Values values_at(const QuantizeInstruction &op, const BusWord line[kLineWords], uint32_t element,
                        const OutputSegment &factor)
{
#pragma HLS INLINE
    const bool half = op.source == Source::bfloat16;
    const uint32_t in_word = half ? 2 * kBusFloats : kBusFloats;
    const BusWord word = line[element / in_word];
    Values values;
lanes:
    for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
        const uint32_t bits = get_element(word, half, int(element % in_word) + i);
        const float x = half ? from_bfloat16(bits) : canonical(float_of(bits));
        const float scaled = multiply(x, float_of(uint32_t(int32_t(factor.lane[i]))));
        values.lane[i] = op.multiply ? scaled : x;
    }
    return values;
}

// What the first pass has found so far in the row or tensor that it is in.
struct Found {
    bool finite;
    uint32_t largest;  // bits of a magnitude: they compare as the magnitudes do
};

// The largest magnitudes of a part: into `found`, and by column into `groups` (the first row starts them).
inline void reduce_part(const QuantizeInstruction &op, const Part &part, const BusWord line[kLineWords],
                        OutputSegment groups[kOutputDepth][kOutputSegments],
                        const OutputSegment factors[kOutputDepth][kOutputSegments], Found &found)
{
#pragma HLS INLINE off
    OutputCursor place = cursor_at(part.column / kCols);
    place.segment = part.column % kCols / kOutputLanes;
    const bool by_column = op.axis == Axis::column;
    uint32_t largest = found.largest;
    bool finite = found.finite;
segments:
    for (uint32_t j = 0; j < part.count; j += kOutputLanes) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords*2
#pragma HLS PIPELINE II=1
// Proof: the columns of a part are distinct, so no segment is visited twice.
#pragma HLS DEPENDENCE variable=groups type=inter dependent=false
        const Values values = values_at(op, line, j, factors[own_word(op.multiply, place)][place.segment]);
        OutputSegment column = groups[own_word(by_column, place)][place.segment];
        uint32_t here = 0;  // one comparison a clock with what came before, whatever the number of lanes
    lanes:
        for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
            const bool inside_row = j + i < part.count;
            const uint32_t magnitude = inside_row ? bits_of(values.lane[i]) & kMagnitude : 0;
            const uint32_t before = part.row == 0 ? 0 : uint32_t(int32_t(column.lane[i]));
            column.lane[i] = int32_t(most(before, magnitude));
            here = most(here, magnitude);
        }
        largest = most(largest, here);
        finite = finite && here < kInfinity;
        if (by_column) {
            groups[place.word][place.segment] = column;
        }
        advance(place, 1);
    }
    found.largest = largest;
    found.finite = finite;
}

// A group's place in the output memory.
struct GroupPlace {
    OutputCursor segment;
    uint32_t lane;
};

inline GroupPlace group_at(uint32_t group)
{
#pragma HLS INLINE
    GroupPlace place;
    place.segment.word = group / kCols;
    place.segment.segment = group % kCols / kOutputLanes;
    place.lane = group % kOutputLanes;
    return place;
}

// Keeps what was found in a row, or in the tensor so far.
inline void keep_group(uint32_t group, uint32_t largest, OutputSegment groups[kOutputDepth][kOutputSegments])
{
#pragma HLS INLINE off
    const GroupPlace place = group_at(group);
    OutputSegment segment = groups[place.segment.word][place.segment.segment];
    segment.lane[place.lane] = int32_t(largest);
    groups[place.segment.word][place.segment.segment] = segment;
}

// Reads the matrix once and keeps the largest magnitude of each group; returns whether all values are finite.
// One part is read while the one before it is reduced.
inline bool find_magnitudes(const QuantizeInstruction &op, uint64_t parts, uint64_t window_address,
                            Port memory, OutputSegment groups[kOutputDepth][kOutputSegments],
                            const OutputSegment factors[kOutputDepth][kOutputSegments], uint64_t &words)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord ping[kLineWords];
    SYSTOLORA_MEMORY BusWord pong[kLineWords];
#pragma HLS AGGREGATE variable=ping compact=bit
#pragma HLS AGGREGATE variable=pong compact=bit
#pragma HLS ALLOCATION instances=read_part limit=1 type=function
#pragma HLS ALLOCATION instances=reduce_part limit=1 type=function
    Part reading = first_part(op);
    Part reducing = no_part();
    Found found = {true, 0};
parts:
    for (uint64_t p = 0; p < parts + 1; ++p) {
#pragma HLS LOOP_TRIPCOUNT min=2 max=kOutputDepth
        if (p % 2 == 0) {
            words += read_part(op, reading, window_address, memory, ping);
            reduce_part(op, reducing, pong, groups, factors, found);
        } else {
            words += read_part(op, reading, window_address, memory, pong);
            reduce_part(op, reducing, ping, groups, factors, found);
        }
        const bool row_ends = reducing.count != 0 && reducing.column + reducing.count == op.n;
        if (op.axis == Axis::row && row_ends) {
            keep_group(reducing.row, found.largest, groups);
            found.largest = 0;
        }
        reducing = reading;
        reading = next_part(op, reading);
    }
    if (op.axis == Axis::tensor) {
        keep_group(0, found.largest, groups);
    }
    return found.finite;
}

#endif
