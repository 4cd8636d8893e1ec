// Bindings of what is done to sets, attention and activation: arrays are checked, and passed on without a copy; the GIL
// is released meanwhile.
#pragma once
#include "bindings.hpp"

namespace {

using Many = std::vector<Floats>;

// What several problems are made of: lists of the same length, or of four arrays for each; problems of one x in a row.
struct Given {
    const Many& xs;  // (in, N, T)
    const std::vector<int>& sources;  // which x each problem has
    const Many& maps;  // weight, bias, out_weight, out_bias of each
    const std::vector<int>& heads;
    const std::vector<std::vector<int>>& targets;  // of each: which sums
    const std::vector<Floats>& sums;  // (out, N, T)
    const std::vector<Optional>& levels;  // (out, N)
    const std::vector<bool>& fresh;
    const Many& saved;  // of each, or none at all
    float scale;
};

nf::Problem problem_of(const Given& given, std::size_t i) {
    const auto source = static_cast<std::size_t>(given.sources[i]);
    expect(source < given.xs.size(), "sources: expected indices of xs");
    const Floats& x = given.xs[source];
    const Floats &weight = given.maps[4 * i], &bias = given.maps[4 * i + 1], &out_weight = given.maps[4 * i + 2],
                 &out_bias = given.maps[4 * i + 3];
    const bool same_sets = x.ndim() == 3 && x.size() > 0 && given.xs[0].ndim() == 3 && x.shape(1) == given.xs[0].shape(1) &&
                           x.shape(2) == given.xs[0].shape(2);
    expect(same_sets, "x: expected (in, N, T), none of them zero, the same N and T for all");
    expect(out_weight.ndim() == 3 && out_weight.shape(0) > 0, "out_weight: expected (J, out, out)");
    nf::Problem p{};
    p.num_in = static_cast<int>(x.shape(0));
    p.num_fields = static_cast<std::int64_t>(x.shape(1));
    p.size = static_cast<int>(x.shape(2));
    p.num_targets = static_cast<int>(out_weight.shape(0));
    p.num_out = static_cast<int>(out_weight.shape(1));
    p.num_heads = given.heads[i];
    p.is_first = i == 0 || given.sources[i - 1] != given.sources[i];
    p.is_last = i + 1 == given.sources.size() || given.sources[i + 1] != given.sources[i];
    p.scale = given.scale;
    const std::int64_t rows = 3LL * p.num_targets * p.num_out;
    expect(p.num_heads >= 1 && p.num_out >= 1 && p.num_out % p.num_heads == 0,
           "heads: expected a divisor of the number of outputs");
    expect(has_shape(weight, {rows, p.num_in}) && has_shape(bias, {rows}),
           "weight, bias: expected (3 J out, in), (3 J out,)");
    expect(has_shape(out_weight, {p.num_targets, p.num_out, p.num_out}) && has_shape(out_bias, {p.num_targets, p.num_out}),
           "out_weight, out_bias: expected (J, out, out), (J, out)");
    p.x = x.data();
    p.weight = weight.data();
    p.bias = bias.data();
    p.out_weight = out_weight.data();
    p.out_bias = out_bias.data();
    if (!given.saved.empty()) {
        expect(has_shape(given.saved[i], {p.num_targets, p.num_fields, nf::saved_of_field(p)}),
               "saved: expected (J, N, numbers of a field)");
        p.saved = given.saved[i].data();
    }
    return p;
}

// The targets of a problem; a sum's level, and whether it is fresh, are for the first problem that has it.
void add_targets(const Given& given, std::size_t i, std::vector<bool>& seen, nf::Problem& p) {
    expect(static_cast<int>(given.targets[i].size()) == p.num_targets, "targets: expected J of them");
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
    expect(count > 0 && !given.xs.empty() && given.maps.size() == 4 * count && given.heads.size() == count &&
               given.targets.size() == count && (given.saved.empty() || given.saved.size() == count) &&
               given.levels.size() == given.sums.size() && given.fresh.size() == given.sums.size(),
           "sources, maps, heads, targets, saved: expected one for each problem; sums, levels, fresh: one for each target");
    std::vector<bool> seen(given.sums.size(), false), begun(given.xs.size(), false);
    std::vector<nf::Problem> problems;
    for (std::size_t i = 0; i < count; ++i) {
        nf::Problem p = problem_of(given, i);
        const auto source = static_cast<std::size_t>(given.sources[i]);
        expect(!p.is_first || !begun[source], "sources: expected problems of one x in a row");
        begun[source] = true;
        add_targets(given, i, seen, p);
        problems.push_back(std::move(p));
    }
    for (const bool reached : seen) expect(reached, "sums: expected each to be a target");
    for (const bool read : begun) expect(read, "xs: expected each to be a source");
    return problems;
}

void attend(const Many& xs, const std::vector<int>& sources, const Many& maps, const std::vector<int>& heads,
            const std::vector<std::vector<int>>& targets, const Many& sums, const std::vector<Optional>& levels,
            const std::vector<bool>& fresh, const Many& saved, float scale, int threads, const std::string& isa) {
    const std::vector<nf::Problem> problems =
        problems_of({xs, sources, maps, heads, targets, sums, levels, fresh, saved, scale}, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend(problems, threads);
}

void attend_back(const Many& xs, const std::vector<int>& sources, const Many& maps, const std::vector<int>& heads,
                 const std::vector<std::vector<int>>& targets, const Many& d_sums, const std::vector<Optional>& d_levels,
                 const Many& saved, float scale, const std::vector<Optional>& d_xs, const Many& d_maps, int threads,
                 const std::string& isa) {
    const std::vector<bool> fresh(d_sums.size(), false);
    const std::vector<nf::Problem> problems =
        problems_of({xs, sources, maps, heads, targets, d_sums, d_levels, fresh, saved, scale}, threads);
    expect(!saved.empty() && d_xs.size() == xs.size() && d_maps.size() == maps.size(),
           "saved, d_xs, d_maps: expected one for each of what they belong to");
    for (std::size_t i = 0; i < maps.size(); ++i)
        expect(d_maps[i].size() == maps[i].size(), "d_maps: expected the sizes of the maps");
    for (std::size_t i = 0; i < xs.size(); ++i)
        expect(!d_xs[i].has_value() || d_xs[i]->size() == xs[i].size(), "d_xs: expected the sizes of xs");
    std::vector<nf::Gradients> gradients;
    for (std::size_t i = 0; i < sources.size(); ++i)
        gradients.push_back({data(d_xs[static_cast<std::size_t>(sources[i])]), d_maps[4 * i].data(),
                             d_maps[4 * i + 1].data(), d_maps[4 * i + 2].data(), d_maps[4 * i + 3].data()});
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend_back(problems, gradients, threads);
}

nf::Activation activation_of(const Floats& y, int channels, const std::string& pool, bool of_batch, float epsilon,
                             const Optional& gamma, const Optional& beta, const Optional& mean, const Optional& variance,
                             const Floats& x, const Floats& pooled, int threads) {
    expect(y.ndim() == 3 && y.size() > 0, "y: expected (F C, N, T), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    expect(channels >= 1 && y.shape(0) % static_cast<std::size_t>(channels) == 0,
           "channels: expected a divisor of the number of rows");
    for (const Optional& array : {gamma, beta, mean, variance})
        expect(array.has_value() == gamma.has_value() && (!array.has_value() || has_shape(*array, {channels})),
               "gamma, beta, mean, variance: expected (C,) all four, or None");
    const auto rows = static_cast<std::int64_t>(y.shape(0)), n = static_cast<std::int64_t>(y.shape(1)),
               size = static_cast<std::int64_t>(y.shape(2));
    expect(has_shape(x, {rows, n, size}) && has_shape(pooled, {rows, n}), "x, pooled: expected (F C, N, T), (F C, N)");
    nf::Activation a{};
    a.num_rows = rows;
    a.num_fields = n;
    a.channels = channels;
    a.size = static_cast<int>(size);
    a.pool = pool_of(pool);
    a.of_batch = of_batch;
    a.epsilon = epsilon;
    a.y = y.data();
    a.gamma = data(gamma);
    a.beta = data(beta);
    a.mean = data(mean);
    a.variance = data(variance);
    a.x = x.data();
    a.pooled = pooled.data();
    return a;
}

void activate(const Floats& y, int channels, const std::string& pool, bool of_batch, float epsilon, const Optional& gamma,
              const Optional& beta, const Optional& mean, const Optional& variance, const Floats& x, const Floats& pooled,
              int threads, const std::string& isa) {
    const nf::Activation a =
        activation_of(y, channels, pool, of_batch, epsilon, gamma, beta, mean, variance, x, pooled, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.activate(a, threads);
}

void activate_back(const Floats& y, int channels, const std::string& pool, bool of_batch, float epsilon,
                   const Optional& gamma, const Optional& beta, const Optional& mean, const Optional& variance,
                   const Floats& x, const Floats& pooled, const Optional& dx, const Optional& d_pooled, const Floats& dy,
                   const Optional& d_gamma, const Optional& d_beta, int threads, const std::string& isa) {
    const nf::Activation a =
        activation_of(y, channels, pool, of_batch, epsilon, gamma, beta, mean, variance, x, pooled, threads);
    for (const auto& [gradient, size] : {std::pair{dx, x.size()}, std::pair{d_pooled, pooled.size()}})
        expect(!gradient.has_value() || gradient->size() == size,
               "dx, d_pooled: expected the sizes of what they belong to, or None");
    for (const Optional& gradient : {d_gamma, d_beta})
        expect(gradient.has_value() == gamma.has_value() && (!gradient.has_value() || has_shape(*gradient, {channels})),
               "d_gamma, d_beta: expected (C,), or None");
    expect(dy.size() == y.size(), "dy: expected the shape of y");
    const nf::ActivationGradients g{data(dx), data(d_pooled), dy.data(), data(d_gamma), data(d_beta)};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.activate_back(a, g, threads);
}

}  // namespace
