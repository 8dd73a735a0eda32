// What C-simulation is compared with: the same products as plain loops, with no registers, memories or instructions.

#include <cstdint>

constexpr int kRows = 64;
constexpr int kCols = 64;

// sums[m][64] of m words of 64 activations and one 64 x 64 block of weights.
extern "C" void dot_block(const int8_t *input, const int8_t *weight, int32_t *sums, int words)
{
    for (int m = 0; m < words; ++m) {
        for (int c = 0; c < kCols; ++c) {
            int32_t sum = 0;
            for (int r = 0; r < kRows; ++r) {
                sum += input[m * kRows + r] * weight[r * kCols + c];
            }
            sums[m * kCols + c] = sum;
        }
    }
}
