// Linear maps of several sources each: y = factor (W [x_1; ...; x_k] + b), and their gradients.
//
// Columns go in chunks, copied into padded rows that stay in cache. Gradients of sources are gathered chunk by chunk from
// all maps that hear them; those of weights are sums over parts of the columns that depend on their number alone.
#pragma once
#include <algorithm>

#include "gemm.hpp"
#include "parallel.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {
namespace {

constexpr int kChunk = 256, kPart = 512;  // columns; whole chunks make a part

struct Chunk {
    int which;  // of all sources or maps
    std::int64_t first;
    int count;
};

struct LinearTask {
    const Linear& all;
    std::vector<Chunk> chunks{};
    int most_in = 0, most_out = 0;

    explicit LinearTask(const Linear& given) : all(given) {
        for (const LinearMap& m : all.maps) {
            most_in = std::max(most_in, m.num_in);
            most_out = std::max(most_out, m.num_out);
        }
    }
    void cut(int which, std::int64_t columns, int size) {
        for (std::int64_t first = 0; first < columns; first += size)
            chunks.push_back({which, first, static_cast<int>(std::min<std::int64_t>(size, columns - first))});
    }
    struct Space {
        Buffer x, y, turned, dx;
    };
    Space space() const {
        const auto rows = [](int count) { return make_buffer(static_cast<std::ptrdiff_t>(count) * (kChunk + kLanes)); };
        return {rows(most_in), rows(most_out), make_buffer(static_cast<std::ptrdiff_t>(kChunk) * round_up(most_in, kLanes)),
                rows(most_in)};
    }
    // Rows of a chunk: not a power of two apart, which would fall on few cache sets.
    static constexpr std::ptrdiff_t kLd = kChunk + kLanes;

    // Columns of a chunk out of rows of `from`, times a factor; zeros fill the last vector.
    static void read(const float* from, std::int64_t columns, int rows, const Chunk& c, float factor, float* to) {
        const int padded = round_up(c.count, kLanes), whole = c.count / kLanes * kLanes;
        for (int r = 0; r < rows; ++r, to += kLd) {
            const float* const row = from + r * columns + c.first;
            for (int i = 0; i < whole; i += kLanes) store(to + i, load_unaligned(row + i) * factor);
            for (int i = whole; i < padded; ++i) to[i] = i < c.count ? row[i] * factor : 0.0f;
        }
    }
    static void write(const float* from, float factor, float* to, std::int64_t columns, int rows, const Chunk& c) {
        const int whole = c.count / kLanes * kLanes;
        for (int r = 0; r < rows; ++r, from += kLd) {
            float* const row = to + r * columns + c.first;
            for (int i = 0; i < whole; i += kLanes) *reinterpret_cast<vec_unaligned*>(row + i) = load(from + i) * factor;
            for (int i = whole; i < c.count; ++i) row[i] = from[i] * factor;
        }
    }
    void read_sources(const LinearMap& m, const Chunk& c, float* to) const {
        for (const int s : m.sources) {
            read(all.sources[s].x, m.columns, all.sources[s].channels, c, 1.0f, to);
            to += all.sources[s].channels * kLd;
        }
    }
};

struct LinearForward : LinearTask {
    std::vector<Buffer> levels{};  // of every map: the sum of its biases

    explicit LinearForward(const Linear& given) : LinearTask(given) {
        for (std::size_t i = 0; i < all.maps.size(); ++i) {
            const LinearMap& m = all.maps[i];
            cut(static_cast<int>(i), m.columns, kChunk);
            levels.push_back(make_buffer(m.num_out));
            for (int b = 0; b < m.num_biases; ++b)
                for (int o = 0; o < m.num_out; ++o) levels.back().get()[o] += m.bias[b * m.num_out + o];
        }
    }
    void run(int number, Space& s) const {
        const Chunk& c = chunks[number];
        const LinearMap& m = all.maps[c.which];
        read_sources(m, c, s.x.get());
        multiply<Order::rows, Start::row_bias>(m.num_out, round_up(c.count, kLanes), m.num_in, m.weight, m.num_in,
                                               s.x.get(), kLd, s.y.get(), kLd, levels[c.which].get());
        write(s.y.get(), m.factor, m.y, m.columns, m.num_out, c);
    }
};

struct LinearBackward : LinearTask {
    struct Hearer {
        int map;
        std::ptrdiff_t column;  // of its weight
    };
    std::vector<std::vector<Hearer>> hearers;  // of every source
    int of_sources;                            // chunks of sources come first, then parts of maps
    std::vector<Buffer> partial;  // of every part: gradients of weight (out, in padded), bias (out,) vectors

