// What is done to every entry of middle weight matrices y (N, O, I, C), each field's rows of I C floats at a time: their
// numbers of one channel are repeated I times, so that every loop is plain, whatever C is.
#pragma once
#include <algorithm>

#include "lanes.hpp"
#include "parallel.hpp"
#include "problem.hpp"
#include "rows.hpp"

namespace nf {
namespace NF_ISA {
namespace {

#define NF_RESTRICT __restrict__

inline void repeat(const float* channels, int count, int times, float* to) {
    for (int i = 0; i < times; ++i) std::copy(channels, channels + count, to + static_cast<std::ptrdiff_t>(i) * count);
}

// Sums over I of a row of I C floats.
inline void fold(const float* NF_RESTRICT row, int count, int times, float* NF_RESTRICT to) {
    std::fill(to, to + count, 0.0f);
    for (int i = 0; i < times; ++i)
        for (int c = 0; c < count; ++c) to[c] += row[static_cast<std::ptrdiff_t>(i) * count + c];
}

struct EntriesTask {
    const Entries& e;
    const int row;  // floats

    explicit EntriesTask(const Entries& given) : e(given), row(given.num_columns * given.channels) {}
    Buffer space() const { return make_buffer(4 * static_cast<std::ptrdiff_t>(row) + static_cast<std::ptrdiff_t>(e.num_rows) * e.channels); }
    float* at(float* y, int field, int r) const { return y + (static_cast<std::int64_t>(field) * e.num_rows + r) * row; }
    float* rows_at(int field) const { return e.rows + static_cast<std::int64_t>(field) * e.num_rows; }
    float* columns_at(int field) const { return e.columns + static_cast<std::int64_t>(field) * e.num_columns; }
    std::ptrdiff_t stride(int count) const { return static_cast<std::ptrdiff_t>(e.num_fields) * count; }
    void prefetch(int) const {}
    template <bool write>
    void prefetch_sides(int field) const {
        for (const auto& [side, count] : {std::pair{rows_at(field), e.num_rows}, std::pair{columns_at(field), e.num_columns}})
            for (int c = 0; c < e.channels; ++c)
                for (int i = 0; i < count; i += 16) __builtin_prefetch(side + c * stride(count) + i, write ? 1 : 0, 2);
    }
};

// y += rows repeated along I + columns repeated along O.
struct Spread : EntriesTask {
    using EntriesTask::EntriesTask;
    void prefetch(int field) const { prefetch_sides<false>(field); }
    void run(int field, Buffer& space) const {
        float* const NF_RESTRICT repeated = space.get();
        float *const NF_RESTRICT columns = repeated + row, *const rows = columns + row;
        turn_rows(rows_at(field), stride(e.num_rows), e.channels, e.num_rows, rows, e.channels);
        turn_rows(columns_at(field), stride(e.num_columns), e.channels, e.num_columns, columns, e.channels);
        for (int r = 0; r < e.num_rows; ++r) {
            repeat(rows + static_cast<std::ptrdiff_t>(r) * e.channels, e.channels, e.num_columns, repeated);
            float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) y[k] += repeated[k] + columns[k];
        }
    }
};

// rows = sums of y over I, columns = sums of y over O.
struct Gather : EntriesTask {
    using EntriesTask::EntriesTask;
    void prefetch(int field) const { prefetch_sides<true>(field); }
    void run(int field, Buffer& space) const {
        float *const NF_RESTRICT columns = space.get(), *const rows = columns + row;
        std::fill(columns, columns + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            fold(y, e.channels, e.num_columns, rows + static_cast<std::ptrdiff_t>(r) * e.channels);
            for (int k = 0; k < row; ++k) columns[k] += y[k];
        }
        turn_rows(rows, e.channels, e.num_rows, e.channels, rows_at(field), stride(e.num_rows));
        turn_rows(columns, e.channels, e.num_columns, e.channels, columns_at(field), stride(e.num_columns));
    }
};

// y <- y scale + x slope + level, channel by channel: rows and columns hold nothing here.
struct Affine : EntriesTask {
    using EntriesTask::EntriesTask;
    void run(int field, Buffer& space) const {
        float* const NF_RESTRICT scale = space.get();
        float *const NF_RESTRICT slope = scale + row, *const NF_RESTRICT level = slope + row;
        for (const auto& [from, to] : {std::pair{e.scale, scale}, std::pair{e.slope, slope}, std::pair{e.level, level}})
            repeat(from, e.channels, e.num_columns, to);
        for (int r = 0; r < e.num_rows; ++r) {
            float* const NF_RESTRICT y = at(e.y, field, r);
            const float* const NF_RESTRICT x = at(const_cast<float*>(e.x), field, r);
            for (int k = 0; k < row; ++k) y[k] = y[k] * scale[k] + (x[k] * slope[k] + level[k]);
        }
    }
};

// Means of every field and channel, (N, C) in rows, and sums of squared distances from them, (N, C) in columns.
struct Moments : EntriesTask {
    using EntriesTask::EntriesTask;
    void run(int field, Buffer& space) const {
        float* const NF_RESTRICT sums = space.get();
        float* const NF_RESTRICT repeated = sums + row;
        float* const mean = e.rows + static_cast<std::int64_t>(field) * e.channels;
        std::fill(sums, sums + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) sums[k] += y[k];
        }
        fold(sums, e.channels, e.num_columns, mean);
        for (int c = 0; c < e.channels; ++c) mean[c] /= static_cast<float>(e.num_rows) * static_cast<float>(e.num_columns);
        repeat(mean, e.channels, e.num_columns, repeated);
        std::fill(sums, sums + row, 0.0f);
        for (int r = 0; r < e.num_rows; ++r) {
            const float* const NF_RESTRICT y = at(e.y, field, r);
            for (int k = 0; k < row; ++k) sums[k] += (y[k] - repeated[k]) * (y[k] - repeated[k]);
        }
        fold(sums, e.channels, e.num_columns, e.columns + static_cast<std::int64_t>(field) * e.channels);
    }
};

// Runs of fields: sides of the next field are asked for early, as their channels lie pages apart.
template <class Work>
struct Runs : Work {
    int parts;
    explicit Runs(const Entries& entries) : Work(entries), parts(static_cast<int>(std::min<std::int64_t>(entries.num_fields, 4 * kParts))) {}

    void run(int part, Buffer& space) const {
        const std::int64_t n = this->e.num_fields, end = n * (part + 1) / parts;
        for (std::int64_t field = n * part / parts; field < end; ++field) {
            if (field + 1 < end) Work::prefetch(static_cast<int>(field + 1));
            Work::run(static_cast<int>(field), space);
        }
    }
};

template <class Work>
inline void for_all(const Entries& entries) {
    Runs<Work> work(entries);
    run_all(work, work.parts, entries.threads);
}

}  // namespace

void work_on_entries(const Entries& entries) {
    switch (entries.work) {
        case EntriesWork::spread: return for_all<Spread>(entries);
        case EntriesWork::gather: return for_all<Gather>(entries);
        case EntriesWork::affine: return for_all<Affine>(entries);
        case EntriesWork::moments: return for_all<Moments>(entries);
    }
}

}  // namespace NF_ISA
}  // namespace nf
