// Drives the array through one tile: which words enter in which clock, and where the sums go that leave it.
//
// Three counters run through the blocks of the tile side by side, each some clocks behind the last: for the words that
// enter from the weight memory, for those from the input memory, and for the sums that leave at the bottom
// (docs/architecture.md, The array).

#ifndef SYSTOLORA_COMPUTE_HPP
#define SYSTOLORA_COMPUTE_HPP

#include "array.hpp"
#include "config.hpp"
#include "memories.hpp"
#include "types.hpp"

// One step of the array: C[tile_m, tile_n] (+)= A[tile_m, tile_k] B[tile_k, tile_n].
struct ComputeTile {
    bool valid;
{% if config.output_stationary %}
    bool output_stationary;
{% endif %}
    bool first_k;  // the first sums are stored, not added
    uint32_t tile_m;
    uint32_t tile_n;
    uint32_t tile_k;
};

struct ComputeCounts {
    uint32_t cycles;
    uint32_t busy;
};

// How a counter runs: blocks begin every `spacing` clocks, after `delay`, and are active for their first `length`
// clocks. A word's address is the position in the block, plus a stride for each inner and each outer block.
struct SweepPlan {
    uint32_t delay;
    uint32_t length;
    uint32_t spacing;
    uint32_t inner_blocks;
    uint32_t outer_blocks;
    uint32_t inner_stride;
    uint32_t outer_stride;
};

struct Sweep {
    uint32_t delay;
    uint32_t position;
    uint32_t inner;
    uint32_t outer;
    uint32_t inner_base;
    uint32_t outer_base;
};

// The three counters of a tile, and the number of clocks that it takes.
struct ComputePlan {
    SweepPlan weight;
    SweepPlan input;
    SweepPlan output;
    uint32_t cycles;
};

inline SweepPlan sweep_plan(uint32_t delay, uint32_t length, uint32_t inner_stride, uint32_t outer_stride)
{
#pragma HLS INLINE
    SweepPlan plan;
    plan.delay = delay;
    plan.length = length;
    plan.spacing = 0;
    plan.inner_blocks = 0;
    plan.outer_blocks = 0;
    plan.inner_stride = inner_stride;
    plan.outer_stride = outer_stride;
    return plan;
}

inline void set_blocks(SweepPlan &plan, uint32_t spacing, uint32_t inner_blocks, uint32_t outer_blocks)
{
#pragma HLS INLINE
    plan.spacing = spacing;
    plan.inner_blocks = inner_blocks;
    plan.outer_blocks = outer_blocks;
}

// Clocks from an activation word at the edge to its sums at the bottom: the chain, and an adder a group.
constexpr uint32_t kPassClocks = kChain + kGroups;
// The weights of row r enter r clocks after those of the first, activations go down kChain rows in little more than a
// clock (array.hpp): the first activations are so much behind the first weights that those of the last row just precede
// theirs.
constexpr uint32_t kLeadClocks = kRows - kPassClocks + 2;
{% if config.output_stationary %}
// The same for a band, whose finished sums pass the bands below it in a clock each.
constexpr uint32_t kBandPassClocks = kChain + kBandGroups + (kBands - 1) + (kGroups - kBands * kBandGroups);
constexpr uint32_t kBandLeadClocks = kBandRows - kChain - kBandGroups + 2;
{% endif %}

// Weight-stationary: blocks of k within blocks of n.
{% if config.output_stationary %}
// Output-stationary: blocks of m within blocks of n; k enters in whole bands. The sums of C's first row leave first.
{% endif %}
inline ComputePlan compute_plan(const ComputeTile &tile)
{
#pragma HLS INLINE off
    const uint32_t column_blocks = divide_up(tile.tile_n, kCols);
    uint32_t row_blocks = divide_up(tile.tile_k, kRows);
    uint32_t spacing = most(most(tile.tile_m, kRows), kMinTileClocks);
    uint32_t end = kLeadClocks + kPassClocks + tile.tile_m;
    ComputePlan plan;
    plan.weight = sweep_plan(0, kRows, kRows, tile.tile_k);
    plan.input = sweep_plan(kLeadClocks, tile.tile_m, tile.tile_m, 0);
    plan.output = sweep_plan(kLeadClocks + kPassClocks, tile.tile_m, 0, tile.tile_m);
{% if config.output_stationary %}
    if (tile.output_stationary) {
        const uint32_t depth = whole_bands(tile.tile_k);
        const uint32_t last = kBandLeadClocks + depth - kBandRows + kBandPassClocks;
        row_blocks = divide_up(tile.tile_m, kStationaryRows);
        spacing = most(depth, kStationaryRows);
        end = last + kStationaryRows;
        plan.weight = sweep_plan(0, depth, 0, tile.tile_k);
        plan.input = sweep_plan(kBandLeadClocks, depth, depth, 0);
        plan.output = sweep_plan(last, kStationaryRows, kStationaryRows, tile.tile_m);
    }
{% endif %}
    set_blocks(plan.weight, spacing, row_blocks, column_blocks);
    set_blocks(plan.input, spacing, row_blocks, column_blocks);
    set_blocks(plan.output, spacing, row_blocks, column_blocks);
    plan.cycles = (row_blocks * column_blocks - 1) * spacing + end;
    return plan;
}

inline Sweep start(const SweepPlan &plan)
{
#pragma HLS INLINE
    Sweep sweep;
    sweep.delay = plan.delay;
    sweep.position = 0;
    sweep.inner = 0;
    sweep.outer = 0;
    sweep.inner_base = 0;
    sweep.outer_base = 0;
    return sweep;
}

