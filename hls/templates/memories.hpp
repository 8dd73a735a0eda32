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

// `words` lie between a word and the one that continues it.
inline void advance(OutputCursor &cursor, uint32_t words)
{
#pragma HLS INLINE
    if (cursor.segment + 1 == kOutputSegments) {
        cursor.segment = 0;
        cursor.word += words;
    } else {
        ++cursor.segment;
    }
}

#endif