    explicit LinearBackward(const Linear& given) : LinearTask(given), hearers(given.sources.size()) {
        for (std::size_t i = 0; i < all.maps.size(); ++i) {
            std::ptrdiff_t column = 0;
            for (const int s : all.maps[i].sources) {
                hearers[s].push_back({static_cast<int>(i), column});
                column += all.sources[s].channels;
            }
        }
        for (std::size_t s = 0; s < all.sources.size(); ++s)
            if (all.sources[s].dx != nullptr && !hearers[s].empty())
                cut(static_cast<int>(s), all.maps[hearers[s][0].map].columns, kChunk);
        of_sources = static_cast<int>(chunks.size());
        for (std::size_t i = 0; i < all.maps.size(); ++i) cut(static_cast<int>(i), all.maps[i].columns, kPart);
        partial.resize(chunks.size());
    }

    void run(int number, Space& s) { number < of_sources ? gather(chunks[number], s) : add(number, s); }

    void gather(const Chunk& c, Space& s) const {
        const LinearSource& source = all.sources[c.which];
        const int padded = round_up(c.count, kLanes);
        std::fill_n(s.dx.get(), source.channels * kLd, 0.0f);
        for (const Hearer& h : hearers[c.which]) {
            const LinearMap& m = all.maps[h.map];
            read(m.y, m.columns, m.num_out, c, m.factor, s.y.get());
            multiply<Order::columns, Start::add>(source.channels, padded, m.num_out, m.weight + h.column, m.num_in,
                                                 s.y.get(), kLd, s.dx.get(), kLd);
        }
        write(s.dx.get(), 1.0f, source.dx, all.maps[hearers[c.which][0].map].columns, source.channels, c);
    }

    void add(int number, Space& s) {
        const Chunk& part = chunks[number];
        const LinearMap& m = all.maps[part.which];
        const int padded = round_up(m.num_in, kLanes);
        const std::ptrdiff_t of_weight = static_cast<std::ptrdiff_t>(m.num_out) * padded;
        partial[number] = make_buffer(of_weight + static_cast<std::ptrdiff_t>(m.num_out) * kLanes);
        float *const weight = partial[number].get(), *const bias = weight + of_weight;
        for (int at = 0; at < part.count; at += kChunk) {
            const Chunk c{part.which, part.first + at, std::min(kChunk, part.count - at)};
            const int columns = round_up(c.count, kLanes);
            read_sources(m, c, s.x.get());
            read(m.y, m.columns, m.num_out, c, m.factor, s.y.get());
            transpose(s.x.get(), m.num_in, columns, kLd, 1.0f, s.turned.get(), padded);
            multiply<Order::rows, Start::add>(m.num_out, padded, columns, s.y.get(), kLd, s.turned.get(), padded, weight,
                                              padded);
            for (int o = 0; o < m.num_out; ++o) {
                const float* const y = s.y.get() + o * kLd;
                vec total{};  // short sums of short sums
                for (int start = 0; start < columns; start += 8 * kLanes) {
                    vec few{};
                    for (int i = start; i < std::min(columns, start + 8 * kLanes); i += kLanes) few += load(y + i);
                    total += few;
                }
                store(bias + o * kLanes, load(bias + o * kLanes) + total);
            }
        }
    }

    // Over the parts, in their order.
    void finish() const {
        for (int number = of_sources, last = 0; number < static_cast<int>(chunks.size()); number = last) {
            const LinearMap& m = all.maps[chunks[number].which];
            while (last < static_cast<int>(chunks.size()) && (last < number || chunks[last].which == chunks[number].which))
                ++last;
            const int padded = round_up(m.num_in, kLanes);
            for (int o = 0; o < m.num_out; ++o) {
                for (int i = 0; i < m.num_in; ++i) {
                    float total = 0.0f;
                    for (int p = number; p < last; ++p)
                        total += partial[p].get()[static_cast<std::ptrdiff_t>(o) * padded + i];
                    m.d_weight[static_cast<std::ptrdiff_t>(o) * m.num_in + i] = total;
                }
                double total = 0.0;
                for (int p = number; p < last; ++p)
                    total += sum(load(partial[p].get() + static_cast<std::ptrdiff_t>(m.num_out) * padded + o * kLanes));
                for (int b = 0; b < m.num_biases; ++b) m.d_bias[b * m.num_out + o] = static_cast<float>(total);
            }
        }
    }
};

}  // namespace

void map_linear(const Linear& all, int threads) {
    LinearForward forward(all);
    run_all(forward, static_cast<int>(forward.chunks.size()), threads);
}

void map_linear_back(const Linear& all, int threads) {
    LinearBackward backward(all);
    run_all(backward, static_cast<int>(backward.chunks.size()), threads);
    backward.finish();
}

}  // namespace NF_ISA
}  // namespace nf
