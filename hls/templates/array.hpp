// The systolic array: kRows x kCols PEs. One call of array_step is one clock.
//
// A PE has an active weight, a shadow weight, an accumulator and a moving sum. They stand here row by row, as words of
// kCols lanes, and a row is the unit that is synthesized: three small functions, each built kRows times, instead of one
// flat function of kRows * kCols multiply-accumulates that no scheduler can handle.
//
// What II = 1 rests on: array_weights and array_sums keep state and finish within a clock, for the next clock needs it;
// no state word depends on its own last value by more than one 32-bit addition. array_products keeps no state and takes
// as many pipeline stages as the frequency asks for. In one function with the sums, those stages would separate a sum
// from the next. A state word is read before it is written: the other order would cost a clock of its own.

#ifndef SYSTOLORA_ARRAY_HPP
#define SYSTOLORA_ARRAY_HPP

#include <cstdint>

#include "config.hpp"
#include "types.hpp"

// What the array does in one clock.
struct ArrayControl {
    bool output_stationary;  // which of the two dataflows
    int16_t load_row;        // the row whose shadow weights take this clock's weight word, or -1
    bool swap;               // shadow weights become active; moves down with the activation word
    bool first;              // output-stationary: the sums start from zero
    bool last;               // output-stationary: the sums are complete and leave
};

// The products of one row.
struct ProductWord {
    product_t lane[kCols];
};

// Two products in one DSP48E2: activation * (weight1 * 2^18 + weight0). The packed weights fill its A port of 27 bits.
constexpr int kPackedOffset = 18;
#ifdef SYSTOLORA_NATIVE
typedef int64_t packed_weight_t;
typedef int64_t packed_product_t;
#else
typedef ap_int<27> packed_weight_t;
typedef ap_int<35> packed_product_t;
#endif

// Exact for all 2^24 operand triples. product0 is the low half as a signed number. A negative product0 has borrowed one
// from product1; the bit below product1 is then set, and adding that bit gives the one back.
inline void multiply_pair(data_t activation, data_t weight0, data_t weight1, product_t &product0, product_t &product1)
{
#pragma HLS INLINE
    // A factor, not a shift: C++14 leaves the left shift of a negative number undefined.
    const packed_weight_t weights = weight1 * (1 << kPackedOffset) + weight0;
    const packed_product_t both = activation * weights;
    product0 = product_t(both);
    product1 = product_t(both >> kPackedOffset) + product_t((both >> (kPackedOffset - 1)) & 1);
}

// One activation times the weights of its row. Of an odd number of columns the last has a multiplier for itself.
inline void array_products(data_t activation, const WeightWord &weights, ProductWord &products)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS AGGREGATE variable=weights compact=bit
#pragma HLS AGGREGATE variable=products compact=bit
    constexpr int paired = kPackedDsp ? kCols / 2 * 2 : 0;
pairs:
    for (int c = 0; c < paired; c += 2) {
#pragma HLS UNROLL
        multiply_pair(activation, weights.lane[c], weights.lane[c + 1], products.lane[c], products.lane[c + 1]);
    }
singles:
    for (int c = paired; c < kCols; ++c) {
#pragma HLS UNROLL
        products.lane[c] = activation * weights.lane[c];
    }
}

// Chooses the weights that one row multiplies with in this clock, and moves its weight registers on.
inline void array_weights(const WeightWord &word, bool output_stationary, bool swap, bool load, WeightWord &active,
                          WeightWord &shadow, WeightWord &weights)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS LATENCY max=1
#pragma HLS AGGREGATE variable=word compact=bit
#pragma HLS AGGREGATE variable=active compact=bit
#pragma HLS AGGREGATE variable=shadow compact=bit
#pragma HLS AGGREGATE variable=weights compact=bit
columns:
    for (int c = 0; c < kCols; ++c) {
#pragma HLS UNROLL
        const data_t waiting = shadow.lane[c];
        const data_t stationary = swap ? waiting : active.lane[c];
        active.lane[c] = stationary;
        shadow.lane[c] = load ? word.lane[c] : waiting;
        weights.lane[c] = output_stationary ? word.lane[c] : stationary;
    }
}

// Adds the products of one row to the sums from above or to its accumulators, and moves the sums on.
inline void array_sums(const ProductWord &products, const ArrayControl &control, const SumWord &above,
                       SumWord &accumulator, SumWord &moving)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
#pragma HLS LATENCY max=1
#pragma HLS AGGREGATE variable=products compact=bit
#pragma HLS AGGREGATE variable=above compact=bit
#pragma HLS AGGREGATE variable=accumulator compact=bit
#pragma HLS AGGREGATE variable=moving compact=bit
    SumWord sums;
#pragma HLS AGGREGATE variable=sums compact=bit
columns:
    for (int c = 0; c < kCols; ++c) {
#pragma HLS UNROLL
        const acc_t begun = control.first ? acc_t(0) : accumulator.lane[c];
        const acc_t base = control.output_stationary ? begun : above.lane[c];
        sums.lane[c] = base + products.lane[c];
    }
    if (control.output_stationary) {
        accumulator = sums;
    }
    if (control.output_stationary && !control.last) {
        moving = above;
    } else {
        moving = sums;
    }
}

// One clock. `bottom` gets the moving sums of the bottom row as they are after it.
inline void array_step(const InputWord &input, const WeightWord &weight, const ArrayControl &control, SumWord &bottom)
{
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
    // One element a row, each one wide register; never one array of all PEs.
    static InputWord passing[kRows];  // the activation word at each row; [0] is this clock's
    static bool swapping[kRows];      // the swap that came with it
    static WeightWord active[kRows];
    static WeightWord shadow[kRows];
    static SumWord accumulator[kRows];
    static SumWord moving[kRows + 1];  // [r] enters row r from above and [r + 1] leaves it; [0] stays zero
#pragma HLS AGGREGATE variable=passing compact=bit
#pragma HLS AGGREGATE variable=active compact=bit
#pragma HLS AGGREGATE variable=shadow compact=bit
#pragma HLS AGGREGATE variable=accumulator compact=bit
#pragma HLS AGGREGATE variable=moving compact=bit
#pragma HLS ARRAY_PARTITION variable=passing type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=swapping type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=active type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=shadow type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=accumulator type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=moving type=complete dim=1
    passing[0] = input;
    swapping[0] = control.swap;
    // From bottom to top: each row must see what the row above held before this clock, as edge-triggered registers do.
rows:
    for (int r = kRows - 1; r >= 0; --r) {
#pragma HLS UNROLL
        const data_t activation = control.output_stationary ? input.lane[r] : passing[r].lane[r];
        const bool load = control.load_row == r;
        WeightWord weights;
        ProductWord products;
#pragma HLS AGGREGATE variable=weights compact=bit
#pragma HLS AGGREGATE variable=products compact=bit
        array_weights(weight, control.output_stationary, swapping[r], load, active[r], shadow[r], weights);
        array_products(activation, weights, products);
        array_sums(products, control, moving[r], accumulator[r], moving[r + 1]);
        if (r + 1 < kRows) {
            passing[r + 1] = passing[r];
            swapping[r + 1] = swapping[r];
        }
    }
    bottom = moving[kRows];
}

#endif
