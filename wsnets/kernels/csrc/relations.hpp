// Relational attention of nodes over the edges that join them, and its gradient, two rows of one field at a time.
//
// Of a row, the edges (V, E) lie as they are given; what is made of them, channels first, is (channels, V) with V
// rounded up to whole vectors. Values need no channel of an edge by itself: sum_j a_ij v_jc (M_c . e_ij) = M_c . sum_j
// a_ij v_jc e_ij, a product of the row's weights (C + H, V) and its edges, which holds the gathered edges, too.
#pragma once
#include <algorithm>
#include <limits>

#include "choices.hpp"
#include "exponent.hpp"
#include "gemm.hpp"
#include "parallel.hpp"
#include "problem.hpp"
#include "rows.hpp"

namespace nf {
namespace NF_ISA {
namespace {

constexpr int kRowsAtOnce = 2;
constexpr int kRowsSummed = 8;  // whose gradients of the map are summed by themselves: short sums of short sums

// What all threads read, and where things are. c, e, v: of C, E and V, rounded up.
struct RelationTask {
    const Relations& p;
    const int channels, c, e, v, parts;
    const std::ptrdiff_t ld;  // of rows of channels of a few rows of edges; not a power of two
    const float factor;       // of a score in powers of two
    Buffer weight;            // (3 C, e)

    explicit RelationTask(const Relations& given)
        : p(given),
          channels(given.num_heads * given.head_size),
          c(round_up(channels, kLanes)),
          e(round_up(given.width, kLanes)),
          v(round_up(given.num_nodes, kLanes)),
          parts(static_cast<int>(std::min<std::int64_t>(given.num_fields, kParts))),
          ld(kRowsAtOnce * v + 16),
          factor(given.scale * 1.4426950408889634f),
          weight(padded(3 * channels, given.weight, given.width, e)) {}

    std::int64_t first(int part) const { return p.num_fields * part / parts; }
    std::int64_t row_of(std::int64_t field, int row) const { return field * p.num_rows + row; }

    // Channels (C, count) of a field, given as (C, N, count), to rows `to` apart.
    void read(const float* from, std::int64_t field, int count, std::ptrdiff_t to, float* into) const {
        for (int i = 0; i < channels; ++i)
            copy_rows(1, from + (i * p.num_fields + field) * count, count, into + i * to, static_cast<int>(to));
    }
    void write(const float* from, std::ptrdiff_t ld_from, std::int64_t field, int count, float* into) const {
        for (int i = 0; i < channels; ++i)
            std::copy_n(from + i * ld_from, count, into + (i * p.num_fields + field) * count);
    }
    // A row's edges (V, e): where they lie, or a copy.
    const float* edges(std::int64_t field, int row, float* copy) const {
        const float* const from = p.edges + row_of(field, row) * p.num_nodes * p.width;
        if (e == p.width && reinterpret_cast<std::uintptr_t>(from) % (kLanes * 4) == 0) return from;
        copy_rows(p.num_nodes, from, p.width, copy, e);
        return copy;
    }
};

// Buffers of one thread; queries (C, rows) and keys, values (C, v) are those of a field.
struct RelationSpace {
    int q_ld;
    Buffer q, k, values, turned, maps, copy[kRowsAtOnce], attention, mix, mixed, sums;

    explicit RelationSpace(const RelationTask& t)
        : q_ld(round_up(t.p.num_rows, kLanes)),
          q(make_buffer(t.channels * q_ld)),
          k(make_buffer(t.channels * t.v)),
          values(make_buffer(t.channels * t.v)),
          turned(make_buffer(t.e * t.ld)),
          maps(make_buffer((3 * t.channels + t.p.num_heads) * t.ld)),
          attention(make_buffer(t.p.num_heads * t.v)),
          mix(make_buffer((t.channels + t.p.num_heads) * t.v)),
          mixed(make_buffer((t.c + t.p.num_heads) * static_cast<std::ptrdiff_t>(t.e))),
          sums(make_buffer(t.c * kLanes)) {
        for (Buffer& one : copy) one = make_buffer(static_cast<std::ptrdiff_t>(t.p.num_nodes) * t.e);
    }

    void start(const RelationTask& t, std::int64_t field) {
        t.read(t.p.q, field, t.p.num_rows, q_ld, q.get());
        t.read(t.p.k, field, t.p.num_nodes, t.v, k.get());
        t.read(t.p.v, field, t.p.num_nodes, t.v, values.get());
    }

