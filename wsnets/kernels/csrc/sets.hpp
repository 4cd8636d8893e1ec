// Set attention from some sources to several targets over many fields, and its gradient.
//
// Fields go in chunks, chunks in parts that depend on the number of fields alone: gradients of weights are summed part by
// part in order, so that threads change nothing. A chunk goes through all problems before the next one begins, so that
// what several of them read and write stays in cache.
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
    Maps maps;
    const float natural, factor;  // of a score, in powers of e and of two

    explicit Task(const Problem& p)
        : problem(p), shape(p), maps(p, shape),
          natural(static_cast<float>(1.0 / std::sqrt(static_cast<double>(p.num_out)))),
          factor(static_cast<float>(1.4426950408889634 / std::sqrt(static_cast<double>(p.num_out)))) {}

    int fields(int chunk) const {
        return static_cast<int>(std::min<std::int64_t>(shape.fields, problem.num_fields - first_field(chunk)));
    }
    std::int64_t first_field(int chunk) const { return static_cast<std::int64_t>(chunk) * shape.fields; }
    // Channels of a chunk in an array (channels, N, T), and where they start; levels are (out, N).
    Outside rows(int count, int chunk) const { return {problem.num_fields * shape.size, shape.size, count, fields(chunk)}; }
    std::int64_t at(int chunk) const { return first_field(chunk) * shape.size; }
    float* level_at(int target, int chunk) const {
        float* const level = problem.sums[target].level;
        return level == nullptr ? nullptr : level + first_field(chunk);
    }
    // What is saved of a chunk and where.
    Outside saved_rows(int count, int chunk) const { return {shape.size, saved_of_field(problem), count, fields(chunk)}; }
    float* saved_at(int target, int chunk) const {
        return problem.saved + (target * problem.num_fields + first_field(chunk)) * saved_of_field(problem);
    }
    template <bool write>
    void prefetch_saved(int target, int chunk) const {
        const float* const saved = saved_at(target, chunk);
        for (std::int64_t i = 0; i < fields(chunk) * saved_of_field(problem); i += 16)
            __builtin_prefetch(saved + i, write ? 1 : 0, 2);
    }
    float* signs_of(float* saved, int field) const {
        return saved + field * saved_of_field(problem) +
               static_cast<std::ptrdiff_t>(shape.num_out + shape.num_heads) * shape.size;
    }
    void read(int chunk, Workspace& w) const {
        rows(shape.num_in, chunk).read(shape, problem.x + at(chunk), 1.0f, w.x.get());
    }
    void project(int target, Workspace& w) const {
        map(shape, shape.rows, shape.num_in,
            maps.weight.get() + static_cast<std::ptrdiff_t>(target) * shape.rows * shape.num_in,
            maps.bias.get() + static_cast<std::ptrdiff_t>(target) * shape.rows, w.x.get(), w.qkv.get());
    }
    const float* out_weight(int target) const {
        return problem.out_weight + static_cast<std::ptrdiff_t>(target) * shape.num_out * shape.num_out;
    }
};

// All problems: they have the same fields and neurons.
struct Pass {
    std::vector<Task> tasks;
    Shape largest;  // of all counts
    int chunks, parts;

    explicit Pass(const std::vector<Problem>& problems) : largest(problems[0]) {
        tasks.reserve(problems.size());
        for (const Problem& p : problems) largest.cover(tasks.emplace_back(p).shape);
        chunks = static_cast<int>((problems[0].num_fields + largest.fields - 1) / largest.fields);
        parts = std::min(chunks, std::clamp(chunks / 4, 4, kParts));  // sums of many parts cost memory traffic
    }
    Workspace space() const { return Workspace(largest); }
    int first(int part) const { return static_cast<int>(static_cast<std::int64_t>(chunks) * part / parts); }

    // Asks for the x of the next problem, or of the first one for the next chunk.
    void prefetch_next(std::size_t task, int chunk) const {
        const bool last = task + 1 == tasks.size();
        const Task& next = last ? tasks[0] : tasks[task + 1];
        const int where = last ? chunk + 1 : chunk;
        if (next.problem.is_first && where < chunks)
            next.rows(next.shape.num_in, where).prefetch<false>(next.shape, next.problem.x + next.at(where));
    }
};

struct Forward : Pass {
    using Pass::Pass;

    void run(int part, Workspace& w) const {
        for (int chunk = first(part); chunk < first(part + 1); ++chunk)
            for (std::size_t i = 0; i < tasks.size(); ++i) {
                if (tasks[i].problem.is_first) tasks[i].read(chunk, w);
                prefetch_next(i, chunk);
                for (int target = 0; target < tasks[i].problem.num_targets; ++target) run(tasks[i], target, chunk, w);
            }
    }

