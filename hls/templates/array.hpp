// The systolic array: kRows x kCols PEs. One call of array_step is one clock.
//
// The rows of a column are cut into groups of kChain, and a group is a chain of DSPs: each multiplies its activation by
// its weight and adds the sum that its neighbour above had in the clock before, so no sum leaves the DSPs inside a
// group. Two neighbouring columns share a chain (kPackedDsp). Behind each group stands one 32-bit adder a column.
// Weight-stationary it adds the sums of the group above, and so on down the column.
{% if config.output_stationary %}
// Output-stationary kBandRows rows, one or several groups, are a band. It works on as many rows of C, whose sums stand
// in a shift register beside it and come round once for every kBandRows values of k. The bands stand one behind the
// other in time, so that their finished sums leave through the same registers, a word a clock.
{% endif %}
//
// The unit that is synthesized is one chain of columns with all its rows: small enough for a scheduler, and with
// multiplication, addition and registers in one scope, as DSP blocks are inferred from. What all columns share, the
// activations with their delays and the controls that travel with them, is computed once, at the edge.
//
// What II = 1 rests on: nothing depends on its own last value by more than a wire or one 32-bit addition, and every
// value that goes from register to register is read before it is written.

#ifndef SYSTOLORA_ARRAY_HPP
#define SYSTOLORA_ARRAY_HPP

#include <cstdint>

#include "config.hpp"
#include "types.hpp"

// What the array does in one clock.
struct ArrayControl {
{% if config.output_stationary %}
    bool output_stationary;  // which of the two dataflows
{% endif %}
    bool load;  // the weight word is for the first row, the words that follow it for the rows below
    bool swap;  // shadow weights become active, row by row just ahead of the activation word that came with it
{% if config.output_stationary %}
    bool first;  // output-stationary: sums begin with this activation word
    bool last;   // output-stationary: sums are complete with it and leave
{% endif %}
};

// Row r is in group r / kChain. The rows of a shorter last group stand at the end of its chain, so that all chains end
// after the same number of clocks. A row's skew is the number of clocks that an activation needs to reach it.
constexpr int kLastPad = kGroups * kChain - kRows;
constexpr int kMostSkew = kGroups + kChain - 2;

// What reaches the columns in one clock.
struct ArrayWord {
    lane_t activation[kRows];
    flag_t swap[kRows];
    flag_t load[kRows];
{% if config.output_stationary %}
    bool output_stationary;
    bool first[kBands];
    bool last[kBands];
{% endif %}
};

// The weight word of this clock for one chain: {{ "of each band, a lane" if config.output_stationary else "a lane" }} for each of its columns.
struct ChainWeights {
{% if config.output_stationary %}
    data_t lane[kBands + 1][2];  // [kBands]: the rows below the last band
{% else %}
    data_t lane[1][2];
{% endif %}
};

// The sums that leave a chain's columns at the bottom.
struct ChainSums {
    acc_t lane[2];
};

// An activation word on its way to the rows, and the controls that came with it.
struct PassingWord {
    data_t lane[kRows];
    bool swap[kGroups];
{% if config.output_stationary %}
    bool first[kBands];
    bool last[kBands];
{% endif %}
};

{% if config.output_stationary %}
// A band's sums are kBandHeld clocks on their way round, besides those from group to group inside it. Each band is
// behind the one above by so much that its sums leave right after that one's: by kBandHeld clocks and the groups' skew
// for activations, by kBandRows + 1 for weights.
constexpr int kBandHeld = kBandRows - kBandGroups + 1;
constexpr int kWaitingWords = (kBands - 1) * kBandHeld + 1;
constexpr int kWaitingWeights = (kBands - 1) * (kBandRows + 1) + 1;

// A sum of each column and band.
template <int kColumns>
struct BandSums {
    acc_t lane[kColumns][kBands];
};

// An activation word that waits for its band.
struct WaitingWord {
    InputWord input;
    bool swap;
    bool first;
    bool last;
};

// Output-stationary: what enters the bands in this clock, each some clocks behind the one above it.
inline void array_stagger(const InputWord &input, const ArrayControl &control, PassingWord &entering)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS AGGREGATE variable=input compact=bit
#pragma HLS AGGREGATE variable=entering compact=bit
    static WaitingWord waiting[kWaitingWords];
