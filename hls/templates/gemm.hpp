// GEMM: the tile loops. In each step the load units fetch the tiles of the next step, the array works on this one, and
// the store unit finishes the C tile that the step before completed: independent functions on distinct memories.

#ifndef SYSTOLORA_GEMM_HPP
#define SYSTOLORA_GEMM_HPP

#include "compute.hpp"
#include "config.hpp"
#include "instruction.hpp"
#include "load_input.hpp"
#include "load_weight.hpp"
#include "store.hpp"
#include "types.hpp"

// One step: a tile of each of m, n and k.
struct TileStep {
    bool valid;
    bool load_a;
    bool load_b;
    uint32_t m0;
    uint32_t n0;
    uint32_t k0;
    uint32_t tile_m;
    uint32_t tile_n;
    uint32_t tile_k;
};

// What one round of overlapped steps does.
struct Round {
    TileStep loading;
    ComputeTile computing;
    ResultTile storing;
};

struct RoundCounts {
    uint32_t input;
    uint32_t weight;
    ComputeCounts compute;
    StoreCounts store;
};

// Which half of each memory the array works on; the other one is filled or emptied.
struct Halves {
    bool input;
    bool weight;
    bool output;
};

struct GemmCounts {
    uint64_t array_cycles;
    uint64_t busy_cycles;
    uint64_t input_words;
    uint64_t weight_words;
    uint64_t vector_words;
    uint64_t result_words_loaded;
    uint64_t result_words_stored;
};

inline TileStep no_step()
{
#pragma HLS INLINE
    TileStep step;
    step.valid = false;
    step.load_a = false;
    step.load_b = false;
    step.m0 = 0;
    step.n0 = 0;
    step.k0 = 0;
    step.tile_m = 0;
    step.tile_n = 0;
    step.tile_k = 0;
    return step;
}

inline void set_extents(const GemmInstruction &op, TileStep &step)
{
#pragma HLS INLINE
    step.tile_m = least(op.tile_m, op.m - step.m0);
    step.tile_n = least(op.tile_n, op.n - step.n0);
    step.tile_k = least(op.tile_k, op.k - step.k0);
}

inline TileStep first_step(const GemmInstruction &op)
{
#pragma HLS INLINE
    TileStep step = no_step();
    step.valid = true;
    step.load_a = !op.reuse_a;
    step.load_b = true;
    set_extents(op, step);
    return step;
}

// k is innermost; a tile is loaded if it is not the one of the step before.
inline TileStep next_step(const GemmInstruction &op, const TileStep &step)
{
#pragma HLS INLINE
    const bool m_outer = op.loop_order == LoopOrder::m_outer;
    const bool k_ends = op.k - step.k0 <= op.tile_k;
    const bool m_ends = op.m - step.m0 <= op.tile_m;
    const bool n_ends = op.n - step.n0 <= op.tile_n;
    const bool m_moves = k_ends && (!m_outer || n_ends);
    const bool n_moves = k_ends && (m_outer || m_ends);
    TileStep next = step;
    next.valid = step.valid && !(k_ends && m_ends && n_ends);
    next.k0 = k_ends ? 0 : step.k0 + op.tile_k;
    next.m0 = !m_moves ? step.m0 : m_ends ? 0 : step.m0 + op.tile_m;
    next.n0 = !n_moves ? step.n0 : n_ends ? 0 : step.n0 + op.tile_n;
    next.load_a = next.valid && (next.m0 != step.m0 || next.k0 != step.k0);
    next.load_b = next.valid && (next.k0 != step.k0 || next.n0 != step.n0);
    set_extents(op, next);
    return next;
}

inline ComputeTile compute_tile(const GemmInstruction &op, const TileStep &step)
{
#pragma HLS INLINE
    ComputeTile tile;
    tile.valid = step.valid;
{% if config.output_stationary %}
    tile.output_stationary = op.dataflow == Dataflow::output_stationary;
{% endif %}
    tile.first_k = step.k0 == 0;
    tile.tile_m = step.tile_m;
    tile.tile_n = step.tile_n;
    tile.tile_k = step.tile_k;
    return tile;
}

