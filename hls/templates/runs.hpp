// Rows of a matrix in device memory as a sequence of runs, read and written with requests ahead of data.

#ifndef SYSTOLORA_RUNS_HPP
#define SYSTOLORA_RUNS_HPP

#include "config.hpp"
#include "requests.hpp"
#include "types.hpp"

// Rows that are still to be asked for. Places are bus words, counted from the window's first address.
struct Rows {
    uint64_t row;     // where this row begins
    uint64_t stride;  // to where the next one does
    uint64_t words;   // of a row
    uint64_t first;   // of the next run
    uint64_t left;    // words of this row from there on
    uint32_t rows;    // this one included
};

inline Rows rows_at(uint64_t first, uint64_t stride, uint32_t rows, uint64_t words)
{
#pragma HLS INLINE
    return Rows{first, stride, words, first, words, rows};
}

// A whole matrix: if there are no gaps between its rows, they are one long row.
inline Rows matrix_at(uint64_t first, uint64_t stride, uint32_t rows, uint32_t words)
{
#pragma HLS INLINE
    const bool dense = stride == words;
    return rows_at(first, stride, dense ? 1 : rows, dense ? uint64_t(rows) * words : words);
}

// The next run, and moves on. Behind the last there are runs without words.
inline Run next_run(Rows &at)
{
#pragma HLS INLINE
    const bool row_ends = at.left <= kBurstWords;
    const uint32_t words = row_ends ? uint32_t(at.left) : uint32_t(kBurstWords);
    const uint64_t next_row = at.row + at.stride;
    Run run;
    run.exists = true;
    run.first = at.first;
    run.words = at.rows == 0 ? 0 : words;
    at.first = row_ends ? next_row : at.first + words;
    at.row = row_ends ? next_row : at.row;
    at.left = row_ends ? at.words : at.left - words;
    at.rows = row_ends && at.rows != 0 ? at.rows - 1 : at.rows;
    return run;
}

// Rows that are being read.
struct RowReader {
    Rows at;
    AskedRuns asked;
};

// Asks for the first runs.
inline void begin_reading(Port memory, const Rows &rows, RowReader &reader)
{
#pragma HLS INLINE
    reader.at = rows;
ahead:
    for (int i = 0; i < kAhead; ++i) {
#pragma HLS PIPELINE II=1
        const Run run = next_run(reader.at);
        ask(memory, run);
        put_run(reader.asked, i, run);
    }
}

// The next bus word.
inline BusWord read_word(Port memory, RowReader &reader)
{
#pragma HLS INLINE
    if (reader.asked.left == 0) {
        const Run later = next_run(reader.at);
        ask(memory, later);
        begin_run(reader.asked, later);
    }
    --reader.asked.left;
    return memory.read();
}

// Rows that are being written: the words left of the run that passes, and the requests whose answer was not taken.
struct RowWriter {
    Rows at;
    uint32_t left;
    uint32_t open;
};

inline RowWriter begin_writing(const Rows &rows, uint32_t open)
{
#pragma HLS INLINE
    return RowWriter{rows, 0, open};
}

// Writes the next bus word. A run is asked for with its first word and not before: the port sends no request before it
// has all its words. Of kRequestsInFlight open requests the oldest is waited for, behind a word of the newest: all that
// it waits for stands before it in the loop.
inline void write_word(Port memory, RowWriter &writer, const BusWord &word)
{
#pragma HLS INLINE
    if (writer.left == 0) {
        const Run run = next_run(writer.at);
        if (run.words != 0) {
            memory.write_request(run.first, run.words);
        }
        writer.left = run.words;
        ++writer.open;
    }
    --writer.left;
    memory.write(word);
    if (writer.open == kRequestsInFlight) {
        memory.write_response();
        --writer.open;
    }
}

// Writes the next bus words. A run may go on in the next call.
inline void write_words(Port memory, RowWriter &writer, uint32_t count, const BusWord words[kResultWords])
{
#pragma HLS INLINE off
words:
    for (uint32_t w = 0; w < count; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=kResultWords
#pragma HLS PIPELINE II=1
        write_word(memory, writer, words[w]);
    }
}

// Takes the answers that are left: afterwards all that was written is in device memory.
inline void await_writes(Port memory, uint32_t open)
{
#pragma HLS INLINE off
answers:
    for (uint32_t i = 0; i < open; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=kRequestsInFlight
        memory.write_response();
    }
}

#endif