    // Queries and keys of every pair of some rows, q + A e and k + B e; and M e below, if asked for. edges: the rows'.
    void map(const RelationTask& t, std::int64_t field, int row, int count, bool factors, const float** edges) {
        for (int r = 0; r < count; ++r) {
            edges[r] = t.edges(field, row + r, copy[r].get());
            transpose(edges[r], t.p.num_nodes, t.e, t.e, 1.0f, turned.get() + r * t.v, t.ld);
            for (int i = 0; i < t.channels; ++i) {
                float* const x = maps.get() + i * t.ld + r * t.v;
                std::fill_n(x, t.v, q.get()[i * q_ld + row + r]);
                std::copy_n(k.get() + i * t.v, t.v, x + t.channels * t.ld);
            }
        }
        const int columns = count * t.v;
        multiply<Order::rows, Start::accumulate>(2 * t.channels, columns, t.p.width, t.weight.get(), t.e, turned.get(),
                                                 t.ld, maps.get(), t.ld);
        if (!factors) return;
        multiply<Order::rows, Start::zero>(t.channels, columns, t.p.width, t.weight.get() + 2 * t.channels * t.e, t.e,
                                           turned.get(), t.ld, maps.get() + 2 * t.channels * t.ld, t.ld);
    }

    // The sums of the lanes of `sums`, channel by channel.
    void fold(const RelationTask& t, float* to) const {
        for (int i = 0; i < t.c; i += kLanes) {
            vec lanes[kLanes];
            for (int l = 0; l < kLanes; ++l) lanes[l] = load(sums.get() + (i + l) * kLanes);
            store(to + i, sums_of(lanes));
        }
    }
};

// Lanes of nodes from `size` on, where the last vector of a row goes beyond it.
NF_INLINE vec only(vec x, int first, int size) {
    const int left = size - first;
    return left >= kLanes ? x : (lane_numbers() < left ? x : vec{});
}

struct RelationForward : RelationTask {
    using RelationTask::RelationTask;
    RelationSpace space() const { return RelationSpace(*this); }

    void run(int part, RelationSpace& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            s.start(*this, field);
            for (int row = 0; row < p.num_rows; row += kRowsAtOnce) {
                const int count = std::min(kRowsAtOnce, p.num_rows - row);
                const float* edges[kRowsAtOnce];
                s.map(*this, field, row, count, false, edges);
                for (int r = 0; r < count; ++r) hear(field, row + r, s.maps.get() + r * v, edges[r], s);
            }
        }
    }

    void hear(std::int64_t field, int row, const float* x, const float* edges, RelationSpace& s) const {
        for (int head = 0; head < p.num_heads; ++head) {
            float* const a = s.attention.get() + head * v;
            attend(x + head * p.head_size * ld, a);
            std::copy_n(a, v, s.mix.get() + (channels + head) * v);
            for (int i = head * p.head_size; i < (head + 1) * p.head_size; ++i)
                for (int j = 0; j < v; j += kLanes)
                    store(s.mix.get() + i * v + j, load(a + j) * load(s.values.get() + i * v + j));
        }
        float* const mixed = s.mixed.get();
        multiply<Order::rows, Start::zero>(channels + p.num_heads, e, p.num_nodes, s.mix.get(), v, edges, e, mixed, e);
        const std::int64_t at = row_of(field, row);
        copy_rows(p.num_heads, mixed + channels * e, e, p.gathered + at * p.num_heads * p.width, p.width);
        if (p.mixed != nullptr) {
            copy_rows(channels, mixed, e, p.mixed + at * channels * p.width, p.width);
            copy_rows(p.num_heads, s.attention.get(), v, p.attention + at * p.num_heads * p.num_nodes, p.num_nodes);
        }
        const float* const map = weight.get() + 2 * channels * e;
        for (int i = 0; i < channels; ++i) {
            vec sum{};
            for (int j = 0; j < e; j += kLanes) sum += load(map + i * e + j) * load(mixed + i * e + j);
            store(s.sums.get() + i * kLanes, sum);
        }
        s.fold(*this, mixed);
        for (int i = 0; i < channels; ++i) p.values[(i * p.num_fields + field) * p.num_rows + row] = mixed[i];
    }

