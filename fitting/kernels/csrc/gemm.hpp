// Register-tiled products on matrices of a few hundred rows: C (M, N) += A (M, K) B (K, N), N a multiple of the vector.
//
// A is read one float at a time (any strides), B and C as rows of vectors. One tile keeps kRows x kCols vectors of C in
// registers: kRows * kCols FMAs against kRows + kCols loads for every k, so that the FMA units are the limit.
#pragma once
#include "lanes.hpp"

namespace nf {
namespace NF_ISA {

#if NF_LANES == 16
constexpr int kRows = 14, kCols = 2;  // 28 of 32 registers
#else
constexpr int kRows = 6, kCols = 2;  // 12 of 16 registers
#endif

enum class Start { zero, bias, accumulate };

template <int R, int C, Start start, bool times>
NF_INLINE void tile(const float* a, std::ptrdiff_t row, std::ptrdiff_t step, const float* b, std::ptrdiff_t ldb, float* c,
                    std::ptrdiff_t ldc, int depth, const float* bias, const float* factor) {
    vec acc[R][C];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) {
            if constexpr (start == Start::zero) acc[i][j] = vec{};
            if constexpr (start == Start::bias) acc[i][j] = load(bias + j * kLanes);
            if constexpr (start == Start::accumulate) acc[i][j] = load(c + i * ldc + j * kLanes);
        }
    for (int k = 0; k < depth; ++k) {
        vec bk[C];
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) bk[j] = load(b + k * ldb + j * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
            const vec value = splat(a[i * row + k * step]);
#pragma GCC unroll 4
            for (int j = 0; j < C; ++j) acc[i][j] += value * bk[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i)
#pragma GCC unroll 4
        for (int j = 0; j < C; ++j) {
            vec value = acc[i][j];
            if constexpr (times) value *= load(factor + i * ldc + j * kLanes);
            store(c + i * ldc + j * kLanes, value);
        }
}

template <int C, Start start, bool times>
NF_INLINE void column(int m, const float* a, std::ptrdiff_t row, std::ptrdiff_t step, const float* b, std::ptrdiff_t ldb,
                      float* c, std::ptrdiff_t ldc, int depth, const float* bias, const float* factor) {
    int i = 0;
    for (; i + kRows <= m; i += kRows)
        tile<kRows, C, start, times>(a + i * row, row, step, b, ldb, c + i * ldc, ldc, depth, bias, factor + i * ldc);
    for (; i + 4 <= m; i += 4)
        tile<4, C, start, times>(a + i * row, row, step, b, ldb, c + i * ldc, ldc, depth, bias, factor + i * ldc);
    for (; i < m; ++i)
        tile<1, C, start, times>(a + i * row, row, step, b, ldb, c + i * ldc, ldc, depth, bias, factor + i * ldc);
}

// times: C = (A B) * factor elementwise, factor laid out as C.
template <Start start, bool times = false>
__attribute__((noinline)) void multiply(int m, int n, int depth, const float* a, std::ptrdiff_t row, std::ptrdiff_t step,
                                        const float* b, std::ptrdiff_t ldb, float* c, std::ptrdiff_t ldc,
                                        const float* bias = nullptr, const float* factor = nullptr) {
    int j = 0;
    for (; j + kCols * kLanes <= n; j += kCols * kLanes)
        column<kCols, start, times>(m, a, row, step, b + j, ldb, c + j, ldc, depth, bias + j, factor + j);
    for (; j < n; j += kLanes)
        column<1, start, times>(m, a, row, step, b + j, ldb, c + j, ldc, depth, bias + j, factor + j);
}

}  // namespace NF_ISA
}  // namespace nf
