// Vectors of floats by the compiler's vector extensions; NF_LANES is set per instruction set by the build.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifndef NF_LANES
#define NF_LANES 4
#endif

namespace nf {
namespace NF_ISA {

constexpr int kLanes = NF_LANES;
typedef float vec __attribute__((vector_size(NF_LANES * 4), aligned(NF_LANES * 4), may_alias));
typedef float vec_unaligned __attribute__((vector_size(NF_LANES * 4), aligned(4), may_alias));
typedef std::int32_t ivec __attribute__((vector_size(NF_LANES * 4), aligned(NF_LANES * 4), may_alias));

#define NF_INLINE __attribute__((always_inline)) inline

NF_INLINE vec load(const float* p) { return *reinterpret_cast<const vec*>(p); }
NF_INLINE vec load_unaligned(const float* p) { return *reinterpret_cast<const vec_unaligned*>(p); }
NF_INLINE void store(float* p, vec v) { *reinterpret_cast<vec*>(p) = v; }
NF_INLINE vec splat(float x) { return x - vec{}; }

NF_INLINE float sum(vec v) {
    float total = 0.0f;
    for (int i = 0; i < kLanes; ++i) total += v[i];
    return total;
}

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;

// Zeroed and aligned.
inline Buffer make_buffer(std::ptrdiff_t count) {
    const std::size_t bytes = (static_cast<std::size_t>(count) * 4 + 63) / 64 * 64 + 64;
    float* p = static_cast<float*>(std::aligned_alloc(64, bytes));
    if (p == nullptr) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return Buffer(p);
}

// [a0+a1, a2+a3, ..., b0+b1, ...]: log2(kLanes) rounds of it turn kLanes vectors into the vector of their sums.
NF_INLINE vec pair_sums(vec a, vec b) {
    ivec even, odd;
    for (int i = 0; i < kLanes; ++i) {
        even[i] = 2 * i;
        odd[i] = 2 * i + 1;
    }
#if defined(__clang__)
    vec lo, hi;
    for (int i = 0; i < kLanes; ++i) {
        lo[i] = 2 * i < kLanes ? a[2 * i] : b[2 * i - kLanes];
        hi[i] = 2 * i < kLanes ? a[2 * i + 1] : b[2 * i + 1 - kLanes];
    }
    return lo + hi;
#else
    return __builtin_shuffle(a, b, even) + __builtin_shuffle(a, b, odd);
#endif
}

}  // namespace NF_ISA
}  // namespace nf
