// One call's work, shared by every instruction set's copy of the kernel.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

namespace nf {

enum class Activation { sine, relu };
enum class Loss { mse, l1, bce };

struct Problem {
    std::int64_t num_fields = 0, num_params = 0, num_points = 0;
    std::vector<int> dims;  // encoded input, hidden widths, output
    Activation activation = Activation::sine;
    float w0_first = 30.0f, w0_hidden = 30.0f;
    const float* coords = nullptr;       // (num_points, dims[0]), or one set per field
    std::int64_t coords_stride = 0;      // floats from one field's set to the next; 0: all share one
    const float* targets = nullptr;      // (num_fields, num_points, O)
    const float* value_scale = nullptr;  // (O)
    Loss loss = Loss::mse;
    const float* lr = nullptr;  // (num_steps)
    int num_steps = 0;
    double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.0;
    bool decoupled = false;
    std::int64_t batch = 0;  // 0: all points
    int grid_rows = 0, grid_columns = 0;  // coords are that product grid row by row (0: not known to be one)
    std::uint32_t seed = 0;
    const std::uint32_t* ids = nullptr;
    float target_mse = 0.0f;  // 0: never stop early
    int min_steps = 0, curve_every = 1, curve_length = 0, threads = 1;
    float* params = nullptr;            // (num_fields, num_params), in and out
    float* curves = nullptr;            // (num_fields, curve_length), out
    std::int32_t* steps_taken = nullptr;  // (num_fields), out
};

struct Progress {
    // `cancelled` is read at every step by every thread: on a line of its own, which the counters do not take away.
    alignas(64) std::atomic<bool> cancelled{false};
    alignas(64) std::atomic<std::int64_t> done{0};  // field-steps
    std::atomic<std::int64_t> fields_done{0};       // fields
    std::atomic<float> loss{0.0f};                  // latest mean squared error in value space of a field in work
};

// Returns false when cancelled.
using FitFunction = bool (*)(const Problem&, Progress&);

}  // namespace nf
