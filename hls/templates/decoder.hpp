// Which instructions the controller accepts. The checks stand in the order of hls/check.py; the first that fails gives
// the error code.

#ifndef SYSTOLORA_DECODER_HPP
#define SYSTOLORA_DECODER_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "operands.hpp"
#include "types.hpp"

// The stored block that the kernel's first position reads, which is the last of a weight read backwards. Below 2^25.
inline uint32_t last_block(const GemmInstruction &op)
{
#pragma HLS INLINE
    return (op.kernel_height - 1) * op.block_row_step + (op.kernel_width - 1) * op.block_step;
}

inline uint32_t result_bytes(Result result)
{
#pragma HLS INLINE
    return result == Result::bfloat16 ? 2 : 4;
}

inline ErrorCode check_gemm_fields(const GemmInstruction &op)
{
#pragma HLS INLINE
    const bool scaled = op.scale_a != ScaleMode::none || op.scale_b != ScaleMode::none || op.bias;
    const bool patches = op.a_form == OperandA::patches;
    const bool reversed = op.b_form == OperandB::reversed_blocks;
    bool good = is_finite(op.alpha);
{% if not config.output_stationary %}
    good = good && op.dataflow == Dataflow::weight_stationary;
{% endif %}
    good = good && !(op.result == Result::int32 && scaled);
    good = good && !(patches && op.transpose_a);
    good = good && (!reversed || (op.transpose_b && patches));
    return good ? ErrorCode::ok : ErrorCode::bad_field;
}

// Rows of A as stored; of an image: pixels. 2^24 * 2^32 at most.
inline uint64_t stored_rows_a(const GemmInstruction &op)
{
#pragma HLS INLINE
    if (op.a_form == OperandA::patches) {
        const uint64_t images = op.m / (op.out_height * op.out_width);
        return images * (uint64_t(op.image_height) * op.image_width);
    }
    return op.transpose_a ? op.k : op.m;
}

// Rows of B as stored; of reversed blocks: from the first that is read to the end of the last. 2^25 * 2^25 at most.
inline uint64_t stored_rows_b(const GemmInstruction &op)
{
#pragma HLS INLINE
    if (op.b_form == OperandB::reversed_blocks) {
        return (uint64_t(last_block(op)) + 1) * to_bus_bytes(op.n);
    }
    return op.transpose_b ? op.n : op.k;
}

inline ErrorCode check_patch_shape(const GemmInstruction &op)
{
#pragma HLS INLINE
    bool good = op.image_height != 0 && op.image_width != 0 && op.channels != 0 && op.out_height != 0 &&
                op.out_width != 0 && op.kernel_height != 0 && op.kernel_width != 0 && op.step != 0 &&
                aligned(op.channels);
    if (good) {
        good = op.k == uint64_t(op.kernel_height * op.kernel_width) * op.channels &&
               op.m % (op.out_height * op.out_width) == 0;
    }
    if (good) {
        good = stored_rows_a(op) <= kMaxDimension && stored_rows_b(op) <= kMaxDimension;
    }
    return good ? ErrorCode::ok : ErrorCode::bad_shape;
}

inline ErrorCode check_gemm_shape(const GemmInstruction &op)
{
#pragma HLS INLINE
    const bool m = op.m >= 1 && op.m <= kMaxDimension;
    const bool n = op.n >= 1 && op.n <= kMaxDimension;
    const bool k = op.k >= 1 && op.k <= kMaxK;
    if (!(m && n && k)) {
        return ErrorCode::bad_shape;
    }
    return op.a_form == OperandA::patches ? check_patch_shape(op) : ErrorCode::ok;
}

// A tile is everything, or whole bus words.
inline bool cuts_well(uint32_t tile, uint32_t dimension)
{
#pragma HLS INLINE
    return tile != 0 && (tile >= dimension || aligned(tile));
}

inline bool fits(uint32_t lanes_used, uint32_t lanes, uint32_t length, uint32_t depth)
{
#pragma HLS INLINE
    return uint64_t(divide_up(lanes_used, lanes)) * length <= depth;
}

inline ErrorCode check_gemm_tiles(const GemmInstruction &op)
{
#pragma HLS INLINE
    if (!(cuts_well(op.tile_m, op.m) && cuts_well(op.tile_n, op.n) && cuts_well(op.tile_k, op.k))) {
        return ErrorCode::bad_tile;
    }
    const uint32_t tile_m = least(op.tile_m, op.m);
    const uint32_t tile_n = least(op.tile_n, op.n);
    const uint32_t tile_k = least(op.tile_k, op.k);
{% if config.output_stationary %}
    const bool input = op.dataflow == Dataflow::weight_stationary
                           ? fits(tile_k, kRows, tile_m, kInputDepth)
                           : fits(tile_m, kStationaryRows, whole_bands(tile_k), kInputDepth);
{% else %}
    const bool input = fits(tile_k, kRows, tile_m, kInputDepth);
{% endif %}
    const bool weight = fits(tile_n, kCols, tile_k, kWeightDepth);
    const bool output = fits(tile_n, kCols, tile_m, kOutputDepth);
    return input && weight && output ? ErrorCode::ok : ErrorCode::bad_tile;
}

