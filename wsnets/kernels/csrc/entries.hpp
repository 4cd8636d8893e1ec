// What is done to every entry of middle weight matrices y (N, O, I, C), each field's rows of I C floats at a time: their
// numbers of one channel are repeated I times, so that every loop is plain, whatever C is.
#pragma once
#include <algorithm>
#include <optional>

#include "lanes.hpp"
#include "norm.hpp"
#include "parallel.hpp"
#include "problem.hpp"
#include "rows.hpp"

namespace nf {
namespace NF_ISA {
namespace {

inline void repeat(const float* channels, int count, int times, float* to) {
    for (int i = 0; i < times; ++i) std::copy(channels, channels + count, to + static_cast<std::ptrdiff_t>(i) * count);
}

// Sums over I of a row of I C floats.
inline void fold(const float* NF_RESTRICT row, int count, int times, float* NF_RESTRICT to) {
    std::fill(to, to + count, 0.0f);
    for (int i = 0; i < times; ++i)
        for (int c = 0; c < count; ++c) to[c] += row[static_cast<std::ptrdiff_t>(i) * count + c];
}

// Fields go in runs: the numbers of the next one are asked for early, as their channels lie pages apart.
struct EntriesTask {
    const Entries& e;
    const int row, parts;  // floats of a row of y

    explicit EntriesTask(const Entries& given)
        : e(given), row(given.num_columns * given.channels),
          parts(static_cast<int>(std::min<std::int64_t>(given.num_fields, 4 * kParts))) {}

    struct Space {
        Buffer a, b, c, rows;  // as long as a row of y, and for a number of every row and channel
    };
    Space space() const {
        return {make_buffer(row), make_buffer(row), make_buffer(row),
                make_buffer(static_cast<std::ptrdiff_t>(e.num_rows) * e.channels)};
    }
    std::int64_t first(int part) const { return e.num_fields * part / parts; }
    float* at(float* y, std::int64_t field, int r) const { return y + (field * e.num_rows + r) * row; }
    float* rows_at(std::int64_t field) const { return e.rows + field * e.num_rows; }
    float* columns_at(std::int64_t field) const { return e.columns + field * e.num_columns; }
    std::ptrdiff_t stride(int count) const { return static_cast<std::ptrdiff_t>(e.num_fields) * count; }

    template <bool write>
    void prefetch(std::int64_t field, int part) const {
        if (e.rows == nullptr || field >= first(part + 1)) return;
        for (const auto& [side, count] :
             {std::pair{rows_at(field), e.num_rows}, std::pair{columns_at(field), e.num_columns}})
            for (int c = 0; c < e.channels; ++c)
                for (int i = 0; i < count; i += 16) __builtin_prefetch(side + c * stride(count) + i, write ? 1 : 0, 2);
    }
};

struct Settle : EntriesTask {
    Buffer means, rests,
        squares;  // of every field and channel: means as rounded, sums of distances from them and of squares

    explicit Settle(const Entries& given)
        : EntriesTask(given), means(per_field()), rests(per_field()), squares(per_field()) {}
    Buffer per_field() const { return make_buffer(e.num_fields * e.channels); }

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            prefetch<false>(field + 1, part);
            if (e.rows != nullptr) spread(field, s);
            if (e.mean != nullptr) measure(field, s);
        }
    }

    // y += rows repeated along I + columns repeated along O.
    void spread(std::int64_t field, Space& s) const {
        float *const NF_RESTRICT repeated = s.a.get(), *const NF_RESTRICT columns = s.b.get();
        turn_rows(rows_at(field), stride(e.num_rows), e.channels, e.num_rows, s.rows.get(), e.channels);
        turn_rows(columns_at(field), stride(e.num_columns), e.channels, e.num_columns, columns, e.channels);
        for (int r = 0; r < e.num_rows; ++r) {
            repeat(s.rows.get() + static_cast<std::ptrdiff_t>(r) * e.channels, e.channels, e.num_columns, repeated);
            float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) y[k] += repeated[k] + columns[k];
        }
    }

