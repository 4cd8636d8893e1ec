// Set attention from one source to several targets over many fields, and its gradient.
//
// Fields go in chunks, chunks in parts that depend on the number of fields alone: gradients of weights are summed part by
// part in order, so that threads change nothing.
#pragma once
#include <algorithm>
#include <cmath>

#include "block.hpp"
#include "parallel.hpp"

namespace nf {
namespace NF_ISA {
namespace {

struct Task {
    const Problem& problem;
    const Shape shape;
    const Maps maps;
    const int chunks, parts;
    const float natural, factor;  // of a score, in powers of e and of two

    explicit Task(const Problem& p)
        : problem(p), shape(p), maps(p, shape), chunks(static_cast<int>((p.num_fields + shape.fields - 1) / shape.fields)),
          parts(std::min(chunks, kParts)), natural(static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.num_out)))),
          factor(static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(p.num_out)))) {}

    Workspace space() const { return Workspace(shape); }
    int first(int part) const { return static_cast<int>(static_cast<std::int64_t>(chunks) * part / parts); }
    std::int64_t stride() const { return problem.num_fields * shape.size; }
    int fields(int chunk) const {
        return static_cast<int>(std::min<std::int64_t>(shape.fields, problem.num_fields - first_field(chunk)));
    }
    std::int64_t first_field(int chunk) const { return static_cast<std::int64_t>(chunk) * shape.fields; }
    // Channels of a chunk in an array (channels, N, T), and where they start.
    Outside rows(int count, int chunk) const { return {stride(), shape.size, count, fields(chunk)}; }
    std::int64_t at(int chunk) const { return first_field(chunk) * shape.size; }
    // What is saved of a chunk and where: of each field the values after attention, then the inverse denominators.
    Outside saved_rows(int count, int chunk) const { return {shape.size, saved_size(), count, fields(chunk)}; }
    std::int64_t saved_size() const { return static_cast<std::int64_t>(shape.num_out + shape.num_heads) * shape.size; }
    float* saved_at(int target, int chunk) const {
        return problem.saved + (target * problem.num_fields + first_field(chunk)) * saved_size();
    }
    void project(int target, Workspace& w) const {
        map(shape, shape.rows, shape.num_in, maps.weight.get() + static_cast<std::ptrdiff_t>(target) * shape.rows * shape.num_in,
            maps.bias.get() + static_cast<std::ptrdiff_t>(target) * shape.rows, w.x.get(), w.qkv.get());
    }
    const float* out_weight(int target) const {
        return problem.out_weight + static_cast<std::ptrdiff_t>(target) * shape.num_out * shape.num_out;
    }
    void out_map(int target, Workspace& w) const {
        map(shape, shape.num_out, shape.num_out, out_weight(target), problem.out_bias + target * shape.num_out, w.o.get(),
            w.h.get());
    }
};

struct Forward : Task {
    const std::vector<float*>& sums;
    Forward(const Problem& p, const std::vector<float*>& z) : Task(p), sums(z) {}

    void run(int part, Workspace& w) const {
        for (int chunk = first(part); chunk < first(part + 1); ++chunk) {
            rows(shape.num_in, chunk).read(shape, problem.x + at(chunk), 1.0f, w.x.get());
            if (chunk + 1 < chunks) rows(shape.num_in, chunk + 1).prefetch<false>(shape, problem.x + at(chunk + 1));
            for (int target = 0; target < problem.num_targets; ++target) run(target, chunk, w);
        }
    }

