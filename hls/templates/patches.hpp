// Counters that walk through the implicit GEMM of a convolution: patches are its rows, kernel positions run along k.

#ifndef SYSTOLORA_PATCHES_HPP
#define SYSTOLORA_PATCHES_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "types.hpp"

// A row of A: patch (y, x) of an image.
struct PatchPosition {
    uint32_t image;  // first row of pixels of the image, counted from the first image
    uint32_t y;
    uint32_t x;
};

// A place along k: kernel position (dy, dx), and a channel in it.
struct TapPosition {
    uint32_t dy;
    uint32_t dx;
    uint32_t channel;
};

// Bus words that follow each other in device memory. If they do not exist they are zeros, and nothing is read.
struct Run {
    uint64_t first;  // in bus words from the window's first address
    uint32_t words;
    bool exists;
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
    position.channel = k % op.channels;
    return position;
}

inline void next_patch(const GemmInstruction &op, PatchPosition &position)
{
#pragma HLS INLINE
    ++position.x;
    if (position.x == op.out_width) {
        position.x = 0;
        ++position.y;
    }
    if (position.y == op.out_height) {
        position.y = 0;
        position.image += op.image_height;
    }
}

// Moves on by channels that do not reach beyond the kernel position.
inline void next_tap(const GemmInstruction &op, TapPosition &position, uint32_t channels)
{
#pragma HLS INLINE
    position.channel += channels;
    if (position.channel == op.channels) {
        position.channel = 0;
        ++position.dx;
    }
    if (position.dx == op.kernel_width) {
        position.dx = 0;
        ++position.dy;
    }
}

// Bus words to the end of the kernel position, at most `words`.
inline uint32_t words_in_tap(const GemmInstruction &op, const TapPosition &tap, uint32_t words)
{
#pragma HLS INLINE
    return least((op.channels - tap.channel) / kBusBytes, words);
}

// The pixel that patch and kernel position meet in, from the tap's channel on, at most `words` bus words of it.
inline Run pixel_run(const GemmInstruction &op, uint64_t image_word, const PatchPosition &patch, const TapPosition &tap,
                     uint32_t words)
{
#pragma HLS INLINE off
    const int32_t row = int32_t(patch.y * op.step + tap.dy) - int32_t(op.pad_top);
    const int32_t column = int32_t(patch.x * op.step + tap.dx) - int32_t(op.pad_left);
    const bool row_exists = row >= 0 && row < int32_t(op.image_height);
    const bool column_exists = column >= 0 && column < int32_t(op.image_width);
    Run run;
    run.exists = row_exists && column_exists;
    run.words = words_in_tap(op, tap, words);
    const uint64_t pixel = uint64_t(patch.image + uint32_t(row)) * op.image_width + uint32_t(column);
    run.first = image_word + pixel * (op.a_stride / kBusBytes) + tap.channel / kBusBytes;
    return run;
}

// One row of a weight that is stored as blocks of rows and read backwards: the kernel's last position is block 0.
inline Run block_run(const GemmInstruction &op, uint64_t weight_word, uint32_t n, const TapPosition &tap,
                     uint32_t words)
{
#pragma HLS INLINE off
    const uint32_t down = op.kernel_height - 1 - tap.dy;
    const uint32_t across = op.kernel_width - 1 - tap.dx;
    const uint32_t block = down * op.block_row_step + across * op.block_step;
    const uint32_t rows = (op.n + kBusBytes - 1) / kBusBytes * kBusBytes;
    Run run;
    run.exists = true;
    run.words = words_in_tap(op, tap, words);
    run.first = weight_word + (uint64_t(block) * rows + n) * (op.b_stride / kBusBytes) + tap.channel / kBusBytes;
    return run;
}

#endif
