// Copies of rows of floats into rows of other lengths.
#pragma once
#include <algorithm>

#include "lanes.hpp"

namespace nf {
namespace NF_ISA {
namespace {

// Copies `count` rows of `from` floats to rows of `to`, which may be longer (then zeros follow) or shorter.
inline void copy_rows(int count, const float* source, int from, float* target, int to) {
    const int shared = std::min(from, to);
    for (int r = 0; r < count; ++r, source += from, target += to) {
        int i = 0;
        for (; i + kLanes <= shared; i += kLanes)
            *reinterpret_cast<vec_unaligned*>(target + i) = load_unaligned(source + i);
        for (; i < shared; ++i) target[i] = source[i];
        for (; i < to; ++i) target[i] = 0.0f;
    }
}

// to (columns, rows) = from^T, from (rows, columns), both with rows as far apart as said.
inline void turn_rows(const float* from, std::ptrdiff_t ld_from, int rows, int columns, float* to, std::ptrdiff_t ld_to) {
    const int whole = rows / kLanes * kLanes, across = columns / kLanes * kLanes;
    for (int r = 0; r < whole; r += kLanes)
        for (int c = 0; c < across; c += kLanes) {
            vec v[kLanes];
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) v[i] = load_unaligned(from + (r + i) * ld_from + c);
            exchange_all<1>(v);
#pragma GCC unroll 16
            for (int i = 0; i < kLanes; ++i) *reinterpret_cast<vec_unaligned*>(to + (c + i) * ld_to + r) = v[i];
        }
    for (int r = 0; r < rows; ++r)
        for (int c = r < whole ? across : 0; c < columns; ++c) to[c * ld_to + r] = from[r * ld_from + c];
}

inline Buffer padded(int count, const float* source, int from, int to) {
    Buffer buffer = make_buffer(static_cast<std::ptrdiff_t>(count) * to);
    if (source != nullptr) copy_rows(count, source, from, buffer.get(), to);
    return buffer;
}

}  // namespace
}  // namespace NF_ISA
}  // namespace nf
