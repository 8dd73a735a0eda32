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

// Sizes by the caches of current server processors: 48 KB, 2 MB, and a slow third one.
constexpr int64_t kPartSteps = 40;               // steps of k at a time; the sums of the parts before wait in memory
constexpr int64_t kChunkSteps = 10;              // steps of a part at a time: 20 KB of A stay in the first cache
constexpr int64_t kGroupBytes = 1 << 20;         // of B at a time: stays in the second cache while all rows of A pass
constexpr int64_t kFewRows = 300;                // with fewer, half a group: then what it is packed from fits beside it
constexpr int64_t kBandPanels = 20;              // panels whose sums are finished together, so that C is written in long runs
constexpr int64_t kThreadProducts = 8 << 20;     // multiply-accumulates that are worth another thread
constexpr int64_t kThreadPackBytes = 128 << 10;  // bytes of B that are worth another thread

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

// One GEMM instruction. A group of panels of B stays in the second cache while the rows of A pass, 32 at a time, and so do
// their sums until they are finished. A long k is done in parts.
class Product {
  public:
    Product(const GemmFields& op, const Memory& memory, int threads)
        : op_(op), a_(op, memory), b_(op, memory), epilogue_(op, memory) {
        steps_ = ceil_div(op.k, kStep);
        panels_ = ceil_div(op.n, kPanel);
        parts_ = ceil_div(steps_, kPartSteps);
        threads_ = static_cast<int>(std::clamp<int64_t>(op.m * op.n * op.k / kThreadProducts, 1, threads));
        by_rows_ = threads_ == 1 || op.m >= threads_ * 2 * kPanel;
        packed_before_ = by_rows_ && threads_ > 1;
        const int64_t own_panels = by_rows_ ? panels_ : ceil_div(panels_, threads_);
        const int64_t group_bytes = op.m < kFewRows ? kGroupBytes / 2 : kGroupBytes;
        const int64_t fitting = group_bytes / (ceil_div(steps_, parts_) * kPanelStepBytes);
        const int64_t most = std::clamp<int64_t>(fitting, 1, own_panels);
        group_panels_ = ceil_div(own_panels, ceil_div(own_panels, most));
        // An odd number of cache lines from row to row: the rows of a tile then lie in different sets of the cache.
        a_stride_ = (ceil_div(steps_, parts_) | 1) * kStep;
        sums_stride_ = (parts_ == 1 ? kBandPanels : panels_) * kPanel + 16;
    }

    int run() {
        const int64_t part_panel = ceil_div(steps_, parts_) * kPanelStepBytes;
        const int64_t sums_rows = parts_ == 1 ? threads_ * kPanel : round_up(op_.m, kPanel);
        panel_room_ = packed_before_ ? panels_ * steps_ * kPanelStepBytes : threads_ * group_panels_ * part_panel;
        block_room_ = threads_ * kPanel * a_stride_;
        thread_local Scratch scratch;
        uint8_t* room = scratch.reserve(panel_room_ + block_room_ + sums_rows * sums_stride_ * sizeof(int32_t));
        if (room == nullptr) return kNoMemory;
        packed_b_ = reinterpret_cast<int8_t*>(room);
        blocks_ = packed_b_ + panel_room_;
        sums_ = reinterpret_cast<int32_t*>(blocks_ + block_room_);
        if (packed_before_) {
            const int64_t packers = std::clamp<int64_t>(panel_room_ / kThreadPackBytes, 1, threads_);
            run_threads(static_cast<int>(packers), [&](int index) {
                const Range own(panels_, 1, index, static_cast<int>(packers));
                for (int64_t p = own.begin; p < own.end; ++p) {
                    b_.pack_panel(p * kPanel, 0, steps_, packed_b_ + p * steps_ * kPanelStepBytes);
                }
            });
        }
        run_threads(threads_, [&](int index) {
            const TileRegisters registers;
            const int row_thread = by_rows_ ? index : 0, panel_thread = by_rows_ ? 0 : index;
            const Range rows(op_.m, kPanel, row_thread, by_rows_ ? threads_ : 1);
            const Range panels(panels_, 1, panel_thread, by_rows_ ? 1 : threads_);
            for (int64_t part = 0; part < parts_; ++part) {
                for (int64_t p = panels.begin; p < panels.end; p += group_panels_) {
                    multiply_group(part, rows, p, std::min(group_panels_, panels.end - p), index);
                }
            }
        });
        return kOk;
    }

