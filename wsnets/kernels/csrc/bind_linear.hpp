// Bindings of linear maps of several sources each.
#pragma once
#include "bindings.hpp"

namespace {

// Sizes, checked, and arrays that both ways read; ys: values, or their gradients.
nf::Linear linear_of(const std::vector<ReadFloats>& sources, const std::vector<std::vector<int>>& heard,
                     const std::vector<float>& factors, const std::vector<ReadFloats>& weights,
                     const std::vector<ReadFloats>& biases, const std::vector<Floats>& ys, int threads) {
    expect(heard.size() == factors.size() && heard.size() == weights.size() && heard.size() == biases.size() &&
               heard.size() == ys.size(),
           "maps: expected as many of each");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Linear all{};
    for (const ReadFloats& x : sources) {
        expect(x.ndim() >= 1 && x.size() > 0, "x: expected (in, ...), none of them zero");
        all.sources.push_back({x.data(), nullptr, static_cast<int>(x.shape(0))});
    }
    for (std::size_t i = 0; i < heard.size(); ++i) {
        nf::LinearMap m{};
        m.sources = heard[i];
        for (const int s : heard[i]) {
            expect(s >= 0 && s < static_cast<int>(sources.size()), "heard: expected indices of xs");
            const std::int64_t columns = static_cast<std::int64_t>(sources[s].size()) / all.sources[s].channels;
            expect(m.columns == 0 || m.columns == columns, "xs: expected as many columns for all of one map");
            m.columns = columns;
            m.num_in += all.sources[s].channels;
        }
        expect(!heard[i].empty() && weights[i].ndim() == 2 && weights[i].shape(0) > 0 &&
                   static_cast<int>(weights[i].shape(1)) == m.num_in,
               "weight: expected (out, in of all sources)");
        m.num_out = static_cast<int>(weights[i].shape(0));
        expect(biases[i].size() > 0 && biases[i].size() % m.num_out == 0, "bias: expected (out, 1) or (S, out, 1)");
        expect(static_cast<std::int64_t>(ys[i].size()) == m.num_out * m.columns, "y: expected (out, ...)");
        m.num_biases = static_cast<int>(biases[i].size()) / m.num_out;
        m.factor = factors[i];
        m.weight = weights[i].data();
        m.bias = biases[i].data();
        m.y = ys[i].data();
        all.maps.push_back(m);
    }
    return all;
}

void map_linear(const std::vector<ReadFloats>& sources, const std::vector<std::vector<int>>& heard,
                const std::vector<float>& factors, const std::vector<ReadFloats>& weights,
                const std::vector<ReadFloats>& biases, const std::vector<Floats>& ys, int threads, const std::string& isa) {
    const nf::Linear all = linear_of(sources, heard, factors, weights, biases, ys, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_linear(all, threads);
}

void map_linear_back(const std::vector<ReadFloats>& sources, const std::vector<std::vector<int>>& heard,
                     const std::vector<float>& factors, const std::vector<ReadFloats>& weights,
                     const std::vector<ReadFloats>& biases, const std::vector<Floats>& dys,
                     const std::vector<Optional>& d_sources, const std::vector<Floats>& d_weights,
                     const std::vector<Floats>& d_biases, int threads, const std::string& isa) {
    nf::Linear all = linear_of(sources, heard, factors, weights, biases, dys, threads);
    expect(d_sources.size() == sources.size() && d_weights.size() == weights.size() && d_biases.size() == biases.size(),
           "gradients: expected as many as what they belong to");
    for (std::size_t i = 0; i < sources.size(); ++i) {
        expect(!d_sources[i].has_value() || d_sources[i]->size() == sources[i].size(), "dx: expected the shape of x");
        all.sources[i].dx = data(d_sources[i]);
    }
    for (std::size_t i = 0; i < weights.size(); ++i) {
        expect(d_weights[i].size() == weights[i].size() && d_biases[i].size() == biases[i].size(),
               "gradients: expected the sizes of what they belong to");
        all.maps[i].d_weight = d_weights[i].data();
        all.maps[i].d_bias = d_biases[i].data();
    }
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_linear_back(all, threads);
}

}  // namespace
