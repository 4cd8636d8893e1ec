// The thin passes around the products: activation, output layer, bias and first-layer gradients, loss.
#pragma once
#include <cmath>

#include "gemm.hpp"
#include "problem.hpp"
#include "sine.hpp"

namespace nf {
namespace NF_ISA {

// h = act(z) in place, slope = act'(z). For sine, z holds w0 (W x + b) / pi (half turns) and the slope is the cosine.
NF_INLINE void activate(Activation activation, float* z, float* slope, std::ptrdiff_t count) {
    if (activation == Activation::sine) {
        for (std::ptrdiff_t i = 0; i < count; i += kLanes) {
            vec s, c;
            sine_cosine(load(z + i), s, c);
            store(z + i, s);
            store(slope + i, c);
        }
    } else {
        for (std::ptrdiff_t i = 0; i < count; i += kLanes) {
            const vec x = load(z + i);
            store(z + i, x < vec{} ? vec{} : x);  // NaN stays NaN
            store(slope + i, x > vec{} ? splat(1.0f) : vec{});
        }
    }
}

// y (P, O) = h w^T + b. Rows of h up to the next multiple of kLanes are read; what they give is not stored.
inline void output(int points, int outs, int columns, const float* h, int ldh, const float* w, int ldw, const float* b,
                   float* y) {
    for (int p = 0; p < points; p += kLanes)
        for (int o = 0; o < outs; ++o) {
            vec part[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) part[i] = vec{};
            for (int j = 0; j < columns; j += kLanes) {
                const vec weight = load(w + o * ldw + j);
#pragma GCC unroll 16
                for (int i = 0; i < kLanes; ++i)
                    part[i] += load(h + static_cast<std::ptrdiff_t>(p + i) * ldh + j) * weight;
            }
            const vec value = sums_of(part) + b[o];
            const int last = points - p < kLanes ? points - p : kLanes;
            if (outs == 1 && last == kLanes)
                store(y + p, value);
            else
                for (int i = 0; i < last; ++i) y[(p + i) * outs + o] = value[i];
        }
}

// In one pass: dz (P, columns), the slope before, = (dy w) * slope; gw (O, columns) += dy^T h; where wanted gb += column
// sums of dz.
template <int O>
inline void output_backward(int points, int columns, const float* dy, const float* w, int ldw, const float* h,
                            float* dz, int ld, float* gw, float* gb) {
    constexpr int kUnroll = O == 1 ? 4 : 2;  // independent sums, so that the additions need not wait for each other
    for (int j = 0; j < columns; j += kLanes) {
        vec grad[O][kUnroll] = {}, bias[kUnroll] = {}, weight[O];
        for (int o = 0; o < O; ++o) weight[o] = load(w + o * ldw + j);
        const auto one = [&](int p, vec* const sums, vec& total) {
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(p) * ld + j;
            const vec row = load(h + at);
            vec back = vec{};
#pragma GCC unroll 4
            for (int o = 0; o < O; ++o) {
                const vec d = splat(dy[p * O + o]);
                back += d * weight[o];
                sums[o * kUnroll] += d * row;
            }
            back *= load(dz + at);
            total += back;
            store(dz + at, back);
        };
        int p = 0;
        for (; p + kUnroll <= points; p += kUnroll)
#pragma GCC unroll 4
            for (int u = 0; u < kUnroll; ++u) one(p + u, &grad[0][u], bias[u]);
        for (; p < points; ++p) one(p, &grad[0][0], bias[0]);
        for (int o = 0; o < O; ++o) {
            vec total = load(gw + o * ldw + j);
            for (int u = 0; u < kUnroll; ++u) total += grad[o][u];
            store(gw + o * ldw + j, total);
        }
        if (gb == nullptr) continue;
        vec total = load(gb + j);
        for (int u = 0; u < kUnroll; ++u) total += bias[u];
        store(gb + j, total);
    }
}

// gb += column sums of dz, and for few inputs also gw (I, columns) += x^T dz, reading dz once.
template <int I>
inline void input_backward(int points, int columns, const float* x, const float* dz, int ld, float* gw, float* gb) {
    constexpr int kUnroll = I == 0 ? 4 : 2;
    for (int j = 0; j < columns; j += kLanes) {
        vec bias[kUnroll] = {}, grad[I + 1][kUnroll] = {};
        int p = 0;
        for (; p + kUnroll <= points; p += kUnroll)
#pragma GCC unroll 4
            for (int u = 0; u < kUnroll; ++u) {
                const vec d = load(dz + static_cast<std::ptrdiff_t>(p + u) * ld + j);
                bias[u] += d;
#pragma GCC unroll 4
                for (int i = 0; i < I; ++i) grad[i][u] += x[(p + u) * I + i] * d;
            }
        for (; p < points; ++p) {
            const vec d = load(dz + static_cast<std::ptrdiff_t>(p) * ld + j);
            bias[0] += d;
            for (int i = 0; i < I; ++i) grad[i][0] += x[p * I + i] * d;
        }
        vec total = load(gb + j);
        for (int u = 0; u < kUnroll; ++u) total += bias[u];
        store(gb + j, total);
        for (int i = 0; i < I; ++i) {
            vec value = load(gw + i * ld + j);
            for (int u = 0; u < kUnroll; ++u) value += grad[i][u];
            store(gw + i * ld + j, value);
        }
    }
}

struct Sums {
    vec losses = {}, values = {};  // lane by lane, over points and channels
};

// One number of binary cross-entropy on the logit y, and its derivative.
NF_INLINE float cross_entropy(float y, float target, float& slope) {
    const float tail = std::exp(-std::fabs(y));
    const float sigmoid = y >= 0.0f ? 1.0f / (1.0f + tail) : tail / (1.0f + tail);
    slope = sigmoid - target;
    return (y > 0.0f ? y : (y <= 0.0f ? 0.0f : y)) - y * target + std::log1p(tail);
}

// dy = d(mean loss)/dy, zero up to the next multiple of kLanes; weight: squared value scale of every channel, repeated
// over outs * kLanes floats; channels (outs * kLanes) += dy with the channel of entry i at i % outs. `readable` floats
// lie at target: what is past the last point is read, where that can be, and not used.
inline void loss_backward(Loss kind, int points, int outs, const float* y, const float* target, std::int64_t readable,
                          const float* weight, float inverse_count, float* dy, float* channels, Sums& sums) {
    const int count = points * outs;
    vec losses = vec{}, values = vec{};
    const vec slope = splat(kind == Loss::mse ? 2.0f * inverse_count : inverse_count);
    for (int i = 0, phase = 0; i < count; i += kLanes, phase = phase + 1 == outs ? 0 : phase + 1) {
        vec goal = vec{};
        if (i + kLanes <= readable)
            goal = load_unaligned(target + i);
        else
            std::memcpy(&goal, target + i, static_cast<std::size_t>(count - i) * 4);
        const vec out = load(y + i), error = lane_numbers() < count - i ? out - goal : vec{}, squares = error * error;
        vec d = error;
        if (kind == Loss::mse) {
            losses += squares;
        } else if (kind == Loss::l1) {
            losses += error < vec{} ? -error : error;
            d = error > vec{} ? splat(1.0f) : (error < vec{} ? splat(-1.0f) : error);
        } else {
            const int lanes = count - i < kLanes ? count - i : kLanes;
            for (int k = 0; k < lanes; ++k) {
                float derivative;
                losses[k] += cross_entropy(out[k], goal[k], derivative);
                d[k] = derivative;
            }
        }
        d *= slope;
        values += squares * load(weight + phase * kLanes);
        store(dy + i, d);
        store(channels + phase * kLanes, load(channels + phase * kLanes) + d);
    }
    sums.losses += losses;
    sums.values += values;
}

}  // namespace NF_ISA
}  // namespace nf
