// Sets y (F C, N, T), row r of channel r mod C: x = relu(norm(y)), pooled over T, and the gradient.
//
// Several sets in one go. One channel at a time stays in cache: its mean and variance over all its rows, then its values,
// need one reading.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "choices.hpp"
#include "parallel.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {
namespace {

// A vector of what lies at p, of which `count` floats are there; the others are `fill`.
NF_INLINE vec some(const float* p, std::int64_t count, float fill) {
    if (count >= kLanes) return load_unaligned(p);
    vec v = splat(fill);
    std::memcpy(&v, p, static_cast<std::size_t>(count) * 4);
    return v;
}
NF_INLINE void put_some(float* p, std::int64_t count, vec v) {
    if (count >= kLanes) {
        *reinterpret_cast<vec_unaligned*>(p) = v;
        return;
    }
    std::memcpy(p, &v, static_cast<std::size_t>(count) * 4);
}

struct ActivationTask {
    const Activation& a;
    const std::int64_t row, groups;  // floats of a row; rows of a channel

    explicit ActivationTask(const Activation& given)
        : a(given), row(given.num_fields * given.size), groups(given.num_rows / given.channels) {}
    std::int64_t row_of(std::int64_t group, int channel) const { return group * a.channels + channel; }
    double count() const { return static_cast<double>(groups * row); }
    struct Norm {
        float mean, inverse, scale, beta;
    };
    Norm norm(int channel) const {
        if (a.gamma == nullptr) return {0.0f, 1.0f, 1.0f, 0.0f};
        const float mean = a.mean[channel], inverse = 1.0f / std::sqrt(a.variance[channel] + a.epsilon);
        return {mean, inverse, a.gamma[channel] * inverse, a.beta[channel]};
    }
};

struct ActivationForward : ActivationTask {
    using ActivationTask::ActivationTask;

    void run(int channel) const {
        if (a.gamma != nullptr && a.of_batch) {
            const double mean = total(channel, 0.0f, [](vec v) { return v; }) / count();
            a.mean[channel] = static_cast<float>(mean);
            // From the mean as it was rounded: what that lacks is taken off again.
            const double off = mean - static_cast<double>(a.mean[channel]);
            a.variance[channel] =
                static_cast<float>(total(channel, a.mean[channel], [](vec v) { return v * v; }) / count() - off * off);
        }
        const Norm n = norm(channel);
        for (std::int64_t group = 0; group < groups; ++group)
            for (std::int64_t field = 0; field < a.num_fields; ++field) run(n, row_of(group, channel), field);
    }

    void run(const Norm& n, std::int64_t at, std::int64_t field) const {
        const float* const y = a.y + at * row + field * a.size;
        float* const x = a.x + at * row + field * a.size;
        const float none = -std::numeric_limits<float>::infinity();
        vec largest = splat(none);
        double sum_of_all = 0.0;
        for (int t = 0; t < a.size; t += kLanes) {
            put_some(x + t, a.size - t, larger((some(y + t, a.size - t, 0.0f) - n.mean) * n.scale + n.beta, vec{}));
            if (a.pool == Pool::max) {
                largest = larger_of_pool(some(x + t, a.size - t, none), largest);
            } else {
                sum_of_all += sum(some(x + t, a.size - t, 0.0f));
            }
        }
        const double share = a.pool == Pool::mean ? 1.0 / a.size : 1.0;
        a.pooled[at * a.num_fields + field] =
            a.pool == Pool::max ? largest_lane(largest) : static_cast<float>(sum_of_all * share);
    }

    // Sum of f(y - center) over a channel: short sums in vectors, theirs in double.
    template <class F>
    double total(int channel, float center, F f) const {
        constexpr std::int64_t kBlock = 64 * kLanes;
        double sum_of_all = 0.0;
        for (std::int64_t group = 0; group < groups; ++group) {
            const float* const y = a.y + row_of(group, channel) * row;
            for (std::int64_t start = 0; start < row; start += kBlock) {
                vec block{};
                for (std::int64_t i = start; i < std::min(row, start + kBlock); i += kLanes)
                    block += f(some(y + i, row - i, center) - center);
                sum_of_all += sum(block);
            }
        }
        return sum_of_all;
    }
};

struct ActivationBackward : ActivationTask {
    const ActivationGradients& g;
    ActivationBackward(const Activation& given, const ActivationGradients& gradients)
        : ActivationTask(given), g(gradients) {}

    // Of the gradient d of the normalised y, and of d (y - mean): short sums in vectors, theirs in double.
    struct Sums {
        vec short_shift{}, short_scaled{};
        double shift = 0.0, scaled = 0.0;

