// The array as Verilog (Verilator's model of the translation) and as C-simulation, side by side on random clocks.
// usage: lockstep CLOCKS SEED; prints the number of lanes of `bottom` that differed.

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "array.hpp"
#include "array_ports.hpp"

// xorshift64
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 2 + 1) {}

    uint32_t next()
    {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return uint32_t(state_ >> 32);
    }

    // True once in `period` times.
    bool rarely(uint32_t period) { return next() % period == 0; }

    // All of -128 .. 127, and the ends more often than chance gives.
    data_t value() { return rarely(8) ? data_t(rarely(2) ? -128 : 127) : data_t(next()); }

private:
    uint64_t state_;
};

// Random controls: the dataflow changes rarely, the rest once in so many clocks.
inline void choose(ArrayControl &control, Random &random)
{
    control.load = random.rarely(kChain);
    control.swap = random.rarely(kChain);
#ifdef OUTPUT_STATIONARY
    control.output_stationary ^= random.rarely(4 * kRows);
    control.first = random.rarely(4);
    control.last = random.rarely(3);
#endif
}

int main(int argc, char **argv)
{
    const long clocks = argc > 1 ? std::strtol(argv[1], nullptr, 10) : 10000;
    Random random(argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1);
    Varray_step rtl;
    long mismatches = 0;
    ArrayControl control = {};
    for (long clock = 0; clock < clocks; ++clock) {
        InputWord input;
        WeightWord weight;
        SumWord bottom;
        for (data_t &lane : input.lane) {
            lane = random.value();
        }
        for (data_t &lane : weight.lane) {
            lane = random.value();
        }
        choose(control, random);
        drive(rtl, input, weight, control);
        rtl.clk = 0;
        rtl.eval();
        array_step(input, weight, control, bottom);
        mismatches += differences(rtl, bottom);
        rtl.clk = 1;
        rtl.eval();
    }
    std::printf("%ld\n", mismatches);
    return 0;
}
