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

namespace nf {
namespace NF_ISA {

// The batch is cut into this many parts with a gradient each, added in order: the same numbers on any thread count.
inline int part_count(std::int64_t batch) { return batch >= 8192 ? 4 : 1; }

// Weights as the products want them, made once per step: in half turns (sine) for the forward pass, and scaled by w0 and
// transposed for the backward pass.
struct Prepared {
    Buffer scaled;
    std::vector<Buffer> transposed;  // of layer l >= 1: (out, stride(in))

    Prepared(const Layout& layout) : scaled(make_buffer(layout.size)) {
        for (const Layer& layer : layout.layers)
            transposed.push_back(layer.last || &layer == &layout.layers[0]
                                     ? Buffer()
                                     : make_buffer(static_cast<std::ptrdiff_t>(layer.columns) * stride(layer.in)));
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
    std::optional<GridTable> grid;

    Workspace(const Problem& p, const Layout& l) : problem(p), layout(l) {
        chunk = layout.width <= 64 ? 56 : 112;
        const int rows = round_up(chunk, 16);
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
        if (p.grid_rows > 0) grid.emplace(p.grid_rows, p.grid_columns, layout.layers[0].ld);
    }

    // Adds the gradient of points [first, last) of this step's batch; grad is in the padded layout.
    void run(std::int64_t field, int step, std::int64_t first, std::int64_t last, std::int64_t batch,
             const Prepared& weights, float* grad, Sums& sums, const float* value_weight) {
        const int ins = problem.dims[0], outs = problem.dims.back();
        const float* targets = problem.targets + field * problem.num_points * outs;
        const Layer& bottom = layout.layers[0];
        if (grid) grid->update(problem.coords, weights.scaled.get() + bottom.weight, weights.scaled.get() + bottom.bias);
        std::fill_n(channels.get(), outs * kLanes, 0.0f);
        const float inverse = static_cast<float>(1.0 / (static_cast<double>(batch) * outs));
        for (std::int64_t at = first; at < last; at += chunk) {
            const int points = static_cast<int>(std::min<std::int64_t>(chunk, last - at));
            const float* px = problem.coords + at * ins;
            const float* pt = targets + at * outs;
            if (problem.batch > 0) {
                gather(field, step, at, points, targets);
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

    void gather(std::int64_t field, int step, std::int64_t at, int points, const float* targets) {
        const int ins = problem.dims[0], outs = problem.dims.back();
        std::uint32_t words[4];
        for (int p = 0; p < points; ++p) {
            const std::uint32_t position = static_cast<std::uint32_t>(at + p);
            if (p == 0 || position % 4 == 0)
                sample_words(problem.seed, problem.ids[field], static_cast<std::uint32_t>(step), position / 4, words);
            const std::int64_t index = draw_index(words[position % 4], problem.num_points);
            std::copy_n(problem.coords + index * ins, ins, x.get() + p * ins);
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
                multiply<Order::rows, Start::bias>(points, layer.columns, layer.in, from, row, w + layer.weight, layer.ld,
                                                   hidden[l].get(), layer.ld, w + layer.bias);
                activate(problem.activation, hidden[l].get(), slope[l].get(),
                         static_cast<std::ptrdiff_t>(points) * layer.ld);
            }
            from = hidden[l].get();
            row = layer.ld;
        }
        const Layer& last = layout.layers.back();
        output(points, last.out, last.columns, from, static_cast<int>(row), w + last.weight, last.ld, w + last.bias,
               y.get());
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
            const Layer& below = layout.layers[l - 1];
            const float* d = slope[l].get();
            if (l < top) input_backward<0>(points, layer.columns, nullptr, d, layer.ld, nullptr, grad + layer.bias);
            multiply<Order::rows, Start::zero, true>(points, below.columns, layer.out, d, layer.ld,
                                                     weights.transposed[l].get(), below.ld, slope[l - 1].get(), below.ld);
            multiply<Order::columns, Start::accumulate>(layer.in, layer.columns, points, hidden[l - 1].get(), below.ld, d,
                                                        layer.ld, grad + layer.weight, layer.ld);
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