inline bool last_k(const GemmInstruction &op, const TileStep &step)
{
#pragma HLS INLINE
    return step.valid && op.k - step.k0 <= op.tile_k;
}

inline ResultTile result_tile(const GemmInstruction &op, const TileStep &step)
{
#pragma HLS INLINE
    ResultTile tile;
    tile.valid = last_k(op, step);
    tile.m0 = step.m0;
    tile.tile_m = step.tile_m;
    tile.n0 = step.n0;
    tile.tile_n = step.tile_n;
    return tile;
}

// Load, array and store at the same time: calls of one basic block that share no memory, no port, no count and no
// result of each other, so each may start before the others end.
inline void run_round(const GemmInstruction &op, const Round &round, uint64_t window_address,
                      Port memory_input, Port memory_weight, Port memory_output{{ odd_port }},
                      InputSegment input_next[kInputDepth][kInputSegments],
                      const InputSegment input_now[kInputDepth][kInputSegments],
                      WeightSegment weight_next[kWeightDepth][kWeightSegments],
                      const WeightSegment weight_now[kWeightDepth][kWeightSegments],
                      OutputSegment output_now[kOutputDepth][kOutputSegments],
                      const OutputSegment output_done[kOutputDepth][kOutputSegments], RoundCounts &counts)
{
#pragma HLS INLINE off
    const TileStep &step = round.loading;
    const InputTile a = input_tile(op, step.m0, step.tile_m, step.k0, step.tile_k);
    const WeightTile b = weight_tile(op, step.k0, step.tile_k, step.n0, step.tile_n);
    // Side by side: load_input, load_weight, compute, store
    counts.input = load_input(step.load_a, op, window_address, a, memory_input, input_next);
    counts.weight = load_weight(step.load_b, op, window_address, b, memory_weight, weight_next);
    compute(round.computing, input_now, weight_now, output_now, counts.compute);
    store(op, round.storing, window_address, memory_output{{ odd_argument }}, output_done, counts.store);
}

inline void add_counts(const RoundCounts &round, GemmCounts &counts)
{
#pragma HLS INLINE
    counts.array_cycles += round.compute.cycles;
    counts.busy_cycles += round.compute.busy;
    counts.input_words += round.input;
    counts.weight_words += round.weight;
    counts.vector_words += round.store.vector;
    counts.result_words_loaded += round.store.loaded;
    counts.result_words_stored += round.store.stored;
}

// One round on the halves that `halves` names. Each of these functions connects the two halves of one memory, straight
// or crossed, to the one instance of the next: two calls in the branches of an if, as few as there can be, because load
// unit and array must each see its own half only.
inline void round_on_outputs(const Halves &halves, const GemmInstruction &op, const Round &round,
                             uint64_t window_address, Port memory_input, Port memory_weight, Port memory_output{{ odd_port }},
                             InputSegment input_next[kInputDepth][kInputSegments],
                             const InputSegment input_now[kInputDepth][kInputSegments],
                             WeightSegment weight_next[kWeightDepth][kWeightSegments],
                             const WeightSegment weight_now[kWeightDepth][kWeightSegments],
                             OutputSegment output_ping[kOutputDepth][kOutputSegments],
                             OutputSegment output_pong[kOutputDepth][kOutputSegments], RoundCounts &counts)
{
#pragma HLS INLINE off
#pragma HLS ALLOCATION instances=run_round limit=1 type=function
    if (halves.output) {
        run_round(op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }}, input_next, input_now,
                  weight_next, weight_now, output_pong, output_ping, counts);
    } else {
        run_round(op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }}, input_next, input_now,
                  weight_next, weight_now, output_ping, output_pong, counts);
    }
}

