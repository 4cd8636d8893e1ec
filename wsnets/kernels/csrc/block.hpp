// A few fields at a time from one source to one target: maps, attention, and the gradients of both, all in cache.
//
// The channels of a few sets lie side by side, (channels, fields T), each T rounded up to whole vectors and filled with
// zeros, so that the maps are products with long rows. Rows of q, k and v are put in the order (q k v, G, D) first.
#pragma once
#include "choices.hpp"
#include "head.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {

constexpr int kColumns = 128;  // of a chunk: what one target needs of it fits the second cache beside its weights

struct Shape {
    int size, padded;   // T, and up to whole vectors
    int fields;         // of a chunk
    std::ptrdiff_t ld;  // of rows of a chunk; not a power of two, which would fall on few cache sets
    int columns, channels, num_in, num_out, num_heads, rows, in_padded, out_padded;

    explicit Shape(const Problem& p)
        : size(p.size), padded(round_up(p.size, kLanes)), fields(std::max(1, kColumns / padded)),
          ld(static_cast<std::ptrdiff_t>(fields) * padded + 16), columns(fields * padded),
          channels(p.num_out / p.num_heads), num_in(p.num_in), num_out(p.num_out), num_heads(p.num_heads),
          rows(3 * p.num_out), in_padded(round_up(p.num_in, kLanes)), out_padded(round_up(p.num_out, kLanes)) {}

    // Makes every count at least that of another shape of the same sets.
    void cover(const Shape& s) {
        for (const auto count : {&Shape::channels, &Shape::num_in, &Shape::num_out, &Shape::num_heads, &Shape::rows,
                                 &Shape::in_padded, &Shape::out_padded})
            this->*count = std::max(this->*count, s.*count);
    }

    // Row of the given weights of row r of target t in the order (q k v, G, D).
    std::int64_t given_row(const Problem& p, int t, int r) const {
        const int kind = r / num_out, head = r % num_out / channels, channel = r % channels;
        return ((static_cast<std::int64_t>(kind) * channels + channel) * p.num_targets + t) * num_heads + head;
    }
};

// Maps of all targets with their rows in order.
struct Maps {
    Buffer weight, bias;  // (J, rows, in), (J, rows)

    Maps(const Problem& p, const Shape& s)
        : weight(make_buffer(static_cast<std::ptrdiff_t>(p.num_targets) * s.rows * p.num_in)),
          bias(make_buffer(static_cast<std::ptrdiff_t>(p.num_targets) * s.rows)) {
        for (int t = 0; t < p.num_targets; ++t)
            for (int r = 0; r < s.rows; ++r) {
                const std::int64_t from = s.given_row(p, t, r), to = static_cast<std::int64_t>(t) * s.rows + r;
                std::memcpy(weight.get() + to * p.num_in, p.weight + from * p.num_in,
                            static_cast<std::size_t>(p.num_in) * 4);
                bias.get()[to] = p.bias[from];
            }
    }
};

// Where the gradients of the maps of all targets, summed over some fields, lie in one buffer for all problems; biases as
// vectors of partial sums: (J, rows, in), (J, rows) vectors, (J, out, out), (J, out) vectors.
struct Partial {
    std::ptrdiff_t weight, bias, out_weight, out_bias, end;

    Partial(const Problem& p, const Shape& s, std::ptrdiff_t start)
        : weight(start), bias(weight + static_cast<std::ptrdiff_t>(p.num_targets) * s.rows * s.in_padded),
          out_weight(bias + static_cast<std::ptrdiff_t>(p.num_targets) * s.rows * kLanes),
          out_bias(out_weight + static_cast<std::ptrdiff_t>(p.num_targets) * s.num_out * s.out_padded),
          end(out_bias + static_cast<std::ptrdiff_t>(p.num_targets) * s.num_out * kLanes) {}
};

// Rows of T numbers of a few fields outside: copied into a chunk, or a chunk into them, or added.
//
// Numbers of loops are copied to locals here and below: a vector that is stored may be anything's memory to the compiler,
// which would read them again every time.
struct Outside {
    std::int64_t row_stride, field_stride;
    int count, fields;

    // Asks for all of it ahead of its use: rows lie pages apart, which no processor foresees.
    template <bool write>
    void prefetch(const Shape& s, const float* at) const {
        for (int r = 0; r < count; ++r)
            for (std::int64_t i = 0; i < static_cast<std::int64_t>(fields) * s.size; i += 16)
                __builtin_prefetch(at + r * row_stride + i, write ? 1 : 0, 2);
    }

    // f(row, field, where its numbers start outside, and inside) for all of them.
    template <class F>
    NF_INLINE void each(const Shape& s, F f) const {
        const std::int64_t row_step = row_stride, field_step = field_stride;
        const std::ptrdiff_t ld = s.ld;
        const int padded = s.padded, num_rows = count, num_fields = fields;
        for (int r = 0; r < num_rows; ++r)
            for (int k = 0; k < num_fields; ++k) f(r, k, r * row_step + k * field_step, r * ld + k * padded);
    }

