// Float32 as docs/arithmetic.md wants it: one rounding per operation, denormals to zero, one NaN.
// The functions work on bits, so the processor's flush-to-zero modes make no difference, and compilers can vectorise them.
#pragma once

#include <cstdint>
#include <cstring>

namespace systolora {

constexpr uint32_t kSign = 0x80000000u;
constexpr uint32_t kMagnitude = 0x7fffffffu;
constexpr uint32_t kSmallestNormal = 0x00800000u;
constexpr uint32_t kInfinity = 0x7f800000u;
constexpr uint32_t kNan = 0x7fc00000u;

inline uint32_t bits_of(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float float_of(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Denormals become zero with their sign, every NaN becomes kNan.
inline float canonical(float x) {
    const uint32_t bits = bits_of(x);
    const uint32_t magnitude = bits & kMagnitude;
    uint32_t result = magnitude < kSmallestNormal ? bits & kSign : bits;
    result = magnitude > kInfinity ? kNan : result;
    return float_of(result);
}

inline float multiply(float x, float y) { return canonical(x * y); }

inline float add(float x, float y) { return canonical(x + y); }

inline float from_bfloat16(uint16_t half) { return float_of(static_cast<uint32_t>(half) << 16); }

// The bfloat16 nearest to a canonical float32, half to even. A canonical NaN stays one: it has no low bits to round.
inline uint16_t to_bfloat16(float x) {
    const uint32_t bits = bits_of(x);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// The generator of the stochastic rounding: a bijection of 32-bit words.
inline uint32_t mix(uint32_t x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    x ^= x >> 16;
    return x;
}

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace systolora
