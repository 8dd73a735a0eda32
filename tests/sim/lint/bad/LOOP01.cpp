// Loops that need not end.
// finding: LOOP01 on line 15
// finding: LOOP01 on line 19
// finding: LOOP01 on line 23
// finding: LOOP01 on line 27
// finding: LOOP01 on line 31
// finding: LOOP01 on line 35
// finding: LOOP01 on line 39
// finding: LOOP01 on line 43
void systolora_top(int n) {
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    int a[8] = {n};
forever:
    for (;;) {
        if (++n > 8) break;
    }
down:
    while (n > 0) {
        n -= 1;
    }
once:
    do {
        n += 1;
    } while (n < 4);
each:
    for (int x : a) {
        n += x;
    }
unequal:
    for (int i = 0; i != n; i += 2) {
        n += 0;
    }
away:
    for (int i = 0; i < n; --i) {
        a[0] += i;
    }
held:
    for (int i = 0; i < 8; ++i) {
        i -= a[0];
    }
growing:
    for (int i = 0; i < n; ++i) {
        n += 1;
    }
good:
    for (int i = 7; 0 <= i; i -= 1) {
        a[i] = n;
    }
}