        void flush() {
            shift += sum(short_shift);
            scaled += sum(short_scaled);
            short_shift = short_scaled = vec{};
        }
    };

    void run(int channel) const {
        const Norm n = norm(channel);
        const std::int64_t together = std::max(1, 32 * kLanes / a.size);  // fields in a short sum
        Sums sums;
        for (std::int64_t group = 0; group < groups; ++group)
            for (std::int64_t field = 0; field < a.num_fields; ++field) {
                run(n, row_of(group, channel), field, sums);
                if (field % together == together - 1 || field + 1 == a.num_fields) sums.flush();
            }
        if (a.gamma == nullptr) return;
        const double d_gamma = sums.scaled * n.inverse;
        g.gamma[channel] = static_cast<float>(d_gamma);
        g.beta[channel] = static_cast<float>(sums.shift);
        // scale (d - mean(d) - h mean(h d)), h = (y - mean) inverse: an affine map of d and y.
        const float slope = a.of_batch ? static_cast<float>(-n.scale * n.inverse * d_gamma / count()) : 0.0f;
        const float level = a.of_batch ? static_cast<float>(-n.scale * sums.shift / count()) : 0.0f;
        for (std::int64_t group = 0; group < groups; ++group) finish(n, row_of(group, channel) * row, slope, level);
    }

    void finish(const Norm& n, std::int64_t at, float slope, float level) const {
        for (std::int64_t i = 0; i < row; i += kLanes) {
            const vec d = some(g.y + at + i, row - i, 0.0f), y = some(a.y + at + i, row - i, 0.0f);
            put_some(g.y + at + i, row - i, d * n.scale + ((y - n.mean) * slope + level));
        }
    }

    // The pool's gradient, divided among equal largest values, and back through relu; sums for the normalisation.
    void run(const Norm& n, std::int64_t at, std::int64_t field, Sums& sums) const {
        const std::int64_t start = at * row + field * a.size, pool = at * a.num_fields + field;
        const bool largest = a.pool == Pool::max;
        const float of_pool = a.pooled[pool];
        float gradient = g.pooled == nullptr ? 0.0f : g.pooled[pool];
        int ties = 0;
        for (int t = 0; t < a.size && largest; t += kLanes)
            ties += __builtin_popcount(
                positive(some(a.x + start + t, a.size - t, -std::numeric_limits<float>::infinity()) == of_pool ? splat(1.0f)
                                                                                                               : vec{}));
        gradient /= largest                ? static_cast<float>(std::max(1, ties))
                    : a.pool == Pool::mean ? static_cast<float>(a.size)
                                           : 1.0f;
        for (int t = 0; t < a.size; t += kLanes) {
            const std::int64_t left = a.size - t;
            const vec x = some(a.x + start + t, left, 0.0f);
            vec d = g.x == nullptr ? vec{} : some(g.x + start + t, left, 0.0f);
            d += !largest || x == of_pool ? splat(gradient) : vec{};
            d = x > 0.0f ? d : vec{};
            put_some(g.y + start + t, left, d);
            sums.short_shift += d;
            sums.short_scaled += d * (some(a.y + start + t, left, n.mean) - n.mean);
        }
    }
};

// The channels of several sets as one row of tasks.
template <class Task>
struct AllChannels {
    std::vector<Task> tasks{};
    std::vector<int> ends{};  // after the channels of each

    void add(const Task& task) {
        ends.push_back(count() + task.a.channels);
        tasks.push_back(task);
    }
    int count() const { return ends.empty() ? 0 : ends.back(); }
    struct Space {};
    Space space() const { return {}; }
    void run(int number, Space&) const {
        const auto which = std::upper_bound(ends.begin(), ends.end(), number) - ends.begin();
        tasks[which].run(number - (which == 0 ? 0 : ends[which - 1]));
    }
};

}  // namespace

void activate_sets(const std::vector<Activation>& activations, int threads) {
    AllChannels<ActivationForward> forward;
    for (const Activation& a : activations) forward.add(ActivationForward(a));
    run_all(forward, forward.count(), threads);
}

void activate_sets_back(const std::vector<Activation>& activations, const std::vector<ActivationGradients>& gradients,
                        int threads) {
    AllChannels<ActivationBackward> backward;
    for (std::size_t i = 0; i < activations.size(); ++i) backward.add(ActivationBackward(activations[i], gradients[i]));
    run_all(backward, backward.count(), threads);
}

}  // namespace NF_ISA
}  // namespace nf
