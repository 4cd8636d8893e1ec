// What all bindings share: arrays as they come from Python, and the copy of the kernels that this machine can run.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "kernels.hpp"

namespace nb = nanobind;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Optional = std::optional<Floats>;

namespace {

struct Isa {
    const char* name;
    void (*attend)(const std::vector<nf::Problem>&, int);
    void (*attend_back)(const std::vector<nf::Problem>&, const std::vector<nf::Gradients>&, int);
    void (*activate)(const std::vector<nf::Activation>&, int);
    void (*activate_back)(const std::vector<nf::Activation>&, const std::vector<nf::ActivationGradients>&, int);
    void (*map)(const nf::Matrices&);
    void (*map_back)(const nf::Matrices&, const nf::MatrixGradients&);
    void (*settle)(const nf::Entries&, int);
    void (*settle_back)(const nf::Entries&, int);
    void (*map_linear)(const nf::Linear&, int);
    void (*map_linear_back)(const nf::Linear&, int);
    void (*map_blocks)(const nf::Blocks&, int);
    void (*map_blocks_back)(const nf::Blocks&, const nf::BlockGradients&, int);
    void (*aggregate)(const nf::Messages&);
    void (*aggregate_back)(const nf::Messages&, const nf::MessageGradients&);
    void (*relate)(const nf::Relations&);
    void (*relate_back)(const nf::Relations&, const nf::RelationGradients&);
};

#define NF_COPY(isa)              \
    {#isa,                        \
     nf::isa::attend_sets,        \
     nf::isa::attend_sets_back,   \
     nf::isa::activate_sets,      \
     nf::isa::activate_sets_back, \
     nf::isa::map_matrices,       \
     nf::isa::map_matrices_back,  \
     nf::isa::settle,             \
     nf::isa::settle_back,        \
     nf::isa::map_linear,         \
     nf::isa::map_linear_back,    \
     nf::isa::map_blocks,         \
     nf::isa::map_blocks_back,    \
     nf::isa::aggregate,          \
     nf::isa::aggregate_back,     \
     nf::isa::relate,             \
     nf::isa::relate_back}

std::vector<Isa> available() {  // fastest first
    std::vector<Isa> list;
#if defined(NF_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd"))
        list.push_back(NF_COPY(avx512));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) list.push_back(NF_COPY(avx2));
#endif
    list.push_back(NF_COPY(baseline));
    return list;
}

Isa choose(const std::string& name) {
    for (const Isa& isa : available())
        if (name.empty() || name == isa.name) return isa;
    throw std::invalid_argument("isa='" + name + "': this machine or build does not have it");
}

void expect(bool ok, const char* what) {
    if (!ok) throw std::invalid_argument(what);
}

template <class Array>
bool has_shape(const Array& array, std::initializer_list<std::int64_t> shape) {
    if (array.ndim() != shape.size()) return false;
    std::size_t axis = 0;
    for (const std::int64_t length : shape)
        if (static_cast<std::int64_t>(array.shape(axis++)) != length) return false;
    return true;
}

nf::Pool pool_of(const std::string& name) {
    expect(name == "max" || name == "mean" || name == "sum", "pool: expected max, mean or sum");
    return name == "max" ? nf::Pool::max : name == "mean" ? nf::Pool::mean : nf::Pool::sum;
}

float* data(const Optional& array) { return array.has_value() ? array->data() : nullptr; }

}  // namespace
