// How QUANTIZE goes through its matrix: in pieces, each some whole rows or a part of one row.
//
// A row that fits the input memory, which no GEMM needs meanwhile, is kept there while its largest magnitude is found,
// so that it is read from device memory once. A piece is then quantized `across` rounds after it was read.

#ifndef SYSTOLORA_PIECES_HPP
#define SYSTOLORA_PIECES_HPP

#include "config.hpp"
#include "decoder.hpp"
#include "instruction.hpp"
#include "memories.hpp"
#include "types.hpp"

// How a matrix is cut into pieces.
struct Cut {
    bool one_pass;        // rows are kept
    uint32_t row_words;   // bus words of a row as it is read
    uint32_t rows;        // of a piece
    uint32_t columns;     // of a piece
    uint32_t across;      // pieces of a row
    uint64_t pieces;
};

struct Piece {
    uint32_t row;
    uint32_t rows;  // zero: no piece
    uint32_t column;
    uint32_t columns;
};

inline uint32_t source_words(const QuantizeInstruction &op, uint32_t columns)
{
#pragma HLS INLINE
    return divide_up(columns * source_bytes(op.source), kBusBytes);
}

inline Cut cut_of(const QuantizeInstruction &op)
{
#pragma HLS INLINE off
    const uint32_t most_columns = kPieceWords * kBusBytes / source_bytes(op.source);
    Cut cut;
    cut.row_words = source_words(op, op.n);
    cut.one_pass = op.axis == Axis::row && cut.row_words <= kRowWords;
    cut.columns = least(op.n, most_columns);
    cut.across = divide_up(op.n, most_columns);
    if (cut.across == 1) {
        const uint32_t read = kPieceWords / cut.row_words;
        const uint32_t written = kResultWords / divide_up(op.n, kBusBytes);
        cut.rows = least(least(read, written), kPieceRows);
        cut.pieces = divide_up(op.m, cut.rows);
    } else {
        cut.rows = 1;
        cut.pieces = uint64_t(op.m) * cut.across;
    }
    return cut;
}

inline Piece first_piece(const QuantizeInstruction &op, const Cut &cut)
{
#pragma HLS INLINE
    Piece piece;
    piece.row = 0;
    piece.rows = least(op.m, cut.rows);
    piece.column = 0;
    piece.columns = cut.columns;
    return piece;
}

inline Piece no_piece()
{
#pragma HLS INLINE
    Piece piece;
    piece.row = 0;
    piece.rows = 0;
    piece.column = 0;
    piece.columns = 0;
    return piece;
}

// The piece after this one; none after the last.
inline Piece next_piece(const QuantizeInstruction &op, const Cut &cut, const Piece &piece)
{
#pragma HLS INLINE
    const bool row_ends = op.n - piece.column <= cut.columns;
    Piece next;
    next.row = row_ends ? piece.row + cut.rows : piece.row;
    next.rows = next.row < op.m ? least(op.m - next.row, cut.rows) : 0;
    next.column = row_ends ? 0 : piece.column + cut.columns;
    next.columns = least(op.n - next.column, cut.columns);
    return next;
}

// Bus words of integers that come of a piece.
inline uint32_t result_words(const Piece &piece)
{
#pragma HLS INLINE
    return piece.rows * divide_up(piece.columns, kBusBytes);
}

// A place in the input memory, each word of which keeps kRowSlots bus words.
struct KeptPlace {
    uint32_t word;
    uint32_t slot;
};

constexpr uint32_t kKeptSlots = kRowSlots < 1 ? 1 : kRowSlots;  // where there are none, none is ever looked at

inline KeptPlace kept_at(uint32_t bus_word)
{
#pragma HLS INLINE
    KeptPlace place;
    place.word = bus_word / kKeptSlots;
    place.slot = bus_word % kKeptSlots;
    return place;
}

inline void next_kept(KeptPlace &place)
{
#pragma HLS INLINE
    if (place.slot + 1 == kKeptSlots) {
        place.slot = 0;
        ++place.word;
    } else {
        ++place.slot;
    }
}

inline BusWord kept_word(const InputSegment kept[kInputDepth][kInputSegments], const KeptPlace &place)
{
#pragma HLS INLINE
    const InputWord word = read_input(kept, place.word);
    BusWord found = zero_bus_word();
segments:
    for (uint32_t s = 0; s < kInputSegments; ++s) {
#pragma HLS UNROLL
    lanes:
        for (int i = 0; i < kInputLanes; ++i) {
#pragma HLS UNROLL
            if (s / kInputPieces == place.slot) {
                found.byte[s % kInputPieces * kInputLanes + i] = uint8_t(int8_t(word.lane[s * kInputLanes + i]));
            }
        }
    }
    return found;
}

inline void keep_word(InputSegment kept[kInputDepth][kInputSegments], const KeptPlace &place, const BusWord &word)
{
#pragma HLS INLINE
segments:
    for (uint32_t s = 0; s < kInputSegments; ++s) {
#pragma HLS UNROLL
        InputSegment segment;
    lanes:
        for (int i = 0; i < kInputLanes; ++i) {
#pragma HLS UNROLL
            segment.lane[i] = data_t(int8_t(word.byte[s % kInputPieces * kInputLanes + i]));
        }
        if (s / kInputPieces == place.slot) {
            kept[place.word][s] = segment;
        }
    }
}

#endif
