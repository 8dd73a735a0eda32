// One GEMM instruction on one of the processor's units: which parts of the operands are in which cache, and which thread does what.
#pragma once

#include "epilogue.hpp"
#include "pack.hpp"

namespace systolora {

constexpr int64_t kFewRows = 300;                // with fewer, half a group: then what it is packed from fits beside it
constexpr int64_t kBandPanels = 20;              // panels whose sums are finished together, so that C is written in long runs
constexpr int64_t kThreadDepth = 32;              // writing a value of C takes at least as long as this many multiply-accumulates
constexpr int64_t kThreadPackBytes = 32 << 10;  // bytes of B that are worth another thread
constexpr int64_t kSmallBytes = 1 << 20;         // of B, packed once for all threads; more is packed by the thread that uses it,
constexpr int64_t kSharedBytes = 4 << 20;        // unless there are many rows
constexpr int64_t kStripRows = 512;              // of A at a time, if B is packed already: their sums stay in a cache

// A group of panels of B stays in the second cache while the rows of A pass, some at a time, and so do their sums until they are
// finished. A long k is done in parts. Many rows are done in strips. `Unit`: MatrixUnit or VectorUnit.
template <typename Unit>
class Product {
  public:
    Product(const GemmFields& op, const Memory& memory, int threads)
        : op_(op), memory_(memory), a_(op, memory, Unit::kWholeTiles), b_(op, memory), epilogue_(op, memory) {
        steps_ = ceil_div(op.k, kStep);
        panels_ = ceil_div(op.n, kPanel);
        parts_ = ceil_div(steps_, Unit::kPartSteps);
        const int64_t products = op.m * op.n * std::max(op.k, kThreadDepth);
        threads_ = static_cast<int>(std::clamp<int64_t>(products / Unit::kThreadProducts, 1, threads));
        const int64_t b_bytes = panels_ * steps_ * kPanelStepBytes;
        const bool strips = op.m >= 2 * kStripRows * threads_ && b_bytes <= kSharedBytes;
        const bool shared_b = strips || b_bytes <= kSmallBytes || panels_ < 4 * threads_;
        by_rows_ = threads_ == 1 || (op.m >= threads_ * 2 * kPanel && shared_b);
        packed_before_ = by_rows_ && (threads_ > 1 || strips);
        strip_rows_ = packed_before_ ? kStripRows : round_up(op.m, kPanel);
        const int64_t own_panels = by_rows_ ? panels_ : ceil_div(panels_, threads_);
        const int64_t group_bytes = op.m < kFewRows ? Unit::kGroupBytes / 2 : Unit::kGroupBytes;
        const int64_t fitting = group_bytes / (ceil_div(steps_, parts_) * kPanelStepBytes);
        const int64_t most = std::clamp<int64_t>(fitting, 1, own_panels);
        group_panels_ = ceil_div(own_panels, ceil_div(own_panels, most));
        // An odd number of cache lines from row to row: the rows of a tile then lie in different sets of the cache.
        a_stride_ = (ceil_div(steps_, parts_) | 1) * kStep;
        // int32 sums that are C already are made where it lies, by a unit that writes no more than that.
        in_place_ = !Unit::kWholeTiles && op.result == kInt32 && !op.accumulate;
        whole_sums_ = in_place_ || parts_ > 1;
        sums_stride_ = (whole_sums_ ? panels_ : kBandPanels) * kPanel + 16;
    }

    int run() {
        const int64_t part_panel = ceil_div(steps_, parts_) * kPanelStepBytes;
        const int64_t sums_rows = in_place_ ? 0 : (by_rows_ || !whole_sums_ ? threads_ : 1) * (whole_sums_ ? strip_rows_ : kPanel);
        panel_room_ = packed_before_ ? panels_ * steps_ * kPanelStepBytes : threads_ * group_panels_ * part_panel;
        block_room_ = threads_ * kPanel * a_stride_;
        thread_local Scratch scratch;
        uint8_t* room = scratch.reserve(panel_room_ + block_room_ + sums_rows * sums_stride_ * sizeof(int32_t));
        if (room == nullptr) return kNoMemory;
        packed_b_ = reinterpret_cast<int8_t*>(room);
        blocks_ = packed_b_ + panel_room_;
        sums_ = reinterpret_cast<int32_t*>(blocks_ + block_room_);
        if (in_place_) {
            sums_ = memory_.at<int32_t>(op_.c_address);
            sums_stride_ = op_.c_stride / static_cast<int64_t>(sizeof(int32_t));
        }
        if (packed_before_) pack_all();
        run_threads(threads_, [&](int index) {
            [[maybe_unused]] const typename Unit::Registers registers{};
            const int row_thread = by_rows_ ? index : 0, panel_thread = by_rows_ ? 0 : index;
            const Range rows(op_.m, kPanel, row_thread, by_rows_ ? threads_ : 1);
            const Range panels(panels_, 1, panel_thread, by_rows_ ? 1 : threads_);
            for (int64_t m0 = rows.begin; m0 < rows.end; m0 += strip_rows_) {
                multiply_strip(m0, std::min(rows.end, m0 + strip_rows_), panels, index);
            }
        });
        return kOk;
    }

