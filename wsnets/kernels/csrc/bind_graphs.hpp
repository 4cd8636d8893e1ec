// Bindings of messages and of attention along the edges of a graph.
#pragma once
#include "bindings.hpp"

namespace {

nf::Messages messages_of(const ReadFloats& modulation, const ReadFloats& nodes, const Floats& statistics,
                         int first_target, int first_source, int threads) {
    expect(modulation.ndim() == 4 && modulation.size() > 0 && modulation.shape(3) % 2 == 0,
           "modulation: expected (N, T, S, 2 C)");
    expect(threads >= 1, "threads: expected 1 or more");
    nf::Messages p{};
    p.num_fields = static_cast<std::int64_t>(modulation.shape(0));
    p.num_targets = static_cast<int>(modulation.shape(1));
    p.num_sources = static_cast<int>(modulation.shape(2));
    p.channels = static_cast<int>(modulation.shape(3)) / 2;
    expect(nodes.ndim() == 3 &&
               has_shape(nodes, {p.num_fields, static_cast<std::int64_t>(nodes.shape(1)), 2 * p.channels}),
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

void aggregate(ReadFloats modulation, ReadFloats nodes, Floats statistics, int first_target, int first_source,
               bool is_first, int threads, const std::string& isa) {
    nf::Messages p = messages_of(modulation, nodes, statistics, first_target, first_source, threads);
    p.is_first = is_first;
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.aggregate(p);
}

void aggregate_back(ReadFloats modulation, ReadFloats nodes, Floats statistics, int first_target, int first_source,
                    Floats d_statistics, Floats d_modulation, Floats d_nodes, int threads, const std::string& isa) {
    const nf::Messages p = messages_of(modulation, nodes, statistics, first_target, first_source, threads);
    expect(d_statistics.size() == statistics.size() && d_modulation.size() == modulation.size() &&
               d_nodes.size() == nodes.size(),
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
    expect(has_shape(q, {heads, size, n, rows}) && has_shape(values, {heads, size, n, rows}),
           "q, values: expected (H, D, N, I)");
    expect(has_shape(k, {heads, size, n, nodes}) && has_shape(v, {heads, size, n, nodes}),
           "k, v: expected (H, D, N, V)");
    expect(has_shape(gathered, {n, rows, heads, width}), "gathered: expected (N, I, H, E)");
    expect(attention.has_value() == mixed.has_value() &&
               (!mixed.has_value() ||
                (has_shape(*attention, {n, rows, heads, nodes}) && has_shape(*mixed, {n, rows, heads, size, width}))),
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

void relate_back(ReadFloats edges, ReadFloats weight, ReadFloats q, ReadFloats k, ReadFloats v, float scale,
                 Floats d_values, Floats d_gathered, Floats attention, Floats mixed, Floats d_edges, Floats d_weight,
                 Floats d_q, Floats d_k, Floats d_v, int threads, const std::string& isa) {
    const nf::Relations p = relations_of(edges, weight, q, k, v, scale, d_values, d_gathered, Optional(attention),
                                         Optional(mixed), threads);
    expect(d_edges.size() == edges.size() && d_weight.size() == weight.size() && d_q.size() == q.size() &&
               d_k.size() == k.size() && d_v.size() == v.size(),
           "gradients: expected the sizes of what they belong to");
    const nf::RelationGradients g{d_values.data(), d_gathered.data(), d_edges.data(), d_weight.data(),
                                  d_q.data(),      d_k.data(),        d_v.data()};
    const Isa chosen = choose(isa);
    const nb::gil_scoped_release released;
    chosen.relate_back(p, g);
}

}  // namespace
