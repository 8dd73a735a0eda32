// Requests that run ahead of their data.
//
// What a loop reads is a sequence of runs: at most kBurstWords bus words that follow each other in device memory.
// Before its first word the loop has asked for kAhead runs; whenever a run begins it asks for the one that follows
// those. So at most kRequestsInFlight requests are open, and all of their words have room in the port's buffer: device
// memory can always deliver, a request waits for nothing but device memory, and a word for nothing but a request that
// was made before it. The request stands before the read in the loop's body, so every iteration keeps that order.

#ifndef SYSTOLORA_REQUESTS_HPP
#define SYSTOLORA_REQUESTS_HPP

#include "config.hpp"
#include "types.hpp"

constexpr int kAhead = kRequestsInFlight - 1;

// Bus words that follow each other in device memory. If they do not exist they are zeros, and nothing is read.
struct Run {
    uint64_t first;  // in bus words from the window's first address
    uint32_t words;  // 0: there is none
    bool exists;
};

// The runs that were asked for, oldest at `oldest`, and what is left of the one whose words pass.
struct AskedRuns {
    uint8_t words[kAhead];
    bool exists[kAhead];
    uint32_t oldest;
    uint32_t left;
    bool passing_exists;
};

inline void ask(Port memory, const Run &run)
{
#pragma HLS INLINE
    if (run.exists && run.words != 0) {
        memory.read_request(run.first, run.words);
    }
}

// The run at `place` of those that are asked for before the first word.
inline void put_run(AskedRuns &runs, int place, const Run &run)
{
#pragma HLS INLINE
    runs.words[place] = uint8_t(run.words);
    runs.exists[place] = run.exists;
    runs.oldest = 0;
    runs.left = 0;
    runs.passing_exists = false;
}

// The words of the oldest run pass from now on; `later`, just asked for, takes its place.
inline void begin_run(AskedRuns &runs, const Run &later)
{
#pragma HLS INLINE
    runs.left = runs.words[runs.oldest];
    runs.passing_exists = runs.exists[runs.oldest];
    runs.words[runs.oldest] = uint8_t(later.words);
    runs.exists[runs.oldest] = later.exists;
    runs.oldest = runs.oldest + 1 == kAhead ? 0 : runs.oldest + 1;
}

#endif