  private:
    void pack_all() {
        const int packers = static_cast<int>(std::clamp<int64_t>(panel_room_ / kThreadPackBytes, 1, threads_));
        run_threads(packers, [&](int index) {
            const Range own(panels_, 1, index, packers);
            for (int64_t p = own.begin; p < own.end; ++p) {
                b_.pack_panel(p * kPanel, 0, steps_, packed_b_ + p * steps_ * kPanelStepBytes);
            }
        });
    }

    // C of rows begin .. end - 1 in some panels.
    void multiply_strip(int64_t begin, int64_t end, const Range& panels, int thread) {
        int32_t* sums = sums_;
        if (in_place_) {
            sums += begin * sums_stride_;
        } else if (by_rows_ || !whole_sums_) {
            sums += thread * (whole_sums_ ? strip_rows_ : kPanel) * sums_stride_;
        }
        for (int64_t part = 0; part < parts_; ++part) {
            for (int64_t p = panels.begin; p < panels.end; p += group_panels_) {
                multiply_group(part, begin, end - begin, p, std::min(group_panels_, panels.end - p), sums, thread);
            }
        }
        Epilogue::complete_stores();
    }

    // C of `height` rows from `top` on, and of `count` panels from `first_panel` on; or one part of the sums that make it. `sums`:
    // of row `top` and column 0, or, if there is room for those of a band only, of that.
    void multiply_group(int64_t part, int64_t top, int64_t height, int64_t first_panel, int64_t count, int32_t* sums, int thread) {
        const int64_t step = steps_ * part / parts_, steps = steps_ * (part + 1) / parts_ - step;
        const int64_t begin = step * kStep, end = std::min(op_.k, begin + steps * kStep);
        const int8_t* panels = packed_b_ + (first_panel * steps_ + step) * kPanelStepBytes;
        int64_t panel_bytes = steps_ * kPanelStepBytes;
        if (!packed_before_) {
            panel_bytes = steps * kPanelStepBytes;
            int8_t* own = packed_b_ + thread * (panel_room_ / threads_);
            for (int64_t p = 0; p < count; ++p) {
                b_.pack_panel((first_panel + p) * kPanel, step, steps, own + p * panel_bytes);
            }
            panels = own;
        }
        int8_t* block = blocks_ + thread * kPanel * a_stride_;
        int32_t offsets[kPanel];
        // Nearly equal blocks: a last one of a few rows would be slow.
        const int64_t lines_each = round_up(ceil_div(height, ceil_div(height, Unit::kRows)), Unit::kRowUnit);
        for (int64_t row = 0; row < height; row += lines_each) {
            const int64_t m0 = top + row, lines = std::min(lines_each, height - row);
            const Rows a = a_.rows(m0, lines, begin, end, block, a_stride_);
            Unit::row_offsets(a, end - begin, offsets);
            for (int64_t p = 0; p < count; p += kBandPanels) {
                const int64_t n0 = (first_panel + p) * kPanel;
                const int64_t columns = std::min(std::min(kBandPanels, count - p) * kPanel, op_.n - n0);
                int32_t* place = sums + (whole_sums_ ? row * sums_stride_ + n0 : 0);
                const Panels right{panels + p * panel_bytes, panel_bytes, columns};
                Unit::multiply(a, end - begin, right, offsets, {place, sums_stride_, part == 0});
                if (part < parts_ - 1) continue;
                if (in_place_) {
                    epilogue_.pad(m0, lines, n0, columns);
                } else {
                    epilogue_.finish(place, sums_stride_, m0, lines, n0, columns);
                }
            }
        }
    }

    const GemmFields& op_;
    const Memory& memory_;
    const OperandA a_;
    const OperandB<typename Unit::Panel> b_;
    const Epilogue epilogue_;
    int threads_;
    bool by_rows_;        // threads share the rows of C, or its columns
    bool packed_before_;  // B is packed by all threads before they start, or by each one as it goes
    bool in_place_;       // the sums are made in C
    bool whole_sums_;     // there is room for all sums of a strip, not only for those of a band
    int64_t strip_rows_;
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

}  // namespace systolora
