// Sine and cosine of one argument in half turns from one range reduction; formula and coefficients are those of
// neuralfields/kernels/sine.py, which writes the header.
#pragma once
#include "lanes.hpp"
#include "sine_coefficients.hpp"

namespace nf {
namespace NF_ISA {

NF_INLINE void sine_cosine(vec t, vec& sine, vec& cosine) {
    const vec shifted = t + kRound;
    const ivec sign = reinterpret_cast<ivec>(shifted) << 31;
#if defined(__AVX512DQ__)
    const vec f = reinterpret_cast<vec>(_mm512_reduce_ps(reinterpret_cast<__m512>(t), 8));  // the same in one step
#else
    const vec f = t - (shifted - kRound);
#endif
    const vec f2 = f * f;
    const vec signed_f = reinterpret_cast<vec>(reinterpret_cast<ivec>(f) ^ sign);
    const vec p = (((f2 * kSine[4] + kSine[3]) * f2 + kSine[2]) * f2 + kSine[1]) * f2 + kSine[0];
    sine = p * signed_f;
    const vec c = (((f2 * kCosine[4] + kCosine[3]) * f2 + kCosine[2]) * f2 + kCosine[1]) * f2 + kCosine[0];
    cosine = reinterpret_cast<vec>(reinterpret_cast<ivec>(c) ^ sign);
}

}  // namespace NF_ISA
}  // namespace nf
