// One GEMM instruction on one of the processor's units: which parts of the operands are in which cache, and which thread does what.
#pragma once

#include "epilogue.hpp"
#include "pack.hpp"

namespace systolora {

constexpr int64_t kFewRows = 300;           // with fewer, half a group: then what it is packed from fits beside it
constexpr int64_t kBandPanels = 20;         // panels whose sums are finished together, so that C is written in long runs
constexpr int64_t kThreadDepth = 32;        // writing a value of C takes at least as long as this many multiply-accumulates
constexpr int64_t kStripRows = 512;         // of A at a time, if B is packed already: their sums stay in a cache
constexpr int64_t kPastCaches = 1 << 20;    // values of a C made in place that would only push other things out of the caches
constexpr int64_t kPackedBytes = 4 << 20;   // of B at most, if it is packed before many rows pass

// What a thread does: rows and panels of C. Threads share nothing that one of them writes, packed panels included: between cores
// that have no cache in common, passing those on takes longer than packing them twice.
struct Share {
    Range rows;
    Range panels;
};

// Divides a product among threads by rows, where each packs all of B, or by columns, where each reads all of A: whatever is less.
class Division {
  public:
    Division(const GemmFields& op, int64_t thread_products, int64_t row_unit, int64_t row_clocks, int threads)
        : rows_(op.m), panels_(ceil_div(op.n, kPanel)), row_unit_(row_unit) {
        const int64_t products = op.m * op.n * std::max(op.k, kThreadDepth);
        threads_ = static_cast<int>(std::clamp<int64_t>(products / thread_products, 1, threads));
        // In clocks, roughly: 8 bytes of A come from a far cache in one, 12 bytes of B are packed in one.
        const int64_t a_clocks = op.m * (row_clocks + op.k / 8);
        const int64_t b_clocks = panels_ * kPanel * op.k / 12;
        const int64_t most_panels = ceil_div(panels_, threads_) * threads_;
        by_columns_ = threads_ > 1 && 10 * most_panels <= 11 * panels_ && a_clocks <= b_clocks;
        if (!by_columns_) threads_ = static_cast<int>(std::min<int64_t>(threads_, ceil_div(op.m, row_unit)));
    }

    int threads() const { return threads_; }

    // The most panels of a share.
    int64_t most_panels() const { return by_columns_ ? ceil_div(panels_, threads_) : panels_; }

    Share share(int index) const {
        const int rows = by_columns_ ? 1 : threads_, panels = by_columns_ ? threads_ : 1;
        return {Range(rows_, row_unit_, by_columns_ ? 0 : index, rows), Range(panels_, 1, by_columns_ ? index : 0, panels)};
    }

  private:
    int64_t rows_;
    int64_t panels_;
    int64_t row_unit_;
    int threads_;
    bool by_columns_;
};

// A group of panels of B stays in the second cache while the rows of A pass, some at a time, and so do their sums until they are
// finished. A long k is done in parts. Many rows are done in strips, for which B is packed once. `Unit`: MatrixUnit or VectorUnit.
template <typename Unit>
class Product {
  public:
    Product(const GemmFields& op, const Memory& memory, int threads)
        : op_(op),
          memory_(memory),
          a_(op, memory, Unit::kWholeTiles),
          b_(op, memory),
          epilogue_(op, memory),
          division_(op, Unit::kThreadProducts, Unit::kRowUnit, Unit::kRowClocks, threads) {
        steps_ = ceil_div(op.k, kStep);
        parts_ = ceil_div(steps_, Unit::kPartSteps);
        const int64_t own_panels = division_.most_panels();
        const int64_t part_bytes = ceil_div(steps_, parts_) * kPanelStepBytes;
        const int64_t group_bytes = op.m < kFewRows ? Unit::kGroupBytes / 2 : Unit::kGroupBytes;
        const int64_t most = std::clamp<int64_t>(group_bytes / part_bytes, 1, own_panels);
        group_panels_ = ceil_div(own_panels, ceil_div(own_panels, most));
        packed_before_ = op.m >= 2 * kStripRows && own_panels * steps_ * kPanelStepBytes <= kPackedBytes;
        strip_rows_ = packed_before_ ? kStripRows : round_up(op.m, kPanel);
        // An odd number of cache lines from row to row: the rows of a tile then lie in different sets of the cache.
        a_stride_ = (ceil_div(steps_, parts_) | 1) * kStep;
        // int32 sums that are C already are made where it lies, by a unit that writes no more than that.
        in_place_ = !Unit::kWholeTiles && op.result == kInt32 && !op.accumulate;
        past_caches_ = in_place_ && parts_ == 1 && op.m * op.n >= kPastCaches;
        whole_sums_ = in_place_ || parts_ > 1;
        sums_stride_ = (whole_sums_ ? own_panels : kBandPanels) * kPanel + 16;
        panel_room_ = packed_before_ ? own_panels * steps_ * kPanelStepBytes : group_panels_ * part_bytes;
        block_room_ = kPanel * a_stride_;
        sums_room_ = in_place_ ? 0 : (whole_sums_ ? strip_rows_ : kPanel) * sums_stride_ * sizeof(int32_t);
    }

    int run() {
        const int64_t own_room = round_up(panel_room_ + block_room_ + sums_room_, kOwnPages);
        thread_local Scratch scratch;
        uint8_t* room = scratch.reserve(division_.threads() * own_room);
        if (room == nullptr) return kNoMemory;
        run_threads(division_.threads(), [&](int index) {
            [[maybe_unused]] const typename Unit::Registers registers{};
            uint8_t* own = room + index * own_room;
            multiply_share(division_.share(index), {reinterpret_cast<int8_t*>(own), reinterpret_cast<int8_t*>(own + panel_room_),
                                                    reinterpret_cast<int32_t*>(own + panel_room_ + block_room_)});
            Epilogue::complete_stores();
        });
        return kOk;
    }