inline Operands gemm_operands(const GemmInstruction &op)
{
#pragma HLS INLINE
    const bool patches = op.a_form == OperandA::patches;
    const bool reversed = op.b_form == OperandB::reversed_blocks;
    const uint32_t bytes_a = patches ? op.channels : op.transpose_a ? op.m : op.k;
    const uint32_t bytes_b = reversed ? op.channels : op.transpose_b ? op.k : op.n;
    Operands operands;
    operands.pitch[0] = pitch_of(op.a_stride, bytes_a);
    operands.pitch[1] = pitch_of(op.b_stride, bytes_b);
    operands.pitch[2] = pitch_of(op.c_stride, uint64_t(op.n) * result_bytes(op.result));
    operands.read[0] = matrix_operand(op.a_address, stored_rows_a(op), operands.pitch[0]);
    operands.read[1] = matrix_operand(op.b_address, stored_rows_b(op), operands.pitch[1]);
    operands.read[2] = vector_operand(op.scale_a_address, op.scale_a, op.m);
    operands.read[3] = vector_operand(op.scale_b_address, op.scale_b, op.n);
    operands.read[4] = vector_operand(op.bias_address, op.bias ? ScaleMode::vector : ScaleMode::none, op.n);
    operands.write[0] = matrix_operand(op.c_address, op.m, operands.pitch[2]);
    operands.write[1] = no_operand();
    return operands;
}

inline bool same_patches(const GemmInstruction &x, const GemmInstruction &y)
{
#pragma HLS INLINE
    return x.image_height == y.image_height && x.image_width == y.image_width && x.channels == y.channels &&
           x.out_height == y.out_height && x.out_width == y.out_width && x.kernel_height == y.kernel_height &&
           x.kernel_width == y.kernel_width && x.step == y.step && x.pad_top == y.pad_top && x.pad_left == y.pad_left;
}

// Whether the A tile of `previous` is the only one that `op` needs.
inline bool reusable(const GemmInstruction &op, const GemmInstruction &previous)
{
#pragma HLS INLINE
    const bool single = op.tile_m >= op.m && op.tile_k >= op.k && previous.tile_m >= previous.m &&
                        previous.tile_k >= previous.k;
    const bool same = op.m == previous.m && op.k == previous.k && op.a_address == previous.a_address &&
                      op.a_stride == previous.a_stride && op.transpose_a == previous.transpose_a &&
                      op.dataflow == previous.dataflow && op.a_form == previous.a_form;
    return single && same && (op.a_form != OperandA::patches || same_patches(op, previous));
}

// `follows_gemm`: the instruction executed before this one in the program was the GEMM `previous`.
inline ErrorCode check_gemm(const GemmInstruction &op, const Surroundings &around, bool follows_gemm,
                            const GemmInstruction &previous)
{
#pragma HLS INLINE off
    ErrorCode code = check_gemm_fields(op);
    if (code == ErrorCode::ok) {
        code = check_gemm_shape(op);
    }
    if (code == ErrorCode::ok) {
        code = check_gemm_tiles(op);
    }
    if (code == ErrorCode::ok) {
        code = check_operands(gemm_operands(op), around);
    }
    if (code == ErrorCode::ok && op.reuse_a && !(follows_gemm && reusable(op, previous))) {
        code = ErrorCode::reuse;
    }
    return code;
}

inline uint32_t source_bytes(Source source)
{
#pragma HLS INLINE
    return source == Source::bfloat16 ? 2 : 4;
}

inline uint32_t scale_count(const QuantizeInstruction &op)
{
#pragma HLS INLINE
    return op.axis == Axis::tensor ? 1 : op.axis == Axis::row ? op.m : op.n;
}

inline Operands quantize_operands(const QuantizeInstruction &op)
{
#pragma HLS INLINE
    Operands operands;
    operands.pitch[0] = pitch_of(op.a_stride, uint64_t(op.n) * source_bytes(op.source));
    operands.pitch[1] = pitch_of(op.c_stride, op.n);
    operands.pitch[2] = no_pitch();
    operands.read[0] = matrix_operand(op.a_address, op.m, operands.pitch[0]);
    operands.read[1] = vector_operand(op.scale_b_address, op.multiply ? ScaleMode::vector : ScaleMode::none, op.n);
    operands.read[2] = no_operand();
    operands.read[3] = no_operand();
    operands.read[4] = no_operand();
    operands.write[0] = matrix_operand(op.c_address, op.m, operands.pitch[1]);
    operands.write[1] = vector_operand(op.scale_a_address, ScaleMode::vector, scale_count(op));
    return operands;
}

inline ErrorCode check_quantize(const QuantizeInstruction &op, const Surroundings &around)
{
#pragma HLS INLINE off
    constexpr uint32_t limit = uint32_t(kOutputDepth) * kCols;  // values in one half of the output memory
    if (op.m < 1 || op.m > kMaxDimension || op.n < 1 || op.n > kMaxDimension) {
        return ErrorCode::bad_shape;
    }
    if (scale_count(op) > limit || (op.multiply && op.n > limit)) {
        return ErrorCode::bad_tile;
    }
    return check_operands(quantize_operands(op), around);
}

#endif
