// What the kernels are given; every array is contiguous float32.
// N fields, T neurons (the set), J targets, G heads of one target, D channels of a head, out = G D.
#pragma once
#include <cstdint>
#include <vector>

namespace nf {

// One target of set attention: what its values start with, and where they go; or the gradients of both.
struct Sum {
    float* values;  // (out, N, T)
    float* level;   // (out, N), for all neurons alike; null where an earlier problem has the target already
    bool is_fresh;  // whether values hold nothing yet
};

struct Problem {
    std::int64_t num_fields;
    int size;  // T
    int num_in, num_out, num_heads, num_targets;
    bool is_first, is_last;   // of the problems with this x, which follow each other
    float scale;              // of what is added to the sums
    const float* x;           // (in, N, T)
    const float* weight;      // (3 D J G, in), rows ordered (q k v, D, J, G)
    const float* bias;        // (3 D J G,)
    const float* out_weight;  // (J, out, out)
    const float* out_bias;    // (J, out)
    float* saved;             // (J, N, saved_of_field): see sets.hpp; or null
    std::vector<Sum> sums;    // J
};

// Numbers kept of one field and target: values after attention (out, T), the softmax's inverse denominators (G, T), and
// a bit for each value of the output map, in whole words for every row: whether it is positive.
inline std::int64_t saved_of_field(const Problem& p) {
    const std::int64_t words = (p.size + 31) / 32;
    return (static_cast<std::int64_t>(p.num_out) + p.num_heads) * p.size + p.num_out * words;
}

struct Gradients {
    float* x;  // (in, N, T), or null; the same for all problems with this x
    float *weight, *bias, *out_weight, *out_bias;
};

enum class Pool { max, mean, sum };

// Sets y (F C, N, T), row r of channel r mod C: x = relu((y - mean) gamma / sqrt(variance + epsilon) + beta), or relu(y)
// without gamma; and x pooled over T.
struct Activation {
    std::int64_t num_rows, num_fields;
    int channels, size;
    Pool pool;
    bool of_batch;               // whether mean and variance are those of this y
    float epsilon;
    const float *y, *gamma, *beta;
    float *mean, *variance;      // (C,), given, or written where of_batch
    float *x, *pooled;           // (F C, N, T), (F C, N)
};

struct ActivationGradients {
    const float *x, *pooled;     // null for zero
    float *y, *gamma, *beta;
};

// A normalisation of channels, (C,) each: gamma (y - mean) / sqrt(variance + epsilon) + beta; or y, without gamma.
struct ChannelNorm {
    const float *gamma, *beta, *mean, *variance;
    float epsilon;
    bool of_batch;  // whether mean and variance are those of this y
};

// Middle weights y (N, O, I, C); z = x W^T, x = relu(norm(y)), or y if raw.
struct Matrices {
    std::int64_t num_fields;
    int num_rows, num_columns, channels, num_out;
    Pool pool;
    int threads;
    const float *y, *weight;             // weight (C', C); C' may be 0
    ChannelNorm norm;
    bool raw;
    float *z, *rows, *columns, *pooled;  // (N, O, I, C'), and pools of x: over I (C, N, O), over O (C, N, I), both (C, N)
};

struct MatrixGradients {
    const float *z, *rows, *columns, *pooled;    // the last three null for zero
    float* y;                                    // of norm(y)
    float *weight, *shift, *scaled;              // the latter two, unless raw: sums of that, and of that times y - mean
};

// What is done to y (N, O, I, C) before it is mapped and after its gradient is known; null leaves a step out. Forward, rows
// (C, N, O) and columns (C, N, I) are added, then mean and variance (C,) written. Backward, given x, the gradient y of
// norm(x) becomes that of x, and d_gamma is written, by the sums d_shift and d_scaled of MatrixGradients; then sums of y
// are written to rows and columns.
struct Entries {
    std::int64_t num_fields;
    int num_rows, num_columns, channels;
    float *y, *rows, *columns, *mean, *variance;
    const float *x, *d_shift, *d_scaled;
    float* d_gamma;
    ChannelNorm norm;
};

// Linear maps y = factor (W [x_1; ...; x_k] + b), b the sum of S biases, over M columns; and gradients, given that of y.
struct LinearSource {
    const float* x;  // (in, M)
    float* dx;       // or null
    int channels;    // in
};
struct LinearMap {
    std::vector<int> sources;
    std::int64_t columns;                // M
    int num_in, num_out, num_biases;     // of all sources; S
    float factor;
    const float *weight, *bias;          // (out, in), (S, out)
    float *y, *d_weight, *d_bias;        // (out, M), values or their gradients; null forward
};
struct Linear {
    std::vector<LinearSource> sources;
    std::vector<LinearMap> maps;
};

// Blocks of weights x (N, O, I, C): z = gain relu(W x + row + column), and means of z over I and over O.
struct Blocks {
    std::int64_t num_fields;
    int num_rows, num_columns, channels, num_out;  // O, I, C, D
    float scale;                                   // of what dropout keeps
    const float *x, *weight;                       // weight (D, C)
    const float *rows, *columns, *gains;           // (N, O, D), (N, I, D), (N, D) or null
    float* z;                                      // (N, O, I, D) or null
    std::uint32_t* signs;                          // (N, O, I, words of 32): bits of whether z is positive; or null
    float *row_means, *column_means;               // (N, O, D), (N, I, D)
};

struct BlockGradients {
    const float *z, *row_means, *column_means;  // z null for zero
    float *x, *weight, *rows, *columns;         // x or null
};

// Messages over a block of edges (N, T, S, 2 C) between nodes (N, V, 2 C): T from `first_target` on, S from `first_source`.
struct Messages {
    std::int64_t num_fields;
    int num_targets, num_sources, num_nodes, first_target, first_source, channels;  // T, S, V, ..., C
    int threads;
    bool is_first;                          // whether no other block reached the targets
    const float *modulation, *nodes;        // scale, shift; a, b
    float* statistics;                      // (N, V, 4, C): sum, least, largest and sum of squares of messages
};

struct MessageGradients {
    const float* statistics;                // (N, V, 4, C): offset, of the least, of the largest, slope
    float *modulation, *nodes;              // the latter added to
};

// Attention of I nodes over V, C = H D channels of all heads, edges e (N, I, V, E); see relations.hpp.
struct Relations {
    std::int64_t num_fields;
    int num_rows, num_nodes, num_heads, head_size, width;  // I, V, H, D, E
    int threads;
    float scale;                            // of a score
    const float *edges, *weight;            // weight (3, C, E): of queries, keys, factors of values
    const float *q, *k, *v;                 // (C, N, I), (C, N, V), (C, N, V)
    float *values, *gathered;               // (C, N, I), (N, I, H, E)
    float *attention, *mixed;               // kept for the gradient: (N, I, H, V), (N, I, C, E); or null
};

struct RelationGradients {
    const float *values, *gathered;         // given
    float *edges, *weight, *q, *k, *v;
};

}  // namespace nf
