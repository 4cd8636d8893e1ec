// Softmax attention of one head in one set and its gradient. Up to 8 channels stay in registers, key by key; more go
// through small products. q, k, v and what is made of them are (D, T) with rows ld apart, T rounded up to whole vectors.
#pragma once
#include <algorithm>

#include "choices.hpp"
#include "exponent.hpp"
#include "gemm.hpp"

namespace nf {
namespace NF_ISA {

constexpr int kMaxRegisters = 8;
// 2^x of scores up to this neither overflows when summed over a set nor loses the largest one.
constexpr float kSafe = 90.0f;

// Given by value: see block.hpp.
struct Head {
    int channels, size, padded;
    std::ptrdiff_t ld;
    float factor;  // of a score in powers of two
    const float *q, *k, *v;
};

// Buffers for one head: scores and what has their shape, (padded, padded) each, and rows of one number per query.
struct HeadSpace {
    Buffer scores, weights, turned, scaled, level;
    explicit HeadSpace(int channels, int padded)
        : scores(make_buffer(static_cast<std::ptrdiff_t>(padded) * padded)),
          weights(make_buffer(static_cast<std::ptrdiff_t>(padded) * padded)),
          turned(make_buffer(static_cast<std::ptrdiff_t>(padded) * padded)),
          scaled(make_buffer(static_cast<std::ptrdiff_t>(channels + 1) * padded)), level(make_buffer(padded)) {}
};

// Largest squared length of any column.
inline float largest_length(Head head, const float* x) {
    vec largest{};
    for (int t = 0; t < head.padded; t += kLanes) {
        vec length{};
        for (int d = 0; d < head.channels; ++d) {
            const vec value = load(x + d * head.ld + t);
            length += value * value;
        }
        largest = larger_of_pool(length, largest);
    }
    return largest_lane(largest);
}

// Whether no score can be so large that its row's largest must be subtracted first; false for NaN.
inline bool is_safe(const Head& head) {
    const float bound = largest_length(head, head.q) * largest_length(head, head.k) * head.factor * head.factor;
    return bound <= kSafe * kSafe;
}

// level[i] = -max_j <q_i, k_j>, or 0 where nothing needs to be subtracted. It is before the factor is taken: rounding
// that would cost most where scores are large.
inline void find_levels(Head head, bool safe, float* level) {
    for (int i = 0; i < head.padded; i += kLanes) {
        vec largest{};
        for (int j = 0; j < head.size && !safe; ++j) {
            vec score{};
            for (int d = 0; d < head.channels; ++d)
                score += load(head.q + d * head.ld + i) * head.k[d * head.ld + j];
            largest = j == 0 ? score : larger(score, largest);
        }
        store(level + i, -largest);
    }
}

// mixed / denominator + q of a vector of queries; `attend_keys` takes U keys. q has the factor where all is safe.
template <int D, int U, bool safe>
NF_INLINE void attend_keys(const vec (&q)[D], vec level, float factor, const float* k, const float* v, std::ptrdiff_t ld,
                           vec (&mixed)[D], vec& denominator) {
    vec e[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) e[u] = q[0] * k[u];
#pragma GCC unroll 8
    for (int d = 1; d < D; ++d)
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) e[u] += q[d] * k[d * ld + u];
#pragma GCC unroll 4
    for (int u = 0; u < U && !safe; ++u) e[u] = larger((e[u] + level) * factor, splat(-126.0f));
    exp2(e);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
        denominator += e[u];
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) mixed[d] += e[u] * v[d * ld + u];
    }
}

template <int D, bool safe>
inline void attend(Head head, const float* level, float* o, float* inverse) {
    constexpr int kKeys = D <= 4 ? 4 : 2;
    for (int i = 0; i < head.padded; i += kLanes) {
        vec q[D], mixed[D], denominator{};
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) {
            q[d] = load(head.q + d * head.ld + i);
            if (safe) q[d] *= head.factor;
            mixed[d] = vec{};
        }
        const vec own = load(level + i);
        const float f = head.factor, *k = head.k, *v = head.v;
        int j = 0;
#pragma GCC unroll 1
        for (; j + kKeys <= head.size; j += kKeys)
            attend_keys<D, kKeys, safe>(q, own, f, k + j, v + j, head.ld, mixed, denominator);
        for (; j < head.size; ++j) attend_keys<D, 1, safe>(q, own, f, k + j, v + j, head.ld, mixed, denominator);
        const vec share = 1.0f / denominator;
        store(inverse + i, share);
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) store(o + d * head.ld + i, load(head.q + d * head.ld + i) + mixed[d] * share);
    }
}

