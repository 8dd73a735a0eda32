// Products by the vector instructions of processors with AVX512-VNNI: each multiplies 64 pairs and adds four by four.
//
// The instruction takes bytes without sign on one side. B is packed with 128 added to each value, and sums start at -128 times the sum
// of their row of A: exact, modulo 2**32 on the way as every int32 sum. Beyond k, packed B is zero, whatever A has there.
#pragma once

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SYSTOLORA_VNNI 1

#include "pack.hpp"

namespace systolora {

// _mm512_dpbusd_epi32 in assembler: of the intrinsic, GCC makes a copy of each sum, and runs out of registers.
inline void add_products(__m512i& sums, __m512i without_sign, __m512i with_sign) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(without_sign), "v"(with_sign));
}

// Not one masked store for all: some processors are slow at it, and do not see that a cache line is written whole.
inline void store_sums(int32_t* place, __m512i sums, __mmask16 mask, bool past_caches) {
    if (mask == 0xffff) {
        if (past_caches && reinterpret_cast<uintptr_t>(place) % sizeof sums == 0) {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(place), sums);
        } else {
            _mm512_storeu_si512(place, sums);
        }
    } else if (mask == 0xff) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(place), _mm512_castsi512_si256(sums));
    } else if (mask == 0xf) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(place), _mm512_castsi512_si128(sums));
    } else {
        _mm512_mask_storeu_epi32(place, mask, sums);
    }
}

// Sums of the 16 words of each of four vectors.
inline __m128i sums_of_four(__m512i v0, __m512i v1, __m512i v2, __m512i v3) {
    const __m512i v01 = _mm512_add_epi32(_mm512_unpacklo_epi32(v0, v1), _mm512_unpackhi_epi32(v0, v1));
    const __m512i v23 = _mm512_add_epi32(_mm512_unpacklo_epi32(v2, v3), _mm512_unpackhi_epi32(v2, v3));
    const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(v01, v23), _mm512_unpackhi_epi64(v01, v23));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti64x4_epi64(all, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// Sums of the values of four rows. Named one by one: of an array of sums, GCC would keep a copy in memory.
inline __m128i row_sums(const int8_t* row0, const int8_t* row1, const int8_t* row2, const int8_t* row3, int64_t values) {
    const __m512i ones = _mm512_set1_epi8(1);
    const __mmask64 rest = first_bytes(values % kStep);
    const int64_t whole = values - values % kStep;
    const auto begin = [&](const int8_t* row) {
        return _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, _mm512_maskz_loadu_epi8(rest, row + whole));
    };
    __m512i sum0 = begin(row0), sum1 = begin(row1), sum2 = begin(row2), sum3 = begin(row3);
    for (int64_t k = 0; k < whole; k += kStep) {
        add_products(sum0, ones, _mm512_loadu_si512(row0 + k));
        add_products(sum1, ones, _mm512_loadu_si512(row1 + k));
        add_products(sum2, ones, _mm512_loadu_si512(row2 + k));
        add_products(sum3, ones, _mm512_loadu_si512(row3 + k));
    }
    return sums_of_four(sum0, sum1, sum2, sum3);
}

// sums[Rows, 16 Vectors] (+)= A[Rows, 4 groups] panel[4 groups, 16 Vectors], for some panels one after the other; of the last 16
// columns of each those of `last` are kept. The loops must be unrolled while the compiler still can put each sum into a register.
// With `find`, offsets are not known yet: the last column is a spare one, packed as zeros, whose sums without them are what they take away.
template <int Rows, int Vectors>
void multiply_vectors(const systolora::Rows& rows, int64_t groups, const Panels& panels, int32_t* offsets, bool find, const Sums& sums,
                      __mmask16 last) {
    const int64_t a_stride = rows.stride, stride = sums.stride;
    const bool fresh = sums.fresh, past_caches = sums.past_caches;
    for (int64_t column = 0; column < panels.columns; column += kPanel) {
        const int8_t* a = rows.bytes;
        const int8_t* panel = panels.bytes + column / kPanel * panels.panel_bytes;
        int32_t* place = sums.values + column;
        __m512i total[Rows][Vectors];
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < Vectors; ++j) {
                total[i][j] = find ? _mm512_setzero_si512() : _mm512_set1_epi32(offsets[i]);
                if (fresh) continue;
                const __m512i before = _mm512_maskz_loadu_epi32(j == Vectors - 1 ? last : 0xffff, place + i * stride + 16 * j);
                total[i][j] = _mm512_add_epi32(total[i][j], before);
            }
        }
        for (int64_t group = 0; group < groups; ++group, a += 4, panel += VectorPanel::kRowBytes) {
            __m512i b[Vectors];
#pragma GCC unroll 2
            for (int j = 0; j < Vectors; ++j) b[j] = _mm512_loadu_si512(panel + VectorPanel::kTileBytes * j);
#pragma GCC unroll 16
            for (int i = 0; i < Rows; ++i) {
                int32_t four;
                std::memcpy(&four, a + i * a_stride, sizeof four);
                const __m512i left = _mm512_set1_epi32(four);
#pragma GCC unroll 2
                for (int j = 0; j < Vectors; ++j) add_products(total[i][j], b[j], left);
            }
        }
        if (find) {
#pragma GCC unroll 16
            for (int i = 0; i < Rows; ++i) {
                const __m512i spare = _mm512_permutexvar_epi32(_mm512_set1_epi32(15), total[i][Vectors - 1]);
                offsets[i] = -_mm_cvtsi128_si32(_mm512_castsi512_si128(spare));
#pragma GCC unroll 2
                for (int j = 0; j < Vectors; ++j) total[i][j] = _mm512_sub_epi32(total[i][j], spare);
            }
        }
