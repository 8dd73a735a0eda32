// A first-in first-out channel for simulation; synthesis takes hls_stream.h.
#pragma once

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
