// The words that move through the accelerator.
//
// With SYSTOLORA_NATIVE the lanes are plain integers: the same bits, and C-simulation is an order of magnitude faster.

#ifndef SYSTOLORA_TYPES_HPP
#define SYSTOLORA_TYPES_HPP

#include <cstdint>

#include "config.hpp"
#include "hls_burst_maxi.h"

#ifdef SYSTOLORA_NATIVE
typedef int8_t data_t;
typedef int32_t acc_t;
typedef int32_t lane_t;
typedef int64_t factor_t;
typedef int32_t flag_t;  // as wide as what it selects: compilers make vector code of that
typedef int32_t packed_weight_t;
typedef int64_t chain_t;
#else
#include <ap_int.h>
typedef ap_int<8> data_t;
typedef ap_int<32> acc_t;
typedef ap_int<8> lane_t;
typedef ap_int<8> factor_t;
typedef bool flag_t;
typedef ap_int<27> packed_weight_t;  // two weights as one factor: the A port of a DSP48E2
typedef ap_int<48> chain_t;          // the P port of a DSP48E2
#endif

// A memory keeps nothing from one program to the next, so in hardware it has no initial value (UltraRAM cannot have
// one). In C-simulation it is static, because a stack is too small for it.
#ifdef __SYNTHESIS__
#define SYSTOLORA_MEMORY
#else
#define SYSTOLORA_MEMORY static
#endif

// What enters the array in a clock.
struct InputWord {
    data_t lane[kRows];
};

struct WeightWord {
    data_t lane[kCols];
};

// What leaves it.
struct SumWord {
    acc_t lane[kCols];
};

// The segments in which the memories hold these words: each segment is a memory of its own, with its own write port.
struct InputSegment {
    data_t lane[kInputLanes];
};

struct WeightSegment {
    data_t lane[kWeightLanes];
};

struct OutputSegment {
    acc_t lane[kOutputLanes];
};

// One beat of an m_axi port.
struct BusWord {
    uint8_t byte[kBusBytes];
};

static_assert(sizeof(BusWord) == kBusBytes, "a bus word has no padding");

// An m_axi port whose bursts are asked for by hand, so that requests can run ahead of their data.
typedef hls::burst_maxi<BusWord> Port;

inline BusWord zero_bus_word()
{
#pragma HLS INLINE
    BusWord word;
bytes:
    for (int i = 0; i < kBusBytes; ++i) {
#pragma HLS UNROLL
        word.byte[i] = 0;
    }
    return word;
}

// Little-endian 16- and 32-bit elements of a bus word.
inline uint32_t get_word16(const BusWord &word, int index)
{
#pragma HLS INLINE
    return uint32_t(word.byte[2 * index]) | uint32_t(word.byte[2 * index + 1]) << 8;
}

inline uint32_t get_word32(const BusWord &word, int index)
{
#pragma HLS INLINE
    return get_word16(word, 2 * index) | get_word16(word, 2 * index + 1) << 16;
}

inline void set_word16(BusWord &word, int index, uint32_t value)
{
#pragma HLS INLINE
    word.byte[2 * index] = uint8_t(value);
    word.byte[2 * index + 1] = uint8_t(value >> 8);
}

inline void set_word32(BusWord &word, int index, uint32_t value)
{
#pragma HLS INLINE
    set_word16(word, 2 * index, value);
    set_word16(word, 2 * index + 1, value >> 16);
}

// Rounded up.
inline uint32_t divide_up(uint32_t value, uint32_t unit)
{
#pragma HLS INLINE
    return value / unit + (value % unit != 0 ? 1 : 0);
}

{% if config.output_stationary %}
// A length along k as the output-stationary array takes it.
inline uint32_t whole_bands(uint32_t length)
{
#pragma HLS INLINE
    return divide_up(length, kBandRows) * kBandRows;
}

{% endif %}
inline uint32_t least(uint32_t x, uint32_t y)
{
#pragma HLS INLINE
    return x < y ? x : y;
}

inline uint32_t most(uint32_t x, uint32_t y)
{
#pragma HLS INLINE
    return x < y ? y : x;
}

#endif
