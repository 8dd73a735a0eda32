{% set input = unit == "input" %}
{% set Unit = unit | capitalize %}
{% set pad = " " * (unit | length) %}
{% if input %}
// Where a tile of A lies in device memory: rows of a matrix, or pixels that the patches of an image are formed of.
{% else %}
// Where a tile of B lies in device memory: rows of a matrix, or a convolution's weight, which is read backwards.
{% endif %}
//
// Its bus words come panel by panel, row by row: a tile that is turned in panels of as many rows as a segment has lanes
// and as many bus words as a line buffer holds; any other is one panel.

#ifndef SYSTOLORA_STORED_{{ unit | upper }}_HPP
#define SYSTOLORA_STORED_{{ unit | upper }}_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "patches.hpp"
#include "requests.hpp"
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
    uint32_t words;  // of a row
    uint32_t panel_lines;
    uint32_t panel_words;
};

// Where the next run is that is asked for. Rows and bus words count from the tile's first.
struct {{ Unit }}Cursor {
    uint32_t line;
    uint32_t panel_line;  // the panel's first
    uint32_t end_line;    // behind the panel's last
    uint32_t word;
    uint32_t panel_word;
    uint32_t end_word;
    uint32_t left;  // bus words of the panel's row from here on
    TapPosition tap;
    TapPosition panel_tap;  // at the panel's first column
    TapPosition tile_tap;   // at the tile's
{% if input %}
    PatchPosition patch;
    PatchPosition panel_patch;  // of the panel's first row
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
{% endif %}
    tile.words = divide_up(tile.length, kBusBytes);
    tile.panel_lines = tile.turned ? k{{ Unit }}Lanes : tile.lines;
    tile.panel_words = tile.turned ? kTurnWords : tile.words;
    return tile;
}

// The cursor at the first run of a tile: the only divisions by what an instruction says, once a tile.
inline {{ Unit }}Cursor first_{{ unit }}_run(const GemmInstruction &op, const {{ Unit }}Tile &tile)
{
#pragma HLS INLINE off
    {{ Unit }}Cursor at;
    at.line = 0;
    at.panel_line = 0;
    at.end_line = least(tile.lines, tile.panel_lines);
    at.word = 0;
    at.panel_word = 0;
    at.end_word = least(tile.words, tile.panel_words);
    at.left = at.end_word;
{% if input %}
    at.panel_patch = {0, 0, 0};
    at.tile_tap = no_tap();
    if (op.a_form == OperandA::patches) {
        at.panel_patch = patch_at(op, tile.line);
        at.tile_tap = tap_at(op, tile.column);
    }
    at.patch = at.panel_patch;
{% else %}
    at.tile_tap = no_tap();
    if (op.b_form == OperandB::reversed_blocks) {
        at.tile_tap = tap_at(op, tile.column);
    }
{% endif %}
    at.panel_tap = at.tile_tap;
    at.tap = at.tile_tap;
    return at;
}

// Where the bus words at a place of the tile lie.
inline Run {{ unit }}_run(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, const {{ Unit }}Cursor &at)
{
#pragma HLS INLINE
    const uint32_t line = tile.line + at.line;
    Run run;
{% if input %}
    if (op.a_form == OperandA::patches) {
        run = pixel_run(op, matrix_word, at.patch, at.tap);
{% else %}
    if (op.b_form == OperandB::reversed_blocks) {
        run = block_run(op, matrix_word, line, at.tap);
{% endif %}
    } else {
        run.exists = true;
        run.words = 0;
        const uint64_t row = matrix_word + uint64_t(line) * (op.{{ "a" if input else "b" }}_stride / kBusBytes);
        run.first = row + tile.column / kBusBytes + at.word;
    }
    return run;
}

// The next run, and moves on: along the row of the panel, to the panel's next row, to the next panel along these rows,
// to the next rows. Behind the last there are runs without words.
inline Run next_{{ unit }}_run(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, {{ Unit }}Cursor &at)
{
#pragma HLS INLINE
    Run run = {{ unit }}_run(op, matrix_word, tile, at);
    const bool tile_ends = at.line == tile.lines;
    const uint32_t words = least(least(at.tap.words, at.left), kBurstWords);
    run.words = tile_ends ? 0 : words;
    const bool row_ends = words == at.left;
    const bool panel_ends = row_ends && at.line + 1 == at.end_line;
    const bool rows_end = panel_ends && at.end_word == tile.words;

    next_tap(op, at.tap, words);
    if (panel_ends) {
        at.panel_tap = rows_end ? at.tile_tap : at.tap;
    }
    if (row_ends) {
        at.tap = at.panel_tap;
    }
{% if input %}
    PatchPosition next = at.patch;
    next_patch(op, next);
    if (rows_end) {
        at.panel_patch = next;
    }
    if (row_ends) {
        at.patch = panel_ends ? at.panel_patch : next;
    }
{% endif %}
    if (rows_end) {
        at.panel_line = at.end_line;
        at.end_line = least(tile.lines, at.end_line + tile.panel_lines);
        at.panel_word = 0;
        at.end_word = least(tile.words, tile.panel_words);
    } else if (panel_ends) {
        at.panel_word = at.end_word;
        at.end_word = least(tile.words, at.end_word + tile.panel_words);
    }
    if (!tile_ends) {
        at.line = panel_ends ? at.panel_line : row_ends ? at.line + 1 : at.line;
    }
    at.word = row_ends ? at.panel_word : at.word + words;
    at.left = row_ends ? at.end_word - at.panel_word : at.left - words;
    return run;
}

// A tile that is being read: its first words are asked for before any of them is taken.
struct {{ Unit }}Reader {
    {{ Unit }}Cursor at;
    AskedRuns asked;
    uint32_t read;  // bus words
};

// Asks for the first runs of a tile.
inline void begin_{{ unit }}(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, Port memory,
                  {{ pad }} {{ Unit }}Reader &reader)
{
#pragma HLS INLINE off
    reader.at = first_{{ unit }}_run(op, tile);
    reader.read = 0;
ahead:
    for (int i = 0; i < kAhead; ++i) {
#pragma HLS PIPELINE II=1
        const Run run = next_{{ unit }}_run(op, matrix_word, tile, reader.at);
        ask(memory, run);
        put_run(reader.asked, i, run);
    }
}

// The next bus word of a tile.
inline BusWord next_{{ unit }}_word(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, Port memory,
                          {{ pad }} {{ Unit }}Reader &reader)
{
#pragma HLS INLINE
    if (reader.asked.left == 0) {
        const Run later = next_{{ unit }}_run(op, matrix_word, tile, reader.at);
        ask(memory, later);
        begin_run(reader.asked, later);
    }
    --reader.asked.left;
    BusWord word = zero_bus_word();
    if (reader.asked.passing_exists) {
        word = memory.read();
        ++reader.read;
    }
    return word;
}

#endif
