// Data that flows backwards.
// finding: DFL03 on line 30
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

static void use(hls::stream<int>& back, hls::stream<int>& forth) {
    forth.write(back.read());
}
static void finish(hls::stream<int>& forth, hls::stream<int>& back, int* out) {
    const int value = forth.read();
    out[0] = value;
    back.write(value);
}

void systolora_top(const int* in, int* out, int n) {
#pragma HLS INTERFACE mode=m_axi port=in bundle=gmem0 offset=slave depth=16
#pragma HLS INTERFACE mode=m_axi port=out bundle=gmem1 offset=slave depth=16
#pragma HLS INTERFACE mode=s_axilite port=n
#pragma HLS INTERFACE mode=s_axilite port=return
#pragma HLS DATAFLOW
    hls::stream<int> back;
    hls::stream<int> forth;
    use(back, forth);
    finish(forth, back, out);
}
