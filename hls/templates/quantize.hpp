// QUANTIZE: one pass over rows that are kept; else a pass for the largest magnitudes and one for the integers.
//
// A NaN or an infinity stops the program. By tensor or column nothing is written then. By row, where rows before it may
// have been written, its own row has the scale NaN and integers of zero, and all others are what they are without it.

#ifndef SYSTOLORA_QUANTIZE_HPP
#define SYSTOLORA_QUANTIZE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "magnitudes.hpp"
#include "memories.hpp"
#include "pieces.hpp"
#include "runs.hpp"
#include "scales.hpp"
#include "types.hpp"

struct QuantizeCounts {
    uint32_t vector;
    uint64_t source;
    uint64_t quantized;
};

// `inverse` is the bits of inverse_of.
inline int8_t quantize_value(const QuantizeInstruction &op, float x, uint32_t inverse, uint32_t key, uint32_t index)
{
#pragma HLS INLINE
    const float v = multiply(x, float_of(inverse));
    const int32_t down = round_down(add(v, uniform(key, index)));
    const int32_t nearest = round_half_even(v);
    const int32_t q = op.rounding == Rounding::stochastic ? down : nearest;
    return int8_t(inverse == kNan ? 0 : q);
}

// The bus words that a step works on: the one being read, and the one that was kept in its place.
struct Words {
    BusWord taken;
    BusWord given;
};

// At the first values of a bus word: reads it, keeps it, and finds what was kept there before.
inline void next_words(const Cut &cut, const PieceRound &round, const Step &step, Port memory, RowReader &reader,
                       InputSegment kept[kInputDepth][kInputSegments], KeptPlace &place, Words &words)
{
#pragma HLS INLINE
    if (step.element != 0 || step.column >= round.columns) {
        return;
    }
    if (cut.one_pass && gives(round, step)) {
        words.given = kept_word(kept, place);
    }
    if (takes(round, step)) {
        words.taken = read_word(memory, reader);
    }
    if (cut.one_pass && takes(round, step)) {
        keep_word(kept, place, words.taken);
    }
    next_kept(place);
}

// Integers on their way into bus words.
struct Results {
    BusWord word;
    uint32_t bytes;
    uint32_t words;
};

// The integers of a step; bytes behind the last column are zero. `own` multiplies its columns, `of_row` all of its row.
inline void convert(const QuantizeInstruction &op, const PieceRound &round, const Step &step, uint32_t key,
                    const Values &values, const QuantizeLanes &own, uint32_t of_row, Results &results,
                    BusWord integers[kResultWords])
{
#pragma HLS INLINE
lanes:
    for (int i = 0; i < kQuantizeLanes; ++i) {
#pragma HLS UNROLL
        const uint32_t inverse = op.axis == Axis::column ? uint32_t(int32_t(own.lane[i])) : of_row;
        if (lane_exists(round, step, i)) {
            const int8_t q = quantize_value(op, values.lane[i], inverse, key, step.index + i);
            results.word.byte[results.bytes + i] = uint8_t(q);
        }
    }
    results.bytes += round.lanes;
    if (results.bytes == kBusBytes || values_end(round, step)) {
        if (gives(round, step)) {
            integers[results.words] = results.word;
            ++results.words;
        }
        results.word = zero_bus_word();
        results.bytes = 0;
    }
}

// Of rows that are not kept: what the next ones are multiplied with.
inline void fetch_inverses(const Piece &giving, const OutputSegment groups[kOutputDepth][kOutputSegments],
                           uint32_t inverse[kPieceRows])
{
#pragma HLS INLINE
rows:
    for (uint32_t i = 0; i < giving.rows; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kPieceRows
#pragma HLS PIPELINE II=1
        inverse[i] = group_bits(giving.row + i, groups);
    }
}

// One round.
inline void work_round(const QuantizeInstruction &op, const Cut &cut, const Pass &pass, const PieceRound &round,
                       Port memory, RowReader &reader, InputSegment kept[kInputDepth][kInputSegments],
                       OutputSegment groups[kOutputDepth][kOutputSegments],
                       const OutputSegment factors[kOutputDepth][kOutputSegments], uint32_t inverse[kPieceRows],
                       Found &found, BusWord integers[kResultWords])
{
#pragma HLS INLINE off
    const uint32_t key = mix(op.seed);
    const bool by_row = op.axis == Axis::row;
    const uint32_t tensor = group_bits(0, groups);
    if (by_row && !pass.measures) {
        fetch_inverses(round.giving, groups, inverse);
    }
    const bool by_column = op.axis == Axis::column;
    Words words = {zero_bus_word(), zero_bus_word()};
    Results results = {zero_bus_word(), 0, 0};
    Step step = first_step(op, round);
    const OutputCursor first = step.place;
    KeptPlace place = kept_at(source_words(op, round.column));
steps:
    for (uint32_t s = 0; s < round.rows * round.steps; ++s) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kPieceWords*2
#pragma HLS PIPELINE II=1
// Proof: a column is visited again after kMinTileClocks steps, as a sum is in compute.hpp; rows are written only.
#pragma HLS DEPENDENCE variable=groups type=inter dependent=false
// Proof: each place is read and then written in one step only.
#pragma HLS DEPENDENCE variable=kept type=inter dependent=false
// Proof: a row's own place is read in its steps, and written when the last of them has read it.
#pragma HLS DEPENDENCE variable=inverse type=inter dependent=false
        next_words(cut, round, step, memory, reader, kept, place, words);
        const QuantizeLanes own = read_quantize_lanes(groups, own_place(by_column, step.place), round.lanes);
        const QuantizeLanes factor = read_quantize_lanes(factors, own_place(op.multiply, step.place), round.lanes);
        const uint32_t of_row = by_row ? inverse[step.row] : tensor;
        if (pass.measures) {
            measure(op, round, step, values_at(op, words.taken, step.element, factor), own, groups, inverse, found);
        }
        if (pass.converts) {
            const BusWord &source = cut.one_pass ? words.given : words.taken;
            const Values values = values_at(op, source, step.element, factor);
            convert(op, round, step, key, values, own, of_row, results, integers);
        }
        next_step(op, round, first, step);
    }
}

