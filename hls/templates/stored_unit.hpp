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
{% if input and config.output_stationary %}
    bool output_stationary;
    uint32_t depth;  // of the tile along k, in whole bands
{% endif %}
};

{% if input %}
// Where the next segment of a row goes: from `segment` on to the end of a group of segments, then to the first of the
// group in the word that is `step` further.
struct InputPlace {
    uint32_t word;
    uint32_t segment;
    uint32_t first;
    uint32_t end;
    uint32_t step;
    uint32_t bytes_left;
};

// Where row `line` of a tile whose rows run along k begins.
inline InputPlace input_place(const InputTile &tile, uint32_t line)
{
#pragma HLS INLINE
    InputPlace place = {line, 0, 0, kInputSegments, tile.lines, tile.length};
{% if config.output_stationary %}
    if (tile.output_stationary) {
        const uint32_t band = line / kBandRows;
        place.first = band % kBands * kBandSegments;
        place.segment = place.first;
        place.end = place.first + kBandSegments;
        place.word = band / kBands * tile.depth + line % kBandRows;
        place.step = kBandRows;
    }
{% endif %}
    return place;
}

inline InputTile input_tile(const GemmInstruction &op, uint32_t m0, uint32_t tile_m, uint32_t k0, uint32_t tile_k)
{
#pragma HLS INLINE
    InputTile tile;
    tile.line = op.transpose_a ? k0 : m0;
    tile.lines = op.transpose_a ? tile_k : tile_m;
    tile.column = op.transpose_a ? m0 : k0;
    tile.length = op.transpose_a ? tile_m : tile_k;
    tile.turned = op.transpose_a;
{% if config.output_stationary %}
    tile.output_stationary = op.dataflow == Dataflow::output_stationary;
    tile.depth = whole_bands(tile_k);
{% endif %}
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
// Where the next segment of a row goes.
struct WeightPlace {
    uint32_t word;
    uint32_t segment;
    uint32_t first;
    uint32_t end;
    uint32_t step;
    uint32_t bytes_left;
};

// Where row `line` of a tile whose rows run along n begins.
inline WeightPlace weight_place(const WeightTile &tile, uint32_t line)
{
#pragma HLS INLINE
    return WeightPlace{line, 0, 0, kWeightSegments, tile.lines, tile.length};
}

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