inline void round_on_weights(const Halves &halves, const GemmInstruction &op, const Round &round,
                             uint64_t window_address, Port memory_input, Port memory_weight, Port memory_output{{ odd_port }},
                             InputSegment input_next[kInputDepth][kInputSegments],
                             const InputSegment input_now[kInputDepth][kInputSegments],
                             WeightSegment weight_ping[kWeightDepth][kWeightSegments],
                             WeightSegment weight_pong[kWeightDepth][kWeightSegments],
                             OutputSegment output_ping[kOutputDepth][kOutputSegments],
                             OutputSegment output_pong[kOutputDepth][kOutputSegments], RoundCounts &counts)
{
#pragma HLS INLINE off
#pragma HLS ALLOCATION instances=round_on_outputs limit=1 type=function
    if (halves.weight) {
        round_on_outputs(halves, op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }},
                         input_next, input_now, weight_ping, weight_pong, output_ping, output_pong, counts);
    } else {
        round_on_outputs(halves, op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }},
                         input_next, input_now, weight_pong, weight_ping, output_ping, output_pong, counts);
    }
}

inline void round_on_inputs(const Halves &halves, const GemmInstruction &op, const Round &round,
                            uint64_t window_address, Port memory_input, Port memory_weight, Port memory_output{{ odd_port }},
                            InputSegment input_ping[kInputDepth][kInputSegments],
                            InputSegment input_pong[kInputDepth][kInputSegments],
                            WeightSegment weight_ping[kWeightDepth][kWeightSegments],
                            WeightSegment weight_pong[kWeightDepth][kWeightSegments],
                            OutputSegment output_ping[kOutputDepth][kOutputSegments],
                            OutputSegment output_pong[kOutputDepth][kOutputSegments], RoundCounts &counts)
{
#pragma HLS INLINE off
#pragma HLS ALLOCATION instances=round_on_weights limit=1 type=function
    if (halves.input) {
        round_on_weights(halves, op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }},
                         input_ping, input_pong, weight_ping, weight_pong, output_ping, output_pong, counts);
    } else {
        round_on_weights(halves, op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }},
                         input_pong, input_ping, weight_ping, weight_pong, output_ping, output_pong, counts);
    }
}

inline uint64_t count_steps(const GemmInstruction &op)
{
#pragma HLS INLINE off
    return uint64_t(divide_up(op.m, op.tile_m)) * divide_up(op.n, op.tile_n) * divide_up(op.k, op.tile_k);
}

// Executes a checked GEMM. `halves` outlives it: the next GEMM may reuse its A tile.
inline void gemm(const GemmInstruction &op, uint64_t window_address, Port memory_input,
                 Port memory_weight, Port memory_output{{ odd_port }}, Halves &halves,
                 InputSegment input_ping[kInputDepth][kInputSegments],
                 InputSegment input_pong[kInputDepth][kInputSegments],
                 WeightSegment weight_ping[kWeightDepth][kWeightSegments],
                 WeightSegment weight_pong[kWeightDepth][kWeightSegments],
                 OutputSegment output_ping[kOutputDepth][kOutputSegments],
                 OutputSegment output_pong[kOutputDepth][kOutputSegments], GemmCounts &counts)
{
#pragma HLS INLINE off
    const uint64_t rounds = count_steps(op) + 2;
    TileStep loading = first_step(op);
    TileStep computing = no_step();
    TileStep finished = no_step();
rounds:
    for (uint64_t i = 0; i < rounds; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=3 max=1024
        Round round;
        RoundCounts round_counts;
        round.loading = loading;
        round.computing = compute_tile(op, computing);
        round.storing = result_tile(op, finished);
        round_on_inputs(halves, op, round, window_address, memory_input, memory_weight, memory_output{{ odd_argument }}, input_ping,
                        input_pong, weight_ping, weight_pong, output_ping, output_pong, round_counts);
        add_counts(round_counts, counts);
        // A half changes hands when the other one has its new tile.
        halves.input = halves.input != loading.load_a;
        halves.weight = halves.weight != loading.load_b;
        halves.output = halves.output != last_k(op, computing);
        finished = computing;
        computing = loading;
        loading = next_step(op, loading);
    }
}

#endif
