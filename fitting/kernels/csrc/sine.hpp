// Sine and cosine of one argument from one range reduction; the only definition of the coefficients.
//
// x = q pi + r with |r| <= pi/2 (q by adding and subtracting 1.5 * 2^23, pi in three parts so that q * part is exact or
// fused), sin x = (-1)^q (r + r^3 P(r^2)), cos x = (-1)^q Q(r^2). P and Q are minimax fits on [0, pi/2]: 5e-9 and 5e-8.
#pragma once
#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

constexpr float kInvPi = 0.318309886183790671538f;
constexpr float kRound = 12582912.0f;
constexpr float kPi1 = 3.14159274101257324f;
constexpr float kPi2 = -8.74227765734758577e-8f;
constexpr float kSin3 = -0.16666657088931597f, kSin5 = 0.008333017104523529f;
constexpr float kSin7 = -0.00019806601591297753f, kSin9 = 2.600024474545448e-06f;
constexpr float kCos0 = 1.0f, kCos2 = -0.4999993223967319f, kCos4 = 0.04166398787591949f;
constexpr float kCos6 = -0.0013855914287272558f, kCos8 = 2.319407519486734e-05f;

NF_INLINE void sine_cosine(vec x, vec& sine, vec& cosine) {
    const vec shifted = x * kInvPi + kRound;
    const vec q = shifted - kRound;
    const ivec sign = reinterpret_cast<ivec>(shifted) << 31;
    vec r = x - q * kPi1;
    r = r - q * kPi2;
    const vec r2 = r * r;
    const vec signed_r = reinterpret_cast<vec>(reinterpret_cast<ivec>(r) ^ sign);
    const vec p = ((r2 * kSin9 + kSin7) * r2 + kSin5) * r2 + kSin3;
    sine = (p * r2) * signed_r + signed_r;
    const vec c = (((r2 * kCos8 + kCos6) * r2 + kCos4) * r2 + kCos2) * r2 + kCos0;
    cosine = reinterpret_cast<vec>(reinterpret_cast<ivec>(c) ^ sign);
}

}  // namespace NF_ISA
}  // namespace nf
