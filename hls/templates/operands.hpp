// Where the operands of an instruction lie, and whether they may lie there: alignment, strides, window, overlap.
//
// Nothing is ever added to an address: distances are compared with sizes, so no sum can wrap around.

#ifndef SYSTOLORA_OPERANDS_HPP
#define SYSTOLORA_OPERANDS_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "types.hpp"

struct Region {
    uint64_t address;
    uint64_t size;
};

// What an instruction is checked against.
struct Surroundings {
    Region window;
    Region program;
    Region status;
};

inline bool aligned(uint64_t value)
{
#pragma HLS INLINE
    return value % kBusBytes == 0;
}

inline uint64_t to_bus_bytes(uint64_t bytes)
{
#pragma HLS INLINE
    return (bytes + kBusBytes - 1) / kBusBytes * kBusBytes;
}

inline bool inside(const Region &region, const Region &window)
{
#pragma HLS INLINE
    const uint64_t offset = region.address - window.address;
    return region.address >= window.address && offset <= window.size && region.size <= window.size - offset;
}

inline bool overlap(const Region &x, const Region &y)
{
#pragma HLS INLINE
    const bool x_first = x.address <= y.address;
    return x_first ? y.address - x.address < x.size : x.address - y.address < y.size;
}

inline ErrorCode check_program(const Surroundings &around, uint32_t count)
{
#pragma HLS INLINE off
    const bool length = count >= 1 && count <= kMaxInstructions;
    const bool place =
        aligned(around.window.address) && aligned(around.program.address) && aligned(around.status.address);
    const bool reach = inside(around.program, around.window) && inside(around.status, around.window);
    const bool apart = !overlap(around.program, around.status);
    return length && place && reach && apart ? ErrorCode::ok : ErrorCode::bad_program;
}

inline bool status_writable(const Surroundings &around)
{
#pragma HLS INLINE off
    return aligned(around.window.address) && aligned(around.status.address) && inside(around.status, around.window) &&
           !overlap(around.program, around.status);
}

// One operand in device memory; what is absent passes every check.
struct Operand {
    bool present;
    Region region;
};

// Bytes from row to row, and in a row.
struct Pitch {
    uint64_t stride;
    uint64_t row_bytes;
};

constexpr int kMostReads = 5;   // A, B, scales of A, scales of B, bias
constexpr int kMostWrites = 2;  // QUANTIZE: integers and scales
constexpr int kMostPitches = 3;

struct Operands {
    Operand read[kMostReads];
    Operand write[kMostWrites];
    Pitch pitch[kMostPitches];
};

inline Operand no_operand()
{
#pragma HLS INLINE
    Operand none;
    none.present = false;
    none.region.address = 0;
    none.region.size = 0;
    return none;
}

inline Pitch no_pitch()
{
#pragma HLS INLINE
    Pitch none;
    none.stride = 0;
    none.row_bytes = 0;
    return none;
}

inline Pitch pitch_of(uint64_t stride, uint64_t row_bytes)
{
#pragma HLS INLINE
    Pitch pitch;
    pitch.stride = stride;
    pitch.row_bytes = row_bytes;
    return pitch;
}

// `rows` rows, each of whole bus words: at most 2^24 * 2^32 bytes.
inline Operand matrix_operand(uint64_t address, uint64_t rows, const Pitch &pitch)
{
#pragma HLS INLINE
    Operand matrix;
    matrix.present = true;
    matrix.region.address = address;
    matrix.region.size = (rows - 1) * pitch.stride + to_bus_bytes(pitch.row_bytes);
    return matrix;
}

inline Operand vector_operand(uint64_t address, ScaleMode mode, uint64_t length)
{
#pragma HLS INLINE
    Operand vector = no_operand();
    if (mode != ScaleMode::none) {
        vector.present = true;
        vector.region.address = address;
        vector.region.size = to_bus_bytes(mode == ScaleMode::tensor ? 4 : 4 * length);
    }
    return vector;
}

inline ErrorCode check_alignment(const Operands &operands)
{
#pragma HLS INLINE
    bool good = true;
reads:
    for (int i = 0; i < kMostReads; ++i) {
#pragma HLS UNROLL
        good = good && aligned(operands.read[i].region.address);
    }
writes:
    for (int i = 0; i < kMostWrites; ++i) {
#pragma HLS UNROLL
        good = good && aligned(operands.write[i].region.address);
    }
pitches:
    for (int i = 0; i < kMostPitches; ++i) {
#pragma HLS UNROLL
        good = good && aligned(operands.pitch[i].stride);
    }
    return good ? ErrorCode::ok : ErrorCode::alignment;
}

inline ErrorCode check_strides(const Operands &operands)
{
#pragma HLS INLINE
    bool good = true;
pitches:
    for (int i = 0; i < kMostPitches; ++i) {
#pragma HLS UNROLL
        good = good && operands.pitch[i].stride >= to_bus_bytes(operands.pitch[i].row_bytes);
    }
    return good ? ErrorCode::ok : ErrorCode::stride;
}

inline bool reachable(const Operand &operand, const Region &window)
{
#pragma HLS INLINE
    return !operand.present || inside(operand.region, window);
}

inline ErrorCode check_window(const Operands &operands, const Region &window)
{
#pragma HLS INLINE
    bool good = true;
reads:
    for (int i = 0; i < kMostReads; ++i) {
#pragma HLS UNROLL
        good = good && reachable(operands.read[i], window);
    }
writes:
    for (int i = 0; i < kMostWrites; ++i) {
#pragma HLS UNROLL
        good = good && reachable(operands.write[i], window);
    }
    return good ? ErrorCode::ok : ErrorCode::window;
}

inline bool collide(const Operand &x, const Operand &y)
{
#pragma HLS INLINE
    return x.present && y.present && overlap(x.region, y.region);
}

inline ErrorCode check_overlap(const Operands &operands, const Surroundings &around)
{
#pragma HLS INLINE
    bool good = !collide(operands.write[0], operands.write[1]);
writes:
    for (int i = 0; i < kMostWrites; ++i) {
#pragma HLS UNROLL
        const Operand &written = operands.write[i];
        const bool guarded = overlap(written.region, around.program) || overlap(written.region, around.status);
        good = good && !(written.present && guarded);
    reads:
        for (int j = 0; j < kMostReads; ++j) {
#pragma HLS UNROLL
            good = good && !collide(written, operands.read[j]);
        }
    }
    return good ? ErrorCode::ok : ErrorCode::overlap;
}

inline ErrorCode check_operands(const Operands &operands, const Surroundings &around)
{
#pragma HLS INLINE off
    ErrorCode code = check_alignment(operands);
    if (code == ErrorCode::ok) {
        code = check_strides(operands);
    }
    if (code == ErrorCode::ok) {
        code = check_window(operands, around.window);
    }
    if (code == ErrorCode::ok) {
        code = check_overlap(operands, around);
    }
    return code;
}

#endif
