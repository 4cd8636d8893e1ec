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
        for (; i + kLanes <= shared; i += kLanes) *reinterpret_cast<vec_unaligned*>(target + i) = load_unaligned(source + i);
        for (; i < shared; ++i) target[i] = source[i];
        for (; i < to; ++i) target[i] = 0.0f;
    }
}

// Numbers of a field's rows or columns, (C, count) with channels `stride` apart, to (count, C) with rows `padded` apart.
inline void turn_in(const float* from, std::ptrdiff_t stride, int channels, int count, float* to, int padded) {
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < count; ++i) to[static_cast<std::ptrdiff_t>(i) * padded + c] = from[c * stride + i];
}
inline void turn_out(const float* from, int padded, int channels, int count, float* to, std::ptrdiff_t stride) {
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < count; ++i) to[c * stride + i] = from[static_cast<std::ptrdiff_t>(i) * padded + c];
}

inline Buffer padded(int count, const float* source, int from, int to) {
    Buffer buffer = make_buffer(static_cast<std::ptrdiff_t>(count) * to);
    if (source != nullptr) copy_rows(count, source, from, buffer.get(), to);
    return buffer;
}

}  // namespace
}  // namespace NF_ISA
}  // namespace nf
