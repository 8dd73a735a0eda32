{% set input = unit == "input" %}
{% set Unit = unit | capitalize %}
{% set half = Unit ~ "Segment half[k" ~ Unit ~ "Depth][k" ~ Unit ~ "Segments]" %}
{% set line_buffer = "BusWord lines[k" ~ Unit ~ "Lanes][kLineWords]" %}
{% if input %}
// Where a tile of A lies in device memory: rows of a matrix, or pixels that the patches of an image are formed of.
{% else %}
// Where a tile of B lies in device memory: rows of a matrix, or a convolution's weight, which is read backwards.
{% endif %}

#ifndef SYSTOLORA_STORED_{{ unit | upper }}_HPP
#define SYSTOLORA_STORED_{{ unit | upper }}_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "patches.hpp"
#include "types.hpp"

// The tile as it is stored: `length` bytes from `column` on, of `lines` rows from `line` on.
struct {{ Unit }}Tile {
    uint32_t line;
    uint32_t lines;
    uint32_t column;
    uint32_t length;
    bool turned;  // rows become lanes
};

{% if input %}
inline InputTile input_tile(const GemmInstruction &op, uint32_t m0, uint32_t tile_m, uint32_t k0, uint32_t tile_k)
{
#pragma HLS INLINE
    InputTile tile;
    tile.line = op.transpose_a ? k0 : m0;
    tile.lines = op.transpose_a ? tile_k : tile_m;
    tile.column = op.transpose_a ? m0 : k0;
    tile.length = op.transpose_a ? tile_m : tile_k;
    tile.turned = op.transpose_a == (op.dataflow == Dataflow::weight_stationary);
    return tile;
}

// Where the bus words of row `line` lie, from byte `column` (or its kernel position) on.
inline Run input_run(const GemmInstruction &op, uint64_t matrix_word, uint32_t line, uint32_t column,
                     const PatchPosition &patch, const TapPosition &tap, uint32_t words)
{
#pragma HLS INLINE
    Run run;
    if (op.a_form == OperandA::patches) {
        run = pixel_run(op, matrix_word, patch, tap, words);
    } else {
        run.exists = true;
        run.words = words;
        run.first = matrix_word + uint64_t(line) * (op.a_stride / kBusBytes) + column / kBusBytes;
    }
    return run;
}
{% else %}
inline WeightTile weight_tile(const GemmInstruction &op, uint32_t k0, uint32_t tile_k, uint32_t n0, uint32_t tile_n)
{
#pragma HLS INLINE
    WeightTile tile;
    tile.line = op.transpose_b ? n0 : k0;
    tile.lines = op.transpose_b ? tile_n : tile_k;
    tile.column = op.transpose_b ? k0 : n0;
    tile.length = op.transpose_b ? tile_k : tile_n;
    tile.turned = op.transpose_b;
    return tile;
}

// Where the bus words of row `line` lie, from byte `column` (or its kernel position) on.
inline Run weight_run(const GemmInstruction &op, uint64_t matrix_word, uint32_t line, uint32_t column,
                      const TapPosition &tap, uint32_t words)
{
#pragma HLS INLINE
    Run run;
    if (op.b_form == OperandB::reversed_blocks) {
        run = block_run(op, matrix_word, line, tap, words);
    } else {
        run.exists = true;
        run.words = words;
        run.first = matrix_word + uint64_t(line) * (op.b_stride / kBusBytes) + column / kBusBytes;
    }
    return run;
}
{% endif %}

#endif