  private:
    // C of some rows, and of `count` panels from `first_panel` on; or one part of the sums that make it.
    void multiply_group(int64_t part, const Range& rows, int64_t first_panel, int64_t count, int thread) {
        const int64_t begin = steps_ * part / parts_, steps = steps_ * (part + 1) / parts_ - begin;
        const int8_t* panels = packed_b_ + (first_panel * steps_ + begin) * kPanelStepBytes;
        int64_t panel_bytes = steps_ * kPanelStepBytes;
        if (!packed_before_) {
            panel_bytes = steps * kPanelStepBytes;
            int8_t* own = packed_b_ + thread * (panel_room_ / threads_);
            for (int64_t p = 0; p < count; ++p) {
                b_.pack_panel((first_panel + p) * kPanel, begin, steps, own + p * panel_bytes);
            }
            panels = own;
        }
        for (int64_t m0 = rows.begin; m0 < rows.end; m0 += kPanel) {
            const int64_t lines = std::min(kPanel, rows.end - m0);
            Rows a{lines, nullptr, a_stride_};
            a.bytes = a_.rows(m0, lines, begin, steps, blocks_ + thread * kPanel * a_stride_, &a.stride);
            for (int64_t p = 0; p < count; p += kBandPanels) {
                const int64_t n0 = (first_panel + p) * kPanel;
                const int64_t columns = std::min(std::min(kBandPanels, count - p) * kPanel, op_.n - n0);
                int32_t* sums = sums_ + (parts_ > 1 ? m0 * sums_stride_ + n0 : thread * kPanel * sums_stride_);
                multiply_band(a, panels + p * panel_bytes, panel_bytes, steps, columns, sums, part == 0);
                if (part == parts_ - 1) epilogue_.finish(sums, sums_stride_, m0, lines, n0, columns);
            }
        }
        Epilogue::complete_stores();
    }

    // Up to 32 rows of A, in the order of the matrix unit.
    struct Rows {
        int64_t count;
        const int8_t* bytes;
        int64_t stride;
    };

    // The sums of some rows in some neighbouring panels. The rows go in chunks of k that stay in the first cache.
    void multiply_band(const Rows& a, const int8_t* panels, int64_t panel_bytes, int64_t steps, int64_t columns,
                       int32_t* sums, bool first) {
        const int64_t chunks = ceil_div(steps, kChunkSteps);
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t from = steps * chunk / chunks, length = steps * (chunk + 1) / chunks - from;
            const int8_t* left = a.bytes + from * kStep;
            for (int64_t n = 0; n < columns; n += kPanel) {
                const int8_t* panel = panels + n / kPanel * panel_bytes + from * kPanelStepBytes;
                const bool fresh = first && chunk == 0;
                multiply(a.count, std::min(kPanel, columns - n), left, a.stride, panel, length, sums + n, fresh);
            }
        }
    }

    void multiply(int64_t rows, int64_t columns, const int8_t* a, int64_t a_stride, const int8_t* panel, int64_t steps,
                  int32_t* sums, bool first) {
        if (rows > kTile) {
            if (columns > kTile) {
                multiply_tiles<2, 2>(a, a_stride, panel, steps, sums, sums_stride_, first);
            } else {
                multiply_tiles<2, 1>(a, a_stride, panel, steps, sums, sums_stride_, first);
            }
        } else if (columns > kTile) {
            multiply_tiles<1, 2>(a, a_stride, panel, steps, sums, sums_stride_, first);
        } else {
            multiply_tiles<1, 1>(a, a_stride, panel, steps, sums, sums_stride_, first);
        }
    }

    const GemmFields& op_;
    const OperandA a_;
    const OperandB b_;
    const Epilogue epilogue_;
    int threads_;
    bool by_rows_;        // threads share the rows of C, or its columns
    bool packed_before_;  // B is packed by all threads before they start, or by each one as it goes
    int64_t steps_;
    int64_t panels_;
    int64_t parts_;
    int64_t group_panels_;
    int64_t a_stride_;
    int64_t sums_stride_;
    int64_t panel_room_ = 0;
    int64_t block_room_ = 0;
    int8_t* packed_b_ = nullptr;
    int8_t* blocks_ = nullptr;
    int32_t* sums_ = nullptr;
};

#endif

constexpr int64_t kThreadResults = 1 << 15;  // elements of C that are worth another thread

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
