// A software model of AMX-INT8's tile instructions, so that the kernels of the matrix unit run on processors without one.
// Given to the compiler with -include: it defines the intrinsics before the kernels use them.
#pragma once

#include <immintrin.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#undef __AMX_INT8__
#define __AMX_INT8__ 1

namespace tile_model {

struct Tile {
    uint8_t row[16][64];
};

inline thread_local Tile tiles[8];
inline thread_local bool configured = false;

// Only what the kernels use: palette 1, all tiles of 16 rows of 64 bytes.
inline void configure(const void* place) {
    uint8_t bytes[64];
    std::memcpy(bytes, place, sizeof bytes);
    bool right = bytes[0] == 1 && bytes[1] == 0;
    for (int tile = 0; tile < 8; ++tile) {
        uint16_t row_bytes;
        std::memcpy(&row_bytes, bytes + 16 + 2 * tile, 2);
        right &= row_bytes == 64 && bytes[48 + tile] == 16;
    }
    if (!right) std::abort();
    configured = true;
}

inline Tile& tile(int index) {
    if (!configured) std::abort();
    return tiles[index];
}

inline void load(int index, const void* base, int64_t stride) {
    for (int i = 0; i < 16; ++i) std::memcpy(tile(index).row[i], static_cast<const uint8_t*>(base) + i * stride, 64);
}

inline void store(int index, void* base, int64_t stride) {
    for (int i = 0; i < 16; ++i) std::memcpy(static_cast<uint8_t*>(base) + i * stride, tile(index).row[i], 64);
}

// Words of C += the products of four signed bytes of A and of B each.
inline void multiply(int c, int a, int b) {
    for (int m = 0; m < 16; ++m) {
        for (int n = 0; n < 16; ++n) {
            uint32_t sum;
            std::memcpy(&sum, &tile(c).row[m][4 * n], 4);
            for (int k = 0; k < 64; ++k) {
                const int left = static_cast<int8_t>(tile(a).row[m][k]);
                const int right = static_cast<int8_t>(tile(b).row[k / 4][4 * n + k % 4]);
                sum += static_cast<uint32_t>(left * right);
            }
            std::memcpy(&tile(c).row[m][4 * n], &sum, 4);
        }
    }
}

}  // namespace tile_model

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#define _tile_loadconfig(place) tile_model::configure(place)
#define _tile_release() (tile_model::configured = false)
#define _tile_zero(index) std::memset(&tile_model::tile(index), 0, sizeof(tile_model::Tile))
#define _tile_loadd(index, base, stride) tile_model::load(index, base, stride)
#define _tile_stored(index, base, stride) tile_model::store(index, base, stride)
#define _tile_dpbssd(c, a, b) tile_model::multiply(c, a, b)
// The operating system need not be asked.
#define syscall(...) 0
