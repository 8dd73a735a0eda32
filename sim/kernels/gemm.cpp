// GEMM: int8 operands to C in device memory, with the bits of the reference. On processors with AMX-INT8 or AVX512-VNNI the whole
// instruction runs here, the sums finished while they are in the cache; on others only the epilogue does.

#include "dots.hpp"
#include "epilogue.hpp"
#include "matrix_unit.hpp"
#include "vector_unit.hpp"

#if defined(SYSTOLORA_AMX) || defined(SYSTOLORA_VNNI)
#include "product.hpp"
#endif

namespace systolora {
namespace {

constexpr int64_t kThreadResults = 1 << 15;   // elements of C that are worth another thread
constexpr int64_t kSmallProducts = 512 << 10;  // multiply-accumulates below which setting up the matrix unit costs more than it saves

bool can_use(int unit) {
#ifdef SYSTOLORA_AMX
    if (unit == kMatrixUnit) return request_tiles();
#endif
#ifdef SYSTOLORA_VNNI
    if (unit == kVectorUnit) return true;
#endif
    return unit == kNoUnit;
}

}  // namespace
}  // namespace systolora

// The best unit for systolora_gemm on this processor; kNoUnit if there is none.
extern "C" int systolora_best_unit() {
    using namespace systolora;
    return can_use(kMatrixUnit) ? kMatrixUnit : can_use(kVectorUnit) ? kVectorUnit : kNoUnit;
}

// Executes a GEMM that passed its checks. Returns kOk, kNoMemory, or kNoSuchUnit; unless kOk, nothing was written.
extern "C" int systolora_gemm(const uint64_t* words, uint8_t* bytes, uint64_t base, int64_t bus_bytes, int threads, int unit) {
    using namespace systolora;
    const GemmFields op(words);
    const Memory memory{bytes, base, bus_bytes};
    const bool small = op.m * op.n * op.k < kSmallProducts;
#ifdef SYSTOLORA_VNNI
    if (unit != kNoUnit && Dots::fit(op)) return Dots(op, memory, threads).run();
    if (unit == kVectorUnit || (unit == kMatrixUnit && small)) return Product<VectorUnit>(op, memory, threads).run();
#endif
#ifdef SYSTOLORA_AMX
    if (unit == kMatrixUnit && can_use(kMatrixUnit)) return Product<MatrixUnit>(op, memory, threads).run();
#endif
    static_cast<void>(memory), static_cast<void>(small), static_cast<void>(threads), static_cast<void>(unit);
    return kNoSuchUnit;
}

// The epilogue of a GEMM whose sums, int32 [m, n], were computed elsewhere.
extern "C" int systolora_epilogue(const uint64_t* words, uint8_t* bytes, uint64_t base, int64_t bus_bytes, int threads,
                                  const int32_t* sums) {
    using namespace systolora;
    const GemmFields op(words);
    const Memory memory{bytes, base, bus_bytes};
    const Epilogue epilogue(op, memory);
    threads = static_cast<int>(std::clamp<int64_t>(op.m * op.n / kThreadResults, 1, threads));
    run_threads(threads, [&](int index) {
        const Range rows(op.m, 1, index, threads);
        epilogue.finish(sums + rows.begin * op.n, op.n, rows.begin, rows.end - rows.begin, 0, op.n);
        Epilogue::complete_stores();
    });
    return kOk;
}
