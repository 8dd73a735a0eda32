// Containers of the standard library.
// finding: SUB06 on line 9
// finding: SUB06 on line 11
#include <array>
#include <complex>
#include <vector>

struct Line {
    std::vector<int> words;
};
static int first(const std::array<int, 4>& a, std::complex<float> c) {
    return int(c.real()) + int(sizeof a);
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    n += 1;
}
