// Python bindings: arrays are checked here, once, and passed on without a copy; the GIL is released while fitting.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#if defined(NF_X86)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.hpp"
#define NF_ISA binding
#include "philox.hpp"

namespace nb = nanobind;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using Words = nb::ndarray<const std::uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

namespace {

struct Isa {
    const char* name;
    nf::FitFunction fit;
    void (*sine_cosine)(const float*, std::int64_t, float*, float*);
};

#if defined(NF_X86)
// Whether the processor has the matrix unit with bf16, and the system lets this process use it: its registers are large,
// so Linux wants to be asked once per process.
bool matrix_unit() {
#if defined(__linux__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kBf16) == 0 || (d & kTile) == 0) return false;
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
    return granted;
#else
    return false;
#endif
}
#endif

std::vector<Isa> available() {  // fastest first
    std::vector<Isa> list;
#if defined(NF_X86)
    __builtin_cpu_init();
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd");
    if (avx512 && matrix_unit()) list.push_back({"amx", nf::amx::fit, nf::amx::sine_cosine_array});
    if (avx512)
        list.push_back({"avx512", nf::avx512::fit, nf::avx512::sine_cosine_array});
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        list.push_back({"avx2", nf::avx2::fit, nf::avx2::sine_cosine_array});
#endif
    list.push_back({"baseline", nf::baseline::fit, nf::baseline::sine_cosine_array});
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

struct Options {
    std::string activation, loss, isa;
    float w0_first, w0_hidden, target_mse;
    double beta1, beta2, eps, weight_decay;
    bool decoupled;
    std::int64_t batch;
    std::uint32_t seed;
    int min_steps, curve_every, threads, grid_rows, grid_columns;
};

// Whether coords (rows * columns, 2) are exactly a product grid, row by row.
bool is_grid(const float* coords, std::int64_t rows, std::int64_t columns) {
    for (std::int64_t r = 0; r < rows; ++r)
        for (std::int64_t c = 0; c < columns; ++c) {
            const float* const x = coords + (r * columns + c) * 2;
            if (!(x[0] == coords[r * columns * 2] && x[1] == coords[c * 2 + 1])) return false;
        }
    return true;
}

bool fit(Floats params, const std::vector<int>& dims, ReadFloats coords, ReadFloats targets, ReadFloats value_scale,
         ReadFloats lr, Words ids, Floats curves, Ints steps_taken, const Options& options, nf::Progress& progress) {
    expect(dims.size() >= 3 && dims.back() >= 1 && dims.back() <= 4, "dims: expected a hidden layer and 1 to 4 outputs");
    nf::Problem p;
    std::int64_t count = 0;
    for (std::size_t l = 0; l + 1 < dims.size(); ++l) count += static_cast<std::int64_t>(dims[l] + 1) * dims[l + 1];
    expect(params.ndim() == 2 && static_cast<std::int64_t>(params.shape(1)) == count, "params: expected (N, P)");
    p.num_fields = params.shape(0);
    p.num_params = count;
    const bool own = coords.ndim() == 3;  // every field has its own points
    expect((own && coords.shape(0) == params.shape(0)) || coords.ndim() == 2, "coords: expected (M, E) or (N, M, E)");
    p.num_points = coords.shape(own ? 1 : 0);
    p.dims = dims;
    expect(static_cast<int>(coords.shape(own ? 2 : 1)) == dims[0], "coords: expected (M, E) or (N, M, E)");
    p.coords_stride = own ? p.num_points * dims[0] : 0;
    expect(targets.ndim() == 3 && targets.shape(0) == params.shape(0) && static_cast<std::int64_t>(targets.shape(1)) == p.num_points &&
               static_cast<int>(targets.shape(2)) == dims.back(),
           "targets: expected (N, M, O)");
    expect(p.num_points >= 1, "coords: expected at least one point");
    expect(value_scale.ndim() == 1 && static_cast<int>(value_scale.shape(0)) == dims.back(), "value_scale: expected (O,)");
    expect(lr.ndim() == 1 && options.curve_every >= 1, "lr: expected (S,); curve_every: expected 1 or more");
    expect(ids.shape(0) == params.shape(0) && steps_taken.shape(0) == params.shape(0), "ids, steps_taken: expected (N,)");
    const std::int64_t length = (static_cast<std::int64_t>(lr.shape(0)) + options.curve_every - 1) / options.curve_every;
    expect(curves.ndim() == 2 && curves.shape(0) == params.shape(0) && static_cast<std::int64_t>(curves.shape(1)) == length,
           "curves: expected (N, ceil(S / curve_every))");
    expect(options.batch >= 0, "batch: expected zero or more");
    if (options.grid_rows > 0 || options.grid_columns > 0) {
        const std::int64_t points = static_cast<std::int64_t>(options.grid_rows) * options.grid_columns;
        expect(!own && dims[0] == 2 && points == p.num_points && is_grid(coords.data(), options.grid_rows, options.grid_columns),
               "grid: expected (rows, columns) of which coords (M, 2) are the product grid, row by row");
        if (options.activation == "sine" && options.batch == 0) {
            p.grid_rows = options.grid_rows;
            p.grid_columns = options.grid_columns;
        }
    }
    p.activation = options.activation == "relu" ? nf::Activation::relu : nf::Activation::sine;
    p.w0_first = options.w0_first;
    p.w0_hidden = options.w0_hidden;
    p.loss = options.loss == "bce" ? nf::Loss::bce : (options.loss == "l1" ? nf::Loss::l1 : nf::Loss::mse);
    p.params = params.data();
    p.coords = coords.data();
    p.targets = targets.data();
    p.value_scale = value_scale.data();
    p.lr = lr.data();
    p.num_steps = static_cast<int>(lr.shape(0));
    p.beta1 = options.beta1;
    p.beta2 = options.beta2;
    p.eps = options.eps;
    p.weight_decay = options.weight_decay;
    p.decoupled = options.decoupled;
    p.batch = options.batch;
    p.seed = options.seed;
    p.ids = ids.data();
    p.target_mse = options.target_mse;
    p.min_steps = options.min_steps;
    p.curve_every = options.curve_every;
    p.curve_length = static_cast<int>(length);
    p.threads = options.threads;
    p.curves = curves.data();
    p.steps_taken = steps_taken.data();
    const Isa isa = choose(options.isa);
    const nb::gil_scoped_release released;
    return isa.fit(p, progress);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::class_<nf::Progress>(m, "Progress", "Counters of a running fit; safe to read from another thread.")
        .def(nb::init<>())
        .def_prop_ro("done", [](const nf::Progress& p) { return p.done.load(); }, "Field-steps done.")
        .def_prop_ro("fields_done", [](const nf::Progress& p) { return p.fields_done.load(); }, "Fields finished.")
        .def_prop_ro("loss", [](const nf::Progress& p) { return p.loss.load(); }, "Latest mean squared error.")
        .def("cancel", [](nf::Progress& p) { p.cancelled.store(true); }, "Ask the fit to return soon.");
    nb::class_<Options>(m, "Options", "Scalar settings of a fit.")
        .def(
            "__init__",
            [](Options* self, const std::string& activation, const std::string& loss, const std::string& isa,
               float w0_first, float w0_hidden, float target_mse, double beta1, double beta2, double eps,
               double weight_decay, bool decoupled, std::int64_t batch, std::uint32_t seed, int min_steps,
               int curve_every, int threads, int grid_rows, int grid_columns) {
                new (self) Options{activation, loss,         isa,       w0_first, w0_hidden, target_mse,  beta1,  beta2,
                                   eps,        weight_decay, decoupled, batch,    seed,      min_steps,   curve_every,
                                   threads,    grid_rows,    grid_columns};
            },
            nb::kw_only(), nb::arg("activation"), nb::arg("loss"), nb::arg("isa"), nb::arg("w0_first"),
            nb::arg("w0_hidden"), nb::arg("target_mse"), nb::arg("beta1"), nb::arg("beta2"), nb::arg("eps"),
            nb::arg("weight_decay"), nb::arg("decoupled"), nb::arg("batch"), nb::arg("seed"), nb::arg("min_steps"),
            nb::arg("curve_every"), nb::arg("threads"), nb::arg("grid_rows"), nb::arg("grid_columns"));
    m.def("fit", &fit, nb::arg("params").noconvert(), nb::arg("dims"), nb::arg("coords").noconvert(),
          nb::arg("targets").noconvert(), nb::arg("value_scale").noconvert(), nb::arg("lr").noconvert(),
          nb::arg("ids").noconvert(), nb::arg("curves").noconvert(), nb::arg("steps_taken").noconvert(),
          nb::arg("options"), nb::arg("progress"), "Fit all fields in place; returns False when cancelled.");
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : available()) names.emplace_back(isa.name);
            return names;
        },
        "Instruction sets this machine can run, fastest first.");
    m.def(
        "sine_cosine",
        [](ReadFloats x, Floats sine, Floats cosine, const std::string& isa) {
            expect(sine.size() == x.size() && cosine.size() == x.size(), "sine, cosine: expected the size of x");
            choose(isa).sine_cosine(x.data(), static_cast<std::int64_t>(x.size()), sine.data(), cosine.data());
        },
        nb::arg("x").noconvert(), nb::arg("sine").noconvert(), nb::arg("cosine").noconvert(), nb::arg("isa"),
        "Write sin(pi x) and cos(pi x).");
    m.def(
        "sample_words",
        [](std::uint32_t seed, std::uint32_t id, std::uint32_t step, std::uint32_t block) {
            std::vector<std::uint32_t> words(4);
            nf::binding::sample_words(seed, id, step, block, words.data());
            return words;
        },
        nb::arg("seed"), nb::arg("id"), nb::arg("step"), nb::arg("block"), "The four words points are drawn from.");
}
