{% set input = unit == "input" %}
{% set Unit = unit | capitalize %}
{% set half = Unit ~ "Segment half[k" ~ Unit ~ "Depth][k" ~ Unit ~ "Segments]" %}
{% set line_buffer = "BusWord lines[k" ~ Unit ~ "Lanes][kLineWords]" %}
{% if input %}
// The load unit of A: from device memory into one half of the input memory.
//
// Lanes of the input memory run along k (weight-stationary) or m (output-stationary). A bus word that runs along the
// lanes is written as it is, in segments; one that runs across them turns a corner in a line buffer first. Patches of
// an image are formed here.
{% else %}
// The load unit of B: from device memory into one half of the weight memory.
//
// Lanes of the weight memory run along n. A bus word that runs along the lanes is written as it is, in segments; one
// that runs across them (B is stored transposed) turns a corner in a line buffer first. A convolution's weight is read
// backwards here.
{% endif %}

#ifndef SYSTOLORA_LOAD_{{ unit | upper }}_HPP
#define SYSTOLORA_LOAD_{{ unit | upper }}_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "patches.hpp"
#include "stored_{{ unit }}.hpp"
#include "turn_{{ unit }}.hpp"
#include "types.hpp"

// Where the next segment of a row goes.
struct {{ Unit }}Place {
    uint32_t word;
    uint32_t segment;
    uint32_t bytes_left;
};

// Writes a bus word segment by segment; what lies behind the end of the row is left out.
inline void place_{{ unit }}_word(const BusWord &word, uint32_t lines, {{ Unit }}Place &place,
                       {{ " " * (unit | length) }} {{ half }})
{
#pragma HLS INLINE
pieces:
    for (int p = 0; p < k{{ Unit }}Pieces; ++p) {
#pragma HLS UNROLL
        {{ Unit }}Segment segment;
    lanes:
        for (int i = 0; i < k{{ Unit }}Lanes; ++i) {
#pragma HLS UNROLL
            segment.lane[i] = data_t(int8_t(word.byte[p * k{{ Unit }}Lanes + i]));
        }
        if (place.bytes_left != 0) {
            half[place.word][place.segment] = segment;
        }
        place.bytes_left -= least(place.bytes_left, k{{ Unit }}Lanes);
        ++place.segment;
        if (place.segment == k{{ Unit }}Segments) {
            place.segment = 0;
            place.word += lines;
        }
    }
}

// Copies a run into the memory, one segment a clock.
inline void copy_{{ unit }}_run(Port memory, const Run &run, uint32_t lines, {{ Unit }}Place &place,
                     {{ " " * (unit | length) }} {{ half }})
{
#pragma HLS INLINE off
    if (run.exists) {
        memory.read_request(run.first, run.words);
    copy:
        for (uint32_t w = 0; w < run.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Depth
#pragma HLS PIPELINE II=k{{ Unit }}Pieces
            place_{{ unit }}_word(memory.read(), lines, place, half);
        }
    } else {
    blank:
        for (uint32_t w = 0; w < run.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Depth
#pragma HLS PIPELINE II=k{{ Unit }}Pieces
            place_{{ unit }}_word(zero_bus_word(), lines, place, half);
        }
    }
}

// Loads a tile whose rows run along the lanes; returns the number of bus words read.
inline uint32_t load_{{ unit }}_straight(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile,
                              {{ " " * (unit | length) }} Port memory, {{ half }})
{
#pragma HLS INLINE off
    const uint32_t words = divide_up(tile.length, kBusBytes);
    uint32_t read = 0;
{% if input %}
    const bool patches = op.a_form == OperandA::patches;
    PatchPosition patch = {0, 0, 0};
    TapPosition first_tap = {0, 0, 0};
    if (patches) {
        patch = patch_at(op, tile.line);
        first_tap = tap_at(op, tile.column);
    }
{% endif %}
lines:
    for (uint32_t line = 0; line < tile.lines; ++line) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Depth
        {{ Unit }}Place place = {line, 0, tile.length};
{% if input %}
        TapPosition tap = first_tap;
        uint32_t done = 0;
    runs:
        for (uint32_t i = 0; i < words; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kInputDepth
            if (done == words) {
                break;  // a run has at least one word
            }
            const Run run = input_run(op, matrix_word, tile.line + line, tile.column, patch, tap, words - done);
            copy_input_run(memory, run, tile.lines, place, half);
            read += run.exists ? run.words : 0;
            done += run.words;
            next_tap(op, tap, run.words * kBusBytes);
        }
        next_patch(op, patch);
{% else %}
        const TapPosition no_tap = {0, 0, 0};
        const Run run = weight_run(op, matrix_word, tile.line + line, tile.column, no_tap, words);
        copy_weight_run(memory, run, tile.lines, place, half);
        read += run.words;
{% endif %}
    }
    return read;
}

// Loads a tile; returns the number of bus words read. Nothing happens if `wanted` is false.
inline uint32_t load_{{ unit }}(bool wanted, const GemmInstruction &op, uint64_t window_address, const {{ Unit }}Tile &tile,
                     {{ " " * (unit | length) }} Port memory, {{ half }})
{
#pragma HLS INLINE off
    const uint64_t matrix_word = (op.{{ "a" if input else "b" }}_address - window_address) / kBusBytes;
    uint32_t read = 0;
    if (wanted && tile.turned) {
        read = load_{{ unit }}_turned(op, matrix_word, tile, memory, half);
    } else if (wanted) {
        read = load_{{ unit }}_straight(op, matrix_word, tile, memory, half);
    }
    return read;
}

#endif
