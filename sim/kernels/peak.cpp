// A unit's own speed: products of what lies in its registers, nothing loaded or stored. A yardstick for benchmarks.

#include "matrix_unit.hpp"
#include "support.hpp"
#include "vector_unit.hpp"

namespace systolora {
namespace {

#ifdef SYSTOLORA_AMX
// Multiply-accumulates of one round: four products of two tiles into independent sums, so that none waits for another.
constexpr double kTileRound = 4 * 16.0 * 16.0 * 64.0;

void multiply_tile_registers(int64_t rounds) {
    const TileRegisters registers;
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
}
#endif

#ifdef SYSTOLORA_VNNI
constexpr int kVectorSums = 16;
constexpr int kVectorTurns = 32;                                 // so that a round takes about as long as one of the matrix unit
constexpr double kVectorRound = kVectorTurns * kVectorSums * 64.0;

void multiply_vector_registers(int64_t rounds) {
    const __m512i factor = _mm512_set1_epi8(1);
    __m512i sums[kVectorSums];
#pragma GCC unroll 16
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (int64_t turn = 0; turn < rounds * kVectorTurns; ++turn) {
#pragma GCC unroll 16
        // In assembler: the compiler would see that nobody looks at the sums.
        for (__m512i& sum : sums) asm volatile("vpdpbusd %1, %1, %0" : "+v"(sum) : "v"(factor));
    }
}
#endif

}  // namespace
}  // namespace systolora

// Runs `rounds` rounds on a unit in each thread and returns the multiply-accumulates done; 0 without the unit.
extern "C" double systolora_peak(int64_t rounds, int threads, int unit) {
    using namespace systolora;
    static_cast<void>(rounds), static_cast<void>(threads), static_cast<void>(unit);
#ifdef SYSTOLORA_AMX
    if (unit == kMatrixUnit && request_tiles()) {
        run_threads(threads, [&](int) { multiply_tile_registers(rounds); });
        return kTileRound * static_cast<double>(rounds) * threads;
    }
#endif
#ifdef SYSTOLORA_VNNI
    if (unit == kVectorUnit) {
        run_threads(threads, [&](int) { multiply_vector_registers(rounds); });
        return kVectorRound * static_cast<double>(rounds) * threads;
    }
#endif
    return 0.0;
}
