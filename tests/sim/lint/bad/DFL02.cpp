// Channels with too many or too few ends.
// finding: DFL02 on line 42
// finding: DFL02 on line 43
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

static void fill(const int* in, int buffer[16]) {
    buffer[0] = in[0];
}
static void fill_more(const int* in, int buffer[16]) {
    buffer[1] = in[1];
}
static void use(const int buffer[16], hls::stream<int>& out) {
    out.write(buffer[0]);
}
static void use_again(const int buffer[16], hls::stream<int>& in, int* out) {
    out[0] = buffer[1] + in.read();
}

void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    int lost[16];
    int twice[16];
    int shared[16];
#pragma HLS BIND_STORAGE variable=shared type=ram_1wnr impl=bram
    hls::stream<int> words;
    fill(in, lost);
    fill(in, twice);
    fill_more(in, twice);
    fill(in, shared);
    use(twice, words);
    use_again(shared, words, out);
}
