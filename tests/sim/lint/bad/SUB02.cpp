// Calls that have no hardware.
// finding: SUB02 on line 12
// finding: SUB02 on line 16
#include <cstdio>
#include <cmath>
#include <cstring>
#include <ctime>

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    std::printf("%d\n", n);
    float root = std::sqrt(float(n));
    int bits = 0;
    std::memcpy(&bits, &root, sizeof bits);
    bits += int(time(nullptr));
#ifndef __SYNTHESIS__
    std::printf("%d\n", bits);
#endif
}