// g (D, T) scaled by the inverse denominators, and below it minus the mean of <g, v> under the softmax, scaled alike:
// the gradient of a score is then e (<g, v> + that).
inline void scale_gradient(Head head, const float* g, const float* o, const float* inverse, float* scaled) {
    for (int i = 0; i < head.padded; i += kLanes) {
        const vec share = load(inverse + i);
        vec mean{};
        for (int d = 0; d < head.channels; ++d) {
            const vec value = load(g + d * head.ld + i) * share;
            store(scaled + d * head.padded + i, value);
            mean += value * (load(o + d * head.ld + i) - load(head.q + d * head.ld + i));
        }
        store(scaled + head.channels * head.padded + i, -mean);
    }
}

// Sets the columns from T on to zero: those of no neuron.
inline void clear_padding(Head head, float* x) {
    for (int d = 0; d < head.channels && head.size < head.padded; ++d)
        std::fill(x + d * head.ld + head.size, x + d * head.ld + head.padded, 0.0f);
}

// Gradients of k and v for a vector of keys; the scores' go to `turned`, (keys, queries). `Keys::take` takes U queries.
template <int D>
struct Keys {
    float factor;
    vec k[D], v[D], to_k[D], to_v[D];

    template <int U, bool safe>
    NF_INLINE void take(const float* q, std::ptrdiff_t ld, const float* g, int p, const float* level, float* ds) {
        vec e[U], slope[U];
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) e[u] = k[0] * q[u];
#pragma GCC unroll 8
        for (int d = 1; d < D; ++d)
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) e[u] += k[d] * q[d * ld + u];
#pragma GCC unroll 4
        for (int u = 0; u < U && !safe; ++u) e[u] = larger((e[u] + level[u]) * factor, splat(-126.0f));
        exp2(e);
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) slope[u] = g[D * p + u] + v[0] * g[u];
#pragma GCC unroll 8
        for (int d = 1; d < D; ++d)
#pragma GCC unroll 4
            for (int u = 0; u < U; ++u) slope[u] += v[d] * g[d * p + u];
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u) {
            slope[u] *= e[u];
            store(ds + u * p, slope[u]);
        }
#pragma GCC unroll 4
        for (int u = 0; u < U; ++u)
#pragma GCC unroll 8
            for (int d = 0; d < D; ++d) {
                to_v[d] += e[u] * g[d * p + u];
                to_k[d] += slope[u] * q[d * ld + u];
            }
    }
};

template <int D, bool safe>
inline void attend_back(Head head, const HeadSpace& space, float natural, float* dk, float* dv) {
    constexpr int kQueries = D <= 4 ? 2 : 1;
    const float *const scaled = space.scaled.get(), *const level = space.level.get();
    float* const scores = space.scores.get();
    const int p = head.padded;
    for (int j = 0; j < p; j += kLanes) {
        Keys<D> keys;
        keys.factor = head.factor;
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) {
            keys.k[d] = load(head.k + d * head.ld + j);
            if (safe) keys.k[d] *= head.factor;
            keys.v[d] = load(head.v + d * head.ld + j);
            keys.to_k[d] = keys.to_v[d] = vec{};
        }
        int i = 0;
#pragma GCC unroll 1
        for (; i + kQueries <= head.size; i += kQueries)
            keys.template take<kQueries, safe>(head.q + i, head.ld, scaled + i, p, level + i, scores + i * p + j);
        for (; i < head.size; ++i)
            keys.template take<1, safe>(head.q + i, head.ld, scaled + i, p, level + i, scores + i * p + j);
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) {
            store(dk + d * head.ld + j, keys.to_k[d] * natural);
            store(dv + d * head.ld + j, keys.to_v[d]);
        }
    }
    transpose(scores, head.size, p, p, 1.0f, space.turned.get(), p);
}

// dq = g + natural sum_j ds_j k_j.
template <int D>
inline void gather_queries(Head head, const HeadSpace& space, float natural, const float* g, float* dq) {
    for (int i = 0; i < head.padded; i += kLanes) {
        vec sum[D];
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) sum[d] = vec{};
        const float *ds = space.turned.get() + i, *k = head.k;
#pragma GCC unroll 2
        for (int j = 0; j < head.size; ++j, ++k, ds += head.padded) {
            const vec value = load(ds);
#pragma GCC unroll 8
            for (int d = 0; d < D; ++d) sum[d] += value * k[d * head.ld];
        }
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) store(dq + d * head.ld + i, load(g + d * head.ld + i) + sum[d] * natural);
    }
}

