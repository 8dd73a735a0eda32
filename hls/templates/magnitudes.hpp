// The lanes of QUANTIZE: the steps in which they go through a piece, their values, the largest magnitudes of groups.

#ifndef SYSTOLORA_MAGNITUDES_HPP
#define SYSTOLORA_MAGNITUDES_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "epilogue.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "pieces.hpp"
#include "scales.hpp"
#include "types.hpp"

// What a pass is for: both if rows are kept.
struct Pass {
    bool measures;
    bool converts;
};

// One round: the piece `taking` is read and measured, and `giving`, which has the same columns, is made integers.
struct PieceRound {
    Piece taking;
    Piece giving;
    uint32_t lanes;    // that are used: no more than one bus word fills
    uint32_t in_word;  // values in a bus word
    uint32_t rows;
    uint32_t column;
    uint32_t columns;
    uint32_t steps;  // of each row
};

inline PieceRound round_of(const QuantizeInstruction &op, const Pass &pass, const Piece &taking, const Piece &giving)
{
#pragma HLS INLINE
    const bool half = op.source == Source::bfloat16;
    PieceRound round;
    round.taking = taking;
    round.giving = giving;
    round.lanes = half ? kQuantizeLanes : kQuantizeFloats;
    round.in_word = half ? 2 * kBusFloats : kBusFloats;
    round.rows = most(taking.rows, giving.rows);
    round.column = taking.rows != 0 ? taking.column : giving.column;
    round.columns = taking.rows != 0 ? taking.columns : giving.columns;
    const uint32_t needed =
        half ? divide_up(round.columns, kQuantizeLanes) : divide_up(round.columns, kQuantizeFloats);
    // A column's magnitude is looked at again when it has been written.
    round.steps = most(needed, op.axis == Axis::column && pass.measures ? kMinTileClocks : 1);
    return round;
}

// A step: the lanes of one row from a column on. Columns behind the last are steps in which nothing happens.
struct Step {
    uint32_t row;      // in the piece
    uint32_t number;   // in the row
    uint32_t column;   // in the piece
    uint32_t element;  // in the bus word
    uint32_t index;    // of the element that is made an integer
    OutputCursor place;
};

inline Step first_step(const QuantizeInstruction &op, const PieceRound &round)
{
#pragma HLS INLINE
    Step step;
    step.row = 0;
    step.number = 0;
    step.column = 0;
    step.element = 0;
    step.index = op.index_base + round.giving.row * op.index_stride + round.column;
    step.place = cursor_of(round.column);
    return step;
}

inline bool row_ends(const PieceRound &round, const Step &step)
{
#pragma HLS INLINE
    return step.number + 1 == round.steps;
}

// Whether no values of the row follow.
inline bool values_end(const PieceRound &round, const Step &step)
{
#pragma HLS INLINE
    return step.column + round.lanes >= round.columns;
}

inline bool takes(const PieceRound &round, const Step &step)
{
#pragma HLS INLINE
    return step.column < round.columns && step.row < round.taking.rows;
}

inline bool gives(const PieceRound &round, const Step &step)
{
#pragma HLS INLINE
    return step.column < round.columns && step.row < round.giving.rows;
}

inline bool lane_exists(const PieceRound &round, const Step &step, int lane)
{
#pragma HLS INLINE
    return uint32_t(lane) < round.lanes && step.column + lane < round.columns;
}

inline void next_step(const QuantizeInstruction &op, const PieceRound &round, const OutputCursor &first, Step &step)
{
#pragma HLS INLINE
    const bool ends = row_ends(round, step);
    const bool word_ends = step.element + round.lanes == round.in_word || values_end(round, step);
    step.index += ends ? op.index_stride - step.column : round.lanes;
    step.element = word_ends ? 0 : step.element + round.lanes;
    advance(step.place, round.lanes, 1);
    if (ends) {
        step.place = first;
    }
    step.column = ends ? 0 : step.column + round.lanes;
    step.number = ends ? 0 : step.number + 1;
    step.row += ends ? 1 : 0;
}

