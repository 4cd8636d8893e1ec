// Middle weight matrices of many fields: activation, linear map and pools in one pass, and their gradients.
//
// A few rows of one matrix at a time stay in cache, entries (rows I, C) with C rounded up to whole vectors.
#pragma once
#include <algorithm>
#include <limits>

#include "gemm.hpp"
#include "choices.hpp"
#include "norm.hpp"
#include "parallel.hpp"
#include "problem.hpp"
#include "rows.hpp"

namespace nf {
namespace NF_ISA {
namespace {

constexpr int kEntries = 32, kEntriesBack = 64;  // of a chunk of rows; the weight's gradient is a sum over it

constexpr int kTogether = 32;  // entries between two looks ahead

// Memory that is asked for ahead of its use, piece by piece between other work: all at once would wait for itself.
struct Ahead {
    struct Stretch {
        const char* at;
        std::int64_t lines, done;
        bool write;
    };
    int pieces;
    Stretch stretches[3] = {};
    int count = 0;

    explicit Ahead(int number) : pieces(number) {}
    void add(const float* at, std::int64_t floats, bool write) {
        if (floats > 0) stretches[count++] = {reinterpret_cast<const char*>(at), (floats + 15) / 16, 0, write};
    }
    void some() {
        for (int i = 0; i < count; ++i) {
            Stretch& s = stretches[i];
            const std::int64_t end = std::min(s.lines, s.done + (s.lines + pieces - 1) / pieces);
            if (s.write) {
                for (; s.done < end; ++s.done) __builtin_prefetch(s.at + 64 * s.done, 1, 2);
            } else {
                for (; s.done < end; ++s.done) __builtin_prefetch(s.at + 64 * s.done, 0, 2);
            }
        }
    }
};

// What all threads read: the map, turned and as it is, and the activation's numbers.
struct MatrixTask {
    const Matrices& m;
    const int c_padded, out_padded, step, parts;  // step: rows of a chunk
    Buffer turned, weight, scale, shift, mean;

    MatrixTask(const Matrices& given, int entries)
        : m(given), c_padded(round_up(m.channels, kLanes)), out_padded(round_up(m.num_out, kLanes)),
          step(std::clamp(entries / m.num_columns, 1, m.num_rows)),
          parts(static_cast<int>(std::min<std::int64_t>(m.num_fields, 4 * kParts))),
          turned(padded(m.channels, nullptr, 0, out_padded)), weight(padded(m.num_out, m.weight, m.channels, c_padded)),
          scale(make_buffer(c_padded)), shift(make_buffer(c_padded)), mean(make_buffer(c_padded)) {
        for (int c = 0; c < m.channels; ++c) {
            scale.get()[c] = m.norm.gamma == nullptr ? 1.0f : m.norm.gamma[c] * inverse_of(m.norm, c);
            if (m.norm.gamma == nullptr) continue;
            mean.get()[c] = m.norm.mean[c];
            shift.get()[c] = m.norm.beta[c] - m.norm.mean[c] * scale.get()[c];
        }
        for (int c = 0; c < m.channels; ++c)
            for (int o = 0; o < m.num_out; ++o) turned.get()[c * out_padded + o] = m.weight[o * m.channels + c];
    }

