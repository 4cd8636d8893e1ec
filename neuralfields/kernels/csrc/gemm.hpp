// Register-tiled products on matrices of a few hundred rows: C (M, N) += A (M, K) B (K, N), N a multiple of the vector.
//
// A is read one float at a time, B and C as rows of vectors. One tile keeps kRows x kCols vectors of C in
// registers: kRows * kCols FMAs against kRows + kCols loads for every k, so that the FMA units are the limit.
#pragma once
#include <array>
#include <utility>

#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

#if NF_LANES == 16
constexpr int kRows = 14, kCols = 2;  // 28 of 32 registers
#else
constexpr int kRows = 6, kCols = 2;  // 12 of 16 registers
#endif

// What C starts with: zero, a number for each column or for each row, or what is there; add: what is there comes last, so
// that long sums are sums of short ones.
enum class Start { zero, bias, row_bias, accumulate, add };
// How A lies in memory: by rows (A[i, k] at i * lda + k) or by columns (at k * lda + i).
enum class Order { rows, columns };

// Pointers to rows 0, 3, 6, ... of A: the two rows after each are reached by index, which keeps them all in registers.
template <int R, Order order>
struct Rows {
    static constexpr int kGroups = (R + 2) / 3;
    const float* group[kGroups];
    std::ptrdiff_t lda;

    NF_INLINE Rows(const float* a, std::ptrdiff_t stride) : lda(stride) {
#pragma GCC unroll 8
        for (int i = 0; i < kGroups; ++i) group[i] = order == Order::rows ? a + 3 * i * stride : a;
    }
    NF_INLINE float operator()(int i) const {
        if constexpr (order == Order::columns) return group[0][i];
        return group[i / 3][(i % 3) * lda];
    }
    NF_INLINE void advance() {
        if constexpr (order == Order::columns) {
            group[0] += lda;
        } else {
#pragma GCC unroll 8
            for (int i = 0; i < kGroups; ++i) ++group[i];
        }
    }
};

// Not inlined: in a loop over tiles the compiler would keep every row's address on the stack.
template <int R, int C, Order order, Start start, bool times>
__attribute__((noinline)) void tile(const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb, float* c,
                                    std::ptrdiff_t ldc, int depth, const float* bias) {
    vec acc[R][C];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) {
            if constexpr (start == Start::zero || start == Start::add) acc[i][j] = vec{};
            if constexpr (start == Start::bias) acc[i][j] = load(bias + j * kLanes);
            if constexpr (start == Start::row_bias) acc[i][j] = splat(bias[i]);
            if constexpr (start == Start::accumulate) acc[i][j] = load(c + i * ldc + j * kLanes);
        }
    Rows<R, order> rows(a, lda);
#pragma GCC unroll 1
    for (int k = 0; k < depth; ++k) {
        vec bk[C];
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) bk[j] = load(b + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const vec value = splat(rows(i));
#pragma GCC unroll 4
            for (int j = 0; j < C; ++j) acc[i][j] += value * bk[j];
        }
        rows.advance();
        b += ldb;
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) {
            vec value = acc[i][j];
            if constexpr (times) value *= load(c + i * ldc + j * kLanes);
            if constexpr (start == Start::add) value += load(c + i * ldc + j * kLanes);
            store(c + i * ldc + j * kLanes, value);
        }
}

using Tile = void (*)(const float*, std::ptrdiff_t, const float*, std::ptrdiff_t, float*, std::ptrdiff_t, int,
                      const float*);

template <int C, Order order, Start start, bool times, int... R>
constexpr std::array<Tile, sizeof...(R)> tiles_of(std::integer_sequence<int, R...>) {
    return {tile<R + 1, C, order, start, times>...};
}

// Rows in tiles of nearly equal height: no thin last tile that would wait for its own additions.
template <int C, Order order, Start start, bool times>
inline void column(int m, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb, float* c,
                   std::ptrdiff_t ldc, int depth, const float* bias) {
    static constexpr auto by_height = tiles_of<C, order, start, times>(std::make_integer_sequence<int, kRows>());
    const std::ptrdiff_t row = order == Order::rows ? lda : 1;
    for (int first = 0, left = (m + kRows - 1) / kRows; left > 0; --left) {
        const int height = (m - first + left - 1) / left;
        const float* const from = start == Start::row_bias ? bias + first : bias;
        by_height[height - 1](a + first * row, lda, b, ldb, c + first * ldc, ldc, depth, from);
        first += height;
    }
}

// times: C = (A B) * C elementwise.
template <Order order, Start start, bool times = false>
inline void multiply(int m, int n, int depth, const float* a, std::ptrdiff_t lda, const float* b, std::ptrdiff_t ldb,
                     float* c, std::ptrdiff_t ldc, const float* bias = nullptr) {
    const auto from = [bias](int j) { return start == Start::row_bias ? bias : bias + j; };
    int j = 0;
    for (; j + kCols * kLanes <= n; j += kCols * kLanes)
        column<kCols, order, start, times>(m, a, lda, b + j, ldb, c + j, ldc, depth, from(j));
    for (; j < n; j += kLanes)
        column<1, order, start, times>(m, a, lda, b + j, ldb, c + j, ldc, depth, from(j));
}

}  // namespace NF_ISA
}  // namespace nf
