// Philox 4x32-10 (Salmon et al., SC 2011); the twin of neuralfields/philox.py, bit for bit.
#pragma once
#include <cstdint>

// In the namespace of the instruction set, so that no copy compiled for a newer machine is shared with an older one.
namespace nf {
namespace NF_ISA {

inline void philox(const std::uint32_t counter[4], std::uint32_t k0, std::uint32_t k1, std::uint32_t out[4]) {
    std::uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0;
        const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2;
        const std::uint32_t next0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        const std::uint32_t next2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c1 = static_cast<std::uint32_t>(p1);
        c3 = static_cast<std::uint32_t>(p0);
        c0 = next0;
        c2 = next2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

constexpr std::uint32_t kStreamSample = 1;

// The four words that points 4 * block .. 4 * block + 3 of one step of one field are drawn from.
inline void sample_words(std::uint32_t seed, std::uint32_t id, std::uint32_t step, std::uint32_t block,
                         std::uint32_t out[4]) {
    const std::uint32_t counter[4] = {block, step, kStreamSample, 0};
    philox(counter, seed, id, out);
}

inline std::int64_t draw_index(std::uint32_t word, std::int64_t population) {
    return static_cast<std::int64_t>((std::uint64_t{word} * static_cast<std::uint64_t>(population)) >> 32);
}

}  // namespace NF_ISA
}  // namespace nf
