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

NF_INLINE double sum(vec v) {
    double total = 0.0;
    for (int i = 0; i < kLanes; ++i) total += v[i];
    return total;
}

NF_INLINE ivec lane_numbers() {
    ivec numbers;
    for (int i = 0; i < kLanes; ++i) numbers[i] = i;
    return numbers;
}

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Free {
    void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float, Free>;

// Zeroed and aligned, with room for one more vector.
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

// Lanes of a where the bit `step` of the lane number is clear, of b where it is set, the latter moved by `step`; and the
// other way round: one round of transposing a square of vectors.
template <int step>
NF_INLINE void exchange(vec& a, vec& b) {
    vec first, second;
#if defined(__clang__)
    for (int i = 0; i < kLanes; ++i) {
        first[i] = (i & step) == 0 ? a[i] : b[i - step];
        second[i] = (i & step) == 0 ? a[i + step] : b[i];
    }
#else
    ivec low, high;
    for (int i = 0; i < kLanes; ++i) {
        low[i] = (i & step) == 0 ? i : kLanes + i - step;
        high[i] = (i & step) == 0 ? i + step : kLanes + i;
    }
    first = __builtin_shuffle(a, b, low);
    second = __builtin_shuffle(a, b, high);
#endif
    a = first;
    b = second;
}

template <int step>
NF_INLINE void exchange_all(vec (&v)[kLanes]) {
    if constexpr (step < kLanes) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r)
            if ((r & step) == 0) exchange<step>(v[r], v[r + step]);
        exchange_all<step * 2>(v);
    }
}

// to (columns, ld_to) = scale * from^T, from (rows, ld_from); columns is a multiple of kLanes, and so are the strides.
inline void transpose(const float* from, int rows, int columns, std::ptrdiff_t ld_from, float scale, float* to,
                      std::ptrdiff_t ld_to) {
    for (int r = 0; r < rows; r += kLanes)
        for (int c = 0; c < columns; c += kLanes) {
            vec v[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i)
                v[i] = r + i < rows ? load(from + (r + i) * ld_from + c) * scale : vec{};
            exchange_all<1>(v);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) store(to + (c + i) * ld_to + r, v[i]);
        }
}

}  // namespace NF_ISA
}  // namespace nf
