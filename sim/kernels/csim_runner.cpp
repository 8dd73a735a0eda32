// Runs programs one after the other on a fresh copy of one memory image: made for sanitizers, which cannot be loaded into Python.
//
// Standard input: CsimImage, its bytes, then any number of records, each a CsimCall and instruction_count * 128 bytes of program
// (left out if `placed` is 0). Standard output, per record: CsimResult, then the bytes of the memory.

#include <cstdio>
#include <cstring>
#include <vector>

#include "csim_entry.cpp"

struct CsimImage {
    uint64_t address;
    uint64_t bytes;
};

struct CsimRecord {
    CsimCall call;
    uint64_t placed;  // bytes of program that follow, at program_address
};

static bool read_all(void *target, size_t bytes)
{
    return bytes == 0 || std::fread(target, bytes, 1, stdin) == 1;
}

int main()
{
    CsimImage image;
    if (!read_all(&image, sizeof image)) {
        return 2;
    }
    std::vector<uint8_t> fresh(image.bytes);
    if (!read_all(fresh.data(), fresh.size())) {
        return 2;
    }
    CsimRecord record;
    while (read_all(&record, sizeof record)) {
        // Allocated anew each time, and only what the window covers: a sanitizer sees a byte to either side.
        std::vector<uint8_t> memory(fresh);
        uint8_t *place = memory.data() + (record.call.program_address - image.address);
        if (!read_all(record.placed != 0 ? place : memory.data(), record.placed)) {
            return 2;
        }
        const uint64_t offset = record.call.window_address - image.address;
        const uint64_t size = record.call.window_size;
        std::vector<uint8_t> window(memory.begin() + offset, memory.begin() + offset + size);
        CsimResult result;
        systolora_csim(window.data(), &record.call, &result);
        std::memcpy(memory.data() + offset, window.data(), size);
        std::fwrite(&result, sizeof result, 1, stdout);
        std::fwrite(memory.data(), memory.size(), 1, stdout);
    }
    return std::fflush(stdout) == 0 ? 0 : 2;
}
