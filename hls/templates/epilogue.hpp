// From an int32 sum to an element of C: (((float(sum) * scale_a) * scale_b) * alpha) + bias) + c_old, each operation
// rounded; scale_b first if the instruction says so.

#ifndef SYSTOLORA_EPILOGUE_HPP
#define SYSTOLORA_EPILOGUE_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "float32.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "types.hpp"

// Factors of one element. What an instruction leaves out is 1.0 or kNothing, which change no bit.
struct Factors {
    float scale_a;
    float scale_b;
    float bias;
};

// The bits of an element of C; `old` are those that it held.
inline uint32_t finish_element(const GemmInstruction &op, acc_t sum, const Factors &factors, uint32_t old)
{
#pragma HLS INLINE
    const int32_t integer = int32_t(sum);
    const uint32_t total = uint32_t(integer) + (op.accumulate ? old : 0);
    const bool half = op.result == Result::bfloat16;
    const float before = half ? from_bfloat16(old) : float_of(old);
    float value = float(integer);
    value = multiply(value, op.scales_swapped ? factors.scale_b : factors.scale_a);
    value = multiply(value, op.scales_swapped ? factors.scale_a : factors.scale_b);
    value = multiply(value, op.alpha);
    value = add(value, factors.bias);
    value = add(value, op.accumulate ? before : kNothing);
    const uint32_t bits = half ? to_bfloat16(value) : bits_of(value);
    return op.result == Result::int32 ? total : bits;
}

inline uint32_t get_element(const BusWord &word, bool half, int index)
{
#pragma HLS INLINE
    return half ? get_word16(word, index) : get_word32(word, index % kBusFloats);
}

inline void set_element(BusWord &word, bool half, int index, uint32_t value)
{
#pragma HLS INLINE
    if (half) {
        set_word16(word, index, value);
    } else {
        set_word32(word, index % kBusFloats, value);
    }
}

// Scales and bias of a group of columns, kEpilogueLanes of them in a line; one that all columns share is scale[0][0].
struct ColumnFactors {
    float scale[kGroupColumns / kEpilogueLanes][kEpilogueLanes];
    float bias[kGroupColumns / kEpilogueLanes][kEpilogueLanes];
};

// Finishes the columns from `column` on that a clock takes, `lanes` of them: elements of `word` from `index` on, behind
// the last column nothing.
inline void finish_columns(const GemmInstruction &op, uint32_t columns, uint32_t column, uint32_t lanes, int index,
                           const EpilogueLanes &sums, const BusWord &old, float scale_a, const ColumnFactors &factors,
                           BusWord &word)
{
#pragma HLS INLINE
    const bool half = op.result == Result::bfloat16;
    const bool own_scales = op.scale_b == ScaleMode::vector;
    const float shared_scale = factors.scale[0][0];
lanes:
    for (uint32_t i = 0; i < kEpilogueLanes; ++i) {
#pragma HLS UNROLL
        const uint32_t lane = (column + i) % kEpilogueLanes;
        Factors element;
        element.scale_a = scale_a;
        element.scale_b = own_scales ? factors.scale[column / kEpilogueLanes][lane] : shared_scale;
        element.bias = op.bias ? factors.bias[column / kEpilogueLanes][lane] : kNothing;
        const uint32_t bits = finish_element(op, sums.lane[i], element, get_element(old, half, index + i));
        if (i < lanes && column + i < columns) {
            set_element(word, half, index + i, bits);
        }
    }
}

#endif
