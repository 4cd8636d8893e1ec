// Adam and AdamW on the padded parameters, as torch.optim defines them; padded entries stay zero.
#pragma once
#include <cmath>

#include "layout.hpp"

namespace nf {
namespace NF_ISA {

NF_INLINE vec square_root(vec x) {
    vec r;
    for (int i = 0; i < kLanes; ++i) r[i] = __builtin_sqrtf(x[i]);
    return r;
}

// 1 / (sqrt(v) * unbias + eps): with estimates of 14 bits and a Newton step each, a fifth of the time of root and
// division, good to about 2^-23.
NF_INLINE vec inverse_root(vec v, vec unbias, vec eps) {
#if defined(__AVX512DQ__)
    const __m512 x = reinterpret_cast<__m512>(v);
    const __mmask16 positive = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_GT_OQ);
    const vec estimate = reinterpret_cast<vec>(_mm512_maskz_rsqrt14_ps(positive, x));
    vec root = v * estimate;
    root += (v - root * root) * (estimate * 0.5f);
    const vec divisor = root * unbias + eps;
    const vec inverse = reinterpret_cast<vec>(_mm512_rcp14_ps(reinterpret_cast<__m512>(divisor)));
    return inverse + inverse * (1.0f - divisor * inverse);
#else
    return 1.0f / (square_root(v) * unbias + eps);
#endif
}

struct Adam {
    double power1 = 1.0, power2 = 1.0;  // beta^t

    // grads: one gradient per part, added in order and multiplied by w0 (the products ran on w0-scaled weights).
    void step(const Problem& problem, const Layout& layout, float lr, float* p, float* m, float* v,
              const std::vector<float*>& grads) {
        power1 *= problem.beta1;
        power2 *= problem.beta2;
        const vec rate = splat(static_cast<float>(lr / (1.0 - power1)));
        const vec unbias = splat(static_cast<float>(1.0 / std::sqrt(1.0 - power2)));
        const vec eps = splat(static_cast<float>(problem.eps));
        const vec beta2 = splat(static_cast<float>(problem.beta2));
        const vec keep1 = splat(static_cast<float>(1.0 - problem.beta1));
        const vec keep2 = splat(static_cast<float>(1.0 - problem.beta2));
        const vec l2 = splat(problem.decoupled ? 0.0f : static_cast<float>(problem.weight_decay));
        const vec shrink = splat(problem.decoupled ? static_cast<float>(1.0 - lr * problem.weight_decay) : 1.0f);
        for (const Layer& layer : layout.layers) {
            const std::ptrdiff_t end = layer.bias + (layer.last ? round_up(layer.out, kLanes) : layer.ld);
            for (std::ptrdiff_t i = layer.weight; i < end; i += kLanes) {
                vec g = load(grads[0] + i);
                for (std::size_t part = 1; part < grads.size(); ++part) g += load(grads[part] + i);
                vec value = load(p + i);
                g = g * layer.w0 + l2 * value;
                value *= shrink;
                vec first = load(m + i), second = load(v + i);
                first += (g - first) * keep1;
                second = second * beta2 + g * g * keep2;
                store(m + i, first);
                store(v + i, second);
                store(p + i, value - rate * (first * inverse_root(second, unbias, eps)));
            }
        }
    }
};

}  // namespace NF_ISA
}  // namespace nf
