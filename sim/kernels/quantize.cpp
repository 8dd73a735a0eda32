// QUANTIZE: float32 or bfloat16 [m, n] to int8 and scales, with the bits of systolora.sim.functional.reference.quantize.

#include <cmath>

#include "fields.hpp"
#include "floats.hpp"
#include "support.hpp"

namespace systolora {
namespace {

constexpr uint32_t kSmallestAbsmax = 0x0d800000u;  // 2**-100 as bits: below it a group counts as zero
constexpr int64_t kLineValues = 1024;              // values converted at a time
constexpr int64_t kThreadValues = 1 << 15;         // fewer values than this are not worth another thread

enum Axis { kTensor = 0, kRow = 1, kColumn = 2 };

struct Scaling {
    float scale;
    float inverse;
};

// `absmax` is the bit pattern of the largest magnitude. What is not finite has the scale NaN and integers of zero.
Scaling scaling_of(uint32_t absmax) {
    if (absmax >= kInfinity) return {float_of(kNan), 0.0f};
    if (absmax < kSmallestAbsmax) return {1.0f, 0.0f};
    const float largest = float_of(absmax);
    return {largest / 127.0f, 127.0f / largest};
}

class Quantizer {
  public:
    Quantizer(const QuantizeFields& op, const Memory& memory) : op_(op), memory_(memory) {
        if (op.multiply) {
            const float* factors = memory.at<float>(op.scale_b_address);
            factors_.resize(op.n);
            for (int64_t j = 0; j < op.n; ++j) factors_[j] = canonical(factors[j]);
        }
    }

    // Bit patterns of absolute maxima: of each column if `columns` is not null, else the return value is that of the part.
    // For bit patterns without sign, the order of the integers is the order of the floats, and NaN and infinity come last.
    uint32_t absmax(int64_t row, int64_t start, int64_t count, uint32_t* columns) const {
        float line[kLineValues];
        if (const float* values = floats(row, start, count, line)) return absmax_of(values, count, columns);
        return absmax_of(memory_.at<uint16_t>(place(row)) + start, count, columns);
    }

    // Integers of a part of a row. `inverses`: one per column if `per_column`, else one for all.
    void convert(int64_t row, int64_t start, int64_t count, const float* inverses, bool per_column, int8_t* out) const {
        float line[kLineValues];
        if (const float* values = floats(row, start, count, line)) {
            convert_from(values, row, start, count, inverses, per_column, out);
        } else {
            convert_from(memory_.at<uint16_t>(place(row)) + start, row, start, count, inverses, per_column, out);
        }
    }

  private:
    uint64_t place(int64_t row) const { return op_.a_address + row * op_.a_stride; }

    // Values of a part of a row multiplied by their factors, in `line`; or the values as they lie, if there are no factors
    // and they are float32; or null, if they are bfloat16.
    const float* floats(int64_t row, int64_t start, int64_t count, float* line) const {
        if (factors_.empty()) return op_.source ? nullptr : memory_.at<float>(place(row)) + start;
        if (op_.source) {
            multiply_factors(memory_.at<uint16_t>(place(row)) + start, factors_.data() + start, count, line);
        } else {
            multiply_factors(memory_.at<float>(place(row)) + start, factors_.data() + start, count, line);
        }
        return line;
    }

    template <typename Value>
    static void multiply_factors(const Value* values, const float* factors, int64_t count, float* line) {
        for (int64_t j = 0; j < count; ++j) line[j] = multiply(canonical(widen(values[j])), factors[j]);
    }

    template <typename Value>
    static uint32_t absmax_of(const Value* values, int64_t count, uint32_t* columns) {
        if (columns != nullptr) {
            for (int64_t j = 0; j < count; ++j) columns[j] = std::max(columns[j], bits_of(widen(values[j])) & kMagnitude);
            return 0;
        }
        return largest_bits(values, count);
    }

    static uint32_t largest_bits(const float* values, int64_t count) {
        uint32_t largest = 0;
        for (int64_t j = 0; j < count; ++j) largest = std::max(largest, bits_of(values[j]) & kMagnitude);
        return largest;
    }

    static uint32_t largest_bits(const uint16_t* values, int64_t count) {
        uint16_t largest = 0;
        for (int64_t j = 0; j < count; ++j) largest = std::max<uint16_t>(largest, values[j] & (kMagnitude >> 16));
        return static_cast<uint32_t>(largest) << 16;
    }

    template <typename Value>
    void convert_from(const Value* values, int64_t row, int64_t start, int64_t count, const float* inverses, bool per_column,
                      int8_t* out) const {
        if (op_.rounding && per_column) {
            convert_stochastic<Value, true>(values, row, start, count, inverses, out);
        } else if (op_.rounding) {
            convert_stochastic<Value, false>(values, row, start, count, inverses, out);
        } else if (per_column) {
            for (int64_t j = 0; j < count; ++j) out[j] = nearest(widen(values[j]) * inverses[j]);
        } else {
            const float inverse = inverses[0];
            for (int64_t j = 0; j < count; ++j) out[j] = nearest(widen(values[j]) * inverse);
        }
    }

    // Half to even by adding and taking away 1.5 * 2**23; |v| is at most 127.00002, so nothing needs to be clipped.
    // Denormals need no care: they and what they make are far below one half.
    static int8_t nearest(float v) {
        constexpr float magic = 12582912.0f;
        return static_cast<int8_t>(bits_of(v + magic) - bits_of(magic));
    }