#pragma HLS AGGREGATE variable=waiting compact=bit
#pragma HLS ARRAY_PARTITION variable=waiting type=complete dim=1
    if (control.output_stationary) {
    waits:
        for (int d = kWaitingWords - 1; d > 0; --d) {
#pragma HLS UNROLL
            waiting[d] = waiting[d - 1];
        }
        waiting[0].input = input;
        waiting[0].swap = control.swap;
        waiting[0].first = control.first;
        waiting[0].last = control.last;
    }
groups:
    for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
        // Rows below the last band take part in weight-stationary products only.
        const int band = g / kBandGroups;
        const bool late = control.output_stationary && band < kBands;
        const int delay = band < kBands ? band * kBandHeld : 0;
        entering.swap[g] = late ? waiting[delay].swap : control.swap;
    rows:
        for (int i = 0; i < kChain; ++i) {
#pragma HLS UNROLL
            const int r = g * kChain + i;
            if (r < kRows) {
                entering.lane[r] = late ? waiting[delay].input.lane[r] : input.lane[r];
            }
        }
    }
bands:
    for (int b = 0; b < kBands; ++b) {
#pragma HLS UNROLL
        entering.first[b] = waiting[b * kBandHeld].first;
        entering.last[b] = waiting[b * kBandHeld].last;
    }
}

// The weight word of this clock for each band.
inline void stagger_weights(const WeightWord &weight, bool output_stationary, WeightWord words[kBands + 1])
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS AGGREGATE variable=weight compact=bit
#pragma HLS AGGREGATE variable=words compact=bit
#pragma HLS ARRAY_PARTITION variable=words type=complete dim=1
    static WeightWord delayed[kWaitingWeights];
#pragma HLS AGGREGATE variable=delayed compact=bit
#pragma HLS ARRAY_PARTITION variable=delayed type=complete dim=1
    if (output_stationary) {
    waits:
        for (int d = kWaitingWeights - 1; d > 0; --d) {
#pragma HLS UNROLL
            delayed[d] = delayed[d - 1];
        }
        delayed[0] = weight;
    }
bands:
    for (int b = 0; b < kBands; ++b) {
#pragma HLS UNROLL
        if (output_stationary) {
            words[b] = delayed[b * (kBandRows + 1)];
        } else {
            words[b] = weight;
        }
    }
    words[kBands] = weight;
}
{% endif %}

// The edge of the array: activations, swaps and loads as they reach the rows.
inline void array_edge(const InputWord &input, const ArrayControl &control, ArrayWord &word)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS AGGREGATE variable=input compact=bit
#pragma HLS AGGREGATE variable=word compact=bit
    static PassingWord passing[kMostSkew + {{ "3" if config.output_stationary else "2" }}];  // [d] entered d clocks ago
    static bool loading[kRows];
#pragma HLS AGGREGATE variable=passing compact=bit
#pragma HLS ARRAY_PARTITION variable=passing type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=loading type=complete dim=1
passes:
    for (int d = kMostSkew + {{ "2" if config.output_stationary else "1" }}; d > 0; --d) {
#pragma HLS UNROLL
        passing[d] = passing[d - 1];
    }
{% if config.output_stationary %}
    static bool holding[kBands + 1];
#pragma HLS ARRAY_PARTITION variable=holding type=complete dim=1
    array_stagger(input, control, passing[0]);
    word.output_stationary = control.output_stationary;
bands:
    for (int b = 0; b < kBands; ++b) {
#pragma HLS UNROLL
        // The adders take a chain's sum one clock after the last of its rows has added to it.
        word.first[b] = passing[b * kBandGroups + kChain + 1].first[b];
        word.last[b] = passing[(b + 1) * kBandGroups + kChain].last[b];
    }
{% else %}
entrance:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        passing[0].lane[r] = input.lane[r];
    }
groups:
    for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
        passing[0].swap[g] = control.swap;
    }
{% endif %}
rows:
    for (int r = kRows - 1; r >= 0; --r) {
#pragma HLS UNROLL
        const int group = r / kChain;
        const int skew = r - group * kChain + (group == kGroups - 1 ? kLastPad : 0) + group;
        // A weight becomes active one clock before its first activation.
        word.swap[r] = passing[skew].swap[group];
        word.activation[r] = passing[skew + 1].lane[r];
        // The load goes down a row a clock{{ ", output-stationary from band to band in two" if config.output_stationary }}.
        bool load = control.load;
        if (r > 0) {
            load = loading[r - 1];
        }
{% if config.output_stationary %}
        if (r > 0 && r - r / kBandRows * kBandRows == 0) {
            const bool held = holding[r / kBandRows];
            holding[r / kBandRows] = load;
            load = control.output_stationary ? held : load;
        }
{% endif %}
        loading[r] = load;
        word.load[r] = load;
    }
}