    // a = softmax of a head's scores of a row, zeros from V on.
    void attend(const float* x, float* a) const {
        vec largest = splat(-std::numeric_limits<float>::infinity());
        for (int j = 0; j < v; j += kLanes) {
            vec score{};
            for (int d = 0; d < p.head_size; ++d) score += load(x + d * ld + j) * load(x + (channels + d) * ld + j);
            score *= factor;
            store(a + j, score);
            const vec bounded =
                p.num_nodes - j >= kLanes ? score : (lane_numbers() < p.num_nodes - j ? score : largest);
            largest = larger(bounded, largest);
        }
        const float top = largest_lane(largest);
        vec total{};
        for (int j = 0; j < v; j += kLanes) {
            const vec score = load(a + j) - top;
            vec power[1] = {larger(score, splat(-126.0f))};
            exp2(power);
            const vec kept = only(score == score ? power[0] : score, j, p.num_nodes);  // what is not a number stays so
            total += kept;
            store(a + j, kept);
        }
        const float share = 1.0f / static_cast<float>(sum(total));
        for (int j = 0; j < v; j += kLanes) store(a + j, load(a + j) * share);
    }
};

struct RelationBackward : RelationTask {
    const RelationGradients& g;
    std::vector<Buffer> partial;  // (3 C, e) of every part

    RelationBackward(const Relations& given, const RelationGradients& gradients) : RelationTask(given), g(gradients) {
        for (int part = 0; part < parts; ++part)
            partial.push_back(make_buffer(3 * channels * static_cast<std::ptrdiff_t>(e)));
    }

    // maps become the gradients of what they held, with the attention below; weight: that of the maps, with the
    // gradient of a row's gathered edges below.
    struct Space : RelationSpace {
        Buffer d_values, d_attention, d_q, d_k, d_v, d_edges, weight, d_weight;
        explicit Space(const RelationBackward& t)
            : RelationSpace(t),
              d_values(make_buffer(t.channels * q_ld)),
              d_attention(make_buffer(t.p.num_heads * t.v)),
              d_q(make_buffer(t.c * q_ld)),
              d_k(make_buffer(t.channels * t.v)),
              d_v(make_buffer(t.channels * t.v)),
              d_edges(make_buffer(static_cast<std::ptrdiff_t>(t.p.num_nodes) * t.e)),
              weight(make_buffer((3 * t.channels + t.p.num_heads) * static_cast<std::ptrdiff_t>(t.e))),
              d_weight(make_buffer(3 * t.channels * static_cast<std::ptrdiff_t>(t.e))) {
            std::copy_n(t.weight.get(), 3 * t.channels * t.e, weight.get());
        }
    };
    Space space() const { return Space(*this); }

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            s.start(*this, field);
            read(g.values, field, p.num_rows, s.q_ld, s.d_values.get());
            std::fill_n(s.d_k.get(), channels * v, 0.0f);
            std::fill_n(s.d_v.get(), channels * v, 0.0f);
            for (int row = 0; row < p.num_rows; row += kRowsAtOnce) {
                const int count = std::min(kRowsAtOnce, p.num_rows - row);
                const float* edges[kRowsAtOnce];
                s.map(*this, field, row, count, true, edges);
                for (int r = 0; r < count; ++r) run(field, row + r, r * v, edges[r], s);
                if ((row + count) % kRowsSummed < count || row + count == p.num_rows)
                    add(s.d_weight.get(), partial[part].get());
            }
            write(s.d_q.get(), s.q_ld, field, p.num_rows, g.q);
            write(s.d_k.get(), v, field, p.num_nodes, g.k);
            write(s.d_v.get(), v, field, p.num_nodes, g.v);
        }
    }

    void add(float* from, float* to) const {
        for (int i = 0; i < 3 * channels * e; i += kLanes) {
            store(to + i, load(to + i) + load(from + i));
            store(from + i, vec{});
        }
    }

