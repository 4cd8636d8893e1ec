// Bindings of what is done to middle weight matrices.
#pragma once
#include "bindings.hpp"

namespace {

// Whether an array, if given, has one number per channel.
bool is_per_channel(const Optional& array, const Floats& y) { return !array.has_value() || has_shape(*array, {static_cast<std::int64_t>(y.shape(3))}); }

nf::Matrices matrices_of(const Floats& y, const ReadFloats& weight, const std::string& pool, const Optional& scale,
                         const Optional& shift, const Optional& mean, const Floats& rows, const Floats& columns, const Floats& pooled,
                         int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    const std::int64_t n = static_cast<std::int64_t>(y.shape(0)), o = static_cast<std::int64_t>(y.shape(1)),
                       i = static_cast<std::int64_t>(y.shape(2)), c = static_cast<std::int64_t>(y.shape(3));
    expect(weight.ndim() == 2 && static_cast<std::int64_t>(weight.shape(1)) == c, "weight: expected (C', C)");
    expect(has_shape(rows, {c, n, o}) && has_shape(columns, {c, n, i}) && has_shape(pooled, {c, n}),
           "rows, columns, pooled: expected (C, N, O), (C, N, I), (C, N)");
    expect(is_per_channel(scale, y) && is_per_channel(shift, y) && is_per_channel(mean, y) &&
               scale.has_value() == shift.has_value() && scale.has_value() == mean.has_value(),
           "scale, shift, mean: expected (C,) all three, or None");
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
    m.scale = data(scale);
    m.shift = data(shift);
    m.mean = data(mean);
    m.rows = rows.data();
    m.columns = columns.data();
    m.pooled = pooled.data();
    return m;
}

bool is_mapped(const nf::Matrices& m, const Floats& z) {
    return has_shape(z, {m.num_fields, m.num_rows, m.num_columns, m.num_out});
}

void map(Floats y, ReadFloats weight, const std::string& pool, Optional scale, Optional shift, Optional mean, Floats z,
         Floats rows, Floats columns, Floats pooled, int threads, const std::string& isa) {
    nf::Matrices m = matrices_of(y, weight, pool, scale, shift, mean, rows, columns, pooled, threads);
    expect(is_mapped(m, z), "z: expected (N, O, I, C')");
    m.z = z.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map(m);
}

void map_back(Floats y, ReadFloats weight, const std::string& pool, Optional scale, Optional shift, Optional mean, Floats dz,
              Floats rows, Floats columns, Floats pooled, Optional d_rows, Optional d_columns, Optional d_pooled, Optional dy,
              Floats d_weight, Floats d_shift, Floats d_scaled, int threads, const std::string& isa) {
    const nf::Matrices m = matrices_of(y, weight, pool, scale, shift, mean, rows, columns, pooled, threads);
    expect(is_mapped(m, dz), "dz: expected (N, O, I, C')");
    for (const auto& [gradient, size] : {std::pair{d_rows, rows.size()}, std::pair{d_columns, columns.size()},
                                         std::pair{d_pooled, pooled.size()}, std::pair{dy, y.size()}})
        expect(!gradient.has_value() || gradient->size() == size, "gradients: expected the sizes of what they belong to");
    expect(               d_weight.size() == weight.size() && d_shift.size() == y.shape(3) && d_scaled.size() == y.shape(3),
           "gradients: expected the sizes of what they belong to");
    const nf::MatrixGradients g{dz.data(), data(d_rows), data(d_columns), data(d_pooled), data(dy), d_weight.data(), d_shift.data(), d_scaled.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_back(m, g);
}

nf::Entries entries_of(nf::EntriesWork work, const Floats& y, int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Entries e{};
    e.work = work;
    e.num_fields = static_cast<std::int64_t>(y.shape(0));
    e.num_rows = static_cast<int>(y.shape(1));
    e.num_columns = static_cast<int>(y.shape(2));
    e.channels = static_cast<int>(y.shape(3));
    e.threads = threads;
    e.y = y.data();
    return e;
}

// spread, gather and moments: y with an array each for the rows and the columns, or for every field and channel.
template <nf::EntriesWork work>
void with_sides(Floats y, Floats rows, Floats columns, int threads, const std::string& isa) {
    nf::Entries e = entries_of(work, y, threads);
    constexpr bool moments = work == nf::EntriesWork::moments;
    const bool fit = moments ? has_shape(rows, {e.num_fields, e.channels}) && has_shape(columns, {e.num_fields, e.channels})
                             : has_shape(rows, {e.channels, e.num_fields, e.num_rows}) &&
                                   has_shape(columns, {e.channels, e.num_fields, e.num_columns});
    expect(fit, moments ? "mean, squares: expected (N, C)" : "rows, columns: expected (C, N, O), (C, N, I)");
    e.rows = rows.data();
    e.columns = columns.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.entries(e);
}

void affine(Floats y, Floats x, Floats scale, Floats slope, Floats level, int threads, const std::string& isa) {
    nf::Entries e = entries_of(nf::EntriesWork::affine, y, threads);
    const std::int64_t c = e.channels;
    expect(x.size() == y.size() && has_shape(scale, {c}) && has_shape(slope, {c}) && has_shape(level, {c}),
           "x: expected the shape of y; scale, slope, level: expected (C,)");
    e.x = x.data();
    e.scale = scale.data();
    e.slope = slope.data();
    e.level = level.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.entries(e);
}

}  // namespace