// Where a column's own value stands. A matrix whose columns share their value may have more of them than the memory has
// places, so it must not be looked for there.
inline OutputCursor own_place(bool owned, const OutputCursor &place)
{
#pragma HLS INLINE
    OutputCursor own = place;
    own.word = owned ? place.word : 0;
    return own;
}

struct Values {
    float lane[kQuantizeLanes];
};

// Values of a bus word from an element on, multiplied with their column factors.
inline Values values_at(const QuantizeInstruction &op, const BusWord &word, uint32_t element,
                        const QuantizeLanes &factor)
{
#pragma HLS INLINE
    const bool half = op.source == Source::bfloat16;
    Values values;
lanes:
    for (int i = 0; i < kQuantizeLanes; ++i) {
#pragma HLS UNROLL
        const uint32_t bits = get_element(word, half, int(element) + i);
        const float x = half ? from_bfloat16(bits) : canonical(float_of(bits));
        const float scaled = multiply(x, float_of(uint32_t(int32_t(factor.lane[i]))));
        values.lane[i] = op.multiply ? scaled : x;
    }
    return values;
}

// What has been found so far in the tensor or the row that the pass is in, and the groups that are not yet in `groups`.
struct Found {
    bool finite;
    uint32_t largest;  // bits of a magnitude: they compare as the magnitudes do
    QuantizeLanes waiting;
    uint32_t lane;  // of the next group that waits
    OutputCursor place;
};

inline Found nothing_found()
{
#pragma HLS INLINE
    Found found;
    found.finite = true;
    found.largest = 0;
    found.lane = 0;
    found.place = cursor_at(0);
lanes:
    for (int i = 0; i < kQuantizeLanes; ++i) {
#pragma HLS UNROLL
        found.waiting.lane[i] = 0;
    }
    return found;
}

// Takes the values of a step into account. `own` are the magnitudes of its columns so far; the first row starts them.
inline void measure(const QuantizeInstruction &op, const PieceRound &round, const Step &step, const Values &values,
                    const QuantizeLanes &own, OutputSegment groups[kOutputDepth][kOutputSegments],
                    uint32_t inverse[kPieceRows], Found &found)
{
#pragma HLS INLINE
    const bool by_column = op.axis == Axis::column;
    const bool by_row = op.axis == Axis::row;
    const uint32_t row = round.taking.row + step.row;
    QuantizeLanes columns;
    uint32_t here = 0;  // one comparison a clock with what came before, whatever the number of lanes
lanes:
    for (int i = 0; i < kQuantizeLanes; ++i) {
#pragma HLS UNROLL
        const bool exists = takes(round, step) && lane_exists(round, step, i);
        const uint32_t magnitude = exists ? bits_of(values.lane[i]) & kMagnitude : 0;
        columns.lane[i] = int32_t(most(row == 0 ? 0 : uint32_t(int32_t(own.lane[i])), magnitude));
        here = most(here, magnitude);
    }
    const bool starts = by_row && step.number == 0 && round.column == 0;
    const bool row_whole = row_ends(round, step) && round.column + round.columns == op.n;
    const bool group_ends = step.row < round.taking.rows && row_whole && (by_row || row + 1 == op.m) && !by_column;
    found.finite = found.finite && here < kInfinity;
    found.largest = most(starts ? 0 : found.largest, here);
    if (group_ends) {
        found.waiting.lane[found.lane] = int32_t(found.largest);
        inverse[step.row] = inverse_of(found.largest);
    }
    const bool full = group_ends && (found.lane + 1 == kOutputLanes || row + 1 == op.m);
    if (by_column ? takes(round, step) : full) {
        write_lanes(groups, by_column ? step.place : found.place, by_column ? columns : found.waiting,
                    by_column ? round.lanes : kOutputLanes);
    }
    found.lane = full ? 0 : group_ends ? found.lane + 1 : found.lane;
    if (full) {
        advance(found.place, kOutputLanes, 1);
    }
}

#endif
