// Float32 products on the matrix unit (AMX), which multiplies bf16 numbers and adds in float32.
//
// A float has 24 significant bits, a bf16 number 8: x = high + middle + low, exactly, by cutting off bits. Of the nine
// products of parts the six large ones are kept, small ones first; what is dropped is 2^-24 of |x| |y|, as one rounding
// is. Six bf16 products take a third of the time of one float32 product on the vector units.
//
// The order of a contraction is free, so a row of 32 floats becomes 16 words (column j below, column j + 16 above) without
// moving anything between lanes, and two rows become one row of words just the same.
#pragma once
#include <algorithm>

#include "gemm.hpp"
#include "layout.hpp"

#if defined(NF_TILES)
#include <immintrin.h>

namespace nf {
namespace NF_ISA {

constexpr int kSide = 32;              // rows and columns of a block: two tiles by two of C, two tiles of A and of B
constexpr int kTile = 256;             // words of one tile: 16 rows of 16
constexpr int kBlock = 3 * 2 * kTile;  // words of one block of A or B: three parts of two tiles, over a depth of 32
constexpr int kLeastWork = 128 * 128;  // weights of a layer from which on splitting pays

inline bool tiled(const Layer& layer) {
    return !layer.last && layer.in % kSide == 0 && layer.out % kSide == 0 && layer.in * layer.out >= kLeastWork;
}

inline bool uses_tiles(const Layout& layout) {
    return std::any_of(layout.layers.begin(), layout.layers.end(), tiled);
}

// All eight tiles are 16 rows of 64 bytes on this thread while it lives.
struct TileMode {
    TileMode() {
        alignas(64) std::uint8_t config[64] = {1};
        for (int t = 0; t < 8; ++t) {
            config[16 + 2 * t] = 64;
            config[48 + t] = 16;
        }
        asm volatile("ldtilecfg %0" ::"m"(config));
    }
    ~TileMode() { _tile_release(); }
    TileMode(const TileMode&) = delete;
    TileMode& operator=(const TileMode&) = delete;
};

// Words of x (below) and y (above), part by part, 2 * kTile words apart.
NF_INLINE void split(vec x, vec y, float* to) {
#pragma GCC unroll 3
    for (int part = 0; part < 3; ++part) {
        const ivec low = reinterpret_cast<ivec>(x), top = reinterpret_cast<ivec>(y) & -65536;
        const ivec below = reinterpret_cast<ivec>(reinterpret_cast<uvec>(low) >> 16);
        store(to + part * 2 * kTile, reinterpret_cast<vec>(below | top));
        x -= reinterpret_cast<vec>(low & -65536);
        y -= reinterpret_cast<vec>(top);
    }
}

// Left operand: blocks k of 32 rows of floats (32, 32 * depth).
NF_INLINE void split_rows(const float* from, std::ptrdiff_t ld, int depth, float* to) {
    for (int k = 0; k < depth; ++k, from += kSide, to += kBlock)
        for (int r = 0; r < kSide; ++r) split(load(from + r * ld), load(from + r * ld + 16), to + r * 16);
}

// Right operand: blocks (column, k) at column * depth + k of rows of floats (32 * depth, 32 * columns).
inline void split_columns(const float* from, std::ptrdiff_t ld, int depth, int columns, float* to) {
    for (int c = 0; c < columns; ++c)
        for (int k = 0; k < depth; ++k, to += kBlock)
            for (int r = 0; r < 16; ++r)
                for (int t = 0; t < 2; ++t) {
                    const float* const at = from + (k * kSide + r) * ld + c * kSide + t * 16;
                    split(load(at), load(at + 16 * ld), to + t * kTile + r * 16);
                }
}

// Left operand from the transpose of rows of floats (32 * depth, 32 * columns): blocks (column, k) as above.
inline void split_transposed(const float* from, std::ptrdiff_t ld, int depth, int columns, float* to) {
    for (int c = 0; c < columns; ++c)
        for (int k = 0; k < depth; ++k, to += kBlock)
            for (int t = 0; t < 2; ++t) {
                const float* const at = from + k * kSide * ld + c * kSide + t * 16;
                vec low[16], high[16];
#pragma GCC unroll 16
                for (int i = 0; i < 16; ++i) {
                    low[i] = load(at + i * ld);
                    high[i] = load(at + (i + 16) * ld);
                }
                exchange_all<1>(low);
                exchange_all<1>(high);
#pragma GCC unroll 16
                for (int i = 0; i < 16; ++i) split(low[i], high[i], to + t * kTile + i * 16);
            }
}

// The compiler does not know what tile instructions read: all that was stored so far has to be in memory.
NF_INLINE void settle() { asm volatile("" ::: "memory"); }

constexpr std::ptrdiff_t kTileRow = 64;  // bytes

// C (32, 32) in tiles 0 to 3 += A B over `depth` blocks; four independent sums hide the unit's latency.
NF_INLINE void tile_products(const float* a, const float* b, int depth) {
    constexpr std::ptrdiff_t kPart = 2 * kTile;
    static constexpr std::ptrdiff_t kLeft[] = {0, 2 * kPart, kPart, kPart, 0, 0};
    static constexpr std::ptrdiff_t kRight[] = {2 * kPart, 0, 0, kPart, kPart, 0};
    settle();
    for (int k = 0; k < depth; ++k, a += kBlock, b += kBlock)
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) {
            _tile_loadd(4, a + kLeft[i], kTileRow);
            _tile_loadd(5, a + kLeft[i] + kTile, kTileRow);
            _tile_loadd(6, b + kRight[i], kTileRow);
            _tile_loadd(7, b + kRight[i] + kTile, kTileRow);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
}

NF_INLINE void load_tiles(const float* c, std::ptrdiff_t ld) {
    settle();
    _tile_loadd(0, c, ld * 4);
    _tile_loadd(1, c + 16, ld * 4);
    _tile_loadd(2, c + 16 * ld, ld * 4);
    _tile_loadd(3, c + 16 * ld + 16, ld * 4);
}

NF_INLINE void store_tiles(float* c, std::ptrdiff_t ld) {
    _tile_stored(0, c, ld * 4);
    _tile_stored(1, c + 16, ld * 4);
    _tile_stored(2, c + 16 * ld, ld * 4);
    _tile_stored(3, c + 16 * ld + 16, ld * 4);
    settle();
}

// C (points, 32 * columns) = A B + bias; where bias is null C = (A B) * C elementwise. Whole blocks of 32 rows are read
// and written. b: from split_columns; scratch: `depth` blocks and 1,024 floats.
inline void multiply_tiles(int points, int columns, int depth, const float* a, std::ptrdiff_t lda, const float* b,
                           float* c, std::ptrdiff_t ldc, const float* bias, float* scratch) {
    static constexpr float zeros[kSide] = {};
    float* const blocks = scratch + kSide * kSide;
    for (int p = 0; p < points; p += kSide, a += kSide * lda, c += kSide * ldc) {
        split_rows(a, lda, depth, blocks);
        for (int j = 0; j < columns; ++j) {
            const float* const start = bias == nullptr ? zeros : bias + j * kSide;
            float* const to = c + j * kSide;
            _tile_loadd(0, start, 0);  // the same row sixteen times
            _tile_loadd(1, start + 16, 0);
            _tile_loadd(2, start, 0);
            _tile_loadd(3, start + 16, 0);
            tile_products(blocks, b + static_cast<std::ptrdiff_t>(j) * depth * kBlock, depth);
            if (bias != nullptr) {
                store_tiles(to, ldc);
                continue;
            }
            store_tiles(scratch, kSide);
            for (int r = 0; r < kSide; ++r)
                for (int i = 0; i < kSide; i += kLanes)
                    store(to + r * ldc + i, load(to + r * ldc + i) * load(scratch + r * kSide + i));
        }
    }
}

// C (32 * rows, 32 * columns) += A^T B over 32 * depth rows of floats; scratch: (rows + columns) * depth blocks.
inline void multiply_transposed_tiles(int depth, int rows, int columns, const float* a, std::ptrdiff_t lda,
                                      const float* b, std::ptrdiff_t ldb, float* c, std::ptrdiff_t ldc, float* scratch) {
    const std::ptrdiff_t step = static_cast<std::ptrdiff_t>(depth) * kBlock;
    float* const right = scratch + rows * step;
    split_transposed(a, lda, depth, rows, scratch);
    split_columns(b, ldb, depth, columns, right);
    for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns; ++j) {
            float* const to = c + i * kSide * ldc + j * kSide;
            load_tiles(to, ldc);
            tile_products(scratch + i * step, right + j * step, depth);
            store_tiles(to, ldc);
        }
}

}  // namespace NF_ISA
}  // namespace nf
#else

namespace nf {
namespace NF_ISA {
inline bool uses_tiles(const Layout&) { return false; }
}  // namespace NF_ISA
}  // namespace nf
#endif
