// Powers of two by a polynomial: relative error below 1.8e-7 for exponents in [-126, 127].
#pragma once
#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

// 2^f on [-1/2, 1/2]: the polynomial of degree 5 of smallest relative error (9.2e-8) among those with p(0) = 1.
constexpr float kPowers[] = {1.0f, 0.693147f, 0.24022242f, 0.055507336f, 0.009671513f, 0.0013264727f};

// x <- 2^x for a few vectors, step by step side by side: one alone is a chain of waiting.
template <int U>
NF_INLINE void exp2(vec (&x)[U]) {
    constexpr float kRound = 12582912.0f;  // 1.5 2^23: adding it leaves the nearest whole number in the low bits
    vec shifted[U], p[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) shifted[u] = x[u] + kRound;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) x[u] -= shifted[u] - kRound;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) p[u] = splat(kPowers[5]) * x[u] + kPowers[4];
#pragma GCC unroll 4
    for (int k = 3; k >= 0; --k)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) p[u] = p[u] * x[u] + kPowers[k];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) x[u] = (vec)((ivec)p[u] + ((ivec)shifted[u] << 23));
}

}  // namespace NF_ISA
}  // namespace nf