    struct Space {
        Buffer y, x, z, rows, columns;
    };
    Space space() const {
        const std::ptrdiff_t entries = static_cast<std::ptrdiff_t>(step) * m.num_columns;
        return {make_buffer(entries * c_padded), make_buffer(entries * c_padded), make_buffer(entries * out_padded),
                make_buffer(static_cast<std::ptrdiff_t>(m.num_rows) * c_padded),
                make_buffer(static_cast<std::ptrdiff_t>(m.num_columns) * c_padded)};
    }
    std::int64_t first(int part) const { return m.num_fields * part / parts; }
    // Entries of a field from a row on, of so many floats each.
    std::int64_t at(std::int64_t field, int row, int floats) const {
        return (field * m.num_rows + row) * m.num_columns * floats;
    }
    bool in_place(const float* p, int floats) const {
        return floats % kLanes == 0 && reinterpret_cast<std::uintptr_t>(p) % (kLanes * 4) == 0;
    }
    // The rows' entries with C padded: where they lie, or a copy.
    const float* entries(const float* from, int count, int floats, float* copy) const {
        if (in_place(from, floats)) return from;
        copy_rows(count, from, floats, copy, round_up(floats, kLanes));
        return copy;
    }
    // x of y, for a vector of channels.
    struct Activated {
        bool raw;
        vec scale, shift;
        NF_INLINE vec operator()(vec y) const { return raw ? y : larger(y * scale + shift, vec{}); }
    };
    Activated activation(int c) const { return {m.raw, load(scale.get() + c), load(shift.get() + c)}; }
    // What the chunk after so many rows needs, in so many pieces: of y, of what is as large as z, and of dy or null.
    Ahead after(std::int64_t field, int row, int pieces, const float* z, bool is_written, const float* dy) const {
        const std::int64_t end = m.num_fields * m.num_rows * m.num_columns, start = at(field, row, 1);
        const std::int64_t count = std::min<std::int64_t>(static_cast<std::int64_t>(step) * m.num_columns, end - start);
        Ahead ahead(pieces);
        ahead.add(m.y + start * m.channels, count * m.channels, false);
        ahead.add(z + start * m.num_out, count * m.num_out, is_written);
        if (dy != nullptr) ahead.add(dy + start * m.channels, count * m.channels, true);
        return ahead;
    }
    static int pieces(int entries) { return (entries + kTogether - 1) / kTogether; }
    // Where numbers of a field's rows or columns start, and how far channels are apart.
    std::int64_t side_at(std::int64_t field, int count) const { return field * count; }
    std::ptrdiff_t side_stride(int count) const { return m.num_fields * count; }
    float share(int count) const { return m.pool == Pool::mean ? 1.0f / static_cast<float>(count) : 1.0f; }
};

struct MatrixForward : MatrixTask {
    explicit MatrixForward(const Matrices& given) : MatrixTask(given, kEntries) {}

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            const float start = m.pool == Pool::max ? -std::numeric_limits<float>::infinity() : 0.0f;
            std::fill_n(s.columns.get(), m.num_columns * c_padded, start);
            for (int row = 0; row < m.num_rows; row += step) run(field, row, std::min(step, m.num_rows - row), s);
            for (int i = 0; i < m.num_columns * c_padded; ++i) s.columns.get()[i] *= share(m.num_rows);
            turn_rows(s.columns.get(), c_padded, m.num_columns, m.channels, m.columns + side_at(field, m.num_columns),
                      side_stride(m.num_columns));
            turn_rows(s.rows.get(), c_padded, m.num_rows, m.channels, m.rows + side_at(field, m.num_rows),
                      side_stride(m.num_rows));
            pool_rows(field, s);
        }
    }

    void pool_rows(std::int64_t field, const Space& s) const {
        for (int c = 0; c < c_padded; c += kLanes) {
            vec pool_of_field = load(s.rows.get() + c);
            for (int r = 1; r < m.num_rows; ++r) {
                const vec row = load(s.rows.get() + r * c_padded + c);
                pool_of_field = m.pool == Pool::max ? larger_of_pool(row, pool_of_field) : row + pool_of_field;
            }
            pool_of_field *= share(m.num_rows);
            for (int i = 0; i < kLanes && c + i < m.channels; ++i)
                m.pooled[(c + i) * m.num_fields + field] = pool_of_field[i];
        }
    }

    void run(std::int64_t field, int row, int count, Space& s) const {
        const int entries_here = count * m.num_columns;
        Ahead ahead = after(field, row + count, count * c_padded / kLanes + pieces(entries_here), m.z, true, nullptr);
        const float* const y = entries(m.y + at(field, row, m.channels), entries_here, m.channels, s.y.get());
        for (int c = 0; c < c_padded; c += kLanes)
            m.pool == Pool::max ? activate<true>(row, count, c, y, s, ahead) : activate<false>(row, count, c, y, s, ahead);
        if (m.num_out == 0) return;
        float* const z = m.z + at(field, row, m.num_out);
        float* const to = in_place(z, m.num_out) ? z : s.z.get();
        for (int e = 0; e < entries_here; e += kTogether) {
            ahead.some();
            multiply<Order::rows, Start::zero>(std::min(kTogether, entries_here - e), out_padded, m.channels,
                                               s.x.get() + e * c_padded, c_padded, turned.get(), out_padded,
                                               to + e * out_padded, out_padded);
        }
        if (to != z) copy_rows(entries_here, to, out_padded, z, m.num_out);
    }

