// The testbench: runs each program of golden.hpp and compares all memory with what it must leave, bit for bit.
//
// Every memory port has a copy of the device memory, as in C/RTL co-simulation. The status block must appear behind the
// program's port, the results behind the output port, and nothing else may change anywhere.
// One argument: how many of the programs to run (all by default; co-simulation of a large array is slow).

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "{{ top }}.hpp"
#include "golden.hpp"

typedef uint8_t Image[kTestbenchBytes];

static Image found;
static Image left_over;
static BusWord memory_program[kTestbenchWords];
static BusWord memory_input[kTestbenchWords];
static BusWord memory_weight[kTestbenchWords];
static BusWord memory_output[kTestbenchWords];

static void apply(uint32_t first, uint32_t count, Image &image)
{
    for (uint32_t b = first; b < first + count; ++b) {
        const GoldenBlock &block = kGoldenBlocks[b];
        for (uint32_t i = 0; i < 8 * block.words; ++i) {
            image[block.offset + i] = uint8_t(kGoldenWords[block.first + i / 8] >> (8 * (i % 8)));
        }
    }
}

static void fill(const Image &image, BusWord *memory)
{
    for (int i = 0; i < kTestbenchBytes; ++i) {
        memory[i / kBusBytes].byte[i % kBusBytes] = image[i];
    }
}

{% if odd_port %}
// Results that left through the program's port are moved to where the others are; those that did not are as they were.
static void gather(const Image &before, BusWord *program, BusWord *results)
{
    for (int i = 0; i < kTestbenchBytes; ++i) {
        const bool in_status = i >= int(kGoldenStatus) && i < int(kGoldenStatus) + kStatusBytes;
        uint8_t &byte = program[i / kBusBytes].byte[i % kBusBytes];
        if (!in_status && byte != before[i]) {
            results[i / kBusBytes].byte[i % kBusBytes] = byte;
            byte = before[i];
        }
    }
}

{% endif %}
// Compares a port's memory with `image`, the status block apart if `status` says so; returns the number of differences.
static int differences(const char *port, const BusWord *memory, const Image &image, const Image &status)
{
    int count = 0;
    for (int i = 0; i < kTestbenchBytes; ++i) {
        const bool in_status = i >= int(kGoldenStatus) && i < int(kGoldenStatus) + kStatusBytes;
        const uint8_t expected = in_status ? status[i] : image[i];
        const uint8_t got = memory[i / kBusBytes].byte[i % kBusBytes];
        if (got != expected) {
            if (count < 4) {
                std::printf("  %s, byte %d: %02x, expected %02x\n", port, i, unsigned(got), unsigned(expected));
            }
            ++count;
        }
    }
    return count;
}

static int run(const GoldenProgram &program)
{
    std::memset(found, kGoldenBackground, sizeof found);
    apply(program.first_found, program.found, found);
    std::memcpy(left_over, found, sizeof left_over);
    apply(program.first_left, program.left, left_over);
    fill(found, memory_program);
    fill(found, memory_input);
    fill(found, memory_weight);
    fill(found, memory_output);

    uint32_t error = ~0u;
    uint32_t error_index = ~0u;
    uint32_t fingerprint = 0;
    {{ top }}(memory_program, memory_input, memory_weight, memory_output, kGoldenWindow, kTestbenchBytes,
                  kGoldenWindow, program.instructions, kGoldenWindow + kGoldenStatus, 1, error, error_index,
                  fingerprint);

{% if odd_port %}
    gather(found, memory_program, memory_output);
{% endif %}
    int wrong = differences("memory_program", memory_program, found, left_over);
    wrong += differences("memory_input", memory_input, found, found);
    wrong += differences("memory_weight", memory_weight, found, found);
    wrong += differences("memory_output", memory_output, left_over, found);
    wrong += fingerprint != kFingerprint ? 1 : 0;
    wrong += error != left_over[kGoldenStatus + 4] || error_index != left_over[kGoldenStatus + 8] ? 1 : 0;
    std::printf("%s: %s (error %u at %u)\n", wrong == 0 ? "ok" : "WRONG", program.name, unsigned(error),
                unsigned(error_index));
    return wrong;
}

int main(int argc, char **argv)
{
    const int all = int(sizeof kGoldenPrograms / sizeof kGoldenPrograms[0]);
    const int asked = argc > 1 ? std::atoi(argv[1]) : all;
    int wrong = 0;
    for (int i = 0; i < all && i < asked; ++i) {
        wrong += run(kGoldenPrograms[i]);
    }
    std::printf(wrong == 0 ? "all programs left the expected bits\n" : "%d differences\n", wrong);
    return wrong == 0 ? 0 : 1;
}
