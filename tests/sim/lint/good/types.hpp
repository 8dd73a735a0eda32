// Types and sizes of the small accelerator in this folder.
#pragma once
#ifdef SYSTOLORA_NATIVE
#include <cstdint>
typedef int8_t data_t;
typedef int32_t sum_t;
#else
#include <ap_int.h>
typedef ap_int<8> data_t;
typedef ap_int<32> sum_t;
#endif

constexpr int kRows = 4;
constexpr int kCols = 8;
constexpr int kDepth = 256;
constexpr int kMostTiles = 64;
constexpr int kAddressInput = 0x10;

static_assert(kRows * kCols <= 1024, "one array must not be cut into more than 1024 pieces");

struct InputWord {
    data_t lane[kRows];
};

struct OutputWord {
    sum_t lane[kCols];
};
