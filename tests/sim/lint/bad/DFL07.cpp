// Variables written by one process and used by another.
// finding: DFL07 on line 37
// finding: DFL07 on line 38
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

static int seen;
static void read(const int* in, int n, hls::stream<int>& out) {
    seen = n;
    out.write(in[n]);
}
static void pass(hls::stream<int>& in, hls::stream<int>& next, int* out) {
    out[1] = 0;
    next.write(in.read());
}
static void write(hls::stream<int>& in, int* out) {
    out[0] = in.read() + seen;
}

void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    hls::stream<int> words;
    hls::stream<int> more;
    read(in, n, words);
    pass(words, more, out);
    write(more, out);
}
