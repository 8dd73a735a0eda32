// The controller: fetches the instructions of a program, checks and executes them, counts, and writes the status block.

#ifndef SYSTOLORA_CONTROLLER_HPP
#define SYSTOLORA_CONTROLLER_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "gemm.hpp"
#include "instruction.hpp"
#include "operands.hpp"
#include "quantize.hpp"
#include "types.hpp"

// What the status block reports, in its order: array clocks, then bus words.
struct Counters {
{% for name in counters %}
    uint64_t {{ name }};
{% endfor %}
};

struct Status {
    ErrorCode error;
    uint32_t error_index;
    uint32_t executed;
    uint32_t sequence;
    Counters counters;
};

// What passes from one instruction of a program to the next.
struct Progress {
    bool ended;
    bool follows_gemm;  // the last instruction executed was the GEMM `previous`
    GemmInstruction previous;
    Halves halves;
};

inline Counters no_counts()
{
#pragma HLS INLINE
    Counters counters;
{% for name in counters %}
    counters.{{ name }} = 0;
{% endfor %}
    return counters;
}

// A 64-bit little-endian word out of bus words.
inline uint64_t get_word64(const uint8_t bytes[kInstructionBytes], int index)
{
#pragma HLS INLINE
    uint64_t word = 0;
bytes:
    for (int i = 0; i < 8; ++i) {
#pragma HLS UNROLL
        word |= uint64_t(bytes[8 * index + i]) << (8 * i);
    }
    return word;
}

inline InstructionWords fetch(Port memory, uint64_t first)
{
#pragma HLS INLINE off
    uint8_t bytes[kInstructionBytes];
#pragma HLS ARRAY_PARTITION variable=bytes type=complete dim=1
    memory.read_request(first, kInstructionBusWords);
read:
    for (int w = 0; w < kInstructionBusWords; ++w) {
#pragma HLS PIPELINE II=1
        const BusWord word = memory.read();
    lanes:
        for (int i = 0; i < kBusBytes; ++i) {
#pragma HLS UNROLL
            bytes[w * kBusBytes + i] = word.byte[i];
        }
    }
    InstructionWords code;
words:
    for (int i = 0; i < kInstructionWords; ++i) {
#pragma HLS UNROLL
        code.word[i] = get_word64(bytes, i);
    }
    return code;
}

inline void count_gemm(const GemmCounts &gemm, Counters &counters)
{
#pragma HLS INLINE
    counters.array_cycles += gemm.array_cycles;
    counters.busy_cycles += gemm.busy_cycles;
    counters.input_words += gemm.input_words;
    counters.weight_words += gemm.weight_words;
    counters.vector_words += gemm.vector_words;
    counters.result_words_loaded += gemm.result_words_loaded;
    counters.result_words_stored += gemm.result_words_stored;
}

// Decodes, checks and executes one instruction.
inline ErrorCode execute(const InstructionWords &code, const Surroundings &around, Port memory_input,
                         Port memory_weight, Port memory_output{{ odd_port }}, Progress &progress,
                         InputSegment input_ping[kInputDepth][kInputSegments],
                         InputSegment input_pong[kInputDepth][kInputSegments],
                         WeightSegment weight_ping[kWeightDepth][kWeightSegments],
                         WeightSegment weight_pong[kWeightDepth][kWeightSegments],
                         OutputSegment output_ping[kOutputDepth][kOutputSegments],
                         OutputSegment output_pong[kOutputDepth][kOutputSegments], Counters &counters)
{
#pragma HLS INLINE off
    const uint32_t opcode = opcode_bits(code);
    ErrorCode error = ErrorCode::bad_opcode;
    bool is_gemm = false;
    if (opcode == uint32_t(Opcode::gemm)) {
        const GemmInstruction op = decode_gemm(code);
        error = valid_gemm(code) ? check_gemm(op, around, progress.follows_gemm, progress.previous)
                                 : ErrorCode::bad_field;
        if (error == ErrorCode::ok) {
            GemmCounts counts = {0, 0, 0, 0, 0, 0, 0};
            gemm(op, around.window.address, memory_input, memory_weight, memory_output{{ odd_argument }}, progress.halves, input_ping,
                 input_pong, weight_ping, weight_pong, output_ping, output_pong, counts);
            count_gemm(counts, counters);
            is_gemm = true;
            progress.previous = op;
        }
    } else if (opcode == uint32_t(Opcode::quantize)) {
        const QuantizeInstruction op = decode_quantize(code);
        error = valid_quantize(code) ? check_quantize(op, around) : ErrorCode::bad_field;
        if (error == ErrorCode::ok) {
            QuantizeCounts counts;
            error = quantize(op, around.window.address, memory_input, memory_output, input_ping, output_ping,
                             output_pong, counts);
            counters.vector_words += counts.vector;
            counters.source_words += counts.source;
            counters.quantized_words += counts.quantized;
        }
    } else if (opcode == uint32_t(Opcode::fence)) {
        error = valid_fence(code) ? ErrorCode::ok : ErrorCode::bad_field;
    } else if (opcode == uint32_t(Opcode::end)) {
        error = valid_end(code) ? ErrorCode::ok : ErrorCode::bad_field;
        progress.ended = error == ErrorCode::ok;
    }
    progress.follows_gemm = is_gemm;
    return error;
}

