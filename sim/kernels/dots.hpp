// GEMMs with few rows or few columns whose operands both lie along k: dot products by AVX512-VNNI, without packing anything.
#pragma once

#include "epilogue.hpp"
#include "vector_unit.hpp"

#ifdef SYSTOLORA_VNNI

namespace systolora {

class Dots {
  public:
    static constexpr int64_t kFew = 4;
    static constexpr int64_t kThreadProducts = 128 << 10;  // multiply-accumulates that are worth another thread
    static constexpr int64_t kShort = 32;  // with less along k, vectors are mostly empty
    static constexpr int64_t kLong = 256;  // with less, adding up the vectors of a few rows takes longer than packing

    static bool fit(const GemmFields& op) {
        const bool along_k = op.a_form == 0 && !op.transpose_a && op.b_form == 0 && op.transpose_b;
        const bool few_rows = op.m == 1 || (op.m <= kFew && op.k >= kLong);
        return along_k && op.k >= kShort && (op.n <= kFew || few_rows);
    }

    Dots(const GemmFields& op, const Memory& memory, int threads) : op_(op), memory_(memory), epilogue_(op, memory) {
        threads_ = static_cast<int>(std::clamp<int64_t>(op.m * op.n * op.k / kThreadProducts, 1, threads));
        const Operand a{memory.at<int8_t>(op.a_address), op.a_stride, op.m};
        const Operand b{memory.at<int8_t>(op.b_address), op.b_stride, op.n};
        few_columns_ = op.n <= kFew;
        few_ = few_columns_ ? b : a;
        many_ = few_columns_ ? a : b;
        in_place_ = op.result == kInt32 && !op.accumulate;
    }

    int run() {
        sums_stride_ = in_place_ ? op_.c_stride / static_cast<int64_t>(sizeof(int32_t)) : op_.n;
        const int64_t stride = round_up(op_.k, kStep), few_bytes = few_.rows * stride;
        thread_local Scratch scratch;
        uint8_t* room = scratch.reserve(few_bytes + (in_place_ ? 0 : op_.m * op_.n * sizeof(int32_t)));
        if (room == nullptr) return kNoMemory;
        sums_ = in_place_ ? memory_.at<int32_t>(op_.c_address) : reinterpret_cast<int32_t*>(room + few_bytes);
        // The few rows in whole cache lines, with zeros beyond k: they are read again and again.
        for (int64_t i = 0; i < few_.rows; ++i) {
            std::memcpy(room + i * stride, few_.row(i), op_.k);
            std::memset(room + i * stride + op_.k, 0, stride - op_.k);
        }
        few_ = {reinterpret_cast<int8_t*>(room), stride, few_.rows};
        VectorUnit::row_offsets({few_.rows, few_.bytes, few_.stride}, op_.k, offsets_);
        run_threads(threads_, [&](int index) {
            const Range own(many_.rows, 4, index, threads_);
            for (int64_t i = own.begin; i < own.end; i += 4) {
                if (few_columns_) {
                    multiply_few_columns(i);
                } else if (few_.rows == 1) {
                    multiply_row(i);
                } else {
                    multiply_few_rows(i);
                }
            }
        });
        if (in_place_) {
            epilogue_.pad(0, op_.m, 0, op_.n);
        } else {
            epilogue_.finish(sums_, sums_stride_, 0, op_.m, 0, op_.n);
            Epilogue::complete_stores();
        }
        return kOk;
    }

  private:
    struct Operand {
        const int8_t* bytes;
        int64_t stride;
        int64_t rows;

        // Rows after the last are the last one again.
        const int8_t* row(int64_t index) const { return bytes + std::min(index, rows - 1) * stride; }
    };

    // What follows names its four sums one by one: of an array of them, GCC would keep a copy in memory.

    // Calls `add` for each 64 values of k with their place and what loads them from a row.
    template <typename Add>
    [[gnu::always_inline]] void for_steps(const Add& add) const {
        const int64_t length = op_.k;
        int64_t k = 0;
        for (; k + kStep <= length; k += kStep) {
            add(k, [k](const int8_t* row) { return _mm512_loadu_si512(row + k); });
        }
        const __mmask64 rest = first_bytes(length - k);
        if (rest) add(k, [k, rest](const int8_t* row) { return _mm512_maskz_loadu_epi8(rest, row + k); });
    }

