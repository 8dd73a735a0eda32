// A matrix in device memory as runs of bus words, and the bursts that read or write it with requests ahead of data.

#ifndef SYSTOLORA_RUNS_HPP
#define SYSTOLORA_RUNS_HPP

#include "config.hpp"
#include "types.hpp"

// What is still to be asked for, row after row. Rows without gaps between them are a single run.
struct Runs {
    uint64_t place;   // of the next word, in bus words from the window on
    uint64_t left;    // words of this run
    uint64_t length;  // words of every run
    uint64_t gap;     // words between the end of a run and the next
    uint32_t more;    // runs after this one
};

struct Burst {
    uint64_t place;
    uint32_t words;  // zero: nothing is left
};

inline Runs runs_of(uint64_t place, uint64_t stride, uint32_t rows, uint32_t row_words)
{
#pragma HLS INLINE
    const bool dense = stride == row_words;
    Runs runs;
    runs.place = place;
    runs.length = dense ? uint64_t(rows) * row_words : row_words;
    runs.left = runs.length;
    runs.gap = stride - row_words;
    runs.more = dense ? 0 : rows - 1;
    return runs;
}

// Takes the next burst, of at most `most` words.
inline Burst next_burst(Runs &runs, uint32_t most)
{
#pragma HLS INLINE
    const uint32_t longest = least(most, kBurstWords);
    Burst burst;
    burst.place = runs.place;
    burst.words = runs.left < longest ? uint32_t(runs.left) : longest;
    runs.place += burst.words;
    runs.left -= burst.words;
    if (runs.left == 0 && runs.more != 0) {
        runs.place += runs.gap;
        runs.left = runs.length;
        --runs.more;
    }
    return burst;
}

// Reading: what is still to be asked for, and the words of the bursts that were, in a ring.
struct Reader {
    Runs runs;
    uint32_t words[kRequestsInFlight];
    uint32_t current;
    uint32_t left;  // of the current burst
};

// Asks for the first bursts.
inline Reader start_reading(Port memory, const Runs &runs)
{
#pragma HLS INLINE
    Reader reader;
    reader.runs = runs;
requests:
    for (int i = 0; i < kRequestsInFlight; ++i) {
        const Burst burst = next_burst(reader.runs, kBurstWords);
        if (burst.words != 0) {
            memory.read_request(burst.place, burst.words);
        }
        reader.words[i] = burst.words;
    }
    reader.current = 0;
    reader.left = reader.words[0];
    return reader;
}

// The next word; with the last one of a burst another is asked for, so that as many stay under way.
inline BusWord read_word(Port memory, Reader &reader)
{
#pragma HLS INLINE
    const BusWord word = memory.read();
    --reader.left;
    if (reader.left == 0) {
        const Burst burst = next_burst(reader.runs, kBurstWords);
        if (burst.words != 0) {
            memory.read_request(burst.place, burst.words);
        }
        reader.words[reader.current] = burst.words;
        reader.current = (reader.current + 1) % kRequestsInFlight;
        reader.left = reader.words[reader.current];
    }
    return word;
}

// Writing: what is still to be asked for, and the requests whose answers are still to be taken.
struct Writer {
    Runs runs;
    uint32_t unanswered;
};

// Writes the next words. Half of the requests that a port holds are made at once; their answers are taken when the
// words of the next ones have passed, so that nobody waits for them.
inline void write_words(Port memory, Writer &writer, uint32_t count, const BusWord words[kResultWords])
{
#pragma HLS INLINE off
    uint32_t done = 0;
groups:
    for (uint32_t g = 0; g < count; ++g) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kResultWords
        if (done == count) {
            break;
        }
        uint32_t asked = 0;
        uint32_t requests = 0;
    requests:
        for (int i = 0; i < kRequestsInFlight / 2; ++i) {
            const Burst burst = next_burst(writer.runs, count - done - asked);
            if (burst.words != 0) {
                memory.write_request(burst.place, burst.words);
                ++requests;
            }
            asked += burst.words;
        }
    write:
        for (uint32_t w = 0; w < asked; ++w) {
#pragma HLS LOOP_TRIPCOUNT min=1 max=kResultWords
#pragma HLS PIPELINE II=1
            memory.write(words[done + w]);
        }
    answers:
        for (uint32_t i = 0; i < writer.unanswered; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=kRequestsInFlight/2
            memory.write_response();
        }
        writer.unanswered = requests;
        done += asked;
    }
}

inline void finish_writing(Port memory, const Writer &writer)
{
#pragma HLS INLINE off
answers:
    for (uint32_t i = 0; i < writer.unanswered; ++i) {
#pragma HLS LOOP_TRIPCOUNT min=0 max=kRequestsInFlight/2
        memory.write_response();
    }
}

#endif
