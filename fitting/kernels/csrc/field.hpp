// One field in one thread's cache: its padded parameters, moments and buffers, and one optimizer step.
#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "grid.hpp"
#include "layout.hpp"
#include "passes.hpp"
#include "philox.hpp"
#include "tiles.hpp"

namespace nf {
namespace NF_ISA {

// The batch is cut into this many parts with a gradient each, added in order: the same numbers on any thread count.
inline int part_count(std::int64_t batch) { return batch >= 8192 ? 4 : 1; }

// Points that go through all layers together: few enough that what belongs to them stays in the nearest caches.
inline int chunk_points(const Layout& layout) {
    if (uses_tiles(layout)) return 128;  // whole blocks of the matrix unit
    return layout.width <= 64 ? 56 : 112;
}

// Weights as the products want them, made once per step: in half turns (sine) for the forward pass, and scaled by w0 and
// transposed for the backward pass.
struct Prepared {
    Buffer scaled;
    std::vector<Buffer> transposed;  // of layer l >= 1: (out, stride(in))
    std::vector<Buffer> forward, backward;  // the same two as blocks of the matrix unit, for layers that go there

    Prepared(const Layout& layout) : scaled(make_buffer(layout.size)) {
        for (const Layer& layer : layout.layers)
            transposed.push_back(layer.last || &layer == &layout.layers[0]
                                     ? Buffer()
                                     : make_buffer(static_cast<std::ptrdiff_t>(layer.columns) * stride(layer.in)));
#if defined(NF_TILES)
        for (const Layer& layer : layout.layers)
            for (auto* blocks : {&forward, &backward})
                blocks->push_back(make_buffer(tiled(layer) ? layer.in / kSide * (layer.out / kSide) * kBlock : 0));
#endif
    }

    void update(const Layout& layout, const float* params) {
        for (const Layer& layer : layout.layers) {
            const std::ptrdiff_t end = layer.bias + (layer.last ? round_up(layer.out, kLanes) : layer.ld);
            for (std::ptrdiff_t i = layer.weight; i < end; i += kLanes)
                store(scaled.get() + i, load(params + i) * layer.factor + load(params + i) * layer.factor_low);
        }
        for (std::size_t l = 1; l + 1 < layout.layers.size(); ++l) {
            const Layer& layer = layout.layers[l];
            transpose(params + layer.weight, layer.in, layer.columns, layer.ld, layer.w0, transposed[l].get(),
                      stride(layer.in));
#if defined(NF_TILES)
            if (!tiled(layer)) continue;
            split_columns(scaled.get() + layer.weight, layer.ld, layer.in / kSide, layer.out / kSide, forward[l].get());
            split_columns(transposed[l].get(), stride(layer.in), layer.out / kSide, layer.in / kSide, backward[l].get());
#endif
        }
    }
};

// Buffers for one chunk of points and the gradient of one part.
struct Workspace {
    const Problem& problem;
    const Layout& layout;
    int chunk;
    std::vector<Buffer> hidden, slope;  // slope: dh/dz of a layer, which the backward pass turns into dL/dz in place
    Buffer y, dy, x, target, channels;
    Buffer scratch;  // of the matrix unit
    std::optional<GridTable> grid;

    Workspace(const Problem& p, const Layout& l) : problem(p), layout(l) {
        chunk = chunk_points(layout);
        const int rows = round_up(chunk, 32);
        for (const Layer& layer : layout.layers) {
            if (layer.last) break;
            hidden.push_back(make_buffer(static_cast<std::ptrdiff_t>(rows) * layer.ld));
            slope.push_back(make_buffer(static_cast<std::ptrdiff_t>(rows) * layer.ld));
        }
        const int outs = p.dims.back();
        y = make_buffer(rows * outs);
        dy = make_buffer(rows * outs);
        x = make_buffer(rows * p.dims[0]);
        target = make_buffer(rows * outs);
        channels = make_buffer(outs * kLanes);
#if defined(NF_TILES)
        const std::ptrdiff_t side = layout.width / kSide;
        if (uses_tiles(layout)) scratch = make_buffer(2 * side * (rows / kSide) * kBlock + side * kBlock + kSide * kSide);
#endif
        if (p.grid_rows > 0) grid.emplace(p.grid_rows, p.grid_columns, layout.layers[0].ld);
    }

