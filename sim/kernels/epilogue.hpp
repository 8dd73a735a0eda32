// From int32 sums to C, with the bits of systolora.sim.functional.reference.epilogue.
#pragma once

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include <cmath>

#include "fields.hpp"
#include "floats.hpp"
#include "support.hpp"

namespace systolora {

enum Result { kInt32 = 0, kFloat32 = 1, kBfloat16 = 2 };
enum ScaleMode { kNone = 0, kOne = 1, kVector = 2 };

class Epilogue {
  public:
    Epilogue(const GemmFields& op, const Memory& memory)
        : op_(op), memory_(memory), alpha_(canonical(op.alpha)) {
        const int64_t bytes = op.m * op.n * (op.result == kBfloat16 ? 2 : 4);
        streaming_ = kCanStream && bytes >= kStreamBytes && !op.accumulate && (op.c_address | op.c_stride) % 64 == 0;
        if (op.result == kInt32) return;
        scale_a_ = vector(op.scale_a, op.scale_a_address, op.m);
        scale_b_ = vector(op.scale_b, op.scale_b_address, op.n);
        if (op.bias) bias_ = vector(kVector, op.bias_address, op.n);
        careful_ = !(ordinary(scale_a_, 0x1p-50f, 0x1p40f) && ordinary(scale_b_, 0x1p-32f, 0x1p30f) &&
                     ordinary({alpha_}, 0x1p-20f, 0x1p20f));
        // One factor per column in any case: a factor of one changes no bit.
        if (scale_b_.size() != static_cast<size_t>(op.n)) scale_b_.assign(op.n, scale_b_.empty() ? 1.0f : scale_b_[0]);
    }

    // Finishes rows m0 .. of C in columns n0 .. ; `sums` is int32 [rows, columns] with `stride` values from row to row.
    // The rows' last bus word is filled up with zeros if these are the last columns.
    void finish(const int32_t* sums, int64_t stride, int64_t m0, int64_t rows, int64_t n0, int64_t columns) const {
        const int64_t size = value_bytes();
        for (int64_t i = 0; i < rows; ++i) {
            uint8_t* out = memory_.at<uint8_t>(op_.c_address + (m0 + i) * op_.c_stride) + n0 * size;
            for (int64_t j = 0; j < columns; j += kLine) {
                const int64_t count = std::min(kLine, columns - j);
                alignas(64) uint8_t line[kLine * sizeof(float)];
                uint8_t* place = streaming_ ? line : out + j * size;
                if (op_.result == kInt32) {
                    finish_integers(sums + i * stride + j, count, reinterpret_cast<uint32_t*>(place));
                } else {
                    finish_floats(sums + i * stride + j, m0 + i, n0 + j, count, place);
                }
                if (streaming_) stream(line, out + j * size, count * size);
            }
        }
        pad(m0, rows, n0, columns);
    }

    // Fills up the last bus word of rows with zeros, if these are the last columns.
    void pad(int64_t m0, int64_t rows, int64_t n0, int64_t columns) const {
        const int64_t bytes = (n0 + columns) * value_bytes(), padding = round_up(bytes, memory_.bus_bytes) - bytes;
        if (n0 + columns < op_.n || padding == 0) return;
        for (int64_t i = 0; i < rows; ++i) {
            std::memset(memory_.at<uint8_t>(op_.c_address + (m0 + i) * op_.c_stride) + bytes, 0, padding);
        }
    }

    // To be called by each thread after its last `finish`.
    static void complete_stores() {
#ifdef __AVX512F__
        _mm_sfence();
#endif
    }

  private:
    int64_t value_bytes() const { return op_.result == kBfloat16 ? 2 : 4; }

    std::vector<float> vector(int64_t mode, uint64_t address, int64_t length) const {
        if (mode == kNone) return {};
        const float* values = memory_.at<float>(address);
        std::vector<float> copy(mode == kOne ? 1 : length);
        for (size_t i = 0; i < copy.size(); ++i) copy[i] = canonical(values[i]);
        return copy;
    }

    // Whether all factors are zero or of a magnitude from `low` to `high`. With the limits above, the product of a sum
    // (an integer of at most 2**31) with all of them is zero or of a magnitude from 2**-102 to 2**121, and so are the
    // products on the way: nothing needs to be made canonical.
    static bool ordinary(const std::vector<float>& factors, float low, float high) {
        bool all = true;
        for (const float factor : factors) {
            const float magnitude = std::fabs(factor);
            all &= magnitude == 0.0f || (magnitude >= low && magnitude <= high);
        }
        return all;
    }