    void run(int target, int chunk, Workspace& w) const {
        const Shape& s = shape;
        const int count = fields(chunk);
        project(target, w);
        rows(s.num_out, chunk).prefetch<true>(s, sums[target] + at(chunk));
        for (int f = 0; f < count; ++f)
            for (int head = 0; head < s.num_heads; ++head)
                attend_head(w.head_of(head, f, factor), w.head, w.o.get() + head * s.channels * s.ld + f * s.padded,
                            w.inverse.get() + head * s.ld + f * s.padded);
        if (problem.saved != nullptr) {
            float* const saved = saved_at(target, chunk);
            saved_rows(s.num_out, chunk).write<false>(s, w.o.get(), 1.0f, saved);
            saved_rows(s.num_heads, chunk).write<false>(s, w.inverse.get(), 1.0f, saved + s.num_out * s.size);
        }
        out_map(target, w);
        for (int r = 0; r < s.num_out; ++r)
            for (int c = 0; c < s.columns; c += kLanes) {
                float* const h = w.h.get() + r * s.ld + c;
                store(h, load(w.o.get() + r * s.ld + c) + larger(load(h), vec{}));
            }
        rows(s.num_out, chunk).write<true>(s, w.h.get(), problem.scale, sums[target] + at(chunk));
    }
};

struct Backward : Task {
    const Gradients& gradients;
    std::vector<Partial> partial;

    Backward(const Problem& p, const Gradients& g) : Task(p), gradients(g) {
        for (int part = 0; part < parts; ++part) partial.emplace_back(p, shape);
    }

    void run(int part, Workspace& w) {
        const Shape& s = shape;
        for (int chunk = first(part); chunk < first(part + 1); ++chunk) {
            clear(w, fields(chunk));
            rows(s.num_in, chunk).read(s, problem.x + at(chunk), 1.0f, w.x.get());
            turn(s, s.num_in, w.x.get(), s.in_padded, w.x_turned.get());
            std::memset(w.dx.get(), 0, static_cast<std::size_t>(s.num_in * s.ld) * 4);
            for (int target = 0; target < problem.num_targets; ++target) run(target, chunk, w, partial[part]);
            if (gradients.x != nullptr) rows(s.num_in, chunk).write<false>(s, w.dx.get(), 1.0f, gradients.x + at(chunk));
        }
    }

    // What an earlier, fuller chunk left behind must not count.
    static void clear(Workspace& w, int fields) {
        const Shape& s = w.shape;
        if (fields == s.fields) return;
        for (const auto& [buffer, count] : {std::pair{w.g.get(), s.num_out}, std::pair{w.grads.get(), s.rows}})
            std::memset(buffer, 0, static_cast<std::size_t>(count * s.ld) * 4);
    }

    static void turn(const Shape& s, int count, const float* from, int to_ld, float* to) {
        transpose(from, count, s.columns, s.ld, 1.0f, to, to_ld);
    }

    void run(int target, int chunk, Workspace& w, Partial& sums) const {
        const Shape& s = shape;
        const int count = fields(chunk);
        rows(s.num_out, chunk).read(s, gradients.sums[target] + at(chunk), problem.scale, w.g.get());
        const float* const saved = saved_at(target, chunk);
        saved_rows(s.num_out, chunk).read(s, saved, 1.0f, w.o.get());
        saved_rows(s.num_heads, chunk).read(s, saved + s.num_out * s.size, 1.0f, w.inverse.get());
        out_map_back(target, w, sums);
        project(target, w);
        prefetch_next(target, chunk);
        for (int f = 0; f < count; ++f)
            for (int head = 0; head < s.num_heads; ++head) {
                const std::ptrdiff_t here = head * s.channels * s.ld + f * s.padded, kind = s.num_out * s.ld;
                float* const dq = w.grads.get() + here;
                attend_head_back(w.head_of(head, f, factor), w.head, natural, w.g.get() + here, w.o.get() + here,
                                 w.inverse.get() + head * s.ld + f * s.padded, dq, dq + kind, dq + 2 * kind);
            }
        const std::ptrdiff_t first_row = static_cast<std::ptrdiff_t>(target) * s.rows;
        add_row_sums(s, s.rows, w.grads.get(), sums.bias.get() + first_row * kLanes);
        multiply<Order::rows, Start::accumulate>(s.rows, s.in_padded, s.columns, w.grads.get(), s.ld, w.x_turned.get(),
                                                 s.in_padded, sums.weight.get() + first_row * s.in_padded, s.in_padded);
        if (gradients.x != nullptr)
            multiply<Order::columns, Start::accumulate>(s.num_in, s.columns, s.rows, maps.weight.get() + first_row * s.num_in,
                                                        s.num_in, w.grads.get(), s.ld, w.dx.get(), s.ld);
    }