    static void run(const Task& task, int target, int chunk, Workspace& w) {
        const Shape& s = task.shape;
        const Problem& p = task.problem;
        const int count = task.fields(chunk);
        task.project(target, w);
        const Outside outside = task.rows(s.num_out, chunk);
        float* const sums = p.sums[target].values + task.at(chunk);
        outside.prefetch<true>(s, sums);
        if (p.saved != nullptr) task.prefetch_saved<true>(target, chunk);
        for (int f = 0; f < count; ++f)
            for (int head = 0; head < s.num_heads; ++head)
                attend_head(w.head_of(s, head, f, task.factor), w.head, w.o.get() + head * s.channels * s.ld + f * s.padded,
                            w.inverse.get() + head * s.ld + f * s.padded);
        map(s, s.num_out, s.num_out, task.out_weight(target), p.out_bias + target * s.num_out, w.o.get(), w.h.get());
        if (p.saved != nullptr) save(task, target, chunk, w);
        add_positive(s, w.o.get(), w.h.get());
        const float* const level = task.level_at(target, chunk);
        p.sums[target].is_fresh ? outside.write<false>(s, w.h.get(), p.scale, sums, level, p.num_fields)
                                : outside.write<true>(s, w.h.get(), p.scale, sums, level, p.num_fields);
    }

    static void save(const Task& task, int target, int chunk, const Workspace& w) {
        const Shape& s = task.shape;
        float* const saved = task.saved_at(target, chunk);
        task.saved_rows(s.num_out, chunk).write<false>(s, w.o.get(), 1.0f, saved);
        task.saved_rows(s.num_heads, chunk).write<false>(s, w.inverse.get(), 1.0f, saved + s.num_out * s.size);
        for (int f = 0; f < task.fields(chunk); ++f) write_signs(s, w.h.get() + f * s.padded, task.signs_of(saved, f));
    }
};

struct Backward : Pass {
    const std::vector<Gradients>& gradients;
    std::vector<Partial> places;   // of every problem in the sums
    std::vector<Buffer> partial;   // sums of every part

    Backward(const std::vector<Problem>& problems, const std::vector<Gradients>& g)
        : Pass(problems), gradients(g), partial(parts) {
        for (const Task& task : tasks)
            places.emplace_back(task.problem, task.shape, places.empty() ? 0 : places.back().end);
    }

    void run(int part, Workspace& w) {
        partial[part] = make_buffer(places.back().end);
        for (int chunk = first(part); chunk < first(part + 1); ++chunk) {
            if (tasks[0].fields(chunk) < largest.fields) w.clear();
            for (std::size_t i = 0; i < tasks.size(); ++i) run(i, chunk, w, partial[part].get());
        }
    }

    void run(std::size_t i, int chunk, Workspace& w, float* sums) const {
        const Task& task = tasks[i];
        const Shape& s = task.shape;
        const Problem& p = task.problem;
        if (p.is_first) {
            task.read(chunk, w);
            turn(s, s.num_in, w.x.get(), s.in_padded, w.x_turned.get());
            std::memset(w.dx.get(), 0, static_cast<std::size_t>(s.num_in * s.ld) * 4);
        }
        for (int target = 0; target < p.num_targets; ++target) run(i, target, chunk, w, sums);
        if (gradients[i].x != nullptr && p.is_last)
            task.rows(s.num_in, chunk).write<false>(s, w.dx.get(), 1.0f, gradients[i].x + task.at(chunk));
    }

    static void turn(const Shape& s, int count, const float* from, int to_ld, float* to) {
        transpose(from, count, s.columns, s.ld, 1.0f, to, to_ld);
    }

    void run(std::size_t i, int target, int chunk, Workspace& w, float* sums) const {
        const Task& task = tasks[i];
        const Partial& place = places[i];
        const Shape& s = task.shape;
        const int count = task.fields(chunk);
        const Outside outside = task.rows(s.num_out, chunk);
        const float* const given = task.problem.sums[target].values + task.at(chunk);
        outside.read(s, given, task.problem.scale, w.g.get());
        if (float* const level = task.level_at(target, chunk)) outside.sum(s, given, level, task.problem.num_fields);
        float* const saved = task.saved_at(target, chunk);
        task.saved_rows(s.num_out, chunk).read(s, saved, 1.0f, w.o.get());
        task.saved_rows(s.num_heads, chunk).read(s, saved + s.num_out * s.size, 1.0f, w.inverse.get());
        for (int f = 0; f < count; ++f)
            choose_by_signs(s, task.signs_of(saved, f), w.g.get() + f * s.padded, w.h.get() + f * s.padded);
        out_map_back(task, target, w, sums + place.out_weight, sums + place.out_bias);
        task.project(target, w);
        prefetch(i, target, chunk);
        for (int f = 0; f < count; ++f)
            for (int head = 0; head < s.num_heads; ++head) {
                const std::ptrdiff_t here = head * s.channels * s.ld + f * s.padded, kind = s.num_out * s.ld;
                float* const dq = w.grads.get() + here;
                attend_head_back(w.head_of(s, head, f, task.factor), w.head, task.natural, w.g.get() + here,
                                 w.o.get() + here, w.inverse.get() + head * s.ld + f * s.padded, dq, dq + kind,
                                 dq + 2 * kind);
            }
        const std::ptrdiff_t first_row = static_cast<std::ptrdiff_t>(target) * s.rows;
        add_row_sums(s, s.rows, w.grads.get(), sums + place.bias + first_row * kLanes);
        multiply<Order::rows, Start::accumulate>(s.rows, s.in_padded, s.columns, w.grads.get(), s.ld, w.x_turned.get(),
                                                 s.in_padded, sums + place.weight + first_row * s.in_padded, s.in_padded);
        if (gradients[i].x != nullptr)
            multiply<Order::columns, Start::accumulate>(s.num_in, s.columns, s.rows,
                                                        task.maps.weight.get() + first_row * s.num_in, s.num_in,
                                                        w.grads.get(), s.ld, w.dx.get(), s.ld);
    }

