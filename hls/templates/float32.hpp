// Float32 as the contract has it: one IEEE 754 operation at a time, rounded to nearest even, nothing fused.
//
// Denormals are flushed and NaNs made canonical here, explicitly, so that a CPU and a floating-point core give the same
// bits.

#ifndef SYSTOLORA_FLOAT32_HPP
#define SYSTOLORA_FLOAT32_HPP

#include <cstdint>

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kSmallestNormal = 0x00800000u;   // 2^-126
constexpr uint32_t kSmallestAbsmax = 0x0d800000u;   // 2^-100: below it a group counts as zero
constexpr uint32_t kNan = 0x7fc00000u;

// x + -0.0 is x for every x, -0.0 included: what is added where there is nothing to add.
constexpr float kNothing = -0.0f;

union FloatBits {
    float value;
    uint32_t bits;
};

inline float float_of(uint32_t bits)
{
#pragma HLS INLINE
    FloatBits both;
    both.bits = bits;
    return both.value;
}

inline uint32_t bits_of(float value)
{
#pragma HLS INLINE
    FloatBits both;
    both.value = value;
    return both.bits;
}

inline bool is_finite(float x)
{
#pragma HLS INLINE
    return (bits_of(x) & kMagnitude) < kInfinity;
}

inline float canonical(float x)
{
#pragma HLS INLINE
    const uint32_t bits = bits_of(x);
    const uint32_t magnitude = bits & kMagnitude;
    const uint32_t flushed = magnitude < kSmallestNormal ? bits & kSign : bits;
    return float_of(magnitude > kInfinity ? kNan : flushed);
}

inline float multiply(float x, float y)
{
#pragma HLS INLINE
    const float product = canonical(x) * canonical(y);
    return canonical(product);
}

inline float add(float x, float y)
{
#pragma HLS INLINE
    const float sum = canonical(x) + canonical(y);
// The DSPs are for the array and for products.
#pragma HLS BIND_OP variable=sum op=fadd impl=fabric
    return canonical(sum);
}

inline float from_bfloat16(uint32_t half)
{
#pragma HLS INLINE
    return canonical(float_of(half << 16));
}

// The nearest bfloat16, half to even. Adding 0x7fff and the last kept bit carries into it where it must.
inline uint32_t to_bfloat16(float x)
{
#pragma HLS INLINE
    const uint32_t bits = bits_of(canonical(x));
    const bool nan = (bits & kMagnitude) > kInfinity;
    return nan ? kNan >> 16 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

// The integer nearest to x, half to even, clipped to -127 .. 127; x is canonical and finite.
inline int32_t round_half_even(float x)
{
#pragma HLS INLINE
    const uint32_t bits = bits_of(x);
    const int exponent = int((bits & kMagnitude) >> 23) - 127;
    if (exponent < -1) {
        return 0;  // below one half
    }
    uint32_t integer = 127;
    if (exponent < 7) {
        const uint32_t mantissa = (bits & 0x007fffffu) | 0x00800000u;
        const int fraction_bits = 23 - exponent;  // 17 to 24
        const uint32_t half = 1u << (fraction_bits - 1);
        const uint32_t fraction = mantissa & ((half << 1) - 1);
        integer = mantissa >> fraction_bits;
        const bool up = fraction > half || (fraction == half && (integer & 1) != 0);
        integer = integer + (up ? 1 : 0);
    }
    integer = integer > 127 ? 127 : integer;
    return (bits & kSign) != 0 ? -int32_t(integer) : int32_t(integer);
}

// The largest integer not above x, clipped to -127 .. 127; x is canonical and finite.
inline int32_t round_down(float x)
{
#pragma HLS INLINE
    const uint32_t bits = bits_of(x);
    const bool negative = (bits & kSign) != 0;
    const int exponent = int((bits & kMagnitude) >> 23) - 127;
    uint32_t integer = 127;
    bool exact = true;
    if (exponent < 0) {
        integer = 0;
        exact = (bits & kMagnitude) == 0;
    } else if (exponent < 7) {
        const uint32_t mantissa = (bits & 0x007fffffu) | 0x00800000u;
        const int fraction_bits = 23 - exponent;  // 17 to 23
        integer = mantissa >> fraction_bits;
        exact = (mantissa & ((1u << fraction_bits) - 1)) == 0;
    }
    integer = integer + (negative && !exact ? 1 : 0);
    integer = integer > 127 ? 127 : integer;
    return negative ? -int32_t(integer) : int32_t(integer);
}

// A 32-bit bijection whose result looks random (lowbias32 of C. Wellons).
inline uint32_t mix(uint32_t x)
{
#pragma HLS INLINE
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

// A float32 in [0, 1) with 24 random bits; key is mix(seed).
inline float uniform(uint32_t key, uint32_t index)
{
#pragma HLS INLINE
    return float(mix(index + key) >> 8) * 5.9604644775390625e-8f;  // 2^-24: exact
}

#endif