inline bool active(const SweepPlan &plan, const Sweep &sweep)
{
#pragma HLS INLINE
    return sweep.delay == 0 && sweep.outer < plan.outer_blocks && sweep.position < plan.length;
}

// One clock on.
inline void tick(const SweepPlan &plan, Sweep &sweep)
{
#pragma HLS INLINE
    const bool waiting = sweep.delay != 0;
    const bool block_ends = !waiting && sweep.position + 1 == plan.spacing;
    const bool inner_ends = block_ends && sweep.inner + 1 == plan.inner_blocks;
    sweep.delay -= waiting ? 1 : 0;
    sweep.position = waiting || block_ends ? 0 : sweep.position + 1;
    sweep.inner_base = inner_ends ? 0 : sweep.inner_base + (block_ends ? plan.inner_stride : 0);
    sweep.inner = inner_ends ? 0 : sweep.inner + (block_ends ? 1 : 0);
    sweep.outer_base += inner_ends ? plan.outer_stride : 0;
    sweep.outer += inner_ends ? 1 : 0;
}

// The weight word of this clock; zeros where there is none, behind the last row of the tile too.
inline WeightWord weight_of_clock(const ComputeTile &tile, const SweepPlan &plan, const Sweep &sweep,
                                  const WeightSegment weight[kWeightDepth][kWeightSegments])
{
#pragma HLS INLINE
    const uint32_t k = sweep.inner_base + sweep.position;
    const bool present = active(plan, sweep) && k < tile.tile_k;
    WeightWord word = read_weight(weight, present ? sweep.outer_base + k : 0);
lanes:
    for (int i = 0; i < kCols; ++i) {
#pragma HLS UNROLL
        word.lane[i] = present ? word.lane[i] : data_t(0);
    }
    return word;
}

// The activation word of this clock; zeros where there is none.
inline InputWord input_of_clock(const SweepPlan &plan, const Sweep &sweep,
                                const InputSegment input[kInputDepth][kInputSegments])
{
#pragma HLS INLINE
    const bool present = active(plan, sweep);
    InputWord word = read_input(input, present ? sweep.inner_base + sweep.position : 0);
lanes:
    for (int i = 0; i < kRows; ++i) {
#pragma HLS UNROLL
        word.lane[i] = present ? word.lane[i] : data_t(0);
    }
    return word;
}

inline ArrayControl control_of_clock(const ComputeTile &tile, const ComputePlan &plan, const Sweep &weight,
                                     const Sweep &input)
{
#pragma HLS INLINE
    const bool enters = active(plan.input, input);
    const bool loads = active(plan.weight, weight);
    ArrayControl control;
    control.load = loads && weight.position == 0;
    control.swap = enters && input.position == 0;
{% if config.output_stationary %}
    control.output_stationary = tile.output_stationary;
    if (tile.output_stationary) {
        control.load = loads && weight.position % kBandRows == 0;
        control.swap = enters && input.position % kBandRows == 0;
    }
    control.first = enters && input.position < kBandRows;
    control.last = enters && input.position + kBandRows >= plan.input.length;
{% endif %}
    return control;
}

// Takes the sums that leave the array in this clock. Rows behind the last one of the tile are dropped.
inline void take_sums(const ComputeTile &tile, const SweepPlan &plan, const Sweep &sweep, const SumWord &sums,
                      OutputSegment output[kOutputDepth][kOutputSegments])
{
#pragma HLS INLINE
    const uint32_t m = sweep.inner_base + sweep.position;
{% if config.output_stationary %}
    const bool first = tile.first_k && (tile.output_stationary || sweep.inner == 0);
{% else %}
    const bool first = tile.first_k && sweep.inner == 0;
{% endif %}
    if (active(plan, sweep) && m < tile.tile_m) {
        update_output(output, sweep.outer_base + m, sums, !first);
    }
}

inline void compute(const ComputeTile &tile, const InputSegment input[kInputDepth][kInputSegments],
                    const WeightSegment weight[kWeightDepth][kWeightSegments],
                    OutputSegment output[kOutputDepth][kOutputSegments], ComputeCounts &counts)
{
#pragma HLS INLINE off
    uint32_t cycles = 0;
    uint32_t busy = 0;
    if (tile.valid) {
        const ComputePlan plan = compute_plan(tile);
        Sweep weights = start(plan.weight);
        Sweep inputs = start(plan.input);
        Sweep outputs = start(plan.output);
    clocks:
        for (uint32_t clock = 0; clock < plan.cycles; ++clock) {
#pragma HLS LOOP_TRIPCOUNT min=kRows max=kInputDepth
#pragma HLS PIPELINE II=1
// Proof: output-stationary, an output word is visited once in a tile; weight-stationary, once in a block of k, and
// blocks begin at least kMinTileClocks apart, which is more than the latency of read, addition and write.
#pragma HLS DEPENDENCE variable=output type=inter dependent=false
            const ArrayControl control = control_of_clock(tile, plan, weights, inputs);
            const WeightWord weight_word = weight_of_clock(tile, plan.weight, weights, weight);
            const InputWord input_word = input_of_clock(plan.input, inputs, input);
            SumWord sums;
            array_step(input_word, weight_word, control, sums);
            take_sums(tile, plan.output, outputs, sums, output);
            ++cycles;
            busy += active(plan.input, inputs) ? 1 : 0;
            tick(plan.weight, weights);
            tick(plan.input, inputs);
            tick(plan.output, outputs);
        }
    }
    counts.cycles = cycles;
    counts.busy = busy;
}

#endif