    void run(std::int64_t field, int row, int column, const float* edges, Space& s) const {
        const std::int64_t at = row_of(field, row);
        float *const gathered = s.weight.get() + 3 * channels * e, *const x = s.maps.get() + column;
        copy_rows(p.num_heads, g.gathered + at * p.num_heads * p.width, p.width, gathered, e);
        copy_rows(p.num_heads, p.attention + at * p.num_heads * p.num_nodes, p.num_nodes, s.attention.get(), v);
        multiply<Order::rows, Start::zero>(p.num_heads, v, p.width, gathered, e, s.turned.get() + column, ld,
                                           s.d_attention.get(), v);
        for (int head = 0; head < p.num_heads; ++head) {
            back_to_scores(head, row, x, s);
            back_to_maps(head, x, s);
            std::copy_n(s.attention.get() + head * v, v, x + (3 * channels + head) * ld);
        }
        fold_queries(row, s);
        multiply<Order::rows, Start::accumulate>(2 * channels, e, p.num_nodes, x, ld, edges, e, s.d_weight.get(), e);
        const float* const mixed = p.mixed + at * channels * p.width;
        float* const d_factors = s.d_weight.get() + 2 * channels * e;
        for (int i = 0; i < channels; ++i) {
            const float of_value = s.d_values.get()[i * s.q_ld + row];
            for (int j = 0; j < p.width; ++j) d_factors[i * e + j] += of_value * mixed[i * p.width + j];
        }
        float* const d_edges = g.edges + at * p.num_nodes * p.width;
        multiply<Order::columns, Start::zero>(p.num_nodes, e, 3 * channels + p.num_heads, x, ld, s.weight.get(), e,
                                              s.d_edges.get(), e);
        copy_rows(p.num_nodes, s.d_edges.get(), e, d_edges, p.width);
    }

    // From the values to the attention and its scores, which end in d_attention; the factors' gradient replaces them.
    void back_to_scores(int head, int row, float* x, Space& s) const {
        float *const d_a = s.d_attention.get() + head * v, *const a = s.attention.get() + head * v;
        vec mean{};
        for (int j = 0; j < v; j += kLanes) {
            vec d = load(d_a + j);
            const vec share = load(a + j);
            for (int i = head * p.head_size; i < (head + 1) * p.head_size; ++i) {
                float* const factor_at = x + (2 * channels + i) * ld + j;
                const float of_value = s.d_values.get()[i * s.q_ld + row];
                const vec moved = load(factor_at) * of_value, value = load(s.values.get() + i * v + j);
                d += value * moved;
                store(s.d_v.get() + i * v + j, load(s.d_v.get() + i * v + j) + share * moved);
                store(factor_at, share * value * of_value);
            }
            mean += share * d;
            store(d_a + j, d);
        }
        const float level = static_cast<float>(sum(mean));
        for (int j = 0; j < v; j += kLanes) store(d_a + j, (load(d_a + j) - level) * load(a + j) * p.scale);
    }

    // From a head's scores to its queries and keys: each one's gradient replaces it.
    void back_to_maps(int head, float* x, Space& s) const {
        const float* const d = s.d_attention.get() + head * v;
        for (int i = head * p.head_size; i < (head + 1) * p.head_size; ++i) {
            float *const query = x + i * ld, *const key = query + channels * ld, *const d_k = s.d_k.get() + i * v;
            vec total{};
            for (int j = 0; j < v; j += kLanes) {
                const vec slope = load(d + j), d_query = slope * load(key + j), d_key = slope * load(query + j);
                total += d_query;
                store(query + j, d_query);
                store(key + j, d_key);
                store(d_k + j, load(d_k + j) + d_key);
            }
            store(s.sums.get() + i * kLanes, total);
        }
    }

    void fold_queries(int row, Space& s) const {
        s.fold(*this, s.mixed.get());
        for (int i = 0; i < channels; ++i) s.d_q.get()[i * s.q_ld + row] = s.mixed.get()[i];
    }

    // Sums over the parts, in their order.
    void gather() const {
        for (int i = 0; i < 3 * channels; ++i)
            for (int j = 0; j < p.width; ++j) {
                double total = 0.0;
                for (const Buffer& one : partial) total += one.get()[i * e + j];
                g.weight[i * p.width + j] = static_cast<float>(total);
            }
    }
};

}  // namespace

void relate(const Relations& p) {
    RelationForward forward(p);
    run_all(forward, forward.parts, p.threads);
}

void relate_back(const Relations& p, const RelationGradients& g) {
    RelationBackward backward(p, g);
    run_all(backward, backward.parts, p.threads);
    backward.gather();
}

}  // namespace NF_ISA
}  // namespace nf
