// GEMM: int8 operands to C in device memory, with the bits of the reference. On processors with AMX-INT8 the whole
// instruction runs here, the sums finished while they are in the cache; on others only the epilogue does.

#include "epilogue.hpp"

#if defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SYSTOLORA_AMX 1
#include <sys/syscall.h>
#include <unistd.h>

#include "pack.hpp"
#endif

namespace systolora {
namespace {

#ifdef SYSTOLORA_AMX

constexpr int64_t kPartSteps = 20;               // steps of k at a time: a panel part of 40 KB, nearly the first cache
constexpr int64_t kBlockBytes = 768 << 10;       // of A per block of rows: with the panel it fits the second cache
constexpr int64_t kLargestBlock = 512;           // rows of A per block
constexpr int64_t kThreadProducts = 96 << 20;    // multiply-accumulates that are worth another thread
constexpr int64_t kThreadPackBytes = 1 << 20;    // bytes of B that are worth another thread

int64_t ceil_div(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }

// Asks the operating system for the tile registers, once per process; threads inherit them.
bool request_tiles() {
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
        _tile_loadconfig(&config);
    }
    ~TileRegisters() { _tile_release(); }
    TileRegisters(const TileRegisters&) = delete;
    TileRegisters& operator=(const TileRegisters&) = delete;
};

// sums[32, 32] (+)= A[32, 64 steps] B[64 steps, 32]. Rows of A lie `a_stride` bytes apart, rows of sums 32 values.
// With `Rows` or `Columns` of one tile instead of two, the second half is left alone.
template <int Rows, int Columns>
void multiply_tiles(const int8_t* a, int64_t a_stride, const int8_t* panel, int64_t steps, int32_t* sums, bool first) {
    constexpr int64_t kSumStride = kPanel * sizeof(int32_t);
    int32_t* lower = sums + kTile * kPanel;
    if (first) {
        _tile_zero(0);
        if (Columns == 2) _tile_zero(1);
        if (Rows == 2) _tile_zero(2);
        if (Rows == 2 && Columns == 2) _tile_zero(3);
    } else {
        _tile_loadd(0, sums, kSumStride);
        if (Columns == 2) _tile_loadd(1, sums + kTile, kSumStride);
        if (Rows == 2) _tile_loadd(2, lower, kSumStride);
        if (Rows == 2 && Columns == 2) _tile_loadd(3, lower + kTile, kSumStride);
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
    _tile_stored(0, sums, kSumStride);
    if (Columns == 2) _tile_stored(1, sums + kTile, kSumStride);
    if (Rows == 2) _tile_stored(2, lower, kSumStride);
    if (Rows == 2 && Columns == 2) _tile_stored(3, lower + kTile, kSumStride);
}

// One GEMM instruction: B is packed into panels, then blocks of rows of A are multiplied with panel after panel.
class Product {
  public:
    Product(const GemmFields& op, const Memory& memory, int threads)
        : op_(op), a_(op, memory), b_(op, memory), epilogue_(op, memory) {
        steps_ = ceil_div(op.k, kStep);
        panels_ = ceil_div(op.n, kPanel);
        // An odd number of cache lines from row to row: the rows of a tile then lie in different sets of the cache.
        a_stride_ = (steps_ | 1) * kStep;
        const int64_t products = op.m * op.n * op.k;
        threads_ = static_cast<int>(std::clamp<int64_t>(products / kThreadProducts, 1, threads));
        const int64_t fitting = kBlockBytes / a_stride_ / kPanel * kPanel;
        block_rows_ = std::clamp(fitting, 2 * kPanel, kLargestBlock);
        by_rows_ = op.m >= threads_ * 2 * kPanel || threads_ == 1;
        const int64_t share = by_rows_ ? ceil_div(op.m, threads_) : op.m;
        block_rows_ = std::min(block_rows_, round_up(share, kPanel));
    }

    int run() {
        const int64_t panel_bytes = steps_ * kPanelStepBytes;
        const int64_t block_bytes = block_rows_ * a_stride_;
        const int64_t sums_bytes = block_rows_ * kPanel * static_cast<int64_t>(sizeof(int32_t));
        thread_local Scratch scratch;
        uint8_t* room = scratch.reserve(panels_ * panel_bytes + threads_ * (block_bytes + sums_bytes));
        if (room == nullptr) return kNoMemory;
        int8_t* panels = reinterpret_cast<int8_t*>(room);
        const int packers = static_cast<int>(std::clamp<int64_t>(panels_ * panel_bytes / kThreadPackBytes, 1, threads_));
        run_threads(packers, [&](int index) {
            const Range part(panels_, 1, index, packers);
            for (int64_t p = part.begin; p < part.end; ++p) b_.pack_panel(p * kPanel, panels + p * panel_bytes);
        });
        run_threads(threads_, [&](int index) {
            uint8_t* own = room + panels_ * panel_bytes + index * (block_bytes + sums_bytes);
            const TileRegisters registers;
            const Range rows = by_rows_ ? Range(op_.m, kPanel, index, threads_) : Range(op_.m, 1, 0, 1);
            const Range part = by_rows_ ? Range(panels_, 1, 0, 1) : Range(panels_, 1, index, threads_);
            for (int64_t m0 = rows.begin; m0 < rows.end; m0 += block_rows_) {
                int8_t* block = reinterpret_cast<int8_t*>(own);
                const int64_t count = std::min(block_rows_, rows.end - m0);
                a_.pack(m0, count, block, a_stride_);
                int32_t* sums = reinterpret_cast<int32_t*>(own + block_bytes);
                for (int64_t p = part.begin; p < part.end; ++p) {
                    multiply_panel(block, m0, count, panels + p * panel_bytes, p * kPanel, sums);
                }
            }
        });
        return kOk;
    }

  private:
    // C[m0 .. , n0 .. n0 + 31] of one block of rows. k goes in parts, so that the panel stays in the first cache.
    void multiply_panel(const int8_t* block, int64_t m0, int64_t count, const int8_t* panel, int64_t n0, int32_t* sums) {
        const int64_t columns = std::min(kPanel, op_.n - n0);
        const int64_t parts = ceil_div(steps_, kPartSteps);
        for (int64_t part = 0; part < parts; ++part) {
            const int64_t begin = steps_ * part / parts, end = steps_ * (part + 1) / parts;
            for (int64_t i = 0; i < count; i += kPanel) {
                const int64_t rows = std::min(kPanel, count - i);
                const int8_t* a = block + i * a_stride_ + begin * kStep;
                const int8_t* b = panel + begin * kPanelStepBytes;
                int32_t* own = sums + i * kPanel;
                multiply_some(rows, columns, a, b, end - begin, own, part == 0);
                if (part == parts - 1) epilogue_.finish(own, kPanel, m0 + i, rows, n0, columns);
            }
        }
    }

    void multiply_some(int64_t rows, int64_t columns, const int8_t* a, const int8_t* b, int64_t steps, int32_t* sums,
                       bool first) {
        if (rows > kTile) {
            if (columns > kTile) {
                multiply_tiles<2, 2>(a, a_stride_, b, steps, sums, first);
            } else {
                multiply_tiles<2, 1>(a, a_stride_, b, steps, sums, first);
            }
        } else if (columns > kTile) {
            multiply_tiles<1, 2>(a, a_stride_, b, steps, sums, first);
        } else {
            multiply_tiles<1, 1>(a, a_stride_, b, steps, sums, first);
        }
    }

    const GemmFields& op_;
    const OperandA a_;
    const OperandB b_;
    const Epilogue epilogue_;
    int64_t steps_;
    int64_t panels_;
    int64_t a_stride_;
    int64_t block_rows_;
    int threads_;
    bool by_rows_;
};

#endif

constexpr int64_t kThreadResults = 1 << 18;  // elements of C that are worth another thread

}  // namespace
}  // namespace systolora

// Whether there is a systolora_gemm for this processor.
extern "C" int systolora_has_gemm() {
#ifdef SYSTOLORA_AMX
    return systolora::request_tiles();
#else
    return 0;
#endif
}

// Executes a GEMM that passed its checks. Returns kOk or kNoMemory; in that case nothing was written.
#ifdef SYSTOLORA_AMX
extern "C" int systolora_gemm(const uint64_t* words, uint8_t* bytes, uint64_t base, int64_t bus_bytes, int threads) {
    using namespace systolora;
    const GemmFields op(words);
    const Memory memory{bytes, base, bus_bytes};
    return Product(op, memory, threads).run();
}
#endif

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
    });
    return kOk;
}
