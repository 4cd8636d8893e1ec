// The numbers of a normalisation of channels, and of its gradient.
#pragma once
#include <cmath>

#include "lanes.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {
namespace {

inline float inverse_of(const ChannelNorm& norm, int c) { return 1.0f / std::sqrt(norm.variance[c] + norm.epsilon); }

// The gradient of y as an affine map, d scale + y slope + level, of that of norm(y), d: scale (d - mean(d) - h mean(h d)),
// h = (y - mean) inverse; given the sums of d and of d (y - mean) over so many entries. The gradient of gamma is written.
struct NormBack {
    Buffer scale, slope, level;

    NormBack(const ChannelNorm& norm, int channels, double entries, const float* d_shift, const float* d_scaled,
             float* d_gamma)
        : scale(make_buffer(channels)), slope(make_buffer(channels)), level(make_buffer(channels)) {
        for (int c = 0; c < channels; ++c) {
            const float inverse = inverse_of(norm, c);
            d_gamma[c] = d_scaled[c] * inverse;
            scale.get()[c] = norm.gamma[c] * inverse;
            if (!norm.of_batch) continue;
            slope.get()[c] = static_cast<float>(-scale.get()[c] * inverse * d_gamma[c] / entries);
            level.get()[c] = static_cast<float>(-scale.get()[c] * d_shift[c] / entries - slope.get()[c] * norm.mean[c]);
        }
    }
};

}  // namespace
}  // namespace NF_ISA
}  // namespace nf
