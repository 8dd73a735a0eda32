// Dataflow loops of another form.
// finding: DFL08 on line 25
// finding: DFL08 on line 27
// finding: DFL08 on line 37
namespace hls {
template <typename T>
class stream {
   public:
    void write(const T& value) { held = value; }
    T read() { return held; }

   private:
    T held;
};
}  // namespace hls

static void read(const int* in, int n, hls::stream<int>& out) {
    out.write(in[n]);
}
static void write(hls::stream<int>& in, int* out) {
    out[0] = in.read();
}

static void started_late(const int* in, int* out, int n) {
    out[1] = 0;
tiles:
    for (int i = n; i < 4; ++i) {
#pragma HLS DATAFLOW
#pragma HLS LOOP_TRIPCOUNT min=0 max=4
        hls::stream<int> words;
        read(in, i, words);
        write(words, out);
    }
}
static void long_counter(const int* in, int* out) {
tiles:
    for (short i = 0; i < 4; ++i) {
#pragma HLS DATAFLOW
        hls::stream<int> words;
        read(in, 1, words);
        write(words, out);
    }
}
static void canonical(const int* in, int* out, int n) {
tiles:
    for (int i = 0; i < n; ++i) {
#pragma HLS DATAFLOW
#pragma HLS LOOP_TRIPCOUNT min=0 max=4
        hls::stream<int> words;
        read(in, i, words);
        write(words, out);
    }
}
void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
    started_late(in, out, n);
    long_counter(in, out);
    canonical(in, out, n);
}