  private:
    static constexpr int64_t kOwnPages = 4096;  // no cache line of two threads

    // Working memory of a thread: packed panels, rows of A that had to be brought in order, sums.
    struct Room {
        int8_t* panels;
        int8_t* block;
        int32_t* sums;
    };

    void multiply_share(const Share& share, const Room& room) const {
        if (packed_before_) pack(share.panels.begin, share.panels.end - share.panels.begin, 0, steps_, room.panels);
        for (int64_t top = share.rows.begin; top < share.rows.end; top += strip_rows_) {
            const Range rows(top, std::min(share.rows.end, top + strip_rows_));
            for (int64_t part = 0; part < parts_; ++part) {
                for (int64_t p = share.panels.begin; p < share.panels.end; p += group_panels_) {
                    const Range group(p, std::min(share.panels.end, p + group_panels_));
                    multiply_group(part, rows, group, share.panels.begin, room);
                }
            }
        }
    }

    void pack(int64_t first_panel, int64_t count, int64_t step, int64_t steps, int8_t* place) const {
        for (int64_t p = 0; p < count; ++p) {
            b_.pack_panel((first_panel + p) * kPanel, step, steps, place + p * steps * kPanelStepBytes);
        }
    }

    // C of some rows and panels; or one part of the sums that make it. `own_panel`: the first panel of the thread.
    void multiply_group(int64_t part, const Range& rows, const Range& group, int64_t own_panel, const Room& room) const {
        const int64_t step = steps_ * part / parts_, steps = steps_ * (part + 1) / parts_ - step;
        const int64_t begin = step * kStep, end = std::min(op_.k, begin + steps * kStep);
        const int64_t panel_bytes = (packed_before_ ? steps_ : steps) * kPanelStepBytes;
        const int8_t* panels = room.panels;
        if (packed_before_) {
            panels += (group.begin - own_panel) * panel_bytes + step * kPanelStepBytes;
        } else {
            pack(group.begin, group.end - group.begin, step, steps, room.panels);
        }
        const int64_t height = rows.end - rows.begin;
        // Nearly equal blocks: a last one of a few rows would be slow.
        const int64_t lines_each = round_up(ceil_div(height, ceil_div(height, Unit::kRows)), Unit::kRowUnit);
        // Where the last vector of columns is not full, the unit finds the offsets of the rows in what is left of it.
        const int64_t group_columns = std::min(op_.n, group.end * kPanel) - group.begin * kPanel;
        const bool found = Unit::kSpareColumns && group_columns % kTile != 0 && group.end - group.begin <= kBandPanels;
        int32_t offsets[kPanel];
        for (int64_t m0 = rows.begin; m0 < rows.end; m0 += lines_each) {
            const int64_t lines = std::min(lines_each, rows.end - m0);
            const Rows a = a_.rows(m0, lines, begin, end, room.block, a_stride_);
            if (!found) Unit::row_offsets(a, end - begin, offsets);
            for (int64_t p = group.begin; p < group.end; p += kBandPanels) {
                const int64_t n0 = p * kPanel;
                const int64_t columns = std::min(std::min(kBandPanels, group.end - p) * kPanel, op_.n - n0);
                const Panels right{panels + (p - group.begin) * panel_bytes, panel_bytes, columns};
                const Sums sums = sums_of(m0, m0 - rows.begin, n0, n0 - own_panel * kPanel, room, part == 0);
                Unit::multiply(a, end - begin, right, offsets, found, sums);
                if (part == parts_ - 1) finish(sums, m0, lines, n0, columns);
            }
        }
    }

    // Where the sums of row `m0` and column `n0` lie, which are `row` and `column` of the thread's strip.
    Sums sums_of(int64_t m0, int64_t row, int64_t n0, int64_t column, const Room& room, bool fresh) const {
        if (in_place_) {
            const int64_t stride = op_.c_stride / static_cast<int64_t>(sizeof(int32_t));
            return {memory_.at<int32_t>(op_.c_address) + m0 * stride + n0, stride, fresh, past_caches_};
        }
        return {room.sums + (whole_sums_ ? row * sums_stride_ + column : 0), sums_stride_, fresh, false};
    }

    void finish(const Sums& sums, int64_t m0, int64_t lines, int64_t n0, int64_t columns) const {
        if (in_place_) {
            epilogue_.pad(m0, lines, n0, columns);
        } else {
            epilogue_.finish(sums.values, sums.stride, m0, lines, n0, columns);
        }
    }

    const GemmFields& op_;
    const Memory& memory_;
    const OperandA a_;
    const OperandB<typename Unit::Panel> b_;
    const Epilogue epilogue_;
    const Division division_;
    int64_t steps_;
    int64_t parts_;
    int64_t group_panels_;
    bool packed_before_;  // B is packed by a thread before it starts, or group by group
    int64_t strip_rows_;
    int64_t a_stride_;
    bool in_place_;       // the sums are made in C
    bool past_caches_;
    bool whole_sums_;     // there is room for all sums of a strip, not only for those of a band
    int64_t sums_stride_;
    int64_t panel_room_;
    int64_t block_room_;
    int64_t sums_room_;
};

}  // namespace systolora
