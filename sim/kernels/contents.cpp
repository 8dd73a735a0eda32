// Sums that tell contents of host memory apart, about as fast as memory is read: NH, the universal hash of UMAC (Black, Halevi,
// Krawczyk, Krovetz and Rogaway, 1999), over blocks, with words of 64 bits. For a key drawn at random, two different blocks have the
// same sum with a probability of 2^-64 at most.

#include <cstdint>
#include <cstring>

#include "support.hpp"

namespace systolora {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr int64_t kWords = 512;  // of 64 bits, in a block
constexpr int64_t kBlockBytes = 8 * kWords;

// Two sums that do not wait for each other; their words are together NH's.
Wide sum_block(const uint8_t* block, const uint64_t* key) {
    Wide sums[2] = {0, 0};
    for (int64_t i = 0; i < kWords; i += 4) {
        uint64_t words[4];
        std::memcpy(words, block + 8 * i, sizeof words);
        sums[0] += Wide{words[0] + key[i]} * (words[1] + key[i + 1]);
        sums[1] += Wide{words[2] + key[i + 2]} * (words[3] + key[i + 3]);
    }
    return sums[0] + sums[1];
}

}  // namespace
}  // namespace systolora

// A sum, 16 bytes, for each block of 4,096 bytes, the last one filled up with zeros. key: 512 words.
extern "C" void systolora_contents(const uint8_t* bytes, int64_t size, const uint64_t* key, uint8_t* sums, int threads) {
    using namespace systolora;
    const int64_t whole = size / kBlockBytes, rest = size % kBlockBytes;
    const auto put = [&](int64_t block, const uint8_t* source) {
        const Wide sum = sum_block(source, key);
        std::memcpy(sums + sizeof sum * block, &sum, sizeof sum);
    };
    run_threads(threads, [&](int index) {
        const Range blocks(whole, 1, index, threads);
        for (int64_t block = blocks.begin; block < blocks.end; ++block) put(block, bytes + block * kBlockBytes);
    });
    if (rest == 0) return;
    uint8_t last[kBlockBytes] = {};
    std::memcpy(last, bytes + whole * kBlockBytes, static_cast<size_t>(rest));
    put(whole, last);
}