// e^(score - level) of all pairs, (keys, queries), by a product.
inline void exponentials(Head head, const float* level, float* e) {
    const int p = head.padded;
    multiply<Order::columns, Start::zero>(head.size, p, head.channels, head.k, head.ld, head.q, head.ld, e, p);
    for (int j = 0; j < head.size; ++j)
        for (int i = 0; i < p; i += kLanes) {
            const vec score = load(e + j * p + i) + load(level + i);
            vec power[1] = {larger(score * head.factor, splat(-126.0f))};
            exp2(power);
            store(e + j * p + i, power[0]);
        }
}

inline void attend_wide(Head head, const HeadSpace& space, float* o, float* inverse) {
    const int p = head.padded;
    float* const e = space.scores.get();
    exponentials(head, space.level.get(), e);
    multiply<Order::rows, Start::zero>(head.channels, p, head.size, head.v, head.ld, e, p, o, head.ld);
    for (int i = 0; i < p; i += kLanes) {
        vec denominator{};
        for (int j = 0; j < head.size; ++j) denominator += load(e + j * p + i);
        const vec share = 1.0f / denominator;
        store(inverse + i, share);
        for (int d = 0; d < head.channels; ++d) {
            float* const at = o + d * head.ld + i;
            store(at, load(head.q + d * head.ld + i) + load(at) * share);
        }
    }
}

inline void attend_wide_back(Head head, const HeadSpace& space, float natural, const float* g, float* dq,
                             float* dk, float* dv) {
    const int p = head.padded, n = head.size, channels = head.channels;
    float *const e = space.weights.get(), *const ds = space.scores.get(), *const turned = space.turned.get();
    const float *const scaled = space.scaled.get(), *const mean = scaled + channels * p;
    exponentials(head, space.level.get(), e);
    multiply<Order::columns, Start::zero>(n, p, channels, head.v, head.ld, scaled, p, ds, p);
    for (int j = 0; j < n; ++j)
        for (int i = 0; i < p; i += kLanes) store(ds + j * p + i, load(e + j * p + i) * (load(ds + j * p + i) + load(mean + i)));
    multiply<Order::rows, Start::zero>(channels, p, n, head.k, head.ld, ds, p, dq, head.ld);
    transpose(e, n, p, p, 1.0f, turned, p);
    multiply<Order::rows, Start::zero>(channels, p, n, scaled, p, turned, p, dv, head.ld);
    transpose(ds, n, p, p, natural, turned, p);
    multiply<Order::rows, Start::zero>(channels, p, n, head.q, head.ld, turned, p, dk, head.ld);
    for (int d = 0; d < channels; ++d)
        for (int i = 0; i < p; i += kLanes) {
            float* const at = dq + d * head.ld + i;
            store(at, load(g + d * head.ld + i) + load(at) * natural);
        }
}

template <int D>
inline void attend_narrow(Head head, const HeadSpace& space, bool safe, float* o, float* inverse) {
    if (D != head.channels) return attend_narrow<(D > 1 ? D - 1 : 1)>(head, space, safe, o, inverse);
    safe ? attend<D, true>(head, space.level.get(), o, inverse) : attend<D, false>(head, space.level.get(), o, inverse);
}

template <int D>
inline void attend_narrow_back(Head head, const HeadSpace& space, bool safe, float natural, const float* g,
                               float* dq, float* dk, float* dv) {
    if (D != head.channels) return attend_narrow_back<(D > 1 ? D - 1 : 1)>(head, space, safe, natural, g, dq, dk, dv);
    safe ? attend_back<D, true>(head, space, natural, dk, dv) : attend_back<D, false>(head, space, natural, dk, dv);
    gather_queries<D>(head, space, natural, g, dq);
}

// o = q + softmax(q k) v of every query, and the inverse denominators.
inline void attend_head(Head head, const HeadSpace& space, float* o, float* inverse) {
    const bool safe = is_safe(head);
    find_levels(head, safe, space.level.get());
    if (head.channels > kMaxRegisters) return attend_wide(head, space, o, inverse);
    attend_narrow<kMaxRegisters>(head, space, safe, o, inverse);
}

// Gradients of q, k and v, given that of o; natural: the factor of a score in powers of e.
inline void attend_head_back(Head head, const HeadSpace& space, float natural, const float* g, const float* o,
                             const float* inverse, float* dq, float* dk, float* dv) {
    const bool safe = is_safe(head);
    find_levels(head, safe, space.level.get());
    scale_gradient(head, g, o, inverse, space.scaled.get());
    if (head.channels > kMaxRegisters) {
        attend_wide_back(head, space, natural, g, dq, dk, dv);
    } else {
        attend_narrow_back<kMaxRegisters>(head, space, safe, natural, g, dq, dk, dv);
    }
    clear_padding(head, dk);
    clear_padding(head, dv);
}

}  // namespace NF_ISA
}  // namespace nf