// Goes through the matrix once. While a piece is worked on, the integers of the one before are written.
inline void run_pass(const QuantizeInstruction &op, const Cut &cut, const Pass &pass, uint64_t window_address,
                     Port memory_input, Port memory_output, InputSegment kept[kInputDepth][kInputSegments],
                     OutputSegment groups[kOutputDepth][kOutputSegments],
                     const OutputSegment factors[kOutputDepth][kOutputSegments], BusWord ping[kResultWords],
                     BusWord pong[kResultWords], Found &found, QuantizeCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY uint32_t inverse[kPieceRows];
#pragma HLS BIND_STORAGE variable=inverse type=ram_s2p impl=lutram
#pragma HLS ALLOCATION instances=work_round limit=1 type=function
#pragma HLS ALLOCATION instances=write_words limit=1 type=function
    const uint64_t source = (op.a_address - window_address) / kBusBytes;
    const uint64_t target = (op.c_address - window_address) / kBusBytes;
    const uint64_t delay = cut.one_pass ? cut.across : 0;  // from reading a piece to its integers
    RowReader reader;
#pragma HLS ARRAY_PARTITION variable=reader.asked.words type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=reader.asked.exists type=complete dim=1
    begin_reading(memory_input, matrix_at(source, op.a_stride / kBusBytes, op.m, cut.row_words), reader);
    RowWriter writer =
        begin_writing(matrix_at(target, op.c_stride / kBusBytes, op.m, divide_up(op.n, kBusBytes)), 0);
    Piece taking = first_piece(op, cut);
    Piece next_given = first_piece(op, cut);
    Piece writing = no_piece();
rounds:
    for (uint64_t r = 0; r < cut.pieces + delay + (pass.converts ? 1 : 0); ++r) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kOutputDepth
        const bool giving = pass.converts && r >= delay;
        const PieceRound round = round_of(op, pass, taking, giving ? next_given : no_piece());
        const uint32_t written = result_words(writing);
        if (r % 2 == 0) {
            work_round(op, cut, pass, round, memory_input, reader, kept, groups, factors, inverse, found,
                       ping);
            write_words(memory_output, writer, written, pong);
        } else {
            work_round(op, cut, pass, round, memory_input, reader, kept, groups, factors, inverse, found,
                       pong);
            write_words(memory_output, writer, written, ping);
        }
        counts.source += taking.rows * source_words(op, taking.columns);
        counts.quantized += written;
        writing = round.giving;
        if (giving) {
            next_given = next_piece(op, cut, next_given);
        }
        taking = next_piece(op, cut, taking);
    }
    await_writes(memory_output, writer.open);
}

// Executes a checked QUANTIZE. No GEMM's tile in the input memory is needed any more: `reuse_a` reaches back to the
// instruction before it only.
inline ErrorCode quantize(const QuantizeInstruction &op, uint64_t window_address, Port memory_input,
                          Port memory_output, InputSegment kept[kInputDepth][kInputSegments],
                          OutputSegment groups[kOutputDepth][kOutputSegments],
                          OutputSegment factors[kOutputDepth][kOutputSegments], QuantizeCounts &counts)
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord ping[kResultWords];
    SYSTOLORA_MEMORY BusWord pong[kResultWords];
#pragma HLS AGGREGATE variable=ping compact=bit
#pragma HLS AGGREGATE variable=pong compact=bit
#pragma HLS BIND_STORAGE variable=ping type=ram_s2p impl=bram
#pragma HLS BIND_STORAGE variable=pong type=ram_s2p impl=bram
    const Cut cut = cut_of(op);
    Found found = nothing_found();
    counts.vector = op.multiply ? load_factors(op, window_address, memory_output, factors) : 0;
    counts.source = 0;
    counts.quantized = 0;
passes:
    for (int p = 0; p < 2; ++p) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=2
        const Pass pass = {p == 0, p == 1 || cut.one_pass};
        run_pass(op, cut, pass, window_address, memory_input, memory_output, kept, groups, factors, ping, pong, found,
                 counts);
        if (!found.finite && op.axis != Axis::row) {
            break;
        }
        if (pass.measures) {
            counts.quantized += store_scales(op, window_address, memory_output, groups, ping);
        }
        if (cut.one_pass) {
            break;
        }
    }
    return found.finite ? ErrorCode::ok : ErrorCode::nonfinite;
}

#endif
