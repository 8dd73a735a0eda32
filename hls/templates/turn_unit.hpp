{% set input = unit == "input" %}
{% set bands = input and config.output_stationary %}
{% set Unit = unit | capitalize %}
{% set half = Unit ~ "Segment half[k" ~ Unit ~ "Depth][k" ~ Unit ~ "Segments]" %}
{% set line_buffer = "BusWord lines[k" ~ Unit ~ "Lanes][kTurnWords]" %}
{% set pad = " " * (unit | length) %}
// Loads a tile whose rows run across the lanes of the {{ unit }} memory: it turns a corner in line buffers.

#ifndef SYSTOLORA_TURN_{{ unit | upper }}_HPP
#define SYSTOLORA_TURN_{{ unit | upper }}_HPP

#include "config.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "stored_{{ unit }}.hpp"
#include "types.hpp"

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
    panel.length = least(tile.length, kTurnWords * kBusBytes);
    return panel;
}

// Along the rows first, then to the next rows.
inline {{ Unit }}Panel next_{{ unit }}_panel(const {{ Unit }}Tile &tile, const {{ Unit }}Panel &panel)
{
#pragma HLS INLINE
    const bool row_ends = tile.length - panel.column <= kTurnWords * kBusBytes;
    {{ Unit }}Panel next;
    next.line = row_ends ? panel.line + panel.lines : panel.line;
    next.lines = least(tile.lines - next.line, k{{ Unit }}Lanes);
    next.column = row_ends ? 0 : panel.column + kTurnWords * kBusBytes;
    next.length = least(tile.length - next.column, kTurnWords * kBusBytes);
    return next;
}

// Reads a panel into line buffers, a bus word a clock. Runs of the next panel are asked for while it ends.
inline void fill_{{ unit }}_panel(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile,
                       {{ pad }} const {{ Unit }}Panel &panel, Port memory, {{ Unit }}Reader &reader,
                       {{ pad }} {{ line_buffer }})
{
#pragma HLS INLINE off
    const uint32_t words = divide_up(panel.length, kBusBytes);
    uint32_t line = 0;
    uint32_t place = 0;
words:
    for (uint32_t w = 0; w < panel.lines * words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Lanes*kTurnWords
#pragma HLS PIPELINE II=1
        lines[line][place] = next_{{ unit }}_word(op, matrix_word, tile, memory, reader);
        ++place;
        if (place == words) {
            place = 0;
            ++line;
        }
    }
}

// Writes a panel from a line buffer, one segment a clock: byte j of all its rows is a segment.
inline void drain_{{ unit }}_panel(const {{ Unit }}Tile &tile, const {{ Unit }}Panel &panel,
                        {{ " " * (unit | length) }} const {{ line_buffer }},
                        {{ " " * (unit | length) }} {{ half }})
{
#pragma HLS INLINE off
    const uint32_t group = panel.line / k{{ Unit }}Lanes;
    uint32_t address = group / k{{ Unit }}Segments * tile.length + panel.column;
    uint32_t place = group % k{{ Unit }}Segments;
{% if bands %}
    // Byte j is row m of A: the words of a band are those of its rows, then the next band's segments follow.
    uint32_t band = panel.column / kBandRows;
    const uint32_t part = panel.line % kBandRows / kInputLanes;
    uint32_t first = band / kBands * tile.depth + panel.line / kBandRows * kBandRows;
    band = band % kBands;
    if (tile.output_stationary) {
        address = first;
        place = band * kBandSegments + part;
    }
{% endif %}
bytes:
    for (uint32_t j = 0; j < panel.length; ++j) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kTurnWords*kBusBytes
#pragma HLS PIPELINE II=1
        {{ Unit }}Segment segment;
    lanes:
        for (int i = 0; i < k{{ Unit }}Lanes; ++i) {
#pragma HLS UNROLL
            segment.lane[i] = data_t(int8_t(lines[i][j / kBusBytes].byte[j % kBusBytes]));
        }
        half[address][place] = segment;
        ++address;
{% if bands %}
        if (tile.output_stationary && j % kBandRows + 1 == kBandRows) {
            band = band + 1 == kBands ? 0 : band + 1;
            first += band == 0 ? tile.depth : 0;
            address = first;
            place = band * kBandSegments + part;
        }
{% endif %}
    }
}

// Loads a tile whose rows run across the lanes. One panel is filled while the one before it is drained.
inline void load_{{ unit }}_turned(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, Port memory,
                        {{ pad }} {{ Unit }}Reader &reader, {{ half }})
{
#pragma HLS INLINE off
    SYSTOLORA_MEMORY BusWord ping[k{{ Unit }}Lanes][kTurnWords];
    SYSTOLORA_MEMORY BusWord pong[k{{ Unit }}Lanes][kTurnWords];
{% for name in ("ping", "pong") %}
#pragma HLS AGGREGATE variable={{ name }} compact=bit
#pragma HLS ARRAY_PARTITION variable={{ name }} type=complete dim=1
#pragma HLS BIND_STORAGE variable={{ name }} type=ram_s2p impl=lutram
{% endfor %}
#pragma HLS ALLOCATION instances=fill_{{ unit }}_panel limit=1 type=function
#pragma HLS ALLOCATION instances=drain_{{ unit }}_panel limit=1 type=function
    const uint32_t columns = divide_up(tile.words, kTurnWords);
    const uint32_t panels = divide_up(tile.lines, k{{ Unit }}Lanes) * columns;
    {{ Unit }}Panel filling = first_{{ unit }}_panel(tile);
    {{ Unit }}Panel draining = {0, 0, 0, 0};
panels:
    for (uint32_t p = 0; p < panels + 1; ++p) {
#pragma HLS LOOP_TRIPCOUNT min=2 max=k{{ Unit }}Depth
        if (p % 2 == 0) {
            fill_{{ unit }}_panel(op, matrix_word, tile, filling, memory, reader, ping);
            drain_{{ unit }}_panel(tile, draining, pong, half);
        } else {
            fill_{{ unit }}_panel(op, matrix_word, tile, filling, memory, reader, pong);
            drain_{{ unit }}_panel(tile, draining, ping, half);
        }
        draining = filling;
        filling = next_{{ unit }}_panel(tile, filling);
    }
}

#endif
