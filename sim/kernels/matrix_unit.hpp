// The matrix unit of processors with AMX-INT8: tiles of 16 rows and 64 bytes.
#pragma once

#if defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SYSTOLORA_AMX 1

#include <sys/syscall.h>
#include <unistd.h>

#include "pack.hpp"

namespace systolora {

// Asks the operating system for the tile registers, once per process; threads inherit them.
inline bool request_tiles() {
    constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return granted;
}

// All eight tile registers: 16 rows of 64 bytes. They belong to the thread.
class TileRegisters {
  public:
    TileRegisters() {
        struct {
            uint8_t palette = 1;
            uint8_t start_row = 0;
            uint8_t reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } config;
        // The compiler thinks that the instruction reads the first eight bytes only, and would leave the others out.
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// sums[32, 32] (+)= A[32, 64 steps] B[64 steps, 32]. Rows of A lie `a_stride` bytes apart, rows of sums `stride` values.
// With `Rows` or `Columns` of one tile instead of two, the second half is left alone.
template <int Rows, int Columns>
void multiply_tiles(const int8_t* a, int64_t a_stride, const int8_t* panel, int64_t steps, int32_t* sums, int64_t stride,
                    bool first) {
    int32_t* lower = sums + kTile * stride;
    stride *= sizeof(int32_t);
    if (first) {
        _tile_zero(0);
        if (Columns == 2) _tile_zero(1);
        if (Rows == 2) _tile_zero(2);
        if (Rows == 2 && Columns == 2) _tile_zero(3);
    } else {
        _tile_loadd(0, sums, stride);
        if (Columns == 2) _tile_loadd(1, sums + kTile, stride);
        if (Rows == 2) _tile_loadd(2, lower, stride);
        if (Rows == 2 && Columns == 2) _tile_loadd(3, lower + kTile, stride);
    }
    const int8_t* a_lower = a + kTile * a_stride;
    for (int64_t step = 0; step < steps; ++step, a += kStep, a_lower += kStep, panel += kPanelStepBytes) {
        _tile_loadd(6, panel, 64);
        _tile_loadd(4, a, a_stride);
        _tile_dpbssd(0, 4, 6);
        if (Columns == 2) {
            _tile_loadd(7, panel + kTile * kStep, 64);
            _tile_dpbssd(1, 4, 7);
        }
        if (Rows == 2) {
            _tile_loadd(5, a_lower, a_stride);
            _tile_dpbssd(2, 5, 6);
            if (Columns == 2) _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, sums, stride);
    if (Columns == 2) _tile_stored(1, sums + kTile, stride);
    if (Rows == 2) _tile_stored(2, lower, stride);
    if (Rows == 2 && Columns == 2) _tile_stored(3, lower + kTile, stride);
}

// What `Product` needs to know of the unit. Sizes by the caches of server processors that have it: 48 KB, 2 MB, and a slow third one.
class MatrixUnit {
  public:
    using Registers = TileRegisters;
    using Panel = TilePanel;

    static constexpr int64_t kRows = 32, kRowUnit = 32;  // rows of A at a time, and of what they are a multiple
    static constexpr int64_t kRowClocks = 0;             // clocks that a row takes before it is multiplied
    static constexpr int64_t kPartSteps = 40;            // steps of k at a time; the sums of the parts before wait in memory
    static constexpr int64_t kChunkSteps = 10;           // steps of a part at a time: 20 KB of A stay in the first cache
    static constexpr int64_t kGroupBytes = 1 << 20;      // of B at a time: stays in the second cache while all rows of A pass
    static constexpr int64_t kThreadProducts = 8 << 20;  // multiply-accumulates that are worth another thread
    static constexpr bool kSpareColumns = false;         // there are no offsets to be found
    static constexpr bool kWholeTiles = true;            // reads 16 or 32 rows of whole cache lines, writes 16 or 32 columns

    // No sums are off by anything.
    static void row_offsets(const Rows&, int64_t, int32_t*) {}

    // sums (+)= A B for at most 32 rows and `values` of k. The rows go in chunks of k that stay in the first cache.
    static void multiply(const Rows& a, int64_t values, const Panels& b, int32_t*, bool, const Sums& sums) {
        const int64_t steps = ceil_div(values, kStep), chunks = ceil_div(steps, kChunkSteps);
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t from = steps * chunk / chunks, length = steps * (chunk + 1) / chunks - from;
            const Rows rows{a.count, a.bytes + from * kStep, a.stride};
            const bool fresh = sums.fresh && chunk == 0;
            for (int64_t n = 0; n < b.columns; n += kPanel) {
                const int8_t* panel = b.bytes + n / kPanel * b.panel_bytes + from * kPanelStepBytes;
                multiply_panel(rows, length, panel, b.columns - n, {sums.values + n, sums.stride, fresh, false});
            }
        }
    }

  private:
    static void multiply_panel(const Rows& a, int64_t steps, const int8_t* panel, int64_t columns, const Sums& sums) {
        if (a.count > kTile) {
            if (columns > kTile) {
                multiply_tiles<2, 2>(a.bytes, a.stride, panel, steps, sums.values, sums.stride, sums.fresh);
            } else {
                multiply_tiles<2, 1>(a.bytes, a.stride, panel, steps, sums.values, sums.stride, sums.fresh);
            }
        } else if (columns > kTile) {
            multiply_tiles<1, 2>(a.bytes, a.stride, panel, steps, sums.values, sums.stride, sums.fresh);
        } else {
            multiply_tiles<1, 1>(a.bytes, a.stride, panel, steps, sums.values, sums.stride, sums.fresh);
        }
    }
};

}  // namespace systolora
#endif
