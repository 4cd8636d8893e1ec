// Choices between lanes: larger ones, and bits that say which.
#pragma once
#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

// The larger one, a where it is NaN.
NF_INLINE vec larger(vec a, vec b) { return b > a ? b : a; }

// The larger one for a pool: NaN where either is.
NF_INLINE vec larger_of_pool(vec value, vec pool) { return value > pool || value != value ? value : pool; }

// NaN if any lane is.
template <int step = kLanes / 2>
NF_INLINE float largest_lane(vec v) {
    vec other;
#if defined(__clang__)
    for (int i = 0; i < kLanes; ++i) other[i] = v[i ^ step];
#else
    ivec from;
    for (int i = 0; i < kLanes; ++i) from[i] = i ^ step;
    other = __builtin_shuffle(v, from);
#endif
    const vec pairs = larger_of_pool(v, other);
    if constexpr (step > 1) return largest_lane<step / 2>(pairs);
    return pairs[0];
}

// A bit for each lane: whether it is positive.
NF_INLINE std::uint32_t positive(vec v) {
#if NF_LANES == 16
    return _mm512_cmp_ps_mask((__m512)v, _mm512_setzero_ps(), _CMP_GT_OQ);
#else
    std::uint32_t bits = 0;
    for (int i = 0; i < kLanes; ++i) bits |= static_cast<std::uint32_t>(v[i] > 0.0f) << i;
    return bits;
#endif
}

// The lanes whose bits are set; zero in the others.
NF_INLINE vec chosen(std::uint32_t bits, vec v) {
    const ivec bit = (ivec{} + 1) << lane_numbers();
    const ivec wanted = (bit & static_cast<std::int32_t>(bits)) != 0;
    return (vec)((ivec)v & wanted);
}

}  // namespace NF_ISA
}  // namespace nf