// Two products in one DSP48E2: activation * (weight1 * 2^18 + weight0). The packed weights fill its A port of 27 bits.
constexpr int kPackedOffset = 18;

inline void pack_weights(data_t weight0, data_t weight1, packed_weight_t &packed)
{
#pragma HLS INLINE
    // A factor, not a shift: C++14 leaves the left shift of a negative number undefined.
    packed = weight1 * (1 << kPackedOffset) + weight0;
}

// What a chain starts from. Eight products of -128 .. 127 add up to something in -8 * 128 * 127 .. 8 * 128 * 128, which
// is -130,048 .. 131,072; with kChainStart to 1,023 .. 2^18 - 1. So the low 18 bits of a chain never borrow from, nor
// carry into, the bits above: both sums of a chain are exact for all operands, -128 included. (Proof for a chain; nine
// rows would not fit, nor would a start of 2^17.)
constexpr int32_t kChainStart = (1 << (kPackedOffset - 1)) - 1;
static_assert(kChain * 128 * 128 + kChainStart < (1 << kPackedOffset) && kChainStart >= kChain * 128 * 127,
              "the low sum of a chain keeps to its bits");

// Adds one column's sums of the complete chains. The low ones are field - kChainStart, which is minus the field with
// its lower 17 bits inverted, as a signed number; so adding it is one subtraction, and inverting bits costs it nothing.
inline void add_chains(const acc_t base[kGroups], const chain_t complete[kGroups], int column, acc_t total[kGroups])
{
#pragma HLS INLINE
    constexpr uint32_t above = 1u << (32 - kPackedOffset);  // a factor that shifts the field to the top of a word
groups:
    for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
        if (column == 0) {
            const uint32_t field = uint32_t(complete[g]) * above;
            const int32_t inverted = int32_t(field ^ uint32_t(kChainStart) * above);
            total[g] = base[g] - acc_t(inverted >> (32 - kPackedOffset));
        } else {
            total[g] = base[g] + acc_t(complete[g] >> kPackedOffset);
        }
    }
}

// One clock of the columns that share a chain: kFirst, and if there are two, the next one.
template <int kFirst, int kColumns>
inline void array_columns(const ArrayWord &word, const ChainWeights &weights, ChainSums &bottom)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS AGGREGATE variable=word compact=bit
#pragma HLS AGGREGATE variable=weights compact=bit
    static packed_weight_t shadow[kRows];
    static packed_weight_t active[kRows];
    static chain_t sum[kRows];                   // the products of a row and of those above it in its group
    static acc_t moving[kColumns][kGroups + 1];  // [g + 1] leaves group g; [0] stays zero
#pragma HLS ARRAY_PARTITION variable=shadow type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=active type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=sum type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=moving type=complete dim=0
{% if config.output_stationary %}
    static BandSums<kColumns> standing[kBandHeld];  // [kBandHeld - 1] are the oldest
#pragma HLS AGGREGATE variable=standing compact=bit
#pragma HLS ARRAY_PARTITION variable=standing type=complete dim=1
    BandSums<kColumns> newest;
{% endif %}
    chain_t complete[kGroups];
#pragma HLS ARRAY_PARTITION variable=complete type=complete dim=1
groups:
    for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
        complete[g] = sum[g == kGroups - 1 ? kRows - 1 : g * kChain + kChain - 1];
    }
