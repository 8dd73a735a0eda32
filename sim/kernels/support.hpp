// Device memory as the kernels see it, threads, and memory to work in.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

namespace systolora {

// Host memory that stands for device memory.
struct Memory {
    uint8_t* bytes;      // of device address `base`
    uint64_t base;
    int64_t bus_bytes;

    template <typename T>
    T* at(uint64_t address) const {
        return reinterpret_cast<T*>(bytes + (address - base));
    }
};

// Calls work(0) .. work(count - 1), each in a thread of its own if there are that many. OpenMP's threads are those of torch
// as well (both load the same library), so the two do not compete for the processors.
template <typename Work>
void run_threads(int count, const Work& work) {
    if (count == 1) {
        work(0);
        return;
    }
#pragma omp parallel for schedule(static, 1) num_threads(count)
    for (int index = 0; index < count; ++index) work(index);
}

// Part `index` of `count` nearly equal parts of 0 .. length, in whole units.
struct Range {
    int64_t begin;
    int64_t end;

    Range(int64_t first, int64_t past) : begin(first), end(past) {}
    Range(int64_t length, int64_t unit, int64_t index, int64_t count) {
        const int64_t units = (length + unit - 1) / unit;
        begin = std::min(length, units * index / count * unit);
        end = std::min(length, units * (index + 1) / count * unit);
    }
};

// Working memory that is kept between calls: fresh pages cost more than the work done in them.
class Scratch {
  public:
    ~Scratch() { std::free(bytes_); }

    uint8_t* reserve(size_t size) {
        if (size > size_) {
            std::free(bytes_);
            size_ = (size + kHugePage - 1) / kHugePage * kHugePage;
            bytes_ = static_cast<uint8_t*>(std::aligned_alloc(kHugePage, size_));
            if (bytes_ == nullptr) {
                size_ = 0;
                return nullptr;
            }
            madvise(bytes_, size_, MADV_HUGEPAGE);
        }
        return bytes_;
    }

  private:
    static constexpr size_t kHugePage = size_t{2} << 20;
    uint8_t* bytes_ = nullptr;
    size_t size_ = 0;
};

// What multiplies, worst first. systolora.sim.functional.native.Unit has the same numbers.
enum UnitKind { kNoUnit = 0, kVectorUnit = 1, kMatrixUnit = 2 };

constexpr int kOk = 0;
constexpr int kNonFinite = 1;
constexpr int kNoMemory = 2;
constexpr int kNoSuchUnit = 3;

}  // namespace systolora
