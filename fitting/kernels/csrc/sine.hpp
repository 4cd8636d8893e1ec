// Sine and cosine of one argument from one range reduction; the only definition of the coefficients.
//
// The argument is in half turns: t -> sin(pi t), cos(pi t). Layers fold w0 / pi into their weights, so that the reduction
// t = q + f, q whole and |f| <= 1/2, is exact at any size (q by adding and subtracting 1.5 * 2^23, good to |t| < 2^22).
// sin(pi t) = (-1)^q f P(f^2), cos(pi t) = (-1)^q Q(f^2); P and Q are minimax fits on [0, 1/2]: 8e-9 and 5e-8.
#pragma once
#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

constexpr float kRound = 12582912.0f;
constexpr float kSin1 = 3.141592502593994f, kSin3 = -5.1677021980285645f, kSin5 = 2.549957752227783f;
constexpr float kSin7 = -0.5976252555847168f, kSin9 = 0.07643315196037292f;
constexpr float kCos0 = 1.0f, kCos2 = -4.934795379638672f, kCos4 = 4.058447360992432f;
constexpr float kCos6 = -1.3320621252059937f, kCos8 = 0.22000567615032196f;

NF_INLINE void sine_cosine(vec t, vec& sine, vec& cosine) {
    const vec shifted = t + kRound;
    const ivec sign = reinterpret_cast<ivec>(shifted) << 31;
    const vec f = t - (shifted - kRound);
    const vec f2 = f * f;
    const vec signed_f = reinterpret_cast<vec>(reinterpret_cast<ivec>(f) ^ sign);
    const vec p = (((f2 * kSin9 + kSin7) * f2 + kSin5) * f2 + kSin3) * f2 + kSin1;
    sine = p * signed_f;
    const vec c = (((f2 * kCos8 + kCos6) * f2 + kCos4) * f2 + kCos2) * f2 + kCos0;
    cosine = reinterpret_cast<vec>(reinterpret_cast<ivec>(c) ^ sign);
}

}  // namespace NF_ISA
}  // namespace nf
