// What the sources of these tests need of the class of Vitis HLS: declarations.
#ifndef TESTS_HLS_BURST_MAXI_H
#define TESTS_HLS_BURST_MAXI_H
namespace hls
{
template <typename T>
class burst_maxi
{
  public:
    burst_maxi(T *memory);
    burst_maxi(const burst_maxi &port);
    void read_request(unsigned long first, unsigned words);
    T read();
    void write_request(unsigned long first, unsigned words);
    void write(const T &word);
    void write_response();
};
}  // namespace hls
#endif
