// Blocks of weights of many fields under one linear map each, with what is added to rows and to columns, ReLU, dropout and
// means in the same pass, and their gradients.
//
// Some 128 entries of a block at a time stay in cache. Rows of floats of such a chunk are a vector longer than they need
// be, so that entries below each other do not compete for the same places of the cache.
#pragma once
#include <algorithm>
#include <vector>

#include "choices.hpp"
#include "gemm.hpp"
#include "parallel.hpp"
#include "problem.hpp"
#include "rows.hpp"

namespace nf {
namespace NF_ISA {
namespace {

constexpr int kPanel = kCols * kLanes;                      // columns of a product made at once
constexpr int kEntriesOfChunk = 128, kEntriesOfPart = 256;  // of a part: fewer are not worth sums of their own
constexpr int kPartsBack = kParts;                         // each has a gradient of the map, which are then added

// B (depth, count) as panels (depth, kPanel), one after the other, columns past `count` zero; element(k, j) is B's.
template <class Element>
Buffer panels_of(int depth, int count, Element element) {
    Buffer buffer = make_buffer(static_cast<std::ptrdiff_t>(depth) * round_up(count, kPanel));
    float* to = buffer.get();
    for (int first = 0; first < count; first += kPanel)
        for (int k = 0; k < depth; ++k, to += kPanel)
            for (int j = 0; j < std::min(kPanel, count - first); ++j) to[j] = element(k, first + j);
    return buffer;
}

struct BlockTask {
    const Blocks& b;
    const int in_stride, out_stride;  // floats between entries of a chunk
    const int step, parts;            // rows of a chunk; runs of fields

    BlockTask(const Blocks& given, std::int64_t most_parts)
        : b(given), in_stride(round_up(b.channels, kPanel) + kLanes), out_stride(round_up(b.num_out, kPanel) + kLanes),
          step(std::clamp(kEntriesOfChunk / b.num_columns, 1, b.num_rows)),
          parts(static_cast<int>(std::min(b.num_fields, most_parts))) {}

    struct Space {
        Buffer in, out, row, columns;  // entries of a chunk; sums of a row and of all columns
    };
    Space space() const {
        const std::ptrdiff_t entries = static_cast<std::ptrdiff_t>(step) * b.num_columns;
        return {make_buffer(entries * in_stride), make_buffer(entries * out_stride), make_buffer(out_stride),
                make_buffer(static_cast<std::ptrdiff_t>(b.num_columns) * out_stride)};
    }
    std::int64_t first(int part) const { return b.num_fields * part / parts; }
    std::int64_t entry(std::int64_t field, int row) const { return (field * b.num_rows + row) * b.num_columns; }
    int words() const { return (b.num_out + 31) / 32; }
    void clear(Space& s) const {
        std::fill_n(s.columns.get(), static_cast<std::ptrdiff_t>(b.num_columns) * out_stride, 0.0f);
    }
    void write_side(const float* sums, int count, float factor, float* to) const {
        for (int i = 0; i < count; ++i)
            for (int c = 0; c < b.num_out; ++c)
                to[static_cast<std::ptrdiff_t>(i) * b.num_out + c] =
                    sums[static_cast<std::ptrdiff_t>(i) * out_stride + c] * factor;
    }
};

struct BlockForward : BlockTask {
    const Buffer map;

    explicit BlockForward(const Blocks& given)
        : BlockTask(given, 4 * kParts), map(panels_of(b.channels, b.num_out, [this](int k, int j) {
              return b.weight[static_cast<std::ptrdiff_t>(j) * b.channels + k];
          })) {}

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            clear(s);
            for (int row = 0; row < b.num_rows; row += step) run(field, row, std::min(step, b.num_rows - row), s);
            write_side(s.columns.get(), b.num_columns, 1.0f / static_cast<float>(b.num_rows),
                       b.column_means + field * b.num_columns * b.num_out);
        }
    }

