// Bindings of set attention: arrays are checked, and passed on without a copy; the GIL is released meanwhile.
#pragma once
#include "bindings.hpp"

namespace {

nf::Problem problem_of(const ReadFloats& x, const ReadFloats& weight, const ReadFloats& bias, const ReadFloats& out_weight,
                       const ReadFloats& out_bias, int heads, float scale, int threads) {
    expect(x.ndim() == 3 && x.size() > 0, "x: expected (in, N, T), none of them zero");
    expect(out_weight.ndim() == 3 && out_weight.shape(0) > 0, "out_weight: expected (J, out, out)");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Problem p;
    p.num_in = static_cast<int>(x.shape(0));
    p.num_fields = static_cast<std::int64_t>(x.shape(1));
    p.size = static_cast<int>(x.shape(2));
    p.num_targets = static_cast<int>(out_weight.shape(0));
    p.num_out = static_cast<int>(out_weight.shape(1));
    p.num_heads = heads;
    p.threads = threads;
    p.scale = scale;
    const std::int64_t rows = 3LL * p.num_targets * p.num_out;
    expect(heads >= 1 && p.num_out >= 1 && p.num_out % heads == 0, "heads: expected a divisor of the number of outputs");
    expect(has_shape(weight, {rows, p.num_in}) && has_shape(bias, {rows}), "weight, bias: expected (3 J out, in), (3 J out,)");
    expect(has_shape(out_weight, {p.num_targets, p.num_out, p.num_out}) && has_shape(out_bias, {p.num_targets, p.num_out}),
           "out_weight, out_bias: expected (J, out, out), (J, out)");
    p.x = x.data();
    p.weight = weight.data();
    p.bias = bias.data();
    p.out_weight = out_weight.data();
    p.out_bias = out_bias.data();
    p.saved = nullptr;
    return p;
}

template <class Array>
void expect_saved(const nf::Problem& p, const Array& saved) {
    expect(has_shape(saved, {p.num_targets, p.num_fields, p.num_out + p.num_heads, p.size}), "saved: expected (J, N, out + heads, T)");
}

template <class Array>
void expect_sums(const nf::Problem& p, const std::vector<Array>& sums) {
    bool fit = static_cast<int>(sums.size()) == p.num_targets;
    for (const Array& array : sums) fit = fit && has_shape(array, {p.num_out, p.num_fields, p.size});
    expect(fit, "sums: expected J arrays (out, N, T)");
}

void attend(ReadFloats x, ReadFloats weight, ReadFloats bias, ReadFloats out_weight, ReadFloats out_bias, int heads,
            float scale, int threads, const std::string& isa, const std::vector<Floats>& sums, std::optional<Floats> saved) {
    nf::Problem p = problem_of(x, weight, bias, out_weight, out_bias, heads, scale, threads);
    expect_sums(p, sums);
    std::vector<float*> into;
    for (const Floats& array : sums) into.push_back(array.data());
    if (saved.has_value()) {
        expect_saved(p, *saved);
        p.saved = saved->data();
    }
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend(p, into);
}

void attend_back(ReadFloats x, ReadFloats weight, ReadFloats bias, ReadFloats out_weight, ReadFloats out_bias, int heads,
                 float scale, int threads, const std::string& isa, const std::vector<ReadFloats>& d_sums, Floats saved,
                 std::optional<Floats> dx, Floats d_weight, Floats d_bias, Floats d_out_weight, Floats d_out_bias) {
    nf::Problem p = problem_of(x, weight, bias, out_weight, out_bias, heads, scale, threads);
    expect_sums(p, d_sums);
    expect_saved(p, saved);
    expect((!dx.has_value() || dx->size() == x.size()) && d_weight.size() == weight.size() && d_bias.size() == bias.size() &&
               d_out_weight.size() == out_weight.size() && d_out_bias.size() == out_bias.size(),
           "gradients: expected the sizes of what they belong to");
    p.saved = saved.data();
    nf::Gradients g{{}, dx.has_value() ? dx->data() : nullptr, d_weight.data(), d_bias.data(), d_out_weight.data(),
                    d_out_bias.data()};
    for (const ReadFloats& array : d_sums) g.sums.push_back(array.data());
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend_back(p, g);
}

}  // namespace