// Runs a program: at most `count` instructions, so that it surely ends. `current` always shows the instruction that it
// is at, so that the driver can say where a program hangs; volatile, or the tool would keep only the last of its values
// (UG1399, "Understanding Volatile Data").
inline void run_program(const Surroundings &around, uint32_t count, Port memory_program,
                        Port memory_input, Port memory_weight, Port memory_output,
                        InputSegment input_ping[kInputDepth][kInputSegments],
                        InputSegment input_pong[kInputDepth][kInputSegments],
                        WeightSegment weight_ping[kWeightDepth][kWeightSegments],
                        WeightSegment weight_pong[kWeightDepth][kWeightSegments],
                        OutputSegment output_ping[kOutputDepth][kOutputSegments],
                        OutputSegment output_pong[kOutputDepth][kOutputSegments], Status &status,
                        volatile uint32_t &current)
{
#pragma HLS INLINE off
    const uint64_t first = (around.program.address - around.window.address) / kBusBytes;
    Progress progress;
    progress.ended = false;
    progress.follows_gemm = false;
    progress.previous = GemmInstruction();
    progress.halves.input = false;
    progress.halves.weight = false;
    progress.halves.output = false;
instructions:
    for (uint32_t i = 0; i < count; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kMaxInstructions
        current = i;
        const InstructionWords code = fetch(memory_program, first + uint64_t(i) * kInstructionBusWords);
        status.counters.program_words += kInstructionBusWords;
        status.error = execute(code, around, memory_input, memory_weight, memory_output{{ ", memory_program" if odd_port }}, progress, input_ping,
                               input_pong, weight_ping, weight_pong, output_ping, output_pong, status.counters);
        if (status.error != ErrorCode::ok) {
            status.error_index = i;
            break;
        }
        ++status.executed;
        if (progress.ended) {
            break;
        }
    }
    if (status.error == ErrorCode::ok && !progress.ended) {
        status.error = ErrorCode::no_end;
        status.error_index = count;
    }
}

inline uint64_t join(uint32_t low, uint32_t high)
{
#pragma HLS INLINE
    return uint64_t(low) | uint64_t(high) << 32;
}

inline void write_status(const Status &status, uint64_t first, Port memory)
{
#pragma HLS INLINE off
    uint64_t words[kStatusBytes / 8];
#pragma HLS ARRAY_PARTITION variable=words type=complete dim=1
    words[0] = join(kStatusMagic, uint32_t(status.error));
    words[1] = join(status.error_index, status.executed);
    words[2] = join(status.sequence, kFingerprint);
{% for name in counters %}
    words[{{ 3 + loop.index0 }}] = status.counters.{{ name }};
{% endfor %}
{% for index in range(3 + counters | length, 16) %}
    words[{{ index }}] = 0;
{% endfor %}
    memory.write_request(first, kStatusBytes / kBusBytes);
write:
    for (int w = 0; w < kStatusBytes / kBusBytes; ++w) {
#pragma HLS PIPELINE II=1
        BusWord word;
    bytes:
        for (int i = 0; i < kBusBytes; ++i) {
#pragma HLS UNROLL
            const int place = w * kBusBytes + i;
            word.byte[i] = uint8_t(words[place / 8] >> (place % 8 * 8));
        }
        memory.write(word);
    }
    memory.write_response();
}

#endif
