{% set input = unit == "input" %}
{% set Unit = unit | capitalize %}
{% set half = Unit ~ "Segment half[k" ~ Unit ~ "Depth][k" ~ Unit ~ "Segments]" %}
{% set line_buffer = "BusWord lines[k" ~ Unit ~ "Lanes][kLineWords]" %}
// Loads a tile whose rows run across the lanes of the {{ unit }} memory: it turns a corner in line buffers.

#ifndef SYSTOLORA_TURN_{{ unit | upper }}_HPP
#define SYSTOLORA_TURN_{{ unit | upper }}_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "patches.hpp"
#include "stored_{{ unit }}.hpp"
#include "types.hpp"

// Copies a run into a line buffer.
inline void fill_{{ unit }}_line(Port memory, const Run &run, uint32_t first, BusWord line[kLineWords])
{
#pragma HLS INLINE off
    if (run.exists) {
        memory.read_request(run.first, run.words);
    copy:
        for (uint32_t w = 0; w < run.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords
#pragma HLS PIPELINE II=1
            line[first + w] = memory.read();
        }
    } else {
    blank:
        for (uint32_t w = 0; w < run.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords
#pragma HLS PIPELINE II=1
            line[first + w] = zero_bus_word();
        }
    }
}

// A part of a tile that is turned at once: as many rows as a segment has lanes, as many bus words as a line buffer
// holds.
struct {{ Unit }}Panel {
    uint32_t line;  // from the tile's first
    uint32_t lines;
    uint32_t column;  // from the tile's first
    uint32_t length;
};

inline {{ Unit }}Panel first_{{ unit }}_panel(const {{ Unit }}Tile &tile)
{
#pragma HLS INLINE
    {{ Unit }}Panel panel;
    panel.line = 0;
    panel.lines = least(tile.lines, k{{ Unit }}Lanes);
    panel.column = 0;
    panel.length = least(tile.length, kLineWords * kBusBytes);
    return panel;
}

// Along the rows first, then to the next rows.
inline {{ Unit }}Panel next_{{ unit }}_panel(const {{ Unit }}Tile &tile, const {{ Unit }}Panel &panel)
{
#pragma HLS INLINE
    const bool row_ends = tile.length - panel.column <= kLineWords * kBusBytes;
    {{ Unit }}Panel next;
    next.line = row_ends ? panel.line + panel.lines : panel.line;
    next.lines = least(tile.lines - next.line, k{{ Unit }}Lanes);
    next.column = row_ends ? 0 : panel.column + kLineWords * kBusBytes;
    next.length = least(tile.length - next.column, kLineWords * kBusBytes);
    return next;
}

// Reads a panel into a line buffer; returns the number of bus words read.
inline uint32_t fill_{{ unit }}_panel(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile,
                           {{ " " * (unit | length) }} const {{ Unit }}Panel &panel, Port memory,
                           {{ " " * (unit | length) }} {{ line_buffer }})
{
#pragma HLS INLINE off
    const uint32_t words = divide_up(panel.length, kBusBytes);
    const uint32_t column = tile.column + panel.column;
    uint32_t read = 0;
    TapPosition first_tap = {0, 0, 0};
{% if input %}
    PatchPosition patch = {0, 0, 0};
    if (op.a_form == OperandA::patches) {
        patch = patch_at(op, tile.line + panel.line);
        first_tap = tap_at(op, column);
    }
{% else %}
    if (op.b_form == OperandB::reversed_blocks) {
        first_tap = tap_at(op, column);
    }
{% endif %}
rows:
    for (uint32_t i = 0; i < panel.lines; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Lanes
        const uint32_t line = tile.line + panel.line + i;
        TapPosition tap = first_tap;
        uint32_t done = 0;
    runs:
        for (uint32_t j = 0; j < words; ++j) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords
            if (done == words) {
                break;  // a run has at least one word
            }
{% if input %}
            const Run run = input_run(op, matrix_word, line, column, patch, tap, words - done);
            read += run.exists ? run.words : 0;
{% else %}
            const Run run = weight_run(op, matrix_word, line, column, tap, words - done);
            read += run.words;
{% endif %}
            fill_{{ unit }}_line(memory, run, done, lines[i]);
            done += run.words;
            next_tap(op, tap, run.words * kBusBytes);
        }
{% if input %}
        next_patch(op, patch);
{% endif %}
    }
    return read;
}

// Writes a panel from a line buffer, one segment a clock: byte j of all its rows is a segment.
inline void drain_{{ unit }}_panel(const {{ Unit }}Tile &tile, const {{ Unit }}Panel &panel,
                        {{ " " * (unit | length) }} const {{ line_buffer }},
                        {{ " " * (unit | length) }} {{ half }})
{
#pragma HLS INLINE off
    const uint32_t group = panel.line / k{{ Unit }}Lanes;
    const uint32_t first = group / k{{ Unit }}Segments * tile.length + panel.column;
    const uint32_t place = group % k{{ Unit }}Segments;
bytes:
    for (uint32_t j = 0; j < panel.length; ++j) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kLineWords*kBusBytes
#pragma HLS PIPELINE II=1
        {{ Unit }}Segment segment;
    lanes:
        for (int i = 0; i < k{{ Unit }}Lanes; ++i) {
#pragma HLS UNROLL
            segment.lane[i] = data_t(int8_t(lines[i][j / kBusBytes].byte[j % kBusBytes]));
        }
        half[first + j][place] = segment;
    }
}

// Loads a tile whose rows run across the lanes; returns the number of bus words read.
// One panel is filled while the one before it is drained.
inline uint32_t load_{{ unit }}_turned(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile,
                            {{ " " * (unit | length) }} Port memory, {{ half }})
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord ping[k{{ Unit }}Lanes][kLineWords];
    SYSTOLORA_MEMORY BusWord pong[k{{ Unit }}Lanes][kLineWords];
#pragma HLS AGGREGATE variable=ping compact=bit
#pragma HLS AGGREGATE variable=pong compact=bit
#pragma HLS ARRAY_PARTITION variable=ping type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=pong type=complete dim=1
#pragma HLS ALLOCATION instances=fill_{{ unit }}_panel limit=1 type=function
#pragma HLS ALLOCATION instances=drain_{{ unit }}_panel limit=1 type=function
    const uint32_t columns = divide_up(divide_up(tile.length, kBusBytes), kLineWords);
    const uint32_t panels = divide_up(tile.lines, k{{ Unit }}Lanes) * columns;
    {{ Unit }}Panel filling = first_{{ unit }}_panel(tile);
    {{ Unit }}Panel draining = {0, 0, 0, 0};
    uint32_t read = 0;
panels:
    for (uint32_t p = 0; p < panels + 1; ++p) {
#pragma HLS LOOP_TRIPCOUNT min=2 max=k{{ Unit }}Depth
        if (p % 2 == 0) {
            read += fill_{{ unit }}_panel(op, matrix_word, tile, filling, memory, ping);
            drain_{{ unit }}_panel(tile, draining, pong, half);
        } else {
            read += fill_{{ unit }}_panel(op, matrix_word, tile, filling, memory, pong);
            drain_{{ unit }}_panel(tile, draining, ping, half);
        }
        draining = filling;
        filling = next_{{ unit }}_panel(tile, filling);
    }
    return read;
}

#endif