    void measure(std::int64_t field, Space& s) const {
        float *const NF_RESTRICT sums = s.a.get(), *const NF_RESTRICT repeated = s.b.get();
        float* const mean = means.get() + field * e.channels;
        std::fill(sums, sums + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) sums[k] += y[k];
        }
        fold(sums, e.channels, e.num_columns, mean);
        for (int c = 0; c < e.channels; ++c) mean[c] /= static_cast<float>(e.num_rows) * static_cast<float>(e.num_columns);
        repeat(mean, e.channels, e.num_columns, repeated);
        float* const NF_RESTRICT distances = s.c.get();
        std::fill(sums, sums + row, 0.0f);
        std::fill(distances, distances + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) {
                const float distance = y[k] - repeated[k];
                distances[k] += distance;
                sums[k] += distance * distance;
            }
        }
        fold(distances, e.channels, e.num_columns, rests.get() + field * e.channels);
        fold(sums, e.channels, e.num_columns, squares.get() + field * e.channels);
    }

    // Over all fields, from those of each.
    void finish() const {
        const double entries = static_cast<double>(e.num_rows) * e.num_columns, fields = static_cast<double>(e.num_fields);
        for (int c = 0; c < e.channels && e.mean != nullptr; ++c) {
            const auto rest = [&](std::int64_t f) { return rests.get()[f * e.channels + c] / entries; };
            const auto mean_of = [&](std::int64_t f) { return means.get()[f * e.channels + c] + rest(f); };
            double mean = 0.0, variance = 0.0;
            for (std::int64_t f = 0; f < e.num_fields; ++f) mean += mean_of(f) / fields;
            for (std::int64_t f = 0; f < e.num_fields; ++f) {
                const double off = mean_of(f) - mean;
                variance += (off * off + squares.get()[f * e.channels + c] / entries - rest(f) * rest(f)) / fields;
            }
            e.mean[c] = static_cast<float>(mean);
            e.variance[c] = static_cast<float>(variance);
        }
    }
};

struct SettleBack : EntriesTask {
    std::optional<NormBack> norm;

    explicit SettleBack(const Entries& given) : EntriesTask(given) {
        const double entries = static_cast<double>(e.num_fields) * e.num_rows * e.num_columns;
        if (e.x != nullptr) norm.emplace(e.norm, e.channels, entries, e.d_shift, e.d_scaled, e.d_gamma);
    }

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            prefetch<true>(field + 1, part);
            if (norm.has_value()) change(field, s);
            if (e.rows != nullptr) gather(field, s);
        }
    }

    // The gradient of norm(x) becomes that of x.
    void change(std::int64_t field, Space& s) const {
        float *const NF_RESTRICT scale = s.a.get(), *const NF_RESTRICT slope = s.b.get(),
                                 *const NF_RESTRICT level = s.c.get();
        for (const auto& [from, to] : {std::pair{norm->scale.get(), scale}, std::pair{norm->slope.get(), slope},
                                       std::pair{norm->level.get(), level}})
            repeat(from, e.channels, e.num_columns, to);
        for (int r = 0; r < e.num_rows; ++r) {
            float* const NF_RESTRICT y = at(e.y, field, r);
            const float* const NF_RESTRICT x = at(const_cast<float*>(e.x), field, r);
            for (int k = 0; k < row; ++k) y[k] = y[k] * scale[k] + (x[k] * slope[k] + level[k]);
        }
    }

    // rows = sums of y over I, columns = sums of y over O.
    void gather(std::int64_t field, Space& s) const {
        float* const NF_RESTRICT columns = s.a.get();
        std::fill(columns, columns + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            fold(y, e.channels, e.num_columns, s.rows.get() + static_cast<std::ptrdiff_t>(r) * e.channels);
            for (int k = 0; k < row; ++k) columns[k] += y[k];
        }
        turn_rows(s.rows.get(), e.channels, e.num_rows, e.channels, rows_at(field), stride(e.num_rows));
        turn_rows(columns, e.channels, e.num_columns, e.channels, columns_at(field), stride(e.num_columns));
    }
};

}  // namespace

void settle(const Entries& entries, int threads) {
    Settle forward(entries);
    run_all(forward, forward.parts, threads);
    forward.finish();
}

void settle_back(const Entries& entries, int threads) {
    SettleBack backward(entries);
    run_all(backward, backward.parts, threads);
}

}  // namespace NF_ISA
}  // namespace nf