    void read(const Shape& s, const float* from, float scale, float* to) const {
        const int size = s.size;
        each(s, [=](int, int, std::int64_t outside, std::ptrdiff_t inside) {
            int i = 0;
            for (; i + kLanes <= size; i += kLanes) store(to + inside + i, load_unaligned(from + outside + i) * scale);
            for (; i < size; ++i) to[inside + i] = from[outside + i] * scale;
        });
    }
    // level: of every row and field, or null for zero; its rows lie level_stride apart.
    template <bool add>
    void write(const Shape& s, const float* from, float scale, float* to, const float* level = nullptr,
               std::int64_t level_stride = 0) const {
        const int size = s.size;
        each(s, [=](int row, int field, std::int64_t outside, std::ptrdiff_t inside) {
            const float start = level == nullptr ? 0.0f : level[row * level_stride + field];
            float* const target = to + outside;
            int i = 0;
            for (; i + kLanes <= size; i += kLanes) {
                const vec value = start + load(from + inside + i) * scale;
                *reinterpret_cast<vec_unaligned*>(target + i) = add ? load_unaligned(target + i) + value : value;
            }
            for (; i < size; ++i) target[i] = (add ? target[i] : 0.0f) + (start + from[inside + i] * scale);
        });
    }

    // Sums over T, to (rows, fields) with rows to_stride apart.
    void sum(const Shape& s, const float* from, float* to, std::int64_t to_stride) const {
        const int size = s.size;
        each(s, [=](int row, int field, std::int64_t outside, std::ptrdiff_t) {
            vec sums{};
            int i = 0;
            for (; i + kLanes <= size; i += kLanes) sums += load_unaligned(from + outside + i);
            double total = NF_ISA::sum(sums);
            for (; i < size; ++i) total += from[outside + i];
            to[row * to_stride + field] = static_cast<float>(total);
        });
    }
};

// Which of the values of one field (out, T) are positive: a bit each, every row in whole words.
inline void write_signs(const Shape& s, const float* values, float* words) {
    const std::ptrdiff_t ld = s.ld;
    for (int r = 0, padded = s.padded, out = s.num_out; r < out; ++r)
        for (int t = 0; t < padded; t += 32) {
            std::uint32_t word = 0;
            for (int i = 0; i < 32 && t + i < padded; i += kLanes) word |= positive(load(values + r * ld + t + i)) << i;
            std::memcpy(words++, &word, 4);
        }
}

// to = from where such a bit is set, else zero.
inline void choose_by_signs(const Shape& s, const float* words, const float* from, float* to) {
    const std::ptrdiff_t ld = s.ld;
    for (int r = 0, padded = s.padded, out = s.num_out; r < out; ++r)
        for (int t = 0; t < padded; t += 32) {
            std::uint32_t word;
            std::memcpy(&word, words++, 4);
            for (int i = 0; i < 32 && t + i < padded; i += kLanes)
                store(to + r * ld + t + i, chosen(word >> i, load(from + r * ld + t + i)));
        }
}

// Buffers of one thread, for shapes up to one.
struct Workspace {
    Shape shape;
    Buffer x, x_turned, dx, qkv, grads, o, o_turned, h, g, inverse;
    HeadSpace head;

    explicit Workspace(const Shape& s)
        : shape(s), x(rows(s.num_in)), x_turned(make_buffer(static_cast<std::ptrdiff_t>(s.columns) * s.in_padded)),
          dx(rows(s.num_in)), qkv(rows(s.rows)), grads(rows(s.rows)), o(rows(s.out_padded)),
          o_turned(make_buffer(static_cast<std::ptrdiff_t>(s.columns) * s.out_padded)), h(rows(s.num_out)),
          g(rows(s.num_out)), inverse(rows(s.num_heads)), head(s.channels, s.padded) {}

    Buffer rows(int count) const { return make_buffer(count * shape.ld); }

    // What an earlier, fuller chunk left behind must not count.
    void clear() {
        for (const auto& [buffer, count] :
             {std::pair{g.get(), shape.num_out}, std::pair{h.get(), shape.num_out}, std::pair{grads.get(), shape.rows}})
            std::memset(buffer, 0, static_cast<std::size_t>(count * shape.ld) * 4);
    }

    Head head_of(const Shape& s, int number, int field, float factor) const {
        const std::ptrdiff_t at = number * s.channels * s.ld + field * s.padded, kind = s.num_out * s.ld;
        const float* const q = qkv.get() + at;
        return {s.channels, s.size, s.padded, s.ld, factor, q, q + kind, q + 2 * kind};
    }
};

// to (count, columns) = bias + weight (count, depth) from (depth, columns).
inline void map(const Shape& s, int count, int depth, const float* weight, const float* bias, const float* from,
                float* to) {
    multiply<Order::rows, Start::row_bias>(count, s.columns, depth, weight, depth, from, s.ld, to, s.ld, bias);
}

// h <- o + relu(h).
inline void add_positive(const Shape& s, const float* o, float* h) {
    const std::ptrdiff_t ld = s.ld;
    for (int r = 0, columns = s.columns, out = s.num_out; r < out; ++r)
        for (std::ptrdiff_t at = r * ld; at < r * ld + columns; at += kLanes)
            store(h + at, load(o + at) + larger(load(h + at), vec{}));
}

inline void add_row_sums(const Shape& s, int count, const float* from, float* sums) {
    const std::ptrdiff_t ld = s.ld;
    for (int r = 0, columns = s.columns; r < count; ++r) {
        vec sum = load(sums + r * kLanes);
        for (int c = 0; c < columns; c += kLanes) sum += load(from + r * ld + c);
        store(sums + r * kLanes, sum);
    }
}

}  // namespace NF_ISA
}  // namespace nf
