// Messages from all sources to all targets of one block of edges, what targets gather of them, and the gradients.
//
// m_ts = scale_ts (a_t + b_s) + shift_ts is made when it is needed, forwards and backwards: no message takes memory.
#pragma once
#include <algorithm>
#include <limits>

#include "lanes.hpp"
#include "parallel.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {
namespace {

constexpr int kSummed = 16;  // messages that are summed by themselves: short sums of short sums

// The channels from one on: a vector of them, or those that are left of a row.
template <bool whole>
struct Part {
    int at, left;
    NF_INLINE vec get(const float* row) const {
        if constexpr (whole) return load_unaligned(row + at);
        vec x{};
        std::memcpy(&x, row + at, static_cast<std::size_t>(left) * 4);
        return x;
    }
    NF_INLINE void put(float* row, vec x) const {
        if constexpr (whole) {
            *reinterpret_cast<vec_unaligned*>(row + at) = x;
        } else {
            std::memcpy(row + at, &x, static_cast<std::size_t>(left) * 4);
        }
    }
};

struct MessageTask {
    const Messages& p;
    const int parts;

    explicit MessageTask(const Messages& given)
        : p(given), parts(static_cast<int>(std::min<std::int64_t>(given.num_fields, kParts))) {}
    std::int64_t first(int part) const { return p.num_fields * part / parts; }
    std::int64_t edge(std::int64_t field, int t) const {
        return (field * p.num_targets + t) * p.num_sources * 2 * p.channels;
    }
    std::int64_t target(std::int64_t field, int t) const { return field * p.num_nodes + p.first_target + t; }
    std::int64_t source(std::int64_t field, int s) const { return field * p.num_nodes + p.first_source + s; }
    // Rows of a_t and of b_s.
    const float* to(std::int64_t field, int t) const { return p.nodes + target(field, t) * 2 * p.channels; }
    const float* from(std::int64_t field, int s) const {
        return p.nodes + source(field, s) * 2 * p.channels + p.channels;
    }

    template <class Work>
    void each_part(Work&& work) const {
        int c = 0;
        for (; c + kLanes <= p.channels; c += kLanes) work(Part<true>{c, kLanes});
        if (c < p.channels) work(Part<false>{c, p.channels - c});
    }
};

struct MessagesForward : MessageTask {
    using MessageTask::MessageTask;
    int space() const { return 0; }

    void run(int part, int) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field)
            for (int t = 0; t < p.num_targets; ++t) each_part([&](auto c) { gather(field, t, c); });
    }

    template <bool whole>
    NF_INLINE void gather(std::int64_t field, int t, Part<whole> c) const {
        float* const statistics = p.statistics + target(field, t) * 4 * p.channels;
        const vec a = c.get(to(field, t));
        vec total{}, squares{};
        vec low = splat(std::numeric_limits<float>::infinity()), high = -low;
        if (!p.is_first) {
            total = c.get(statistics);
            low = c.get(statistics + p.channels);
            high = c.get(statistics + 2 * p.channels);
            squares = c.get(statistics + 3 * p.channels);
        }
        const float* change = p.modulation + edge(field, t);
        for (int start = 0; start < p.num_sources; start += kSummed) {
            vec sum_of_some{}, squares_of_some{};
            for (int s = start; s < std::min(start + kSummed, p.num_sources); ++s, change += 2 * p.channels) {
                const vec m = c.get(change) * (a + c.get(from(field, s))) + c.get(change + p.channels);
                sum_of_some += m;
                squares_of_some += m * m;
                low = m < low ? m : low;
                high = m > high ? m : high;
            }
            total += sum_of_some;
            squares += squares_of_some;
        }
        c.put(statistics, total);
        c.put(statistics + p.channels, low);
        c.put(statistics + 2 * p.channels, high);
        c.put(statistics + 3 * p.channels, squares);
    }
};

struct MessagesBackward : MessageTask {
    const MessageGradients& g;
    MessagesBackward(const Messages& given, const MessageGradients& gradients) : MessageTask(given), g(gradients) {}
    int space() const { return 0; }

    void run(int part, int) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field)
            for (int t = 0; t < p.num_targets; ++t) each_part([&](auto c) { back(field, t, c); });
    }

    // What a message hears: offset + slope m, and all of an extreme's gradient where it is the extreme, tie or not.
    template <bool whole>
    NF_INLINE void back(std::int64_t field, int t, Part<whole> c) const {
        const std::int64_t at = target(field, t), n = p.channels;
        const float* const statistics = p.statistics + at * 4 * n;
        const float* const d_statistics = g.statistics + at * 4 * n;
        const vec a = c.get(to(field, t)), low = c.get(statistics + n), high = c.get(statistics + 2 * n);
        const vec offset = c.get(d_statistics), d_low = c.get(d_statistics + n), d_high = c.get(d_statistics + 2 * n),
                  slope = c.get(d_statistics + 3 * n);
        const float* change = p.modulation + edge(field, t);
        float* d_change = g.modulation + edge(field, t);
        float* const d_to = g.nodes + at * 2 * n;
        vec d_a = c.get(d_to);
        for (int start = 0; start < p.num_sources; start += kSummed) {
            vec sum_of_some{};
            for (int s = start; s < std::min(start + kSummed, p.num_sources); ++s, change += 2 * n, d_change += 2 * n) {
                const vec scale = c.get(change), ends = a + c.get(from(field, s)), m = scale * ends + c.get(change + n);
                vec d = offset + slope * m;
                d += m == low ? d_low : vec{};
                d += m == high ? d_high : vec{};
                c.put(d_change, d * ends);
                c.put(d_change + n, d);
                const vec d_ends = d * scale;
                sum_of_some += d_ends;
                float* const d_from = g.nodes + source(field, s) * 2 * n + n;
                c.put(d_from, c.get(d_from) + d_ends);
            }
            d_a += sum_of_some;
        }
        c.put(d_to, d_a);
    }
};

}  // namespace

void aggregate(const Messages& p) {
    MessagesForward forward(p);
    run_all(forward, forward.parts, p.threads);
}

void aggregate_back(const Messages& p, const MessageGradients& g) {
    MessagesBackward backward(p, g);
    run_all(backward, backward.parts, p.threads);
}

}  // namespace NF_ISA
}  // namespace nf
