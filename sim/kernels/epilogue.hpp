// From int32 sums to C, with the bits of systolora.sim.reference.epilogue.
#pragma once

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
        if (op.result == kInt32) return;
        scale_a_ = vector(op.scale_a, op.scale_a_address, op.m);
        scale_b_ = vector(op.scale_b, op.scale_b_address, op.n);
        if (op.bias) bias_ = vector(kVector, op.bias_address, op.n);
        careful_ = !(ordinary(scale_a_, 0x1p-50f, 0x1p40f) && ordinary(scale_b_, 0x1p-32f, 0x1p30f) &&
                     ordinary({alpha_}, 0x1p-20f, 0x1p20f));
    }

    // Finishes rows m0 .. of C in columns n0 .. ; `sums` is int32 [rows, columns] with `stride` values from row to row.
    // The rows' last bus word is filled up with zeros if these are the last columns.
    void finish(const int32_t* sums, int64_t stride, int64_t m0, int64_t rows, int64_t n0, int64_t columns) const {
        for (int64_t i = 0; i < rows; ++i) finish_row(sums + i * stride, m0 + i, n0, columns);
    }

  private:
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

    void finish_row(const int32_t* sums, int64_t row, int64_t n0, int64_t columns) const {
        const int64_t size = op_.result == kBfloat16 ? 2 : 4;
        uint8_t* out = memory_.at<uint8_t>(op_.c_address + row * op_.c_stride) + n0 * size;
        if (op_.result == kInt32) {
            finish_integers(sums, columns, reinterpret_cast<uint32_t*>(out));
        } else {
            for (int64_t start = 0; start < columns; start += kPart) {
                const int64_t count = std::min(kPart, columns - start);
                finish_floats(sums + start, row, n0 + start, count, out + start * size);
            }
        }
        if (n0 + columns == op_.n) {
            std::memset(out + columns * size, 0, round_up(columns * size, memory_.bus_bytes) - columns * size);
        }
    }

    void finish_integers(const int32_t* sums, int64_t columns, uint32_t* out) const {
        if (op_.accumulate) {
            for (int64_t j = 0; j < columns; ++j) out[j] += static_cast<uint32_t>(sums[j]);
        } else {
            std::memcpy(out, sums, columns * sizeof *sums);
        }
    }

    void finish_floats(const int32_t* sums, int64_t row, int64_t n0, int64_t count, uint8_t* out) const {
        float values[kPart];
        if (careful_) {
            scaled<true>(sums, row, n0, count, values);
        } else {
            scaled<false>(sums, row, n0, count, values);
        }
        if (op_.result == kBfloat16) {
            uint16_t* halves = reinterpret_cast<uint16_t*>(out);
            if (op_.accumulate) {
                for (int64_t j = 0; j < count; ++j) {
                    values[j] = add(values[j], canonical(from_bfloat16(halves[j])));
                }
            }
            for (int64_t j = 0; j < count; ++j) halves[j] = to_bfloat16(values[j]);
        } else {
            float* floats = reinterpret_cast<float*>(out);
            if (op_.accumulate) {
                for (int64_t j = 0; j < count; ++j) floats[j] = add(values[j], canonical(floats[j]));
            } else {
                std::memcpy(floats, values, count * sizeof *values);
            }
        }
    }

    // float32(sum) * scale_a * scale_b * alpha + bias, each step rounded. A factor of one changes no bit, so it is left out.
    template <bool Careful>
    void scaled(const int32_t* sums, int64_t row, int64_t n0, int64_t count, float* values) const {
        const auto clean = [](float x) { return Careful ? canonical(x) : x; };
        const float scale_a = scale_a_.empty() ? 1.0f : scale_a_[scale_a_.size() == 1 ? 0 : row];
        for (int64_t j = 0; j < count; ++j) values[j] = clean(static_cast<float>(sums[j]) * scale_a);
        if (scale_b_.size() == 1) {
            for (int64_t j = 0; j < count; ++j) values[j] = clean(values[j] * scale_b_[0]);
        } else if (!scale_b_.empty()) {
            const float* scales = scale_b_.data() + n0;
            for (int64_t j = 0; j < count; ++j) values[j] = clean(values[j] * scales[j]);
        }
        if (alpha_ != 1.0f) {
            for (int64_t j = 0; j < count; ++j) values[j] = clean(values[j] * alpha_);
        }
        if (!bias_.empty()) {
            const float* bias = bias_.data() + n0;
            // Unlike a product, a sum can be a denormal even of ordinary numbers.
            for (int64_t j = 0; j < count; ++j) values[j] = canonical(values[j] + bias[j]);
        }
    }

    static constexpr int64_t kPart = 32;  // values at a time: two vector registers, and the width of a panel of B

    const GemmFields& op_;
    const Memory& memory_;
    const float alpha_;
    std::vector<float> scale_a_;
    std::vector<float> scale_b_;
    std::vector<float> bias_;
    bool careful_ = true;
};

}  // namespace systolora
