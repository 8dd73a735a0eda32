// Memories with the wrong port.
// finding: IFC03 on line 20
// finding: IFC03 on line 21
// finding: IFC03 on line 22
// finding: IFC03 on line 23
// finding: IFC03 on line 24
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

void systolora_top(const int* a, int* b, const int c[16], const int* d, hls::stream<int>& e) {
#pragma HLS INTERFACE mode=m_axi port=a bundle=gmem0 offset=slave
#pragma HLS INTERFACE mode=s_axilite port=b
#pragma HLS INTERFACE mode=ap_memory port=c
#pragma HLS INTERFACE mode=m_axi port=d bundle=gmem0 offset=direct depth=16
#pragma HLS INTERFACE mode=s_axilite port=e
#pragma HLS INTERFACE mode=s_axilite port=return
    b[0] = a[0] + c[0] + d[0] + e.read();
}