    // Adds the gradient of points [first, last) of this step's batch; grad is in the padded layout.
    void run(std::int64_t field, int step, std::int64_t first, std::int64_t last, std::int64_t batch,
             const Prepared& weights, float* grad, Sums& sums, const float* value_weight) {
        const int ins = problem.dims[0], outs = problem.dims.back();
        const float* const targets = problem.targets + field * problem.num_points * outs;
        const float* const coords = problem.coords + field * problem.coords_stride;
        const Layer& bottom = layout.layers[0];
        if (grid) grid->update(problem.coords, weights.scaled.get() + bottom.weight, weights.scaled.get() + bottom.bias);
        std::fill_n(channels.get(), outs * kLanes, 0.0f);
        const float inverse = static_cast<float>(1.0 / (static_cast<double>(batch) * outs));
        for (std::int64_t at = first; at < last; at += chunk) {
            const int points = static_cast<int>(std::min<std::int64_t>(chunk, last - at));
            const float* px = coords + at * ins;
            const float* pt = targets + at * outs;
            if (problem.batch > 0) {
                gather(field, step, at, points, coords, targets);
                px = x.get();
                pt = target.get();
            }
            forward(at, points, px, weights);
            const std::int64_t readable = problem.batch > 0 ? points * outs : (problem.num_points - at) * outs;
            loss_backward(problem.loss, points, outs, y.get(), pt, readable, value_weight, inverse, dy.get(),
                          channels.get(), sums);
            backward(at, points, px, weights, grad);
        }
        float* gb = grad + layout.layers.back().bias;
        for (int i = 0; i < outs * kLanes; ++i) gb[i % outs] += channels.get()[i];
    }

    void gather(std::int64_t field, int step, std::int64_t at, int points, const float* coords, const float* targets) {
        const int ins = problem.dims[0], outs = problem.dims.back();
        std::uint32_t words[4];
        for (int p = 0; p < points; ++p) {
            const std::uint32_t position = static_cast<std::uint32_t>(at + p);
            if (p == 0 || position % 4 == 0)
                sample_words(problem.seed, problem.ids[field], static_cast<std::uint32_t>(step), position / 4, words);
            const std::int64_t index = draw_index(words[position % 4], problem.num_points);
            std::copy_n(coords + index * ins, ins, x.get() + p * ins);
            std::copy_n(targets + index * outs, outs, target.get() + p * outs);
        }
    }

    void forward(std::int64_t at, int points, const float* px, const Prepared& weights) {
        const float* w = weights.scaled.get();
        const float* from = px;
        std::ptrdiff_t row = problem.dims[0];
        for (std::size_t l = 0; l < hidden.size(); ++l) {
            const Layer& layer = layout.layers[l];
            if (l == 0 && grid) {
                grid->forward(at, points, hidden[0].get(), slope[0].get());
            } else {
                hidden_layer(l, points, from, row, weights, hidden[l].get());
            }
            from = hidden[l].get();
            row = layer.ld;
        }
        const Layer& last = layout.layers.back();
        output(points, last.out, last.columns, from, static_cast<int>(row), w + last.weight, last.ld, w + last.bias,
               y.get());
    }

    // z (P, out) = act(W h + b) of layer l, and its slope.
    void hidden_layer(std::size_t l, int points, const float* h, std::ptrdiff_t row, const Prepared& weights, float* z) {
        const Layer& layer = layout.layers[l];
        const float* const w = weights.scaled.get();
#if defined(NF_TILES)
        if (l > 0 && tiled(layer))
            multiply_tiles(points, layer.out / kSide, layer.in / kSide, h, row, weights.forward[l].get(), z, layer.ld,
                           w + layer.bias, scratch.get());
        else
#endif
        multiply<Order::rows, Start::bias>(points, layer.columns, layer.in, h, row, w + layer.weight, layer.ld, z,
                                           layer.ld, w + layer.bias);
        activate(problem.activation, z, slope[l].get(), static_cast<std::ptrdiff_t>(points) * layer.ld);
    }

