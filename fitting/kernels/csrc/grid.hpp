// The first sine layer on a product grid: sin(a_row + g_column) from sines of a and g, one pair per row and per column.
#pragma once
#include "passes.hpp"

namespace nf {
namespace NF_ISA {

// Sines and cosines of the rows' and the columns' share of the first layer's argument, made once per step.
struct GridTable {
    int rows = 0, columns = 0, ld = 0;
    Buffer row_sine, row_cosine, column_sine, column_cosine;

    GridTable(int r, int c, int stride)
        : rows(r), columns(c), ld(stride), row_sine(make_buffer(static_cast<std::ptrdiff_t>(r) * stride)),
          row_cosine(make_buffer(static_cast<std::ptrdiff_t>(r) * stride)),
          column_sine(make_buffer(static_cast<std::ptrdiff_t>(c) * stride)),
          column_cosine(make_buffer(static_cast<std::ptrdiff_t>(c) * stride)) {}

    // weight: (2, ld) in half turns; coords: (rows * columns, 2).
    void update(const float* coords, const float* weight, const float* bias) {
        for (int r = 0; r < rows; ++r)
            fill(coords[static_cast<std::ptrdiff_t>(r) * columns * 2], weight, bias, r, row_sine.get(), row_cosine.get());
        for (int c = 0; c < columns; ++c)
            fill(coords[c * 2 + 1], weight + ld, nullptr, c, column_sine.get(), column_cosine.get());
    }

    void fill(float x, const float* weight, const float* bias, int at, float* sine, float* cosine) {
        for (int j = 0; j < ld; j += kLanes) {
            vec s, c;
            vec z = load(weight + j) * x;
            if (bias != nullptr) z += load(bias + j);
            sine_cosine(z, s, c);
            store(sine + static_cast<std::ptrdiff_t>(at) * ld + j, s);
            store(cosine + static_cast<std::ptrdiff_t>(at) * ld + j, c);
        }
    }

    // Calls body(row, first column, point offset, count) for every run of points [first, first + points) in one row.
    template <class Body>
    NF_INLINE void runs(std::int64_t first, int points, Body body) const {
        int row = static_cast<int>(first / columns), column = static_cast<int>(first % columns);
        for (int p = 0; p < points;) {
            const int left = points - p, count = columns - column < left ? columns - column : left;
            body(row, column, p, count);
            p += count;
            column = 0;
            ++row;
        }
    }

    void forward(std::int64_t first, int points, float* hidden, float* slope) const {
        runs(first, points, [&](int row, int column, int offset, int count) {
            const std::ptrdiff_t from = static_cast<std::ptrdiff_t>(row) * ld, at = static_cast<std::ptrdiff_t>(column) * ld;
            const std::ptrdiff_t to = static_cast<std::ptrdiff_t>(offset) * ld;
            int j = 0;
            for (; j + 2 * kLanes <= ld; j += 2 * kLanes) rotate<2>(from + j, at + j, count, hidden + to + j, slope + to + j);
            if (j < ld) rotate<1>(from + j, at + j, count, hidden + to + j, slope + to + j);
        });
    }

    // Sines of sums of angles for C vectors of units: one row, `count` columns.
    template <int C>
    NF_INLINE void rotate(std::ptrdiff_t row, std::ptrdiff_t column, int count, float* hidden, float* slope) const {
        vec sa[C], ca[C];
#pragma GCC unroll 2
        for (int j = 0; j < C; ++j) {
            sa[j] = load(row_sine.get() + row + j * kLanes);
            ca[j] = load(row_cosine.get() + row + j * kLanes);
        }
        const float *sines = column_sine.get() + column, *cosines = column_cosine.get() + column;
        for (int p = 0; p < count; ++p) {
#pragma GCC unroll 2
            for (int j = 0; j < C; ++j) {
                const vec sg = load(sines + j * kLanes), cg = load(cosines + j * kLanes);
                store(hidden + j * kLanes, sa[j] * cg + ca[j] * sg);
                store(slope + j * kLanes, ca[j] * cg - sa[j] * sg);
            }
            sines += ld;
            cosines += ld;
            hidden += ld;
            slope += ld;
        }
    }

    // gb += sums of dz, gw (2, ld) += x^T dz.
    void backward(std::int64_t first, int points, const float* coords, const float* dz, float* gw, float* gb) const {
        runs(first, points, [&](int row, int column, int offset, int count) {
            const float row_x = coords[static_cast<std::ptrdiff_t>(row) * columns * 2];
            const float* const x = coords + column * 2 + 1;
            const float* const d = dz + static_cast<std::ptrdiff_t>(offset) * ld;
            int j = 0;
            for (; j + 2 * kLanes <= ld; j += 2 * kLanes) gather<2>(row_x, x, d + j, count, gw + j, gb + j);
            if (j < ld) gather<1>(row_x, x, d + j, count, gw + j, gb + j);
        });
    }

    template <int C>
    NF_INLINE void gather(float row_x, const float* x, const float* d, int count, float* gw, float* gb) const {
        vec sums[2][C] = {}, moments[2][C] = {};
        const auto one = [&](int u) {
#pragma GCC unroll 2
            for (int j = 0; j < C; ++j) {
                const vec value = load(d + j * kLanes);
                sums[u][j] += value;
                moments[u][j] += x[0] * value;
            }
            d += ld;
            x += 2;
        };
        int p = 0;
        for (; p + 2 <= count; p += 2) {
            one(0);
            one(1);
        }
        if (p < count) one(0);
#pragma GCC unroll 2
        for (int j = 0; j < C * kLanes; j += kLanes) {
            const vec total = sums[0][j / kLanes] + sums[1][j / kLanes];
            store(gb + j, load(gb + j) + total);
            store(gw + j, load(gw + j) + row_x * total);
            store(gw + ld + j, load(gw + ld + j) + (moments[0][j / kLanes] + moments[1][j / kLanes]));
        }
    }
};

}  // namespace NF_ISA
}  // namespace nf