    // The gradients of the next target, and with the last one what the next problem reads.
    void prefetch(std::size_t i, int target, int chunk) const {
        const Task& task = tasks[i];
        if (target + 1 < task.problem.num_targets) return prefetch_target(task, target + 1, chunk);
        if (gradients[i].x != nullptr && task.problem.is_last)
            task.rows(task.shape.num_in, chunk).template prefetch<true>(task.shape, gradients[i].x + task.at(chunk));
        prefetch_next(i, chunk);
        const bool last = i + 1 == tasks.size();
        if (!last || chunk + 1 < chunks) prefetch_target(last ? tasks[0] : tasks[i + 1], 0, last ? chunk + 1 : chunk);
    }

    static void prefetch_target(const Task& task, int target, int chunk) {
        task.rows(task.shape.num_out, chunk).prefetch<false>(task.shape, task.problem.sums[target].values + task.at(chunk));
        task.prefetch_saved<false>(target, chunk);
    }

    // g <- g + W'^T h, h = g where W' o + b' is positive.
    static void out_map_back(const Task& task, int target, Workspace& w, float* weight, float* bias) {
        const Shape& s = task.shape;
        turn(s, s.num_out, w.o.get(), s.out_padded, w.o_turned.get());
        const std::ptrdiff_t first_row = static_cast<std::ptrdiff_t>(target) * s.num_out;
        add_row_sums(s, s.num_out, w.h.get(), bias + first_row * kLanes);
        multiply<Order::rows, Start::accumulate>(s.num_out, s.out_padded, s.columns, w.h.get(), s.ld, w.o_turned.get(),
                                                 s.out_padded, weight + first_row * s.out_padded, s.out_padded);
        multiply<Order::columns, Start::accumulate>(s.num_out, s.columns, s.num_out, task.out_weight(target), s.num_out,
                                                    w.h.get(), s.ld, w.g.get(), s.ld);
    }

    // Sums over the parts, in their order.
    void finish(std::size_t i, int target) const {
        const Shape& s = tasks[i].shape;
        const Partial& place = places[i];
        const Gradients& to = gradients[i];
        for (int r = 0; r < s.rows; ++r) {
            const std::int64_t row = static_cast<std::int64_t>(target) * s.rows + r;
            const std::int64_t given = s.given_row(tasks[i].problem, target, r);
            add(place.weight + row * s.in_padded, s.num_in, to.weight + given * s.num_in);
            to.bias[given] = total(place.bias + row * kLanes);
        }
        for (int r = 0; r < s.num_out; ++r) {
            const std::int64_t row = static_cast<std::int64_t>(target) * s.num_out + r;
            add(place.out_weight + row * s.out_padded, s.num_out, to.out_weight + row * s.num_out);
            to.out_bias[row] = total(place.out_bias + row * kLanes);
        }
    }

    vec sum_of_parts(std::ptrdiff_t at) const {
        vec sum{};
        for (const Buffer& part : partial) sum += load(part.get() + at);
        return sum;
    }
    void add(std::ptrdiff_t at, int count, float* to) const {
        for (int i = 0; i < count; i += kLanes) {
            const vec sum = sum_of_parts(at + i);
            std::memcpy(to + i, &sum, static_cast<std::size_t>(std::min(kLanes, count - i)) * sizeof(float));
        }
    }
    float total(std::ptrdiff_t at) const { return static_cast<float>(sum(sum_of_parts(at))); }
};

// The gradients of one target's maps at a time, from those of all parts.
struct Finish {
    const Backward& backward;
    std::vector<std::pair<std::size_t, int>> targets{};

    explicit Finish(const Backward& done) : backward(done) {
        for (std::size_t i = 0; i < done.tasks.size(); ++i)
            for (int target = 0; target < done.tasks[i].problem.num_targets; ++target) targets.emplace_back(i, target);
    }
    struct Space {};
    Space space() const { return {}; }
    void run(int number, Space&) const { backward.finish(targets[number].first, targets[number].second); }
};

}  // namespace

void attend_sets(const std::vector<Problem>& problems, int threads) {
    Forward forward(problems);
    run_all(forward, forward.parts, threads);
}

void attend_sets_back(const std::vector<Problem>& problems, const std::vector<Gradients>& gradients, int threads) {
    Backward backward(problems, gradients);
    run_all(backward, backward.parts, threads);
    Finish finish(backward);
    run_all(finish, static_cast<int>(finish.targets.size()), threads);
}

}  // namespace NF_ISA
}  // namespace nf