    template <typename Value, bool PerColumn>
    void convert_stochastic(const Value* values, int64_t row, int64_t start, int64_t count, const float* inverses,
                            int8_t* out) const {
        const uint32_t key = mix(static_cast<uint32_t>(op_.seed));
        const uint32_t first = static_cast<uint32_t>(op_.index_base + row * op_.index_stride + start) + key;
        for (int64_t j = 0; j < count; ++j) {
            const float inverse = inverses[PerColumn ? j : 0];
            const uint32_t random = mix(first + static_cast<uint32_t>(j)) >> 8;
            const float u = static_cast<float>(static_cast<int32_t>(random)) * 0x1p-24f;
            const float v = std::floor(add(multiply(canonical(widen(values[j])), inverse), u));
            const float kept = inverse == 0.0f ? 0.0f : std::max(-127.0f, std::min(v, 127.0f));
            out[j] = static_cast<int8_t>(static_cast<int32_t>(kept));
        }
    }

    static float widen(float x) { return x; }
    static float widen(uint16_t x) { return from_bfloat16(x); }

    const QuantizeFields& op_;
    const Memory& memory_;
    std::vector<float> factors_;
};

template <typename Part>
void for_parts(int64_t n, const Part& part) {
    for (int64_t start = 0; start < n; start += kLineValues) part(start, std::min(kLineValues, n - start));
}

void write_padding(uint8_t* row, int64_t bytes, int64_t bus_bytes) {
    std::memset(row + bytes, 0, round_up(bytes, bus_bytes) - bytes);
}

void write_scales(const QuantizeFields& op, const Memory& memory, const std::vector<uint32_t>& maxima,
                  std::vector<float>& inverses) {
    float* scales = memory.at<float>(op.scale_a_address);
    const int64_t count = static_cast<int64_t>(maxima.size());
    for (int64_t i = 0; i < count; ++i) {
        const Scaling scaling = scaling_of(maxima[i]);
        scales[i] = scaling.scale;
        inverses[i] = scaling.inverse;
    }
    write_padding(reinterpret_cast<uint8_t*>(scales), 4 * count, memory.bus_bytes);
}

bool finite(const std::vector<uint32_t>& maxima) {
    uint32_t largest = 0;
    for (const uint32_t one : maxima) largest = std::max(largest, one);
    return largest < kInfinity;
}

// One scale per row: a row is converted right after its maximum is known, while it is in the cache.
int quantize_rows(const QuantizeFields& op, const Memory& memory, int threads, const Quantizer& quantizer) {
    std::vector<uint32_t> maxima(op.m);
    run_threads(threads, [&](int index) {
        const Range rows(op.m, 1, index, threads);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
            int8_t* row = memory.at<int8_t>(op.c_address + i * op.c_stride);
            uint32_t largest = 0;
            for_parts(op.n, [&](int64_t start, int64_t count) {
                largest = std::max(largest, quantizer.absmax(i, start, count, nullptr));
            });
            maxima[i] = largest;
            if (largest < kInfinity) {
                const float inverse = scaling_of(largest).inverse;
                for_parts(op.n, [&](int64_t start, int64_t count) {
                    quantizer.convert(i, start, count, &inverse, false, row + start);
                });
            } else {
                std::memset(row, 0, op.n);
            }
            write_padding(reinterpret_cast<uint8_t*>(row), op.n, memory.bus_bytes);
        }
    });
    std::vector<float> inverses(op.m);
    write_scales(op, memory, maxima, inverses);
    return finite(maxima) ? kOk : kNonFinite;
}

// One scale for the tensor or for each column: a pass for the maxima, a pass for the integers.
int quantize_columns(const QuantizeFields& op, const Memory& memory, int threads, const Quantizer& quantizer) {
    const bool columns = op.axis == kColumn;
    const int64_t groups = columns ? op.n : 1;
    std::vector<std::vector<uint32_t>> partial(threads, std::vector<uint32_t>(groups));
    run_threads(threads, [&](int index) {
        uint32_t* maxima = partial[index].data();
        const Range rows(op.m, 1, index, threads);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
            for_parts(op.n, [&](int64_t start, int64_t count) {
                const uint32_t largest = quantizer.absmax(i, start, count, columns ? maxima + start : nullptr);
                if (!columns) maxima[0] = std::max(maxima[0], largest);
            });
        }
    });
    std::vector<uint32_t>& maxima = partial[0];
    for (int index = 1; index < threads; ++index) {
        for (int64_t j = 0; j < groups; ++j) maxima[j] = std::max(maxima[j], partial[index][j]);
    }
    if (!finite(maxima)) return kNonFinite;
    std::vector<float> inverses(groups);
    write_scales(op, memory, maxima, inverses);
    run_threads(threads, [&](int index) {
        const Range rows(op.m, 1, index, threads);
        for (int64_t i = rows.begin; i < rows.end; ++i) {
            int8_t* row = memory.at<int8_t>(op.c_address + i * op.c_stride);
            for_parts(op.n, [&](int64_t start, int64_t count) {
                const float* inverse = inverses.data() + (columns ? start : 0);
                quantizer.convert(i, start, count, inverse, columns, row + start);
            });
            write_padding(reinterpret_cast<uint8_t*>(row), op.n, memory.bus_bytes);
        }
    });
    return kOk;
}

}  // namespace
}  // namespace systolora

// Executes a QUANTIZE that passed its checks. Returns kOk or kNonFinite; then nothing was written, but for rows.
extern "C" int systolora_quantize(const uint64_t* words, uint8_t* bytes, uint64_t base, int64_t bus_bytes, int threads) {
    using namespace systolora;
    const QuantizeFields op(words);
    const Memory memory{bytes, base, bus_bytes};
    const Quantizer quantizer(op, memory);
    const int64_t useful = op.m * op.n / kThreadValues + 1;
    threads = static_cast<int>(std::min<int64_t>(threads, useful));
    if (op.axis == kRow) return quantize_rows(op, memory, threads, quantizer);
    return quantize_columns(op, memory, threads, quantizer);
}