columns:
    for (int c = 0; c < kColumns; ++c) {
#pragma HLS UNROLL
        // What each group sees of the one above: what that held before this clock.
        acc_t above[kGroups];
        acc_t base[kGroups];
        acc_t total[kGroups];
#pragma HLS ARRAY_PARTITION variable=above type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=base type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=total type=complete dim=1
    bases:
        for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
            above[g] = moving[c][g];
            base[g] = moving[c][g];
        }
{% if config.output_stationary %}
    begins:
        for (int b = 0; b < kBands; ++b) {
#pragma HLS UNROLL
            if (word.output_stationary) {
                base[b * kBandGroups] = word.first[b] ? acc_t(0) : standing[kBandHeld - 1].lane[c][b];
            }
        }
{% endif %}
        add_chains(base, complete, c, total);
    moves:
        for (int g = 0; g < kGroups; ++g) {
#pragma HLS UNROLL
            moving[c][g + 1] = total[g];
        }
{% if config.output_stationary %}
        // Sums of the bands above pass by while a band keeps its own, and by the rows below the last band.
    ends:
        for (int b = 0; b < kBands; ++b) {
#pragma HLS UNROLL
            if (word.output_stationary && !word.last[b]) {
                moving[c][(b + 1) * kBandGroups] = above[b * kBandGroups];
            }
            newest.lane[c][b] = total[(b + 1) * kBandGroups - 1];
        }
    rest:
        for (int g = kBands * kBandGroups; g < kGroups; ++g) {
#pragma HLS UNROLL
            if (word.output_stationary) {
                moving[c][g + 1] = above[g];
            }
        }
{% endif %}
        bottom.lane[c] = moving[c][kGroups];
    }
{% if config.output_stationary %}
    if (word.output_stationary) {
    rounds:
        for (int i = kBandHeld - 1; i > 0; --i) {
#pragma HLS UNROLL
            standing[i] = standing[i - 1];
        }
        standing[0] = newest;
    }
{% endif %}
    chain_t begun[kRows];
#pragma HLS ARRAY_PARTITION variable=begun type=complete dim=1
chain:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        begun[r] = kChainStart;
        if (r - r / kChain * kChain != 0) {
            begun[r] = sum[r - 1];
        }
    }
products:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        const factor_t activation = word.activation[r];
        sum[r] = begun[r] + activation * active[r];
    }
swaps:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        const packed_weight_t waiting = shadow[r];
        const packed_weight_t stationary = active[r];
        active[r] = word.swap[r] ? waiting : stationary;
    }
{% if config.output_stationary %}
    packed_weight_t packed[kBands + 1];
#pragma HLS ARRAY_PARTITION variable=packed type=complete dim=1
packs:
    for (int b = 0; b <= kBands; ++b) {
#pragma HLS UNROLL
        pack_weights(weights.lane[b][0], weights.lane[b][1], packed[b]);
    }
    packed_weight_t arriving[kRows];
#pragma HLS ARRAY_PARTITION variable=arriving type=complete dim=1
arrivals:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        arriving[r] = packed[r < kStationaryRows ? r / kBandRows : kBands];
    }
{% else %}
    packed_weight_t packed;
    pack_weights(weights.lane[0][0], weights.lane[0][1], packed);
{% endif %}
loads:
    for (int r = 0; r < kRows; ++r) {
#pragma HLS UNROLL
        const packed_weight_t waiting = shadow[r];
        shadow[r] = word.load[r] ? {{ "arriving[r]" if config.output_stationary else "packed" }} : waiting;
    }
}

// The lanes of a chain's columns; zeros for a second column that is not there.
inline void take_weights(const WeightWord words[{{ "kBands + 1" if config.output_stationary else "1" }}], int first, int columns, ChainWeights &weights)
{
#pragma HLS INLINE
bands:
    for (int b = 0; b < {{ "kBands + 1" if config.output_stationary else "1" }}; ++b) {
#pragma HLS UNROLL
        weights.lane[b][0] = words[b].lane[first];
        weights.lane[b][1] = columns == 2 ? words[b].lane[first + columns - 1] : data_t(0);
    }
}

// One clock. `bottom` gets the moving sums of the bottom row as they are after it.
inline void array_step(const InputWord &input, const WeightWord &weight, const ArrayControl &control, SumWord &bottom)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
    ArrayWord word;
#pragma HLS AGGREGATE variable=word compact=bit
    array_edge(input, control, word);
{% if config.output_stationary %}
    WeightWord words[kBands + 1];
#pragma HLS AGGREGATE variable=words compact=bit
#pragma HLS ARRAY_PARTITION variable=words type=complete dim=1
    stagger_weights(weight, control.output_stationary, words);
{% else %}
    WeightWord words[1];
    words[0] = weight;
{% endif %}
{% for first in range(0, config.cols, config.chain_columns) %}
{% set columns = [config.chain_columns, config.cols - first] | min %}
    {
        ChainWeights weights;
        ChainSums sums;
        take_weights(words, {{ first }}, {{ columns }}, weights);
        array_columns<{{ first }}, {{ columns }}>(word, weights, sums);
        bottom.lane[{{ first }}] = sums.lane[0];
{% if columns == 2 %}
        bottom.lane[{{ first + 1 }}] = sums.lane[1];
{% endif %}
    }
{% endfor %}
}

#endif