    void run(std::int64_t field, int row, int count, Space& s) const {
        const int entries = count * b.num_columns;
        const std::int64_t at = entry(field, row);
        copy_rows(entries, b.x + at * b.channels, b.channels, s.in.get(), in_stride);
        start(field, row, count, s);
        for (int c = 0; c < b.num_out; c += kPanel)
            column<kCols, Order::rows, Start::accumulate, false>(entries, s.in.get(), in_stride,
                                                                 map.get() + static_cast<std::ptrdiff_t>(c) * b.channels,
                                                                 kPanel, s.out.get() + c, out_stride, b.channels, nullptr);
        for (int r = 0; r < count; ++r)
            finish(field, row + r, s.out.get() + static_cast<std::ptrdiff_t>(r) * b.num_columns * out_stride, s);
        if (b.z != nullptr) copy_rows(entries, s.out.get(), out_stride, b.z + at * b.num_out, b.num_out);
    }

    // What is added to an entry's row and column.
    void start(std::int64_t field, int row, int count, Space& s) const {
        const int num_out = b.num_out, num_columns = b.num_columns;
        for (int r = 0; r < count; ++r) {
            const float* of_row = b.rows + (field * b.num_rows + row + r) * num_out;
            float* to = s.out.get() + static_cast<std::ptrdiff_t>(r) * num_columns * out_stride;
            for (int i = 0; i < num_columns; ++i, to += out_stride) {
                const float* of_column = b.columns + (field * num_columns + i) * num_out;
                for (int c = 0; c < num_out; ++c) to[c] = of_row[c] + of_column[c];
            }
        }
    }

    // ReLU, dropout, signs and sums of one row's entries.
    void finish(std::int64_t field, int row, float* entries, Space& s) const {
        const float* const gains = b.gains == nullptr ? nullptr : b.gains + field * b.num_out;
        std::uint32_t* signs = b.signs == nullptr ? nullptr : b.signs + entry(field, row) * words();
        const int num_out = b.num_out, ld = out_stride, num_words = words();
        float *sums = s.row.get(), *column = s.columns.get();
        std::fill_n(sums, ld, 0.0f);
        for (int i = 0; i < b.num_columns; ++i, entries += ld, column += ld) {
            for (int c = 0; c < num_out; ++c) entries[c] = entries[c] < 0.0f ? 0.0f : entries[c];  // NaN stays
            if (gains != nullptr)
                for (int c = 0; c < num_out; ++c) entries[c] *= gains[c];
            for (int c = 0; c < num_out; ++c) sums[c] += entries[c];
            for (int c = 0; c < num_out; ++c) column[c] += entries[c];
            if (signs == nullptr) continue;
            for (int w = 0; w < num_words; ++w) {
                std::uint32_t bits = 0;
                for (int c = 32 * w; c < std::min(32 * (w + 1), num_out); c += kLanes)
                    bits |= positive(load(entries + c)) << (c % 32);
                signs[w] = bits;
            }
            signs += num_words;
        }
        write_side(sums, 1, 1.0f / static_cast<float>(b.num_columns), b.row_means + (field * b.num_rows + row) * num_out);
    }
};

struct BlockBackward : BlockTask {
    const BlockGradients& g;
    const Buffer map;
    std::vector<Buffer> partial;  // of the map's gradient, (D, in_stride)

    BlockBackward(const Blocks& given, const BlockGradients& gradients)
        : BlockTask(given, std::clamp<std::int64_t>(given.num_fields * given.num_rows * given.num_columns / kEntriesOfPart,
                                                    1, kPartsBack)),
          g(gradients), map(panels_of(b.num_out, g.x == nullptr ? 0 : b.channels, [this](int k, int j) {
              return b.weight[static_cast<std::ptrdiff_t>(k) * b.channels + j];
          })) {
        for (int part = 0; part < parts; ++part)
            partial.push_back(make_buffer(static_cast<std::ptrdiff_t>(b.num_out) * in_stride));
    }