    // dz below (the slope before) = (W^T dz) * slope; the gradient of W += dz^T h, of layer l >= 1.
    void product_backward(std::size_t l, int points, const Prepared& weights, float* grad) {
        const Layer &layer = layout.layers[l], &below = layout.layers[l - 1];
        float *const d = slope[l].get(), *const h = hidden[l - 1].get(), *const to = slope[l - 1].get();
#if defined(NF_TILES)
        if (tiled(layer)) {
            const int in = layer.in / kSide, out = layer.out / kSide, depth = (points + kSide - 1) / kSide;
            multiply_tiles(points, in, out, d, layer.ld, weights.backward[l].get(), to, below.ld, nullptr, scratch.get());
            std::fill(d + points * layer.ld, d + depth * kSide * layer.ld, 0.0f);  // whole blocks, of which the rest
            std::fill(h + points * below.ld, h + depth * kSide * below.ld, 0.0f);  // adds nothing
            return multiply_transposed_tiles(depth, in, out, h, below.ld, d, layer.ld, grad + layer.weight, layer.ld,
                                             scratch.get());
        }
#endif
        multiply<Order::rows, Start::zero, true>(points, below.columns, layer.out, d, layer.ld,
                                                 weights.transposed[l].get(), below.ld, to, below.ld);
        multiply<Order::columns, Start::accumulate>(layer.in, layer.columns, points, h, below.ld, d, layer.ld,
                                                    grad + layer.weight, layer.ld);
    }

    void backward(std::int64_t at, int points, const float* px, const Prepared& weights, float* grad) {
        const Layer& last = layout.layers.back();
        const std::size_t top = hidden.size() - 1;
        const auto out = [&]<int O>() {
            output_backward<O>(points, last.columns, dy.get(), weights.scaled.get() + last.weight, last.ld,
                               hidden[top].get(), slope[top].get(), layout.layers[top].ld,
                               grad + last.weight, top > 0 ? grad + layout.layers[top].bias : nullptr);
        };
        switch (last.out) {
            case 1: out.template operator()<1>(); break;
            case 2: out.template operator()<2>(); break;
            case 3: out.template operator()<3>(); break;
            default: out.template operator()<4>(); break;
        }
        for (std::size_t l = top; l > 0; --l) {
            const Layer& layer = layout.layers[l];
            if (l < top)
                input_backward<0>(points, layer.columns, nullptr, slope[l].get(), layer.ld, nullptr, grad + layer.bias);
            product_backward(l, points, weights, grad);
        }
        first_backward(at, points, px, grad);
    }

    void first_backward(std::int64_t at, int points, const float* px, float* grad) {
        const Layer& layer = layout.layers[0];
        float* gw = grad + layer.weight;
        float* gb = grad + layer.bias;
        const float* d = slope[0].get();
        if (grid) return grid->backward(at, points, problem.coords, d, gw, gb);
        switch (layer.in) {
            case 1: return input_backward<1>(points, layer.columns, px, d, layer.ld, gw, gb);
            case 2: return input_backward<2>(points, layer.columns, px, d, layer.ld, gw, gb);
            case 3: return input_backward<3>(points, layer.columns, px, d, layer.ld, gw, gb);
            default: break;
        }
        input_backward<0>(points, layer.columns, nullptr, d, layer.ld, nullptr, gb);
        multiply<Order::columns, Start::accumulate>(layer.in, layer.columns, points, px, layer.in, d, layer.ld, gw,
                                                    layer.ld);
    }
};

}  // namespace NF_ISA
}  // namespace nf
