// Brings the operands of a GEMM into the order in which the processor's units read them.
//
// A: rows of int8; where they are copied, k is padded with zeros to whole steps of 64.
// B: panels of 32 columns; per step of 64 two tiles, one per 16 columns; row r of a tile holds for each column the four
// values k = 4 r .. 4 r + 3, as the units multiply four at a time.
#pragma once

#include <immintrin.h>

#include <array>
#include <utility>

#include "fields.hpp"
#include "floats.hpp"
#include "support.hpp"

namespace systolora {

constexpr int64_t kStep = 64;          // values of k that one tile holds
constexpr int64_t kTile = 16;          // rows of A, or columns of B, in a tile
constexpr int64_t kPanel = 2 * kTile;  // columns of B in a panel
constexpr int64_t kPanelStepBytes = kPanel * kStep;
constexpr int64_t kAhead = 4 * kStep;  // bytes of a row that are fetched before they are packed: rows lie too far apart to be guessed

// Up to 32 rows of A, in the order of the unit.
struct Rows {
    int64_t count;
    const int8_t* bytes;
    int64_t stride;
};

// Neighbouring panels of packed B, and how many columns of them there are.
struct Panels {
    const int8_t* bytes;
    int64_t panel_bytes;
    int64_t columns;
};

// int32 sums, whose rows lie `stride` values apart: to be added to, or, if they are fresh, to be made; and whether they are written
// past the caches, as what is not read again soon.
struct Sums {
    int32_t* values;
    int64_t stride;
    bool fresh;
    bool past_caches;
};

// How a panel lies in memory: bytes from tile to tile of a step and from row to row of a tile. Each value but the zeros beyond k is
// XORed with `kFlip`.
struct TilePanel {
    static constexpr int64_t kTileBytes = kTile * kStep;
    static constexpr int64_t kRowBytes = kStep;
    static constexpr int8_t kFlip = 0;
};
struct VectorPanel {
    static constexpr int64_t kTileBytes = kStep;
    static constexpr int64_t kRowBytes = 2 * kStep;
    static constexpr int8_t kFlip = -128;
};

inline int64_t ceil_div(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Transposes a matrix of 16 x 16 values of 32 bits.
inline void transpose_words(__m512i rows[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; ++i) {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 4; ++i) {
        rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Now word group g (128 bits) of rows[4 i + j] holds rows 4 i .. 4 i + 3 of column 4 g + j.
    for (int j = 0; j < 4; ++j) {
        t[j] = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(rows[j], rows[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(rows[8 + j], rows[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; ++j) {
        rows[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        rows[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        rows[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        rows[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

inline __mmask64 first_bytes(int64_t count) {
    return count >= 64 ? ~__mmask64{0} : (__mmask64{1} << std::max<int64_t>(count, 0)) - 1;
}

// A tile from 16 columns of B that are stored as rows: `load(column)` gives 64 values of k of one of them.
template <typename Panel, typename Load>
void pack_tile_of_rows(const Load& load, int8_t* tile) {
    __m512i rows[16];
    for (int column = 0; column < 16; ++column) rows[column] = load(column);
    transpose_words(rows);
    for (int r = 0; r < 16; ++r) _mm512_storeu_si512(tile + Panel::kRowBytes * r, rows[r]);
}

// A tile from 64 rows of 16 values of B: `load(row)` gives 16 values of one of them.
template <typename Panel, typename Load>
void pack_tile_of_columns(const Load& load, int8_t* tile) {
    for (int r = 0; r < 16; ++r) {
        const __m128i row0 = load(4 * r), row1 = load(4 * r + 1), row2 = load(4 * r + 2), row3 = load(4 * r + 3);
        const __m128i low01 = _mm_unpacklo_epi8(row0, row1), high01 = _mm_unpackhi_epi8(row0, row1);
        const __m128i low23 = _mm_unpacklo_epi8(row2, row3), high23 = _mm_unpackhi_epi8(row2, row3);
        __m128i* out = reinterpret_cast<__m128i*>(tile + Panel::kRowBytes * r);
        _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
        _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
        _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
        _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
    }
}

template <typename Panel>
class OperandB {
  public:
    OperandB(const GemmFields& op, const Memory& memory) : op_(op), memory_(memory) {
        if (op.b_form == 0) return;
        block_rows_ = round_up(op.n, memory.bus_bytes);
    }

    // Packs `steps` steps of columns n0 .. n0 + 31; rows from k on are zero, columns from n on are zero too, but in a tile that holds none
    // before n, which is left as it is.
    void pack_panel(int64_t n0, int64_t first_step, int64_t steps, int8_t* panel) const {
        for (int64_t step = first_step; step < first_step + steps; ++step) {
            for (int64_t tile = 0; tile < 2; ++tile) {
                pack_tile(n0 + tile * kTile, step * kStep, panel + tile * Panel::kTileBytes);
            }
            panel += kPanelStepBytes;
        }
    }

  private:
    void pack_tile(int64_t n0, int64_t k0, int8_t* tile) const {
        const int64_t columns = op_.n - n0;
        if (columns <= 0) return;
        const __mmask64 inside = first_bytes(op_.k - k0);
        const __m512i flip = _mm512_maskz_set1_epi8(inside, Panel::kFlip);
        if (op_.b_form) {
            pack_tile_of_rows<Panel>(
                [&](int column) { return column < columns ? _mm512_xor_si512(reversed(n0 + column, k0), flip) : flip; }, tile);
        } else if (op_.transpose_b) {
            const int8_t* first = memory_.at<int8_t>(op_.b_address) + n0 * op_.b_stride + k0;
            pack_tile_of_rows<Panel>(
                [&](int column) {
                    const int8_t* line = first + column * op_.b_stride;
                    _mm_prefetch(line + kAhead, _MM_HINT_T0);
                    return _mm512_xor_si512(_mm512_maskz_loadu_epi8(column < columns ? inside : 0, line), flip);
                },
                tile);
        } else {
            const __mmask16 there = static_cast<__mmask16>(first_bytes(columns));
            const int8_t* first = memory_.at<int8_t>(op_.b_address) + k0 * op_.b_stride + n0;
            pack_tile_of_columns<Panel>(
                [&](int row) {
                    if (k0 + row >= op_.k) return _mm_setzero_si128();
                    const __m128i values = _mm_maskz_loadu_epi8(there, first + row * op_.b_stride);
                    return _mm_xor_si128(values, _mm_set1_epi8(Panel::kFlip));
                },
                tile);
        }
    }

    // Values k0 .. k0 + 63 of a column of a convolution's weight that is read backwards, block by block.
    __m512i reversed(int64_t column, int64_t k0) const {
        alignas(64) int8_t values[kStep] = {};
        const int64_t end = std::min(op_.k, k0 + kStep);
        for (int64_t k = k0; k < end;) {
            const int64_t tap = k / op_.channels, channel = k % op_.channels;
            const int64_t count = std::min(end - k, op_.channels - channel);
            const int64_t down = op_.kernel_height - 1 - tap / op_.kernel_width;
            const int64_t across = op_.kernel_width - 1 - tap % op_.kernel_width;
            const int64_t row = (down * op_.block_row_step + across * op_.block_step) * block_rows_ + column;
            std::memcpy(values + (k - k0), memory_.at<int8_t>(op_.b_address) + row * op_.b_stride + channel, count);
            k += count;
        }
        return _mm512_load_si512(values);
    }

    const GemmFields& op_;
    const Memory& memory_;
    int64_t block_rows_ = 0;
};

class OperandA {
  public:
    // `whole_tiles`: the unit reads 16 or 32 rows of whole cache lines, whatever lies in the last ones.
    OperandA(const GemmFields& op, const Memory& memory, bool whole_tiles) : op_(op), memory_(memory) {
        // Rows are a whole number of bus words apart, so that there always are four values where there is one.
        const bool readable = !whole_tiles || (op.a_address | op.a_stride | op.k) % kStep == 0;
        in_place_ = op.a_form == 0 && !op.transpose_a && readable;
        row_unit_ = whole_tiles ? kTile : 1;
    }

    // Values begin .. end - 1 of rows m0 .. m0 + count - 1: where they lie, or copied to `block`, whose rows are `stride` bytes
    // apart, with zeros up to a whole step.
    Rows rows(int64_t m0, int64_t count, int64_t begin, int64_t end, int8_t* block, int64_t stride) const {
        if (in_place_ && count % row_unit_ == 0) {
            return {count, memory_.at<int8_t>(op_.a_address) + m0 * op_.a_stride + begin, op_.a_stride};
        }
        if (op_.a_form == 0 && op_.transpose_a) {
            pack_transposed(m0, count, begin, end, block, stride);
            return {count, block, stride};
        }
        for (int64_t i = 0; i < count; ++i) {
            int8_t* row = block + i * stride;
            if (op_.a_form) {
                pack_patch(m0 + i, begin, end, row);
            } else {
                std::memcpy(row, memory_.at<int8_t>(op_.a_address) + (m0 + i) * op_.a_stride + begin, end - begin);
            }
            std::memset(row + (end - begin), 0, round_up(end - begin, kStep) - (end - begin));
        }
        return {count, block, stride};
    }

  private:
    // Columns begin .. end - 1 of one row of the implicit GEMM's A: pixel after pixel, or zeros.
    void pack_patch(int64_t row, int64_t begin, int64_t end, int8_t* out) const {
        const int64_t x = row % op_.out_width, y = row / op_.out_width % op_.out_height;
        const int64_t image = row / (op_.out_width * op_.out_height);
        const int8_t* pixels = memory_.at<int8_t>(op_.a_address);
        int64_t dy = begin / op_.channels / op_.kernel_width, dx = begin / op_.channels % op_.kernel_width;
        for (int64_t k = begin; k < end;) {
            const int64_t channel = k % op_.channels, count = std::min(end - k, op_.channels - channel);
            const int64_t line = y * op_.step + dy - op_.pad_top, column = x * op_.step + dx - op_.pad_left;
            if (line < 0 || line >= op_.image_height || column < 0 || column >= op_.image_width) {
                std::memset(out, 0, count);
            } else {
                const int64_t pixel = (image * op_.image_height + line) * op_.image_width + column;
                std::memcpy(out, pixels + pixel * op_.a_stride + channel, count);
            }
            out += count;
            k += count;
            if (++dx == op_.kernel_width) dx = 0, ++dy;
        }
    }

    // 16 rows and 64 values of k at a time: a tile of four-byte groups, transposed back into rows.
    void pack_transposed(int64_t m0, int64_t count, int64_t begin, int64_t end, int8_t* out, int64_t stride) const {
        alignas(64) int8_t tile[kTile * kStep];
        for (int64_t i = 0; i < count; i += kTile, out += kTile * stride) {
            const __mmask16 inside = static_cast<__mmask16>(first_bytes(op_.m - (m0 + i)));
            for (int64_t k0 = begin; k0 < end; k0 += kStep) {
                const int8_t* first = memory_.at<int8_t>(op_.a_address) + k0 * op_.a_stride + m0 + i;
                const auto load = [&](int row) {
                    return _mm_maskz_loadu_epi8(k0 + row < end ? inside : 0, first + row * op_.a_stride);
                };
                pack_tile_of_columns<TilePanel>(load, tile);
                __m512i rows[16];
                for (int r = 0; r < 16; ++r) rows[r] = _mm512_load_si512(tile + 64 * r);
                transpose_words(rows);
                for (int r = 0; r < 16; ++r) _mm512_storeu_si512(out + r * stride + k0 - begin, rows[r]);
            }
        }
    }

    const GemmFields& op_;
    const Memory& memory_;
    bool in_place_;
    int64_t row_unit_;  // a block in place has a multiple of this many rows
};

}  // namespace systolora