    void run(int part, Space& s) const {
        for (std::int64_t field = first(part); field < first(part + 1); ++field) {
            clear(s);
            for (int row = 0; row < b.num_rows; row += step)
                run(field, row, std::min(step, b.num_rows - row), s, partial[part].get());
            write_side(s.columns.get(), b.num_columns, 1.0f, g.columns + field * b.num_columns * b.num_out);
        }
    }

    void run(std::int64_t field, int row, int count, Space& s, float* d_map) const {
        const int entries = count * b.num_columns;
        const std::int64_t at = entry(field, row);
        for (int r = 0; r < count; ++r)
            start(field, row + r, s.out.get() + static_cast<std::ptrdiff_t>(r) * b.num_columns * out_stride, s);
        copy_rows(entries, b.x + at * b.channels, b.channels, s.in.get(), in_stride);
        for (int c = 0; c < b.channels; c += kPanel)
            column<kCols, Order::columns, Start::add, false>(b.num_out, s.out.get(), out_stride, s.in.get() + c, in_stride,
                                                             d_map + c, in_stride, entries, nullptr);
        if (g.x == nullptr) return;
        for (int c = 0; c < b.channels; c += kPanel)
            column<kCols, Order::rows, Start::zero, false>(entries, s.out.get(), out_stride,
                                                           map.get() + static_cast<std::ptrdiff_t>(c) * b.num_out, kPanel,
                                                           s.in.get() + c, in_stride, b.num_out, nullptr);
        copy_rows(entries, s.in.get(), in_stride, g.x + at * b.channels, b.channels);
    }

    // Gradients of one row's entries before ReLU, and their sums.
    void start(std::int64_t field, int row, float* entries, Space& s) const {
        const int num_out = b.num_out, ld = out_stride, num_words = words();
        const float of_row = b.scale / static_cast<float>(b.num_columns),
                    of_column = b.scale / static_cast<float>(b.num_rows);
        const float* const d_row = g.row_means + (field * b.num_rows + row) * num_out;
        const float* d_column = g.column_means + field * b.num_columns * num_out;
        const float* dz = g.z == nullptr ? nullptr : g.z + entry(field, row) * num_out;
        const std::uint32_t* signs = b.signs + entry(field, row) * num_words;
        float *sums = s.row.get(), *column = s.columns.get();
        std::fill_n(sums, ld, 0.0f);
        for (int i = 0; i < b.num_columns; ++i, entries += ld, column += ld, d_column += num_out, signs += num_words) {
            for (int c = 0; c < num_out; ++c) entries[c] = d_row[c] * of_row + d_column[c] * of_column;
            if (dz != nullptr) {
                for (int c = 0; c < num_out; ++c) entries[c] += dz[c] * b.scale;
                dz += num_out;
            }
            for (int c = 0; c < num_out; c += kLanes)
                store(entries + c, chosen(signs[c / 32] >> (c % 32), load(entries + c)));
            for (int c = 0; c < num_out; ++c) sums[c] += entries[c];
            for (int c = 0; c < num_out; ++c) column[c] += entries[c];
        }
        write_side(sums, 1, 1.0f, g.rows + (field * b.num_rows + row) * num_out);
    }

    void gather() const {
        const std::ptrdiff_t count = static_cast<std::ptrdiff_t>(b.num_out) * in_stride;
        float* const NF_RESTRICT total = partial[0].get();
        for (int part = 1; part < parts; ++part) {
            const float* const NF_RESTRICT more = partial[part].get();
            for (std::ptrdiff_t i = 0; i < count; ++i) total[i] += more[i];
        }
        copy_rows(b.num_out, total, in_stride, g.weight, b.channels);
    }
};

}  // namespace

void map_blocks(const Blocks& b, int threads) {
    BlockForward forward(b);
    run_all(forward, forward.parts, threads);
}

void map_blocks_back(const Blocks& b, const BlockGradients& g, int threads) {
    BlockBackward backward(b, g);
    run_all(backward, backward.parts, threads);
    backward.gather();
}

}  // namespace NF_ISA
}  // namespace nf
