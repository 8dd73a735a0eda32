// Registers that go round through functions which may hold them for a clock: an argument, a result, a static's pieces.
// finding: STA01 on line 6
// finding: STA01 on line 11
// finding: STA01 on line 17
// Right: LATENCY max=0, INLINE, a register that a call only reads, one of an iteration only, a memory, a loop of its own.
static void add(int x, int &total) {
#pragma HLS INLINE off
    total += x;
}

static int rotate(int x) {
#pragma HLS INLINE off
#pragma HLS LATENCY max=1
    return (x << 1) ^ (x >> 3);
}

static void shift(int x, int delay[4]) {
#pragma HLS INLINE off
    delay[3] = delay[2];
    delay[0] = x;
}

static void close(int x, int &total) {
#pragma HLS INLINE off
#pragma HLS LATENCY max=0
    total += x;
}

static void inlined(int x, int &total) {
#pragma HLS INLINE
    total += x;
}

static int scaled(const int &factor, int x) {
#pragma HLS INLINE off
    return factor * x;
}

static void count(int x, int words[64]) {
#pragma HLS INLINE off
    words[x & 63] += 1;
}

static void twice(int &x) {
#pragma HLS INLINE off
    x *= 2;
}

static int clock(int x) {
#pragma HLS INLINE off
#pragma HLS PIPELINE II=1
    static int delay[4];
#pragma HLS ARRAY_PARTITION variable=delay type=complete
    shift(x, delay);
    return delay[3];
}

void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int total = 0;
    int turned = n;
    int words[64] = {n};
steps:
    for (int i = 0; i < 64; ++i) {
#pragma HLS PIPELINE II=1
        add(i, total);
        turned = rotate(turned);
        close(i, total);
        inlined(i, total);
        int own = scaled(n, i);
        twice(own);
        count(own, words);
        total += clock(i);
    }
plain:
    for (int i = 0; i < 8; ++i) {
        twice(total);
    }
    n = total + turned + words[0];
}
