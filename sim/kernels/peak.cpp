// The matrix unit's own speed: products of what lies in its registers, nothing loaded or stored. A yardstick for benchmarks.

#include "support.hpp"

#ifdef __AMX_INT8__
#include <immintrin.h>

namespace systolora {
namespace {

constexpr int kProductsInFlight = 4;                            // independent sums, so that no product waits for another
constexpr double kMultiplyAccumulates = 16.0 * 16.0 * 64.0;     // of one product of two tiles

void multiply_registers(int64_t rounds) {
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
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (int64_t round = 0; round < rounds; ++round) {
        _tile_dpbssd(0, 4, 5);
        _tile_dpbssd(1, 4, 5);
        _tile_dpbssd(2, 4, 5);
        _tile_dpbssd(3, 4, 5);
    }
    _tile_release();
}

}  // namespace
}  // namespace systolora
#endif

// Runs `rounds` rounds in each thread and returns the multiply-accumulates done; 0 where there is no matrix unit. The caller
// asked for the tile registers before (systolora_has_gemm).
extern "C" double systolora_peak(int64_t rounds, int threads) {
#ifdef __AMX_INT8__
    using namespace systolora;
    run_threads(threads, [&](int) { multiply_registers(rounds); });
    return kMultiplyAccumulates * kProductsInFlight * static_cast<double>(rounds) * threads;
#else
    return 0.0;
#endif
}
