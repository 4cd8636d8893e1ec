// Python bindings: arrays are checked here, once, and passed on without a copy; the GIL is released meanwhile.
#include "bind_blocks.hpp"
#include "bind_graphs.hpp"
#include "bind_linear.hpp"
#include "bind_matrices.hpp"
#include "bind_sets.hpp"

NB_MODULE(_native, m) {
    m.def(
        "isas",
        [] {
            std::vector<std::string> names;
            for (const Isa& isa : available()) names.emplace_back(isa.name);
            return names;
        },
        "Instruction sets this machine can run, fastest first.");
    // Nothing may be converted: a result would be written into a copy.
    const auto same = nb::arg().noconvert();
    const auto same_or_none = nb::arg().noconvert().none();
    const auto any = nb::arg();
    m.def("attend", &attend, same, any, same, same, any, any, any, same, same, any, same, any, any, any,
          "Add scale z to the sums; keep what the gradient needs in `saved`.");
    m.def("attend_back", &attend_back, same, any, same, same, any, any, any, same, same, same, any, same, same, same, any,
          any, "Write the gradients.");
    m.def("activate", &activate, same, any, any, any, any, same, same, any, any, "Normalise, activate and pool sets.");
    m.def("activate_back", &activate_back, same, any, any, any, any, same, same, any, any, same, any, any, any,
          "Write the gradients.");
    m.def("map_matrices", &map, same, same, any, any, any, any, same, same, same, same, any, any,
          "Activate, map and pool.");
    m.def("map_matrices_back", &map_back, same, same, any, any, any, any, same, same, same, same, same_or_none,
          same_or_none, same_or_none, same_or_none, same, same, same, any, any, "Write the gradients.");
    m.def("settle", &settle, same, same_or_none, same_or_none, same_or_none, same_or_none, any, any,
          "Add rows and columns to y; write its mean and variance.");
    m.def("settle_back", &settle_back, same, same_or_none, any, any, any, same_or_none, same_or_none, same_or_none,
          same_or_none, same_or_none, any, any, "Go back through a normalisation; write sums over columns and over rows.");
    m.def("map_linear", &map_linear, any, any, any, any, any, same, any, any, "Map several sources each.");
    m.def("map_linear_back", &map_linear_back, any, any, any, any, any, any, same, same, same, any, any,
          "Write the gradients.");
    m.def("map_blocks", &map_blocks, same, same, same, same, same_or_none, same_or_none, same_or_none, same, same, any, any,
          "Map, activate and average blocks of weights.");
    m.def("map_blocks_back", &map_blocks_back, same, same, same, any, same_or_none, same, same, same_or_none, same, same,
          same, any, any, "Write the gradients.");
    m.def("aggregate", &aggregate, same, same, same, any, any, any, any, any, "Write or go on with what targets gather.");
    m.def("aggregate_back", &aggregate_back, same, same, same, any, any, same, same, same, any, any,
          "Write the gradients.");
    m.def("relate", &relate, same, same, same, same, same, any, same, same, same_or_none, same_or_none, any, any,
          "Attend along edges; keep what the gradient needs.");
    m.def("relate_back", &relate_back, same, same, same, same, same, any, same, same, same, same, same, same, same, same,
          same, any, any, "Write the gradients.");
}
