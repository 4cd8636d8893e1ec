// Fit many fields: one field on one thread for all its steps, or the parts of one big batch on a team of threads.
// Compiled once per instruction set; NF_ISA names the copy.
#include <atomic>
#include <barrier>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "adam.hpp"
#include "field.hpp"

namespace nf {
namespace NF_ISA {
namespace {

// Denormals cost a hundred cycles each and mean nothing here; the mode is put back on leaving.
struct FlushDenormals {
#if defined(__x86_64__)
    unsigned saved = __builtin_ia32_stmxcsr();
    FlushDenormals() { __builtin_ia32_ldmxcsr(saved | 0x8040u); }
    ~FlushDenormals() { __builtin_ia32_ldmxcsr(saved); }
#endif
};

#if defined(NF_TILES)
#define NF_TILE_MODE const TileMode tile_mode
#else
#define NF_TILE_MODE
#endif

constexpr int kReport = 16;  // steps between two reports of progress

struct State {
    const Problem& problem;
    const Layout& layout;
    std::int64_t batch;
    int parts;
    Prepared weights;
    Buffer p, m, v, grad;
    std::vector<float*> grads;
    std::vector<Sums> sums;
    Buffer value_weight;  // squared value scale of every channel, repeated over whole vectors

    State(const Problem& pr, const Layout& l)
        : problem(pr), layout(l), batch(pr.batch > 0 ? pr.batch : pr.num_points), parts(part_count(batch)), weights(l),
          p(make_buffer(l.size)), m(make_buffer(l.size)), v(make_buffer(l.size)), grad(make_buffer(l.size * parts)),
          sums(parts), value_weight(make_buffer(pr.dims.back() * kLanes)) {
        for (int part = 0; part < parts; ++part) grads.push_back(grad.get() + part * l.size);
        for (int i = 0; i < pr.dims.back() * kLanes; ++i) {
            const float scale = pr.value_scale[i % pr.dims.back()];
            value_weight.get()[i] = scale * scale;
        }
    }

    void start(std::int64_t field) {
        for (Buffer* buffer : {&p, &m, &v}) std::memset(buffer->get(), 0, static_cast<std::size_t>(layout.size) * 4);
        layout.unpack(problem.params + field * problem.num_params, p.get());
        weights.update(layout, p.get());
    }

    void run_part(int part, std::int64_t field, int step, Workspace& space) {
        std::memset(grads[part], 0, static_cast<std::size_t>(layout.size) * 4);
        sums[part] = Sums{};
        space.run(field, step, batch * part / parts, batch * (part + 1) / parts, batch, weights, grads[part], sums[part],
                  value_weight.get());
    }
};

// What is left to do after the gradient: record, stop or update. Returns false when the field is finished.
bool finish_step(State& s, Adam& adam, std::int64_t field, int step, Progress& progress) {
    const Problem& problem = s.problem;
    double loss = 0.0, value = 0.0;
    for (const Sums& part : s.sums) {
        loss += sum(part.losses);
        value += sum(part.values);
    }
    const double count = static_cast<double>(s.batch) * problem.dims.back();
    const float mse = static_cast<float>(value / count);
    if (step % problem.curve_every == 0)
        problem.curves[field * problem.curve_length + step / problem.curve_every] = static_cast<float>(loss / count);
    if (step % kReport == 0) {
        progress.loss.store(mse, std::memory_order_relaxed);
        if (step > 0) progress.done.fetch_add(kReport, std::memory_order_relaxed);
    }
    if (problem.target_mse > 0.0f && step >= problem.min_steps && mse <= problem.target_mse) return false;
    adam.step(problem, s.layout, problem.lr[step], s.p.get(), s.m.get(), s.v.get(), s.grads);
    s.weights.update(s.layout, s.p.get());
    return true;
}

void close_field(State& s, std::int64_t field, int steps, Progress& progress) {
    const Problem& problem = s.problem;
    s.layout.pack(s.p.get(), problem.params + field * problem.num_params);
    problem.steps_taken[field] = steps;
    const int reported = steps == problem.num_steps ? (steps - 1) / kReport * kReport : steps / kReport * kReport;
    progress.done.fetch_add(problem.num_steps - reported, std::memory_order_relaxed);
    progress.fields_done.fetch_add(1, std::memory_order_relaxed);
}

void fit_alone(State& s, Workspace& space, std::int64_t field, Progress& progress) {
    Adam adam;
    s.start(field);
    int step = 0;
    for (; step < s.problem.num_steps && !progress.cancelled.load(std::memory_order_relaxed); ++step) {
        for (int part = 0; part < s.parts; ++part) s.run_part(part, field, step, space);
        if (!finish_step(s, adam, field, step, progress)) break;
    }
    close_field(s, field, step, progress);
}

void fit_fields(const Problem& problem, const Layout& layout, Progress& progress, std::atomic<std::int64_t>& next) {
    const FlushDenormals mode;
    NF_TILE_MODE;
    State state(problem, layout);
    Workspace space(problem, layout);
    for (std::int64_t field = next.fetch_add(1); field < problem.num_fields; field = next.fetch_add(1)) {
        if (progress.cancelled.load(std::memory_order_relaxed)) return;
        fit_alone(state, space, field, progress);
    }
}

// A team works on one field: every member takes parts, the first one closes the step.
struct Team {
    int members;
    std::barrier<> meet;
    std::vector<std::unique_ptr<Workspace>> spaces;
    bool going = true, over = false;  // written by member 0 between two meetings only

