// Bindings of what is done to sets, attention and activation: arrays are checked, and passed on without a copy; the GIL
// is released meanwhile.
#pragma once
#include "bindings.hpp"

namespace {

using Many = std::vector<Floats>;

// What several problems are made of: lists of the same length, and their maps in a row; problems of one x in a row.
struct Given {
    const Many& xs;  // (in, N, T)
    const std::vector<int>& sources;  // which x each problem has
    const Floats& matrices;  // weight, out_weight, out_bias of each
    const Floats& biases;  // bias of each
    const std::vector<int>& outs;  // outputs of each
    const std::vector<int>& heads;
    const std::vector<std::vector<int>>& targets;  // of each: which sums
    const std::vector<Floats>& sums;  // (out, N, T)
    const std::vector<Optional>& levels;  // (out, N)
    const std::vector<bool>& fresh;
    const Many& saved;  // of each, or none at all
    float scale;
};

// Where the maps of a problem begin among all matrices and biases.
struct Place {
    std::int64_t matrix, bias;

    Place after(const nf::Problem& p) const {
        const std::int64_t j = p.num_targets, out = p.num_out, rows = 3 * j * out;
        return {matrix + rows * p.num_in + j * out * out + j * out, bias + rows};
    }
};

nf::Problem problem_of(const Given& given, std::size_t i, const Place& place) {
    const auto source = static_cast<std::size_t>(given.sources[i]);
    expect(source < given.xs.size(), "sources: expected indices of xs");
    const Floats& x = given.xs[source];
    const bool same_sets = x.ndim() == 3 && x.size() > 0 && given.xs[0].ndim() == 3 && x.shape(1) == given.xs[0].shape(1) &&
                           x.shape(2) == given.xs[0].shape(2);
    expect(same_sets, "x: expected (in, N, T), none of them zero, the same N and T for all");
    expect(!given.targets[i].empty(), "targets: expected one or more");
    nf::Problem p{};
    p.num_in = static_cast<int>(x.shape(0));
    p.num_fields = static_cast<std::int64_t>(x.shape(1));
    p.size = static_cast<int>(x.shape(2));
    p.num_targets = static_cast<int>(given.targets[i].size());
    p.num_out = given.outs[i];
    p.num_heads = given.heads[i];
    p.is_first = i == 0 || given.sources[i - 1] != given.sources[i];
    p.is_last = i + 1 == given.sources.size() || given.sources[i + 1] != given.sources[i];
    p.scale = given.scale;
    expect(p.num_heads >= 1 && p.num_out >= 1 && p.num_out % p.num_heads == 0,
           "heads: expected a divisor of the number of outputs");
    const Place end = place.after(p);
    expect(end.matrix <= static_cast<std::int64_t>(given.matrices.size()) &&
               end.bias <= static_cast<std::int64_t>(given.biases.size()),
           "matrices, biases: expected the maps of all problems");
    p.x = x.data();
    p.weight = given.matrices.data() + place.matrix;
    p.out_weight = p.weight + 3LL * p.num_targets * p.num_out * p.num_in;
    p.out_bias = p.out_weight + static_cast<std::int64_t>(p.num_targets) * p.num_out * p.num_out;
    p.bias = given.biases.data() + place.bias;
    if (!given.saved.empty()) {
        expect(has_shape(given.saved[i], {p.num_targets, p.num_fields, nf::saved_of_field(p)}),
               "saved: expected (J, N, numbers of a field)");
        p.saved = given.saved[i].data();
    }
    return p;
}

// The targets of a problem; a sum's level, and whether it is fresh, are for the first problem that has it.
void add_targets(const Given& given, std::size_t i, std::vector<bool>& seen, nf::Problem& p) {
    for (const int target : given.targets[i]) {
        const auto t = static_cast<std::size_t>(target);
        expect(t < given.sums.size(), "targets: expected indices of sums");
        const Optional& level = given.levels[t];
        expect(has_shape(given.sums[t], {p.num_out, p.num_fields, p.size}), "sums: expected (out, N, T)");
        expect(!level.has_value() || has_shape(*level, {p.num_out, p.num_fields}), "levels: expected (out, N)");
        p.sums.push_back({given.sums[t].data(), seen[t] ? nullptr : data(level), !seen[t] && given.fresh[t]});
        seen[t] = true;
    }
}

std::vector<nf::Problem> problems_of(const Given& given, int threads) {
    const std::size_t count = given.sources.size();
    expect(threads >= 1, "threads: expected 1 or more");
    expect(count > 0 && !given.xs.empty() && given.outs.size() == count && given.heads.size() == count &&
               given.targets.size() == count && (given.saved.empty() || given.saved.size() == count) &&
               given.levels.size() == given.sums.size() && given.fresh.size() == given.sums.size(),
           "sources, outs, heads, targets, saved: expected one for each problem; sums, levels, fresh: one for each target");
    std::vector<bool> seen(given.sums.size(), false), begun(given.xs.size(), false);
    std::vector<nf::Problem> problems;
    Place place{0, 0};
    for (std::size_t i = 0; i < count; ++i) {
        nf::Problem p = problem_of(given, i, place);
        place = place.after(p);
        const auto source = static_cast<std::size_t>(given.sources[i]);
        expect(!p.is_first || !begun[source], "sources: expected problems of one x in a row");
        begun[source] = true;
        add_targets(given, i, seen, p);
        problems.push_back(std::move(p));
    }
    expect(place.matrix == static_cast<std::int64_t>(given.matrices.size()) &&
               place.bias == static_cast<std::int64_t>(given.biases.size()),
           "matrices, biases: expected the maps of all problems");
    for (const bool reached : seen) expect(reached, "sums: expected each to be a target");
    for (const bool read : begun) expect(read, "xs: expected each to be a source");
    return problems;
}

void attend(const Many& xs, const std::vector<int>& sources, const Floats& matrices, const Floats& biases,
            const std::vector<int>& outs, const std::vector<int>& heads, const std::vector<std::vector<int>>& targets,
            const Many& sums, const std::vector<Optional>& levels, const std::vector<bool>& fresh, const Many& saved,
            float scale, int threads, const std::string& isa) {
    const std::vector<nf::Problem> problems =
        problems_of({xs, sources, matrices, biases, outs, heads, targets, sums, levels, fresh, saved, scale}, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend(problems, threads);
}

void attend_back(const Many& xs, const std::vector<int>& sources, const Floats& matrices, const Floats& biases,
                 const std::vector<int>& outs, const std::vector<int>& heads, const std::vector<std::vector<int>>& targets,
                 const Many& d_sums, const std::vector<Optional>& d_levels, const Many& saved, float scale,
                 const std::vector<Optional>& d_xs, const Floats& d_matrices, const Floats& d_biases, int threads,
                 const std::string& isa) {
    const std::vector<bool> fresh(d_sums.size(), false);
    const std::vector<nf::Problem> problems =
        problems_of({xs, sources, matrices, biases, outs, heads, targets, d_sums, d_levels, fresh, saved, scale}, threads);
    expect(!saved.empty() && d_xs.size() == xs.size() && d_matrices.size() == matrices.size() &&
               d_biases.size() == biases.size(),
           "saved, d_xs, d_matrices, d_biases: expected as many as what they belong to");
    for (std::size_t i = 0; i < xs.size(); ++i)
        expect(!d_xs[i].has_value() || d_xs[i]->size() == xs[i].size(), "d_xs: expected the sizes of xs");
    std::vector<nf::Gradients> gradients;
    for (std::size_t i = 0; i < sources.size(); ++i) {
        // As far into the gradients as the maps lie into theirs.
        const auto of = [&](const float* map) { return d_matrices.data() + (map - matrices.data()); };
        const nf::Problem& p = problems[i];
        gradients.push_back({data(d_xs[static_cast<std::size_t>(sources[i])]), of(p.weight),
                             d_biases.data() + (p.bias - biases.data()), of(p.out_weight), of(p.out_bias)});
    }
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend_back(problems, gradients, threads);
}

// What several sets are given, for each: y (F C, N, T); four optional arrays, gamma, beta, mean and variance (C,); whether
// the latter are of the batch, epsilon; x (F C, N, T), pooled (F C, N).
std::vector<nf::Activation> activations_of(const Many& ys, const std::vector<Optional>& numbers,
                                           const std::vector<bool>& of_batch, const std::vector<float>& epsilons,
                                           const std::string& pool, const Many& xs, const Many& pools, int threads) {
    expect(threads >= 1, "threads: expected 1 or more");
    expect(numbers.size() == 4 * ys.size() && of_batch.size() == ys.size() && epsilons.size() == ys.size() &&
               xs.size() == ys.size() && pools.size() == ys.size(),
           "numbers: expected four for each set; of_batch, epsilons, xs, pools: one");
    std::vector<nf::Activation> all;
    for (std::size_t i = 0; i < ys.size(); ++i) {
        const Floats& y = ys[i];
        expect(y.ndim() == 3 && y.size() > 0, "y: expected (F C, N, T), none of them zero");
        const Optional &gamma = numbers[4 * i], &beta = numbers[4 * i + 1], &mean = numbers[4 * i + 2],
                       &variance = numbers[4 * i + 3];
        nf::Activation a{};
        a.num_rows = static_cast<std::int64_t>(y.shape(0));
        a.num_fields = static_cast<std::int64_t>(y.shape(1));
        a.size = static_cast<int>(y.shape(2));
        a.channels = static_cast<int>(gamma.has_value() ? gamma->size() : y.shape(0));
        expect(a.channels >= 1 && a.num_rows % a.channels == 0, "channels: expected a divisor of the number of rows");
        for (const Optional& array : {gamma, beta, mean, variance})
            expect(array.has_value() == gamma.has_value() && (!array.has_value() || has_shape(*array, {a.channels})),
                   "gamma, beta, mean, variance: expected (C,) all four, or None");
        expect(has_shape(xs[i], {a.num_rows, a.num_fields, a.size}) && has_shape(pools[i], {a.num_rows, a.num_fields}),
               "x, pooled: expected (F C, N, T), (F C, N)");
        a.pool = pool_of(pool);
        a.of_batch = of_batch[i];
        a.epsilon = epsilons[i];
        a.y = y.data();
        a.gamma = data(gamma);
        a.beta = data(beta);
        a.mean = data(mean);
        a.variance = data(variance);
        a.x = xs[i].data();
        a.pooled = pools[i].data();
        all.push_back(a);
    }
    return all;
}

void activate(const Many& ys, const std::vector<Optional>& numbers, const std::vector<bool>& of_batch,
              const std::vector<float>& epsilons, const std::string& pool, const Many& xs, const Many& pools, int threads,
              const std::string& isa) {
    const std::vector<nf::Activation> all = activations_of(ys, numbers, of_batch, epsilons, pool, xs, pools, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.activate(all, threads);
}

// d_numbers: of gamma and beta of every set.
void activate_back(const Many& ys, const std::vector<Optional>& numbers, const std::vector<bool>& of_batch,
                   const std::vector<float>& epsilons, const std::string& pool, const Many& xs, const Many& pools,
                   const std::vector<Optional>& d_xs, const std::vector<Optional>& d_pools, const Many& d_ys,
                   const std::vector<Optional>& d_numbers, int threads, const std::string& isa) {
    const std::vector<nf::Activation> all = activations_of(ys, numbers, of_batch, epsilons, pool, xs, pools, threads);
    expect(d_xs.size() == ys.size() && d_pools.size() == ys.size() && d_ys.size() == ys.size() &&
               d_numbers.size() == 2 * ys.size(),
           "d_xs, d_pools, d_ys: expected one for each set; d_numbers: two");
    std::vector<nf::ActivationGradients> gradients;
    for (std::size_t i = 0; i < ys.size(); ++i) {
        for (const auto& [gradient, size] : {std::pair{d_xs[i], xs[i].size()}, std::pair{d_pools[i], pools[i].size()}})
            expect(!gradient.has_value() || gradient->size() == size,
                   "dx, d_pooled: expected the sizes of what they belong to, or None");
        for (const Optional& gradient : {d_numbers[2 * i], d_numbers[2 * i + 1]})
            expect(gradient.has_value() == numbers[4 * i].has_value() &&
                       (!gradient.has_value() || has_shape(*gradient, {all[i].channels})),
                   "d_gamma, d_beta: expected (C,), or None");
        expect(d_ys[i].size() == ys[i].size(), "dy: expected the shape of y");
        gradients.push_back(
            {data(d_xs[i]), data(d_pools[i]), d_ys[i].data(), data(d_numbers[2 * i]), data(d_numbers[2 * i + 1])});
    }
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.activate_back(all, gradients, threads);
}

}  // namespace
