// Runs programs one after the other on a fresh copy of one memory image: made for sanitizers, which cannot be loaded into Python.
//
// Standard input: CsimImage, its bytes, then any number of records, each a CsimRecord and the bytes of its program.
// Standard output, per record: CsimResult, then the bytes of the memory.

#include <algorithm>
#include <cstdio>
#include <vector>

#include "csim_entry.cpp"

struct CsimImage {
    uint64_t address;
    uint64_t bytes;
};

struct CsimRecord {
    CsimCall call;
    uint64_t placed;  // bytes of program that follow, for program_address
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
        // The window is a block of its own, made anew each time: a sanitizer sees a byte to either side of it.
        std::vector<uint8_t> memory(fresh);
        const uint64_t place = record.placed != 0 ? record.call.program_address - image.address : 0;
        if (!read_all(memory.data() + place, record.placed)) {
            return 2;
        }
        const uint64_t offset = record.call.window_address - image.address;
        const uint64_t size = record.call.window_size;
        std::vector<uint8_t> window(memory.begin() + offset, memory.begin() + offset + size);
        CsimResult result;
        systolora_csim(window.data(), &record.call, &result);
        std::copy(window.begin(), window.end(), memory.begin() + offset);
        std::fwrite(&result, sizeof result, 1, stdout);
        std::fwrite(memory.data(), memory.size(), 1, stdout);
    }
    return std::fflush(stdout) == 0 ? 0 : 2;
}
