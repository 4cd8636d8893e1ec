// Bindings of the maps of blocks of weights.
#pragma once
#include "bindings.hpp"

namespace {

using ReadOptional = std::optional<ReadFloats>;

// Sizes, checked, and arrays that both ways read; signs are bits in arrays of floats.
nf::Blocks blocks_of(const ReadFloats& x, const ReadFloats& weight, const Optional& signs, int threads) {
    expect(x.ndim() == 4 && x.size() > 0, "x: expected (N, O, I, C), none of them zero");
    expect(weight.ndim() == 2 && weight.shape(0) > 0 && weight.shape(1) == x.shape(3), "weight: expected (D, C)");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Blocks b{};
    b.num_fields = static_cast<std::int64_t>(x.shape(0));
    b.num_rows = static_cast<int>(x.shape(1));
    b.num_columns = static_cast<int>(x.shape(2));
    b.channels = static_cast<int>(x.shape(3));
    b.num_out = static_cast<int>(weight.shape(0));
    expect(!signs.has_value() || has_shape(*signs, {b.num_fields, b.num_rows, b.num_columns, (b.num_out + 31) / 32}),
           "signs: expected (N, O, I, words of 32 bits), or None");
    b.x = x.data();
    b.weight = weight.data();
    b.signs = reinterpret_cast<std::uint32_t*>(data(signs));
    return b;
}

template <class Array>
void expect_sides(const nf::Blocks& b, const Array& rows, const Array& columns) {
    expect(has_shape(rows, {b.num_fields, b.num_rows, b.num_out}) &&
               has_shape(columns, {b.num_fields, b.num_columns, b.num_out}),
           "of rows, of columns: expected (N, O, D), (N, I, D)");
}

void map_blocks(ReadFloats x, ReadFloats weight, ReadFloats rows, ReadFloats columns, Optional gains, Optional z,
                Optional signs, Floats row_means, Floats column_means, int threads, const std::string& isa) {
    nf::Blocks b = blocks_of(x, weight, signs, threads);
    expect_sides(b, rows, columns);
    expect_sides(b, row_means, column_means);
    expect(!gains.has_value() || has_shape(*gains, {b.num_fields, b.num_out}), "gains: expected (N, D), or None");
    expect(!z.has_value() || has_shape(*z, {b.num_fields, b.num_rows, b.num_columns, b.num_out}),
           "z: expected (N, O, I, D), or None");
    b.rows = rows.data();
    b.columns = columns.data();
    b.gains = data(gains);
    b.z = data(z);
    b.row_means = row_means.data();
    b.column_means = column_means.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_blocks(b, threads);
}

void map_blocks_back(ReadFloats x, ReadFloats weight, Floats signs, float scale, Optional dz, ReadFloats d_row_means,
                     ReadFloats d_column_means, Optional dx, Floats d_weight, Floats d_rows, Floats d_columns, int threads,
                     const std::string& isa) {
    nf::Blocks b = blocks_of(x, weight, signs, threads);
    b.scale = scale;
    expect_sides(b, d_row_means, d_column_means);
    expect_sides(b, d_rows, d_columns);
    expect(!dz.has_value() || has_shape(*dz, {b.num_fields, b.num_rows, b.num_columns, b.num_out}),
           "dz: expected (N, O, I, D), or None");
    expect((!dx.has_value() || dx->size() == x.size()) && d_weight.size() == weight.size(),
           "gradients: expected the sizes of what they belong to");
    const nf::BlockGradients g{data(dz),        d_row_means.data(), d_column_means.data(), data(dx),
                               d_weight.data(), d_rows.data(),      d_columns.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_blocks_back(b, g, threads);
}

}  // namespace
