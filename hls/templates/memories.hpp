// Access to the on-chip memories. Ping and pong of each are arrays of their own, declared in the top function: a
// function that fills one and a function that reads the other share nothing, so they are scheduled side by side.

#ifndef SYSTOLORA_MEMORIES_HPP
#define SYSTOLORA_MEMORIES_HPP

#include "config.hpp"
#include "types.hpp"

inline InputWord read_input(const InputSegment input[kInputDepth][kInputSegments], uint32_t address)
{
#pragma HLS INLINE
    InputWord word;
segments:
    for (int s = 0; s < kInputSegments; ++s) {
#pragma HLS UNROLL
    lanes:
        for (int i = 0; i < kInputLanes; ++i) {
#pragma HLS UNROLL
            word.lane[s * kInputLanes + i] = input[address][s].lane[i];
        }
    }
    return word;
}

inline WeightWord read_weight(const WeightSegment weight[kWeightDepth][kWeightSegments], uint32_t address)
{
#pragma HLS INLINE
    WeightWord word;
segments:
    for (int s = 0; s < kWeightSegments; ++s) {
#pragma HLS UNROLL
    lanes:
        for (int i = 0; i < kWeightLanes; ++i) {
#pragma HLS UNROLL
            word.lane[s * kWeightLanes + i] = weight[address][s].lane[i];
        }
    }
    return word;
}

// Stores sums, or adds them to those that lie there.
inline void update_output(OutputSegment output[kOutputDepth][kOutputSegments], uint32_t address, const SumWord &sums,
                          bool accumulate)
{
#pragma HLS INLINE
segments:
    for (int s = 0; s < kOutputSegments; ++s) {
#pragma HLS UNROLL
        OutputSegment segment = output[address][s];
    lanes:
        for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
            const acc_t base = accumulate ? segment.lane[i] : acc_t(0);
            segment.lane[i] = base + sums.lane[s * kOutputLanes + i];
        }
        output[address][s] = segment;
    }
}

inline SumWord read_output(const OutputSegment output[kOutputDepth][kOutputSegments], uint32_t address)
{
#pragma HLS INLINE
    SumWord word;
segments:
    for (int s = 0; s < kOutputSegments; ++s) {
#pragma HLS UNROLL
    lanes:
        for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
            word.lane[s * kOutputLanes + i] = output[address][s].lane[i];
        }
    }
    return word;
}

// A place in the output memory that moves on segment by segment: along the columns of a word, then to another word.
struct OutputCursor {
    uint32_t word;
    uint32_t segment;
};

inline OutputCursor cursor_at(uint32_t word)
{
#pragma HLS INLINE
    OutputCursor cursor;
    cursor.word = word;
    cursor.segment = 0;
    return cursor;
}

// Where the value of a column or of another group stands, if the words lie one behind the other.
inline OutputCursor cursor_of(uint32_t group)
{
#pragma HLS INLINE
    OutputCursor cursor;
    cursor.word = group / kCols;
    cursor.segment = group % kCols / kOutputLanes;
    return cursor;
}

// Moves on by lanes that are whole segments. `words` lie between a word and the one that continues it.
inline void advance(OutputCursor &cursor, uint32_t lanes, uint32_t words)
{
#pragma HLS INLINE
    cursor.segment += lanes / kOutputLanes;
    if (cursor.segment == kOutputSegments) {
        cursor.segment = 0;
        cursor.word += words;
    }
}
{% for unit in ("quantize", "epilogue") %}
{% set Unit = unit | capitalize %}

struct {{ Unit }}Lanes {
    acc_t lane[k{{ Unit }}Lanes];
};

// The first `used` lanes from a place on, whole segments of one word; the others hold what is never looked at.
inline {{ Unit }}Lanes read_{{ unit }}_lanes(const OutputSegment output[kOutputDepth][kOutputSegments],
                                        const OutputCursor &place, uint32_t used)
{
#pragma HLS INLINE
    const SumWord word = read_output(output, place.word);
    const uint32_t first = place.segment * kOutputLanes;
    {{ Unit }}Lanes lanes;
lanes:
    for (int i = 0; i < k{{ Unit }}Lanes; ++i) {
#pragma HLS UNROLL
        lanes.lane[i] = word.lane[uint32_t(i) < used ? first + i : first];
    }
    return lanes;
}
{% endfor %}

// Writes lanes from a place on, `count` whole segments of one word. Each memory is written at one place at most.
inline void write_lanes(OutputSegment output[kOutputDepth][kOutputSegments], const OutputCursor &place,
                        const QuantizeLanes &lanes, uint32_t count)
{
#pragma HLS INLINE
segments:
    for (uint32_t s = 0; s < kOutputSegments; ++s) {
#pragma HLS UNROLL
        const uint32_t from = (s - place.segment) * kOutputLanes;
        if (s >= place.segment && from < count) {
            OutputSegment segment;
        lanes:
            for (int i = 0; i < kOutputLanes; ++i) {
#pragma HLS UNROLL
                segment.lane[i] = lanes.lane[from + i];
            }
            output[place.word][s] = segment;
        }
    }
}

#endif