    // Products of the few rows with row `index` of the others, to whose values 128 is added.
    [[gnu::always_inline]] __m128i products_with(int64_t index) const {
        const __m512i flip = _mm512_set1_epi8(-128);
        const int8_t *row = many_.row(index), *few0 = few_.row(0), *few1 = few_.row(1), *few2 = few_.row(2), *few3 = few_.row(3);
        __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for_steps([&](int64_t k, const auto& load) {
            const __m512i values = _mm512_xor_si512(load(row), flip);
            add_products(sum0, values, _mm512_load_si512(few0 + k));
            add_products(sum1, values, _mm512_load_si512(few1 + k));
            add_products(sum2, values, _mm512_load_si512(few2 + k));
            add_products(sum3, values, _mm512_load_si512(few3 + k));
        });
        const __m128i offsets = _mm_loadu_si128(reinterpret_cast<const __m128i*>(offsets_));
        return _mm_add_epi32(sums_of_four(sum0, sum1, sum2, sum3), offsets);
    }

    // Columns first .. first + 3 of a C with one row.
    [[gnu::noinline]] void multiply_row(int64_t first) const {
        const __m512i flip = _mm512_set1_epi8(-128);
        const int8_t *row0 = many_.row(first), *row1 = many_.row(first + 1), *row2 = many_.row(first + 2), *row3 = many_.row(first + 3);
        __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0, sum2 = sum0, sum3 = sum0;
        for_steps([&](int64_t k, const auto& load) {
            const __m512i values = _mm512_load_si512(few_.bytes + k);
            add_products(sum0, _mm512_xor_si512(load(row0), flip), values);
            add_products(sum1, _mm512_xor_si512(load(row1), flip), values);
            add_products(sum2, _mm512_xor_si512(load(row2), flip), values);
            add_products(sum3, _mm512_xor_si512(load(row3), flip), values);
        });
        const __m128i sums = _mm_add_epi32(sums_of_four(sum0, sum1, sum2, sum3), _mm_set1_epi32(offsets_[0]));
        store(sums_ + first, sums, std::min<int64_t>(4, op_.n - first));
    }

    // Rows first .. first + 3 of a C with few columns.
    [[gnu::noinline]] void multiply_few_columns(int64_t first) const {
        const int64_t end = std::min(first + 4, op_.m);
        for (int64_t i = first; i < end; ++i) store(sums_ + i * sums_stride_, products_with(i), op_.n);
    }

    // Columns first .. first + 3 of a C with few rows.
    [[gnu::noinline]] void multiply_few_rows(int64_t first) const {
        const __m128i column0 = products_with(first), column1 = products_with(first + 1);
        const __m128i column2 = products_with(first + 2), column3 = products_with(first + 3);
        const __m128i low01 = _mm_unpacklo_epi32(column0, column1), low23 = _mm_unpacklo_epi32(column2, column3);
        const __m128i high01 = _mm_unpackhi_epi32(column0, column1), high23 = _mm_unpackhi_epi32(column2, column3);
        const __m128i rows[4] = {_mm_unpacklo_epi64(low01, low23), _mm_unpackhi_epi64(low01, low23),
                                 _mm_unpacklo_epi64(high01, high23), _mm_unpackhi_epi64(high01, high23)};
        const int64_t columns = std::min<int64_t>(4, op_.n - first);
        for (int64_t i = 0; i < op_.m; ++i) store(sums_ + i * sums_stride_ + first, rows[i], columns);
    }

    static void store(int32_t* place, __m128i sums, int64_t count) {
        if (count == 4) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(place), sums);
        } else {
            _mm_mask_storeu_epi32(place, static_cast<__mmask8>(first_bytes(count)), sums);
        }
    }

    const GemmFields& op_;
    const Memory& memory_;
    const Epilogue epilogue_;
    int threads_;
    bool few_columns_;
    bool in_place_;
    Operand few_;
    Operand many_;
    int64_t sums_stride_ = 0;
    int32_t* sums_ = nullptr;
    int32_t offsets_[4] = {};
};

}  // namespace systolora
#endif
