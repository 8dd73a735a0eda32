// Static channels.
// finding: DFL06 on line 28
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

void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    static hls::stream<int> words;
    read(in, n, words);
    write(words, out);
}
