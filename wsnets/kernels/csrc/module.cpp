// Python bindings: arrays are checked here, once, and passed on without a copy; the GIL is released meanwhile.
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

namespace {

struct Isa {
    const char* name;
    void (*attend)(const nf::Problem&, const std::vector<float*>&);
    void (*attend_back)(const nf::Problem&, const nf::Gradients&);
    void (*map)(const nf::Matrices&);
    void (*map_back)(const nf::Matrices&, const nf::MatrixGradients&);
    void (*entries)(const nf::Entries&);
    void (*aggregate)(const nf::Messages&);
    void (*aggregate_back)(const nf::Messages&, const nf::MessageGradients&);
    void (*relate)(const nf::Relations&);
    void (*relate_back)(const nf::Relations&, const nf::RelationGradients&);
};

#define NF_COPY(isa) \
    {#isa, nf::isa::attend_sets, nf::isa::attend_sets_back, nf::isa::map_matrices, nf::isa::map_matrices_back, \
     nf::isa::work_on_entries, nf::isa::aggregate, nf::isa::aggregate_back, nf::isa::relate, nf::isa::relate_back}

std::vector<Isa> available() {  // fastest first
    std::vector<Isa> list;
#if defined(NF_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd"))
        list.push_back(NF_COPY(avx512));
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        list.push_back(NF_COPY(avx2));
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

nf::Problem problem_of(const ReadFloats& x, const ReadFloats& weight, const ReadFloats& bias, const ReadFloats& out_weight,
                       const ReadFloats& out_bias, int heads, float scale, int threads) {
    expect(x.ndim() == 3 && x.size() > 0, "x: expected (in, N, T), none of them zero");
    expect(out_weight.ndim() == 3 && out_weight.shape(0) > 0, "out_weight: expected (J, out, out)");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Problem p;
    p.num_in = static_cast<int>(x.shape(0));
    p.num_fields = static_cast<std::int64_t>(x.shape(1));
    p.size = static_cast<int>(x.shape(2));
    p.num_targets = static_cast<int>(out_weight.shape(0));
    p.num_out = static_cast<int>(out_weight.shape(1));
    p.num_heads = heads;
    p.threads = threads;
    p.scale = scale;
    const std::int64_t rows = 3LL * p.num_targets * p.num_out;
    expect(heads >= 1 && p.num_out >= 1 && p.num_out % heads == 0, "heads: expected a divisor of the number of outputs");
    expect(has_shape(weight, {rows, p.num_in}) && has_shape(bias, {rows}), "weight, bias: expected (3 J out, in), (3 J out,)");
    expect(has_shape(out_weight, {p.num_targets, p.num_out, p.num_out}) && has_shape(out_bias, {p.num_targets, p.num_out}),
           "out_weight, out_bias: expected (J, out, out), (J, out)");
    p.x = x.data();
    p.weight = weight.data();
    p.bias = bias.data();
    p.out_weight = out_weight.data();
    p.out_bias = out_bias.data();
    p.saved = nullptr;
    return p;
}

template <class Array>
void expect_saved(const nf::Problem& p, const Array& saved) {
    expect(has_shape(saved, {p.num_targets, p.num_fields, p.num_out + p.num_heads, p.size}), "saved: expected (J, N, out + heads, T)");
}

template <class Array>
void expect_sums(const nf::Problem& p, const std::vector<Array>& sums) {
    bool fit = static_cast<int>(sums.size()) == p.num_targets;
    for (const Array& array : sums) fit = fit && has_shape(array, {p.num_out, p.num_fields, p.size});
    expect(fit, "sums: expected J arrays (out, N, T)");
}

void attend(ReadFloats x, ReadFloats weight, ReadFloats bias, ReadFloats out_weight, ReadFloats out_bias, int heads,
            float scale, int threads, const std::string& isa, const std::vector<Floats>& sums, std::optional<Floats> saved) {
    nf::Problem p = problem_of(x, weight, bias, out_weight, out_bias, heads, scale, threads);
    expect_sums(p, sums);
    std::vector<float*> into;
    for (const Floats& array : sums) into.push_back(array.data());
    if (saved.has_value()) {
        expect_saved(p, *saved);
        p.saved = saved->data();
    }
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend(p, into);
}

void attend_back(ReadFloats x, ReadFloats weight, ReadFloats bias, ReadFloats out_weight, ReadFloats out_bias, int heads,
                 float scale, int threads, const std::string& isa, const std::vector<ReadFloats>& d_sums, Floats saved,
                 std::optional<Floats> dx, Floats d_weight, Floats d_bias, Floats d_out_weight, Floats d_out_bias) {
    nf::Problem p = problem_of(x, weight, bias, out_weight, out_bias, heads, scale, threads);
    expect_sums(p, d_sums);
    expect_saved(p, saved);
    expect((!dx.has_value() || dx->size() == x.size()) && d_weight.size() == weight.size() && d_bias.size() == bias.size() &&
               d_out_weight.size() == out_weight.size() && d_out_bias.size() == out_bias.size(),
           "gradients: expected the sizes of what they belong to");
    p.saved = saved.data();
    nf::Gradients g{{}, dx.has_value() ? dx->data() : nullptr, d_weight.data(), d_bias.data(), d_out_weight.data(),
                    d_out_bias.data()};
    for (const ReadFloats& array : d_sums) g.sums.push_back(array.data());
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.attend_back(p, g);
}

using Optional = std::optional<Floats>;

float* data(const Optional& array) { return array.has_value() ? array->data() : nullptr; }

// Whether an array, if given, has one number per channel.
bool is_per_channel(const Optional& array, const Floats& y) { return !array.has_value() || has_shape(*array, {static_cast<std::int64_t>(y.shape(3))}); }

nf::Matrices matrices_of(const Floats& y, const ReadFloats& weight, const std::string& pool, const Optional& scale,
                         const Optional& shift, const Optional& mean, const Floats& rows, const Floats& columns, int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    const std::int64_t n = static_cast<std::int64_t>(y.shape(0)), o = static_cast<std::int64_t>(y.shape(1)),
                       i = static_cast<std::int64_t>(y.shape(2)), c = static_cast<std::int64_t>(y.shape(3));
    expect(weight.ndim() == 2 && static_cast<std::int64_t>(weight.shape(1)) == c, "weight: expected (C', C)");
    expect(has_shape(rows, {n, o, c}) && has_shape(columns, {n, i, c}), "rows, columns: expected (N, O, C), (N, I, C)");
    expect(is_per_channel(scale, y) && is_per_channel(shift, y) && is_per_channel(mean, y) &&
               scale.has_value() == shift.has_value() && scale.has_value() == mean.has_value(),
           "scale, shift, mean: expected (C,) all three, or None");
    expect(pool == "max" || pool == "mean" || pool == "sum", "pool: expected max, mean or sum");
    nf::Matrices m{};
    m.num_fields = n;
    m.num_rows = static_cast<int>(o);
    m.num_columns = static_cast<int>(i);
    m.channels = static_cast<int>(c);
    m.num_out = static_cast<int>(weight.shape(0));
    m.pool = pool == "max" ? nf::Pool::max : pool == "mean" ? nf::Pool::mean : nf::Pool::sum;
    m.threads = threads;
    m.y = y.data();
    m.weight = weight.data();
    m.scale = data(scale);
    m.shift = data(shift);
    m.mean = data(mean);
    m.rows = rows.data();
    m.columns = columns.data();
    return m;
}

bool is_mapped(const nf::Matrices& m, const Floats& z) {
    return has_shape(z, {m.num_fields, m.num_rows, m.num_columns, m.num_out});
}

void map(Floats y, ReadFloats weight, const std::string& pool, Optional scale, Optional shift, Optional mean, Floats z,
         Floats rows, Floats columns, int threads, const std::string& isa) {
    nf::Matrices m = matrices_of(y, weight, pool, scale, shift, mean, rows, columns, threads);
    expect(is_mapped(m, z), "z: expected (N, O, I, C')");
    m.z = z.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map(m);
}

void map_back(Floats y, ReadFloats weight, const std::string& pool, Optional scale, Optional shift, Optional mean, Floats dz,
              Floats rows, Floats columns, Floats d_rows, Floats d_columns, Optional dy, Floats d_weight, Floats d_shift,
              Floats d_scaled, int threads, const std::string& isa) {
    const nf::Matrices m = matrices_of(y, weight, pool, scale, shift, mean, rows, columns, threads);
    expect(is_mapped(m, dz), "dz: expected (N, O, I, C')");
    expect(d_rows.size() == rows.size() && d_columns.size() == columns.size() && (!dy.has_value() || dy->size() == y.size()) &&
               d_weight.size() == weight.size() && d_shift.size() == y.shape(3) && d_scaled.size() == y.shape(3),
           "gradients: expected the sizes of what they belong to");
    const nf::MatrixGradients g{dz.data(), d_rows.data(), d_columns.data(), data(dy), d_weight.data(), d_shift.data(), d_scaled.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.map_back(m, g);
}

nf::Entries entries_of(nf::EntriesWork work, const Floats& y, int threads) {
    expect(y.ndim() == 4 && y.size() > 0, "y: expected (N, O, I, C), none of them zero");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Entries e{};
    e.work = work;
    e.num_fields = static_cast<std::int64_t>(y.shape(0));
    e.num_rows = static_cast<int>(y.shape(1));
    e.num_columns = static_cast<int>(y.shape(2));
    e.channels = static_cast<int>(y.shape(3));
    e.threads = threads;
    e.y = y.data();
    return e;
}

// spread, gather and moments: y with an array each for the rows and the columns, or for every field and channel.
template <nf::EntriesWork work>
void with_sides(Floats y, Floats rows, Floats columns, int threads, const std::string& isa) {
    nf::Entries e = entries_of(work, y, threads);
    constexpr bool moments = work == nf::EntriesWork::moments;
    const bool fit = moments ? has_shape(rows, {e.num_fields, e.channels}) && has_shape(columns, {e.num_fields, e.channels})
                             : has_shape(rows, {e.num_fields, e.num_rows, e.channels}) &&
                                   has_shape(columns, {e.num_fields, e.num_columns, e.channels});
    expect(fit, moments ? "mean, squares: expected (N, C)" : "rows, columns: expected (N, O, C), (N, I, C)");
    e.rows = rows.data();
    e.columns = columns.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.entries(e);
}

void affine(Floats y, Floats x, Floats scale, Floats slope, Floats level, int threads, const std::string& isa) {
    nf::Entries e = entries_of(nf::EntriesWork::affine, y, threads);
    const std::int64_t c = e.channels;
    expect(x.size() == y.size() && has_shape(scale, {c}) && has_shape(slope, {c}) && has_shape(level, {c}),
           "x: expected the shape of y; scale, slope, level: expected (C,)");
    e.x = x.data();
    e.scale = scale.data();
    e.slope = slope.data();
    e.level = level.data();
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.entries(e);
}

nf::Messages messages_of(const ReadFloats& modulation, const ReadFloats& nodes, const Floats& statistics, int first_target,
                         int first_source, int threads) {
    expect(modulation.ndim() == 4 && modulation.size() > 0 && modulation.shape(3) % 2 == 0, "modulation: expected (N, T, S, 2 C)");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Messages p{};
    p.num_fields = static_cast<std::int64_t>(modulation.shape(0));
    p.num_targets = static_cast<int>(modulation.shape(1));
    p.num_sources = static_cast<int>(modulation.shape(2));
    p.channels = static_cast<int>(modulation.shape(3)) / 2;
    expect(nodes.ndim() == 3 && has_shape(nodes, {p.num_fields, static_cast<std::int64_t>(nodes.shape(1)), 2 * p.channels}),
           "nodes: expected (N, V, 2 C)");
    p.num_nodes = static_cast<int>(nodes.shape(1));
    expect(has_shape(statistics, {p.num_fields, p.num_nodes, 4, p.channels}), "statistics: expected (N, V, 4, C)");
    expect(first_target >= 0 && first_target + p.num_targets <= p.num_nodes && first_source >= 0 &&
               first_source + p.num_sources <= p.num_nodes &&
               (first_target + p.num_targets <= first_source || first_source + p.num_sources <= first_target),
           "first_target, first_source: expected layers of the V nodes, apart from each other");
    p.first_target = first_target;
    p.first_source = first_source;
    p.threads = threads;
    p.modulation = modulation.data();
    p.nodes = nodes.data();
    p.statistics = statistics.data();
    return p;
}

void aggregate(ReadFloats modulation, ReadFloats nodes, Floats statistics, int first_target, int first_source, bool is_first,
               int threads, const std::string& isa) {
    nf::Messages p = messages_of(modulation, nodes, statistics, first_target, first_source, threads);
    p.is_first = is_first;
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.aggregate(p);
}

void aggregate_back(ReadFloats modulation, ReadFloats nodes, Floats statistics, int first_target, int first_source,
                    Floats d_statistics, Floats d_modulation, Floats d_nodes, int threads, const std::string& isa) {
    const nf::Messages p = messages_of(modulation, nodes, statistics, first_target, first_source, threads);
    expect(d_statistics.size() == statistics.size() && d_modulation.size() == modulation.size() && d_nodes.size() == nodes.size(),
           "gradients: expected the sizes of what they belong to");
    const nf::MessageGradients g{d_statistics.data(), d_modulation.data(), d_nodes.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.aggregate_back(p, g);
}

nf::Relations relations_of(const ReadFloats& edges, const ReadFloats& weight, const ReadFloats& q, const ReadFloats& k,
                           const ReadFloats& v, float scale, const Floats& values, const Floats& gathered,
                           const Optional& attention, const Optional& mixed, int threads) {
    expect(edges.ndim() == 4 && edges.size() > 0, "edges: expected (N, I, V, E), none of them zero");
    expect(weight.ndim() == 4 && weight.size() > 0 && weight.shape(0) == 3 && weight.shape(3) == edges.shape(3),
           "weight: expected (3, H, D, E)");
    expect(threads >= 1, "threads: expected 1 or more");
    const auto n = static_cast<std::int64_t>(edges.shape(0)), rows = static_cast<std::int64_t>(edges.shape(1)),
               nodes = static_cast<std::int64_t>(edges.shape(2)), width = static_cast<std::int64_t>(edges.shape(3)),
               heads = static_cast<std::int64_t>(weight.shape(1)), size = static_cast<std::int64_t>(weight.shape(2));
    expect(has_shape(q, {heads, size, n, rows}) && has_shape(values, {heads, size, n, rows}), "q, values: expected (H, D, N, I)");
    expect(has_shape(k, {heads, size, n, nodes}) && has_shape(v, {heads, size, n, nodes}), "k, v: expected (H, D, N, V)");
    expect(has_shape(gathered, {n, rows, heads, width}), "gathered: expected (N, I, H, E)");
    expect(attention.has_value() == mixed.has_value() &&
               (!mixed.has_value() || (has_shape(*attention, {n, rows, heads, nodes}) && has_shape(*mixed, {n, rows, heads, size, width}))),
           "attention, mixed: expected (N, I, H, V) and (N, I, H, D, E), or None");
    nf::Relations p{};
    p.num_fields = n;
    p.num_rows = static_cast<int>(rows);
    p.num_nodes = static_cast<int>(nodes);
    p.num_heads = static_cast<int>(heads);
    p.head_size = static_cast<int>(size);
    p.width = static_cast<int>(width);
    p.threads = threads;
    p.scale = scale;
    p.edges = edges.data();
    p.weight = weight.data();
    p.q = q.data();
    p.k = k.data();
    p.v = v.data();
    p.values = values.data();
    p.gathered = gathered.data();
    p.attention = data(attention);
    p.mixed = data(mixed);
    return p;
}

void relate(ReadFloats edges, ReadFloats weight, ReadFloats q, ReadFloats k, ReadFloats v, float scale, Floats values,
            Floats gathered, Optional attention, Optional mixed, int threads, const std::string& isa) {
    const nf::Relations p = relations_of(edges, weight, q, k, v, scale, values, gathered, attention, mixed, threads);
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.relate(p);
}

void relate_back(ReadFloats edges, ReadFloats weight, ReadFloats q, ReadFloats k, ReadFloats v, float scale, Floats d_values,
                 Floats d_gathered, Floats attention, Floats mixed, Floats d_edges, Floats d_weight, Floats d_q, Floats d_k,
                 Floats d_v, int threads, const std::string& isa) {
    const nf::Relations p =
        relations_of(edges, weight, q, k, v, scale, d_values, d_gathered, Optional(attention), Optional(mixed), threads);
    expect(d_edges.size() == edges.size() && d_weight.size() == weight.size() && d_q.size() == q.size() &&
               d_k.size() == k.size() && d_v.size() == v.size(),
           "gradients: expected the sizes of what they belong to");
    const nf::RelationGradients g{d_values.data(), d_gathered.data(), d_edges.data(), d_weight.data(),
                                  d_q.data(), d_k.data(), d_v.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.relate_back(p, g);
}

}  // namespace

NB_MODULE(_native, m) {
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : available()) names.emplace_back(isa.name);
            return names;
        },
        "Instruction sets this machine can run, fastest first.");
    m.def("attend", &attend, nb::arg("x").noconvert(), nb::arg("weight").noconvert(), nb::arg("bias").noconvert(),
          nb::arg("out_weight").noconvert(), nb::arg("out_bias").noconvert(), nb::arg("heads"), nb::arg("scale"),
          nb::arg("threads"), nb::arg("isa"), nb::arg("sums").noconvert(), nb::arg("saved").noconvert().none(),
          "Add scale z to the sums; keep what the gradient needs in `saved`.");
    m.def("attend_back", &attend_back, nb::arg("x").noconvert(), nb::arg("weight").noconvert(),
          nb::arg("bias").noconvert(), nb::arg("out_weight").noconvert(), nb::arg("out_bias").noconvert(), nb::arg("heads"),
          nb::arg("scale"), nb::arg("threads"), nb::arg("isa"), nb::arg("d_sums").noconvert(), nb::arg("saved").noconvert(),
          nb::arg("dx").noconvert().none(), nb::arg("d_weight").noconvert(), nb::arg("d_bias").noconvert(),
          nb::arg("d_out_weight").noconvert(), nb::arg("d_out_bias").noconvert(), "Write the gradients.");
    // Nothing may be converted: a result would be written into a copy.
    const auto same = nb::arg().noconvert();
    const auto same_or_none = nb::arg().noconvert().none();
    const auto any = nb::arg();
    m.def("map_matrices", &map, same, same, any, same_or_none, same_or_none, same_or_none, same, same, same, any, any,
          "Activate, map and pool.");
    m.def("map_matrices_back", &map_back, same, same, any, same_or_none, same_or_none, same_or_none, same, same, same, same,
          same, same_or_none, same, same, same, any, any, "Write the gradients.");
    m.def("spread", &with_sides<nf::EntriesWork::spread>, same, same, same, any, any, "Add rows and columns to y.");
    m.def("gather", &with_sides<nf::EntriesWork::gather>, same, same, same, any, any,
          "Write y's sums over columns and over rows.");
    m.def("moments", &with_sides<nf::EntriesWork::moments>, same, same, same, any, any,
          "Write means and sums of squared distances of every field.");
    m.def("affine", &affine, same, same, same, same, same, any, any, "y <- y scale + x slope + level.");
    m.def("aggregate", &aggregate, same, same, same, any, any, any, any, any, "Write or go on with what targets gather.");
    m.def("aggregate_back", &aggregate_back, same, same, same, any, any, same, same, same, any, any, "Write the gradients.");
    m.def("relate", &relate, same, same, same, same, same, any, same, same, same_or_none, same_or_none, any, any,
          "Attend along edges; keep what the gradient needs.");
    m.def("relate_back", &relate_back, same, same, same, same, same, any, same, same, same, same, same, same, same, same,
          same, any, any, "Write the gradients.");
}
