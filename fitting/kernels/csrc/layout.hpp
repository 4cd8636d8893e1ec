// Where the padded parameters of one field live: hidden layers as (in, ld) with units in the lanes, the last as (O, ld).
#pragma once
#include <vector>

#include "lanes.hpp"
#include "problem.hpp"

namespace nf {
namespace NF_ISA {

// Row stride of a matrix with `width` columns. From 128 on one more vector: a power-of-two stride would map the rows
// of a panel to a handful of cache sets.
constexpr int stride(int width) {
    const int padded = round_up(width, kLanes);
    return padded >= 128 ? padded + kLanes : padded;
}

struct Layer {
    int in, out;      // true sizes
    int columns, ld;  // padded columns and row stride of the stored matrix
    int rows;         // stored rows: in for a hidden layer, out for the last
    bool last;
    std::ptrdiff_t weight, bias;       // offsets into the padded vector
    std::ptrdiff_t from_w, from_b;     // offsets into the flat (torch) vector
    float w0;                          // 1 where there is no sine
    float factor, factor_low;          // w0 / pi in two floats (1 and 0 where there is no sine)
};

struct Layout {
    std::vector<Layer> layers;
    std::ptrdiff_t size = 0;  // padded parameters, a multiple of kLanes
    int width = 0;            // widest hidden row stride

    explicit Layout(const Problem& p) {
        const int count = static_cast<int>(p.dims.size()) - 1;
        std::ptrdiff_t flat = 0;
        for (int l = 0; l < count; ++l) {
            Layer layer{};
            layer.in = p.dims[l];
            layer.out = p.dims[l + 1];
            layer.last = l == count - 1;
            layer.rows = layer.last ? layer.out : layer.in;
            layer.columns = round_up(layer.last ? layer.in : layer.out, kLanes);
            layer.ld = stride(layer.last ? layer.in : layer.out);
            layer.weight = size;
            size += static_cast<std::ptrdiff_t>(layer.rows) * layer.ld;
            layer.bias = size;
            size += layer.last ? round_up(layer.out, kLanes) : layer.ld;
            layer.from_w = flat;
            layer.from_b = flat + static_cast<std::ptrdiff_t>(layer.in) * layer.out;
            flat = layer.from_b + layer.out;
            layer.w0 = layer.last || p.activation == Activation::relu ? 1.0f : (l == 0 ? p.w0_first : p.w0_hidden);
            const bool sine = !layer.last && p.activation == Activation::sine;
            const double factor = sine ? static_cast<double>(layer.w0) * 0.318309886183790671538 : 1.0;
            layer.factor = static_cast<float>(factor);
            layer.factor_low = static_cast<float>(factor - static_cast<double>(layer.factor));
            if (!layer.last && layer.ld > width) width = layer.ld;
            layers.push_back(layer);
        }
    }

    std::ptrdiff_t at(const Layer& layer, int out, int in) const {
        return layer.weight + (layer.last ? static_cast<std::ptrdiff_t>(out) * layer.ld + in
                                          : static_cast<std::ptrdiff_t>(in) * layer.ld + out);
    }

    void unpack(const float* flat, float* padded) const {
        for (const Layer& layer : layers)
            for (int o = 0; o < layer.out; ++o) {
                for (int i = 0; i < layer.in; ++i) padded[at(layer, o, i)] = flat[layer.from_w + o * layer.in + i];
                padded[layer.bias + o] = flat[layer.from_b + o];
            }
    }

    void pack(const float* padded, float* flat) const {
        for (const Layer& layer : layers)
            for (int o = 0; o < layer.out; ++o) {
                for (int i = 0; i < layer.in; ++i) flat[layer.from_w + o * layer.in + i] = padded[at(layer, o, i)];
                flat[layer.from_b + o] = padded[layer.bias + o];
            }
    }
};

}  // namespace NF_ISA
}  // namespace nf