    Team(int count, const Problem& problem, const Layout& layout) : members(count), meet(count) {
        for (int member = 0; member < count; ++member) spaces.push_back(std::make_unique<Workspace>(problem, layout));
    }
};

void fit_team(State& s, Progress& progress, int member, Team& team) {
    const FlushDenormals mode;
    NF_TILE_MODE;
    Workspace& space = *team.spaces[member];
    for (std::int64_t field = 0; field < s.problem.num_fields; ++field) {
        Adam adam;
        if (member == 0) {
            s.start(field);
            team.going = true;
        }
        team.meet.arrive_and_wait();
        int step = 0;
        while (team.going && step < s.problem.num_steps) {
            for (int part = member; part < s.parts; part += team.members) s.run_part(part, field, step, space);
            team.meet.arrive_and_wait();
            if (member == 0) {
                team.going = finish_step(s, adam, field, step, progress);
                if (progress.cancelled.load()) team.going = !(team.over = true);
            }
            team.meet.arrive_and_wait();
            step += team.going ? 1 : 0;
        }
        if (member == 0) close_field(s, field, step, progress);
        team.meet.arrive_and_wait();
        if (team.over) return;
    }
}

template <class Work>
void on_threads(int threads, Work work) {
    std::exception_ptr failure;
    std::mutex guard;
    std::vector<std::thread> pool;
    const auto safe = [&](int member) {
        try {
            work(member);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(guard);
            failure = std::current_exception();
        }
    };
    // Members of a team meet at barriers: none begins before all are there.
    enum { waiting, all, too_few };
    std::atomic<int> start{waiting};
    try {
        for (int member = 1; member < threads; ++member) {
            pool.emplace_back([&safe, &start, member] {
                start.wait(waiting);
                if (start == all) safe(member);
            });
        }
        start = all;
    } catch (const std::system_error&) {
        start = too_few;
    }
    start.notify_all();
    if (start == all) safe(0);
    for (std::thread& thread : pool) thread.join();
    if (failure) std::rethrow_exception(failure);
    if (start == too_few) {
        throw std::invalid_argument("threads=" + std::to_string(threads) + ": the system starts no more than " +
                                    std::to_string(pool.size() + 1));
    }
}

}  // namespace

bool fit(const Problem& problem, Progress& progress) {
    const Layout layout(problem);
    const int parts = part_count(problem.batch > 0 ? problem.batch : problem.num_points);
    const int threads = std::max(1, problem.threads);
    if (problem.num_fields < threads && parts > 1) {
        const int members = std::min(threads, parts);
        State state(problem, layout);
        Team team(members, problem, layout);
        on_threads(members, [&](int member) { fit_team(state, progress, member, team); });
    } else {
        std::atomic<std::int64_t> next{0};
        const int members = static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(problem.num_fields, 1)));
        on_threads(members, [&](int) { fit_fields(problem, layout, progress, next); });
    }
    return !progress.cancelled.load();
}

// The sine pair on an array, for the accuracy test.
void sine_cosine_array(const float* x, std::int64_t count, float* sine, float* cosine) {
    for (std::int64_t i = 0; i < count; i += kLanes) {
        float in[kLanes] = {};
        const int n = static_cast<int>(std::min<std::int64_t>(kLanes, count - i));
        std::copy_n(x + i, n, in);
        vec s, c;
        sine_cosine(load_unaligned(in), s, c);
        for (int k = 0; k < n; ++k) {
            sine[i + k] = s[k];
            cosine[i + k] = c[k];
        }
    }
}

}  // namespace NF_ISA
}  // namespace nf
