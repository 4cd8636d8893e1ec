// Vectors of floats by the compiler's vector extensions; NF_LANES is set per instruction set by the build.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#if defined(__AVX512DQ__)
#include <immintrin.h>
#endif

#ifndef NF_LANES
#define NF_LANES 4
#endif

namespace nf {
namespace NF_ISA {

constexpr int kLanes = NF_LANES;
typedef float vec __attribute__((vector_size(NF_LANES * 4), aligned(NF_LANES * 4), may_alias));
typedef float vec_unaligned __attribute__((vector_size(NF_LANES * 4), aligned(4), may_alias));
typedef std::int32_t ivec __attribute__((vector_size(NF_LANES * 4), aligned(NF_LANES * 4), may_alias));
typedef std::uint32_t uvec __attribute__((vector_size(NF_LANES * 4), aligned(NF_LANES * 4), may_alias));

#define NF_INLINE __attribute__((always_inline)) inline
#define NF_RESTRICT __restrict__

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

// Lanes of a with the bit `step` clear hold a's sums of pairs that far apart, the others b's.
template <int step>
NF_INLINE vec pair_sums(vec a, vec b) {
    vec own, other;
#if defined(__clang__)
    for (int i = 0; i < kLanes; ++i) {
        own[i] = (i & step) == 0 ? a[i] : b[i];
        other[i] = (i & step) == 0 ? a[i + step] : b[i - step];
    }
#else
    ivec at, across;
    for (int i = 0; i < kLanes; ++i) {
        at[i] = (i & step) == 0 ? i : kLanes + i;
        across[i] = (i & step) == 0 ? i + step : kLanes + i - step;
    }
    own = __builtin_shuffle(a, b, at);
    other = __builtin_shuffle(a, b, across);
#endif
    return own + other;
}

// The vector of the sums of v[0], v[1], ...
template <int step = kLanes / 2>
NF_INLINE vec sums_of(vec (&v)[kLanes]) {
#pragma GCC unroll 8
    for (int r = 0; r < step; ++r) v[r] = pair_sums<step>(v[r], v[r + step]);
    if constexpr (step > 1) return sums_of<step / 2>(v);
    return v[0];
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