    // x, and its pools so far; numbers of loops in locals: see block.hpp.
    template <bool largest>
    void activate(int row, int count, int c, const float* y, Space& s, Ahead& ahead) const {
        const Activated activated = activation(c);
        const int num_columns = m.num_columns, ld = c_padded;
        const float of_row = share(num_columns);
        for (int r = 0; r < count; ++r) {
            ahead.some();
            float *x = s.x.get() + static_cast<std::ptrdiff_t>(r) * num_columns * ld + c, *column = s.columns.get() + c;
            const float* from = y + static_cast<std::ptrdiff_t>(r) * num_columns * ld + c;
            vec pool_of_row = largest ? activated(load(from)) : vec{};
            for (int i = 0; i < num_columns; ++i, x += ld, from += ld, column += ld) {
                const vec value = activated(load(from)), before = load(column);
                store(x, value);
                pool_of_row = largest ? larger_of_pool(value, pool_of_row) : value + pool_of_row;
                store(column, largest ? larger_of_pool(value, before) : value + before);
            }
            store(s.rows.get() + (row + r) * ld + c, pool_of_row * of_row);
        }
    }
};

struct MatrixPartial {
    Buffer weight, shift, scaled;
};

struct MatrixBackward : MatrixTask {
    const MatrixGradients& g;
    std::vector<MatrixPartial> partial;

    MatrixBackward(const Matrices& given, const MatrixGradients& gradients)
        : MatrixTask(given, kEntriesBack), g(gradients) {
        for (int part = 0; part < parts; ++part)
            partial.push_back({make_buffer(static_cast<std::ptrdiff_t>(m.num_out) * c_padded), make_buffer(c_padded),
                               make_buffer(c_padded)});
    }

    struct Space : MatrixTask::Space {
        Buffer dx, d_rows, d_columns;
    };
    Space space() const {
        const std::ptrdiff_t entries = static_cast<std::ptrdiff_t>(step) * m.num_columns;
        const std::ptrdiff_t rows = static_cast<std::ptrdiff_t>(m.num_rows) * c_padded;
        const std::ptrdiff_t columns = static_cast<std::ptrdiff_t>(m.num_columns) * c_padded;
        return {MatrixTask::space(), make_buffer(entries * c_padded), make_buffer(rows), make_buffer(columns)};
    }

    void run(int part, Space& s) {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            read_side(m.rows, field, m.num_rows, s.rows.get());
            read_side(m.columns, field, m.num_columns, s.columns.get());
            read_side(g.rows, field, m.num_rows, s.d_rows.get());
            read_side(g.columns, field, m.num_columns, s.d_columns.get());
            if (g.pooled != nullptr) unpool_rows(field, s);
            for (int row = 0; row < m.num_rows; row += step)
                run(field, row, std::min(step, m.num_rows - row), s, partial[part]);
        }
    }

    void read_side(const float* from, std::int64_t field, int count, float* to) const {
        if (from == nullptr) {
            std::fill_n(to, static_cast<std::ptrdiff_t>(count) * c_padded, 0.0f);
        } else {
            turn_rows(from + side_at(field, count), side_stride(count), m.channels, count, to, c_padded);
        }
    }

    // Adds the gradient of what the rows' pools were pooled to, divided among equal largest ones.
    void unpool_rows(std::int64_t field, Space& s) const {
        for (int c = 0; c < c_padded; c += kLanes) {
            vec pool_of_field{}, gradient{}, ties{};
            for (int i = 0; i < kLanes && c + i < m.channels; ++i) {
                pool_of_field[i] = m.pooled[(c + i) * m.num_fields + field];
                gradient[i] = g.pooled[(c + i) * m.num_fields + field] * share(m.num_rows);
            }
            for (int r = 0; r < m.num_rows; ++r)
                ties += load(s.rows.get() + r * c_padded + c) == pool_of_field ? 1.0f - vec{} : vec{};
            if (m.pool == Pool::max) gradient /= larger(ties, 1.0f - vec{});
            for (int r = 0; r < m.num_rows; ++r) {
                float* const to = s.d_rows.get() + r * c_padded + c;
                const vec taken = load(s.rows.get() + r * c_padded + c) == pool_of_field ? gradient : vec{};
                store(to, load(to) + (m.pool == Pool::max ? taken : gradient));
            }
        }
    }

