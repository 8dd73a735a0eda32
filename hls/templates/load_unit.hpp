{% set input = unit == "input" %}
{% set Unit = unit | capitalize %}
{% set half = Unit ~ "Segment half[k" ~ Unit ~ "Depth][k" ~ Unit ~ "Segments]" %}
{% set pad = " " * (unit | length) %}
{% if input %}
// The load unit of A: from device memory into one half of the input memory.
//
// Lanes of the input memory run along k. A bus word that runs along the lanes is written as it is, in segments; one
// that runs across them (A is stored transposed) turns a corner in a line buffer first. Patches of an image are formed
// here.
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
#include "stored_{{ unit }}.hpp"
#include "turn_{{ unit }}.hpp"
#include "types.hpp"

// Writes a bus word segment by segment; what lies behind the end of the row is left out.
inline void place_{{ unit }}_word(const BusWord &word, {{ Unit }}Place &place,
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
        if (place.segment == place.end) {
            place.segment = place.first;
            place.word += place.step;
        }
    }
}

// Loads a tile whose rows run along the lanes, a bus word in as many clocks as it has segments.
inline void load_{{ unit }}_straight(const GemmInstruction &op, uint64_t matrix_word, const {{ Unit }}Tile &tile, Port memory,
                          {{ pad }} {{ Unit }}Reader &reader, {{ half }})
{
#pragma HLS INLINE off
    {{ Unit }}Place place = {{ unit }}_place(tile, 0);
    uint32_t line = 0;
words:
    for (uint32_t w = 0; w < tile.lines * tile.words; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=k{{ Unit }}Depth
#pragma HLS PIPELINE II=k{{ Unit }}Pieces
        if (place.bytes_left == 0) {
            ++line;
            place = {{ unit }}_place(tile, line);
        }
        const BusWord word = next_{{ unit }}_word(op, matrix_word, tile, memory, reader);
        place_{{ unit }}_word(word, place, half);
    }
}

// Loads a tile; returns the number of bus words read. Nothing happens if `wanted` is false.
inline uint32_t load_{{ unit }}(bool wanted, const GemmInstruction &op, uint64_t window_address, const {{ Unit }}Tile &tile,
                     {{ pad }} Port memory, {{ half }})
{
#pragma HLS INLINE off
    const uint64_t matrix_word = (op.{{ "a" if input else "b" }}_address - window_address) / kBusBytes;
    uint32_t read = 0;
    if (wanted) {
        {{ Unit }}Reader reader;
#pragma HLS ARRAY_PARTITION variable=reader.asked.words type=complete dim=1
#pragma HLS ARRAY_PARTITION variable=reader.asked.exists type=complete dim=1
        begin_{{ unit }}(op, matrix_word, tile, memory, reader);
        if (tile.turned) {
            load_{{ unit }}_turned(op, matrix_word, tile, memory, reader, half);
        } else {
            load_{{ unit }}_straight(op, matrix_word, tile, memory, reader, half);
        }
        read = reader.read;
    }
    return read;
}

#endif
