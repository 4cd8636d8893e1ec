// Bindings of what is done to middle weight matrices.
#pragma once
#include "bindings.hpp"

namespace {

// Whether an array, if given, has one number per channel.
bool is_per_channel(const Optional& array, const Floats& y) {
    return !array.has_value() || has_shape(*array, {static_cast<std::int64_t>(y.shape(3))});
}

// Gamma, beta, mean and variance, or none of them; epsilon; whether the latter two are of the batch.
struct GivenNorm {
    const std::vector<Optional>& numbers;
    float epsilon;
    bool of_batch;
};

nf::ChannelNorm norm_of(const GivenNorm& given, const Floats& y) {
    expect(given.numbers.size() == 4, "norm: expected gamma, beta, mean, variance");
    for (const Optional& array : given.numbers)
        expect(array.has_value() == given.numbers[0].has_value() && is_per_channel(array, y),
               "gamma, beta, mean, variance: expected (C,) all four, or None");
    return {data(given.numbers[0]), data(given.numbers[1]), data(given.numbers[2]),
            data(given.numbers[3]), given.epsilon,          given.of_batch};
}

nf::Matrices matrices_of(const Floats& y, const ReadFloats& weight, const std::string& pool, bool raw,
                         const GivenNorm& norm, const Floats& rows, const Floats& columns, const Floats& pooled,
                         int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    const std::int64_t n = static_cast<std::int64_t>(y.shape(0)), o = static_cast<std::int64_t>(y.shape(1)),
                       i = static_cast<std::int64_t>(y.shape(2)), c = static_cast<std::int64_t>(y.shape(3));
    expect(weight.ndim() == 2 && static_cast<std::int64_t>(weight.shape(1)) == c, "weight: expected (C', C)");
    expect(has_shape(rows, {c, n, o}) && has_shape(columns, {c, n, i}) && has_shape(pooled, {c, n}),
           "rows, columns, pooled: expected (C, N, O), (C, N, I), (C, N)");
    nf::Matrices m{};
    m.num_fields = n;
    m.num_rows = static_cast<int>(o);
    m.num_columns = static_cast<int>(i);
    m.channels = static_cast<int>(c);
    m.num_out = static_cast<int>(weight.shape(0));
    m.pool = pool_of(pool);
    m.threads = threads;
    m.y = y.data();
    m.weight = weight.data();
    m.norm = norm_of(norm, y);
    m.raw = raw;
    m.rows = rows.data();
    m.columns = columns.data();
    m.pooled = pooled.data();
    return m;
}

bool is_mapped(const nf::Matrices& m, const Floats& z) {
    return has_shape(z, {m.num_fields, m.num_rows, m.num_columns, m.num_out});
}

void map(Floats y, ReadFloats weight, const std::string& pool, bool raw, const std::vector<Optional>& norm, float epsilon,
         Floats z, Floats rows, Floats columns, Floats pooled, int threads, const std::string& isa) {
    nf::Matrices m = matrices_of(y, weight, pool, raw, {norm, epsilon, false}, rows, columns, pooled, threads);
    expect(is_mapped(m, z), "z: expected (N, O, I, C')");
    m.z = z.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map(m);
}

void map_back(Floats y, ReadFloats weight, const std::string& pool, bool raw, const std::vector<Optional>& norm,
              float epsilon, Floats dz, Floats rows, Floats columns, Floats pooled, Optional d_rows, Optional d_columns,
              Optional d_pooled, Optional dy, Floats d_weight, Floats d_shift, Floats d_scaled, int threads,
              const std::string& isa) {
    const nf::Matrices m = matrices_of(y, weight, pool, raw, {norm, epsilon, false}, rows, columns, pooled, threads);
    expect(is_mapped(m, dz), "dz: expected (N, O, I, C')");
    for (const auto& [gradient, size] : {std::pair{d_rows, rows.size()}, std::pair{d_columns, columns.size()},
                                         std::pair{d_pooled, pooled.size()}, std::pair{dy, y.size()}})
        expect(!gradient.has_value() || gradient->size() == size, "gradients: expected the sizes of what they belong to");
    expect(d_weight.size() == weight.size() && d_shift.size() == y.shape(3) && d_scaled.size() == y.shape(3),
           "gradients: expected the sizes of what they belong to");
    const nf::MatrixGradients g{dz.data(), data(d_rows),    data(d_columns), data(d_pooled),
                                data(dy),  d_weight.data(), d_shift.data(),  d_scaled.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_back(m, g);
}

nf::Entries entries_of(const Floats& y, const Optional& rows, const Optional& columns, int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Entries e{};
    e.num_fields = static_cast<std::int64_t>(y.shape(0));
    e.num_rows = static_cast<int>(y.shape(1));
    e.num_columns = static_cast<int>(y.shape(2));
    e.channels = static_cast<int>(y.shape(3));
    expect(rows.has_value() == columns.has_value() &&
               (!rows.has_value() || (has_shape(*rows, {e.channels, e.num_fields, e.num_rows}) &&
                                      has_shape(*columns, {e.channels, e.num_fields, e.num_columns}))),
           "rows, columns: expected (C, N, O), (C, N, I), or None");
    e.y = y.data();
    e.rows = data(rows);
    e.columns = data(columns);
    return e;
}

void settle(const Floats& y, const Optional& rows, const Optional& columns, const Optional& mean, const Optional& variance,
            int threads, const std::string& isa) {
    nf::Entries e = entries_of(y, rows, columns, threads);
    expect(mean.has_value() == variance.has_value() && is_per_channel(mean, y) && is_per_channel(variance, y),
           "mean, variance: expected (C,) both, or None");
    e.mean = data(mean);
    e.variance = data(variance);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.settle(e, threads);
}

void settle_back(const Floats& y, const Optional& x, const std::vector<Optional>& norm, float epsilon, bool of_batch,
                 const Optional& d_shift, const Optional& d_scaled, const Optional& d_gamma, const Optional& rows,
                 const Optional& columns, int threads, const std::string& isa) {
    nf::Entries e = entries_of(y, rows, columns, threads);
    expect(!x.has_value() || x->size() == y.size(), "x: expected the shape of y");
    e.norm = norm_of({norm, epsilon, of_batch}, y);
    expect(x.has_value() == (e.norm.gamma != nullptr), "x: expected with a normalisation only");
    for (const Optional& numbers : {d_shift, d_scaled, d_gamma})
        expect(numbers.has_value() == x.has_value() && is_per_channel(numbers, y),
               "d_shift, d_scaled, d_gamma: expected (C,) with x, or None");
    e.x = data(x);
    e.d_shift = data(d_shift);
    e.d_scaled = data(d_scaled);
    e.d_gamma = data(d_gamma);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.settle_back(e, threads);
}

}  // namespace