    void run(std::int64_t field, int row, int count, Space& s, MatrixPartial& sums) const {
        const int entries_here = count * m.num_columns;
        Ahead ahead = after(field, row + count, 4 * pieces(entries_here), g.z, false, g.y);
        const float* const y = entries(m.y + at(field, row, m.channels), entries_here, m.channels, s.y.get());
        float* const dy = g.y == nullptr ? nullptr : g.y + at(field, row, m.channels);
        float* const dx = dy != nullptr && in_place(dy, m.channels) ? dy : s.dx.get();
        if (m.num_out > 0) {
            const float* const dz = entries(g.z + at(field, row, m.num_out), entries_here, m.num_out, s.z.get());
            for (int e = 0; e < entries_here; e += kTogether) {
                ahead.some();
                recompute(std::min(kTogether, entries_here - e), y + e * c_padded, s.x.get() + e * c_padded);
            }
            multiply<Order::columns, Start::accumulate>(m.num_out, c_padded, entries_here, dz, out_padded, s.x.get(),
                                                        c_padded, sums.weight.get(), c_padded);
            if (dy == nullptr) return;
            for (int e = 0; e < entries_here; e += kTogether) {
                ahead.some();
                multiply<Order::rows, Start::zero>(std::min(kTogether, entries_here - e), c_padded, m.num_out,
                                                   dz + e * out_padded, out_padded, weight.get(), c_padded,
                                                   dx + e * c_padded, c_padded);
            }
        } else {
            if (dy == nullptr) return;
            std::fill_n(dx, entries_here * c_padded, 0.0f);
        }
        for (int c = 0; c < c_padded; c += kLanes)
            m.pool == Pool::max ? finish<true>(row, count, c, y, dx, s, sums, ahead)
                                : finish<false>(row, count, c, y, dx, s, sums, ahead);
        if (dx != dy) copy_rows(entries_here, dx, c_padded, dy, m.channels);
    }

    // x of y, entry by entry, as they lie in memory.
    void recompute(int count, const float* y, float* x) const {
        const bool raw = m.raw;
        const float *const scales = scale.get(), *const shifts = shift.get();
        for (int e = 0, ld = c_padded; e < count; ++e, x += ld, y += ld)
            for (int c = 0; c < ld; c += kLanes)
                store(x + c, Activated{raw, load(scales + c), load(shifts + c)}(load(y + c)));
    }

    // Adds the pools' gradients, goes back through the activation, and sums what its own numbers need.
    template <bool largest>
    void finish(int row, int count, int c, const float* y, float* dx, Space& s, MatrixPartial& sums, Ahead& ahead) const {
        const Activated activated = activation(c);
        const vec center = load(mean.get() + c);
        const int num_columns = m.num_columns, ld = c_padded;
        const float of_row = share(num_columns), of_column = share(m.num_rows);
        vec shift_sum{}, scaled_sum{};  // of this chunk: short sums of short sums
        for (int r = 0; r < count; ++r) {
            ahead.some();
            const std::ptrdiff_t at = static_cast<std::ptrdiff_t>(r) * num_columns * ld + c;
            const vec row_pool = load(s.rows.get() + (row + r) * ld + c);
            const vec row_gradient = load(s.d_rows.get() + (row + r) * ld + c) * of_row;
            const float *from = y + at, *column = s.columns.get() + c, *d_column = s.d_columns.get() + c;
            float* to = dx + at;
            for (int i = 0; i < num_columns; ++i, from += ld, to += ld, column += ld, d_column += ld) {
                const vec value = load(from), x = activated(value), column_gradient = load(d_column) * of_column;
                vec d = load(to);
                d += !largest || x == row_pool ? row_gradient : vec{};
                d += !largest || x == load(column) ? column_gradient : vec{};
                if (!activated.raw) {
                    d = x > 0.0f ? d : vec{};
                    shift_sum += d;
                    scaled_sum += d * (value - center);
                }
                store(to, d);
            }
        }
        store(sums.shift.get() + c, load(sums.shift.get() + c) + shift_sum);
        store(sums.scaled.get() + c, load(sums.scaled.get() + c) + scaled_sum);
    }

    void gather() const {
        const auto total = [&](Buffer MatrixPartial::* which, int at, float* to) {
            double sum_of_parts = 0.0;
            for (const MatrixPartial& p : partial) sum_of_parts += (p.*which).get()[at];
            *to = static_cast<float>(sum_of_parts);
        };
        for (int c = 0; c < m.channels; ++c) {
            for (int o = 0; o < m.num_out; ++o)
                total(&MatrixPartial::weight, o * c_padded + c, g.weight + o * m.channels + c);
            if (m.raw) continue;
            total(&MatrixPartial::shift, c, g.shift + c);
            total(&MatrixPartial::scaled, c, g.scaled + c);
        }
    }
};

}  // namespace

void map_matrices(const Matrices& m) {
    MatrixForward forward(m);
    run_all(forward, forward.parts, m.threads);
}

void map_matrices_back(const Matrices& m, const MatrixGradients& g) {
    MatrixBackward backward(m, g);
    run_all(backward, backward.parts, m.threads);
    backward.gather();
}

}  // namespace NF_ISA
}  // namespace nf