#pragma GCC unroll 16
        for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < Vectors; ++j) {
                store_sums(place + i * stride + 16 * j, total[i][j], j < Vectors - 1 ? 0xffff : last, past_caches);
            }
        }
    }
}

using VectorProduct = void (*)(const Rows&, int64_t, const Panels&, int32_t*, bool, const Sums&, __mmask16);

constexpr int64_t kVectorRows = 12;  // with two vectors a row: 24 sums, two vectors of B and one of A in 32 registers

// By rows - 1 and vectors - 1.
template <int... Index>
constexpr auto vector_products(std::integer_sequence<int, Index...>) {
    return std::array<VectorProduct, sizeof...(Index)>{multiply_vectors<Index / 2 + 1, Index % 2 + 1>...};
}

// What `Product` needs to know of the unit (see MatrixUnit). Sizes for caches of 32 KB and 1 MB.
struct VectorUnit {
    struct Registers {};
    using Panel = VectorPanel;

    static constexpr int64_t kRows = kVectorRows, kRowUnit = 1;
    static constexpr int64_t kRowClocks = 10;  // that adding up a row takes, whatever its length
    static constexpr int64_t kPartSteps = 24;  // fewer than in tiles: a panel and the rows that meet it take less of the caches
    static constexpr int64_t kGroupBytes = 1 << 19;
    static constexpr int64_t kThreadProducts = 1 << 20;
    static constexpr bool kSpareColumns = true;
    static constexpr bool kWholeTiles = false;

    // -128 times the sum of each row.
    static void row_offsets(const Rows& a, int64_t values, int32_t* offsets) {
        for (int64_t i = 0; i < a.count; i += 4) {
            const auto row = [&](int64_t j) { return a.bytes + std::min(i + j, a.count - 1) * a.stride; };
            const __m128i sums = row_sums(row(0), row(1), row(2), row(3), values);
            const __m128i four = _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), sums), 7);
            _mm_storeu_si128(reinterpret_cast<__m128i*>(offsets + i), four);
        }
    }

    // As `MatrixUnit::multiply`, for at most kRows rows; writes no other columns. `offsets`: what is added to the sums of each row;
    // with `find`, it is found and written there.
    static void multiply(const Rows& a, int64_t values, const Panels& b, int32_t* offsets, bool find, const Sums& sums) {
        static constexpr auto products = vector_products(std::make_integer_sequence<int, 2 * kVectorRows>());
        const int64_t whole = b.columns / kPanel * kPanel, rest = b.columns - whole, groups = ceil_div(values, 4);
        // The rest first: it may have to find the offsets.
        if (rest) {
            const int64_t vectors = ceil_div(rest, 16);
            const __mmask16 last = static_cast<__mmask16>(first_bytes(rest - 16 * (vectors - 1)));
            const Panels panels{b.bytes + whole / kPanel * b.panel_bytes, b.panel_bytes, rest};
            const Sums right{sums.values + whole, sums.stride, sums.fresh, sums.past_caches};
            products[2 * a.count + vectors - 3](a, groups, panels, offsets, find, right, last);
        }
        if (whole) products[2 * a.count - 1](a, groups, {b.bytes, b.panel_bytes, whole}, offsets, false, sums, 0xffff);
    }
};

}  // namespace systolora
#endif
