// Counters that walk through the implicit GEMM of a convolution: patches are its rows, kernel positions run along k.

#ifndef SYSTOLORA_PATCHES_HPP
#define SYSTOLORA_PATCHES_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "requests.hpp"
#include "types.hpp"

// A row of A: patch (y, x) of an image.
struct PatchPosition {
    uint32_t image;  // first row of pixels of the image, counted from the first image
    uint32_t y;
    uint32_t x;
};

// A place along k: kernel position (dy, dx), and how many bus words of its channels are still to come.
struct TapPosition {
    uint32_t dy;
    uint32_t dx;
    uint32_t words;
};

inline PatchPosition patch_at(const GemmInstruction &op, uint32_t row)
{
#pragma HLS INLINE off
    const uint32_t patches = op.out_height * op.out_width;
    const uint32_t patch = row % patches;
    PatchPosition position;
    position.image = row / patches * op.image_height;
    position.y = patch / op.out_width;
    position.x = patch % op.out_width;
    return position;
}

inline TapPosition tap_at(const GemmInstruction &op, uint32_t k)
{
#pragma HLS INLINE off
    const uint32_t tap = k / op.channels;
    TapPosition position;
    position.dy = tap / op.kernel_width;
    position.dx = tap % op.kernel_width;
    position.words = (op.channels - k % op.channels) / kBusBytes;
    return position;
}

// A row of a matrix is one kernel position that never ends.
inline TapPosition no_tap()
{
#pragma HLS INLINE
    TapPosition position;
    position.dy = 0;
    position.dx = 0;
    position.words = 0xffffffffu;
    return position;
}

inline void next_patch(const GemmInstruction &op, PatchPosition &position)
{
#pragma HLS INLINE
    const bool x_ends = position.x + 1 == op.out_width;
    const bool y_ends = x_ends && position.y + 1 == op.out_height;
    position.x = x_ends ? 0 : position.x + 1;
    position.y = y_ends ? 0 : x_ends ? position.y + 1 : position.y;
    position.image = y_ends ? position.image + op.image_height : position.image;
}

// Moves on by bus words that do not reach beyond the kernel position.
inline void next_tap(const GemmInstruction &op, TapPosition &position, uint32_t words)
{
#pragma HLS INLINE
    const bool ends = position.words == words;
    const bool row_ends = ends && position.dx + 1 == op.kernel_width;
    position.words = ends ? op.channels / kBusBytes : position.words - words;
    position.dy = row_ends ? position.dy + 1 : position.dy;
    position.dx = row_ends ? 0 : ends ? position.dx + 1 : position.dx;
}

// The place of a tap in its pixel, in bus words.
inline uint32_t channel_word(const GemmInstruction &op, const TapPosition &tap)
{
#pragma HLS INLINE
    return op.channels / kBusBytes - tap.words;
}

// The pixel that patch and kernel position meet in, from the tap's channel on. The number of words is the caller's.
inline Run pixel_run(const GemmInstruction &op, uint64_t image_word, const PatchPosition &patch, const TapPosition &tap)
{
#pragma HLS INLINE
    const int32_t row = int32_t(patch.y * op.step + tap.dy) - int32_t(op.pad_top);
    const int32_t column = int32_t(patch.x * op.step + tap.dx) - int32_t(op.pad_left);
    const bool row_exists = row >= 0 && row < int32_t(op.image_height);
    const bool column_exists = column >= 0 && column < int32_t(op.image_width);
    Run run;
    run.exists = row_exists && column_exists;
    run.words = 0;
    const uint64_t pixel = uint64_t(patch.image + uint32_t(row)) * op.image_width + uint32_t(column);
    run.first = image_word + pixel * (op.a_stride / kBusBytes) + channel_word(op, tap);
    return run;
}

// One row of a weight that is stored as blocks of rows and read backwards: the kernel's last position is block 0. The
// number of words is the caller's.
inline Run block_run(const GemmInstruction &op, uint64_t weight_word, uint32_t n, const TapPosition &tap)
{
#pragma HLS INLINE
    const uint32_t down = op.kernel_height - 1 - tap.dy;
    const uint32_t across = op.kernel_width - 1 - tap.dx;
    const uint32_t block = down * op.block_row_step + across * op.block_step;
    const uint32_t rows = (op.n + kBusBytes - 1) / kBusBytes * kBusBytes;
    Run run;
    run.exists = true;
    run.words = 0;
    run.first = weight_word + (uint64_t(block) * rows + n) * (op.b_stride / kBusBytes) + channel_word(op, tap);
    return run;
}

#endif