    // The gradients of the next target, and with the last one this chunk's dx and the next one's x.
    void prefetch_next(int target, int chunk) const {
        if (target + 1 < problem.num_targets)
            return rows(shape.num_out, chunk).template prefetch<false>(shape, gradients.sums[target + 1] + at(chunk));
        if (gradients.x != nullptr) rows(shape.num_in, chunk).template prefetch<true>(shape, gradients.x + at(chunk));
        if (chunk + 1 == chunks) return;
        rows(shape.num_in, chunk + 1).template prefetch<false>(shape, problem.x + at(chunk + 1));
        rows(shape.num_out, chunk + 1).template prefetch<false>(shape, gradients.sums[0] + at(chunk + 1));
    }

    // g <- g + W'^T (g where W' o + b' is positive).
    void out_map_back(int target, Workspace& w, Partial& sums) const {
        const Shape& s = shape;
        out_map(target, w);
        for (int r = 0; r < s.num_out; ++r)
            for (int c = 0; c < s.columns; c += kLanes) {
                float* const h = w.h.get() + r * s.ld + c;
                store(h, load(h) > 0.0f ? load(w.g.get() + r * s.ld + c) : vec{});
            }
        turn(s, s.num_out, w.o.get(), s.out_padded, w.o_turned.get());
        const std::ptrdiff_t first_row = static_cast<std::ptrdiff_t>(target) * s.num_out;
        add_row_sums(s, s.num_out, w.h.get(), sums.out_bias.get() + first_row * kLanes);
        multiply<Order::rows, Start::accumulate>(s.num_out, s.out_padded, s.columns, w.h.get(), s.ld, w.o_turned.get(),
                                                 s.out_padded, sums.out_weight.get() + first_row * s.out_padded, s.out_padded);
        multiply<Order::columns, Start::accumulate>(s.num_out, s.columns, s.num_out, out_weight(target), s.num_out,
                                                    w.h.get(), s.ld, w.g.get(), s.ld);
    }

    // Sums over the parts, in their order.
    void finish() const {
        const Shape& s = shape;
        for (int target = 0; target < problem.num_targets; ++target) {
            for (int r = 0; r < s.rows; ++r) {
                const std::int64_t from = static_cast<std::int64_t>(target) * s.rows + r, to = s.given_row(problem, target, r);
                add(&Partial::weight, from * s.in_padded, s.num_in, gradients.weight + to * s.num_in);
                gradients.bias[to] = total(&Partial::bias, from);
            }
            for (int r = 0; r < s.num_out; ++r) {
                const std::int64_t row = static_cast<std::int64_t>(target) * s.num_out + r;
                add(&Partial::out_weight, row * s.out_padded, s.num_out, gradients.out_weight + row * s.num_out);
                gradients.out_bias[row] = total(&Partial::out_bias, row);
            }
        }
    }

    void add(Buffer Partial::* which, std::int64_t at, int count, float* to) const {
        for (int i = 0; i < count; i += kLanes) {
            vec sum_of_parts{};
            for (const Partial& p : partial) sum_of_parts += load((p.*which).get() + at + i);
            std::memcpy(to + i, &sum_of_parts, static_cast<std::size_t>(std::min(kLanes, count - i)) * sizeof(float));
        }
    }

    float total(Buffer Partial::* which, std::int64_t row) const {
        vec sum_of_parts{};
        for (const Partial& p : partial) sum_of_parts += load((p.*which).get() + row * kLanes);
        return static_cast<float>(sum(sum_of_parts));
    }
};

}  // namespace

void attend_sets(const Problem& problem, const std::vector<float*>& sums) {
    Forward forward(problem, sums);
    run_all(forward, forward.parts, problem.threads);
}

void attend_sets_back(const Problem& problem, const Gradients& gradients) {
    Backward backward(problem, gradients);
    run_all(backward, backward.parts, problem.threads);
    backward.finish();
}

}  // namespace NF_ISA
}  // namespace nf
