// Threads: the team that OpenMP keeps for torch where there is one, whose members otherwise wait by spinning on the cores
// that others would need; threads of our own elsewhere.
#pragma once
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace nf {
namespace {

// Into how many parts, at most, work is cut whose sums must not depend on threads.
constexpr int kParts = 16;

using TeamFunction = void (*)(void (*)(void*), void*, unsigned, unsigned);

// libgomp's entry point for `#pragma omp parallel`, as torch has loaded it, or null.
inline TeamFunction team() {
#if defined(__linux__)
    static const TeamFunction found = reinterpret_cast<TeamFunction>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
#else
    return nullptr;
#endif
}

template <class Work>
struct Tasks {
    Work& work;
    int count;
    std::atomic<int> next{0};
    std::exception_ptr failure{};
    std::mutex mutex{};

    void take() {
        try {
            auto space = work.space();
            for (int task = next++; task < count; task = next++) work.run(task, space);
        } catch (...) {
            const std::lock_guard<std::mutex> lock(mutex);
            failure = std::current_exception();
            next = count;
        }
    }
};

// work.run(0), ..., work.run(count - 1), each by whichever thread is free, with that thread's work.space().
template <class Work>
void run_all(Work& work, int count, int threads) {
    Tasks<Work> tasks{work, count};
    const int number = std::max(1, std::min(threads, count));
    if (number == 1) {
        tasks.take();
    } else if (team() != nullptr) {
        team()([](void* all) { static_cast<Tasks<Work>*>(all)->take(); }, &tasks, static_cast<unsigned>(number), 0);
    } else {
        std::vector<std::thread> others;
        try {
            for (int i = 1; i < number; ++i) others.emplace_back([&] { tasks.take(); });
        } catch (const std::system_error&) {
            // The system starts no more: the others take all tasks, and results do not depend on how many threads there are.
        }
        tasks.take();
        for (std::thread& other : others) other.join();
    }
    if (tasks.failure) std::rethrow_exception(tasks.failure);
}

}  // namespace
}  // namespace nf