    // Writes past the caches: a large C would only push out of them what is needed again.
    static void stream(const uint8_t* line, uint8_t* out, int64_t bytes) {
        int64_t done = 0;
#ifdef __AVX512F__
        for (; done + 64 <= bytes; done += 64) {
            _mm512_stream_si512(reinterpret_cast<__m512i*>(out + done), _mm512_load_si512(line + done));
        }
#endif
        std::memcpy(out + done, line + done, bytes - done);
    }

    void finish_integers(const int32_t* __restrict sums, int64_t columns, uint32_t* __restrict out) const {
        if (op_.accumulate) {
            for (int64_t j = 0; j < columns; ++j) out[j] += static_cast<uint32_t>(sums[j]);
        } else {
            for (int64_t j = 0; j < columns; ++j) out[j] = static_cast<uint32_t>(sums[j]);
        }
    }

    void finish_floats(const int32_t* sums, int64_t row, int64_t n0, int64_t columns, uint8_t* out) const {
        if (op_.result == kBfloat16) {
            choose(sums, row, n0, columns, reinterpret_cast<uint16_t*>(out));
        } else {
            choose(sums, row, n0, columns, reinterpret_cast<float*>(out));
        }
    }

    // The loop over a row, compiled for each combination of what it has to do.
    template <typename Out>
    void choose(const int32_t* sums, int64_t row, int64_t n0, int64_t columns, Out* out) const {
        const bool bias = !bias_.empty();
        if (careful_) {
            if (bias) {
                choose_accumulate<Out, true, true>(sums, row, n0, columns, out);
            } else {
                choose_accumulate<Out, true, false>(sums, row, n0, columns, out);
            }
        } else if (bias) {
            choose_accumulate<Out, false, true>(sums, row, n0, columns, out);
        } else {
            choose_accumulate<Out, false, false>(sums, row, n0, columns, out);
        }
    }

    template <typename Out, bool Careful, bool Bias>
    void choose_accumulate(const int32_t* sums, int64_t row, int64_t n0, int64_t columns, Out* out) const {
        if (op_.accumulate) {
            finish_row<Out, Careful, Bias, true>(sums, row, n0, columns, out);
        } else {
            finish_row<Out, Careful, Bias, false>(sums, row, n0, columns, out);
        }
    }

    // (((float32(sum) * scale_a) * scale_b) * alpha) + bias) + c, each step rounded; scale_b first if the instruction says so.
    template <typename Out, bool Careful, bool Bias, bool Accumulate>
    void finish_row(const int32_t* __restrict sums, int64_t row, int64_t n0, int64_t columns, Out* __restrict out) const {
        const auto clean = [](float x) { return Careful ? canonical(x) : x; };
        const float scale_a = scale_a_.empty() ? 1.0f : scale_a_[scale_a_.size() == 1 ? 0 : row];
        const float alpha = alpha_;
        const bool swapped = op_.scales_swapped != 0;
        const float* __restrict scale_b = scale_b_.data() + n0;
        const float* __restrict bias = bias_.data() + (Bias ? n0 : 0);
        for (int64_t j = 0; j < columns; ++j) {
            float value = clean(static_cast<float>(sums[j]) * (swapped ? scale_b[j] : scale_a));
            value = clean(value * (swapped ? scale_a : scale_b[j]));
            value = clean(value * alpha);
            // Unlike a product, a sum can be a denormal even of ordinary numbers.
            if (Bias) value = add(value, bias[j]);
            if (Accumulate) value = add(value, canonical(load(out + j)));
            store(out + j, value);
        }
    }

    static float load(const float* place) { return *place; }
    static float load(const uint16_t* place) { return from_bfloat16(*place); }
    static void store(float* place, float value) { *place = value; }
    static void store(uint16_t* place, float value) { *place = to_bfloat16(value); }

#ifdef __AVX512F__
    static constexpr bool kCanStream = true;
#else
    static constexpr bool kCanStream = false;
#endif
    static constexpr int64_t kStreamBytes = 8 << 20;  // C larger than this does not stay in a cache anyway
    static constexpr int64_t kLine = 256;             // columns finished at a time

    const GemmFields& op_;
    const Memory& memory_;
    const float alpha_;
    std::vector<float> scale_a_;
    std::vector<float> scale_b_;
    std::vector<float> bias_;
    bool careful_ = true;
    bool streaming_ = false;
};

}  // namespace systolora
