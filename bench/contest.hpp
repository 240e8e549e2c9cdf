#pragma once
// What do the benchmarks of both passes have in common?
// Contenders, cases, memory, timing and the tables that both passes have; knows no pass.

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "attention_problem.hpp"
#include "fma_peak.hpp"
#include "heed/heed.hpp"
#include "report.hpp"
#include "suite.hpp"

namespace bench {

enum class Contender { heed, eigen, native_eigen };

struct Case {
    Contender contender;
    Problem problem;
    heed::Isa isa;
    int threads = 1;
    bool wall_clock = false;  ///< several threads have no CPU time in common
};

/// A case, ready to be run again and again on the same memory.
class Task {
  public:
    virtual ~Task() = default;
    virtual void run() = 0;
    /// What is wrong with the result of the last run; nothing when it is right.
    [[nodiscard]] virtual std::string complaint() const = 0;
    [[nodiscard]] virtual double flops() const = 0;
    [[nodiscard]] virtual std::size_t scratch_bytes() const = 0;
};

/// The pool for this many threads, started when first needed.
inline heed::ThreadPool& pool_of(int threads) {
    static std::map<int, std::unique_ptr<heed::ThreadPool>> pools;
    auto& pool = pools[threads];
    if (!pool) pool = std::make_unique<heed::ThreadPool>(threads);
    return *pool;
}

/// So many normal random numbers. Tasks share them: one task at a time.
template <class T>
const T* normal_numbers(Size count) {
    static heed::Tensor<T, 1> numbers;
    if (numbers.element_count() < count) {
        numbers = heed::Tensor<T, 1>(count);
        heed::fill_normal(numbers.view(), 1);
    }
    return numbers.data();
}

/// Room for so many results, shared like the numbers.
template <class T>
T* room_for(Size count) {
    static heed::Tensor<T, 1> results;
    if (results.element_count() < count) results = heed::Tensor<T, 1>(count);
    return results.data();
}

inline heed::AttentionShape shape_of(const Problem& p) {
    return {.batch = p.B,
            .heads = p.H,
            .kv_heads = p.H,
            .q_len = p.Lq,
            .kv_len = p.Lk,
            .head_dim = p.D,
            .value_dim = p.D};
}

/// q, k, v or what has their shape, as heed sees it.
template <class T>
heed::TensorView<T, 4> queries_of(const Problem& p, T* memory) {
    return {memory, {p.B, p.H, p.Lq, p.D}};
}
template <class T>
heed::TensorView<T, 4> keys_of(const Problem& p, T* memory) {
    return {memory, {p.B, p.H, p.Lk, p.D}};
}

/// Calls visit(mask) with heed's mask of the problem.
template <class Visit>
void with_mask(const Problem& p, const Visit& visit) {
    if (p.window > 0)
        visit(heed::Causal::top_left() & heed::SlidingWindow{.left = p.window - 1, .right = 0});
    else if (p.causal)
        visit(heed::Causal::top_left());
    else
        visit(heed::NoMask{});
}

template <class T>
std::string type_name() {
    return std::is_same_v<T, float> ? "float" : "double";
}

/// FLOP/s of all threads of the case together, each at its own multiply-adds.
template <class T>
double peak_of(const Case& c) {
    constexpr double probe_seconds = 0.005;
    if (!c.wall_clock) return fma_peak<T>(c.isa, probe_seconds, cpu_seconds);
    std::vector<double> peaks(static_cast<std::size_t>(c.threads));
    const auto probe = [&](heed::Index i, int) {
        peaks[static_cast<std::size_t>(i)] = fma_peak<T>(c.isa, probe_seconds, wall_seconds);
    };
    pool_of(c.threads).parallel_for(c.threads, probe);
    double sum = 0;
    for (double peak : peaks) sum += peak;
    return sum;
}

/// Names the peak that a case is measured against.
template <class T>
std::string peak_name(const Case& c) {
    const std::string name = type_name<T>() + " " + std::string(heed::isa_name(c.isa));
    return c.wall_clock ? name + ", wall clock, threads: " + std::to_string(c.threads) : name;
}

template <class T>
void measure(benchmark::State& state, const Case& c, Task& task) {
    const double peak_before = peak_of<T>(c);
    for ([[maybe_unused]] auto _ : state) {
        task.run();
        benchmark::ClobberMemory();
    }
    const double peak = (peak_before + peak_of<T>(c)) / 2;
    report_speed(state, task.flops(), peak, static_cast<double>(task.scratch_bytes()));
    state.SetLabel(peak_name<T>(c));
}

/// The name of a case in Google Benchmark, from that of what it measures.
template <class T>
std::string name_of(const std::string& function, const Case& c) {
    std::string name = function + "<" + type_name<T>() + ">";
    const auto add = [&name](const char* argument, Size value) {
        name += "/" + (argument + (":" + std::to_string(value)));
    };
    const Problem& p = c.problem;
    add("B", p.B);
    add("H", p.H);
    add("Lq", p.Lq);
    add("Lk", p.Lk);
    add("D", p.D);
    add("causal", p.causal ? 1 : 0);
    if (p.window > 0) add("window", p.window);
    add("threads", c.threads);
    if (c.contender == Contender::heed) name += "/isa:" + std::string(heed::isa_name(c.isa));
    if (c.wall_clock) name += "/wall";
    return name;
}

/// What a pass is called.
struct PassNames {
    std::array<std::string, 3> functions;  ///< of each contender, in names of benchmarks
    std::string id, title;                 ///< what ids and titles of tables begin with
};

using Sizes = std::vector<Size>;

/// Adds the cases of a pass to Google Benchmark, each once, and to the report. A Pass has `names`,
/// make_task<T>(case) -> std::unique_ptr<Task>, and eigen_bytes<T>(problem), the memory that plain
/// Eigen takes.
template <class Pass>
class Registrar {
  public:
    Registrar(Report& report, const Pass& pass) : report_(report), pass_(pass) {}

    void add_table(const std::string& id, const std::string& title, const std::string& row_header) {
        report_.add_table({pass_.names.id + id, pass_.names.title + title, row_header});
    }

    /// In the table of this id, without what all ids of the pass begin with.
    template <class T>
    void add(const Case& c, Place place) {
        const std::string name =
            name_of<T>(pass_.names.functions[static_cast<std::size_t>(c.contender)], c);
        place.table = pass_.names.id + place.table;
        report_.add_place(name, place);
        if (!names_.insert(name).second) return;
        auto* const registered = benchmark::RegisterBenchmark(
            name.c_str(), [c, name, pass = pass_, &report = report_,
                           checked = false](benchmark::State& state) mutable {
                heed::use_isa(c.isa);
                const std::unique_ptr<Task> task = pass.template make_task<T>(c);
                if (!checked) {
                    task->run();
                    const std::string complaint = task->complaint();
                    checked = complaint.empty();
                    if (!checked) {
                        report.note_failure(name, complaint);
                        return state.SkipWithError("wrong result");
                    }
                }
                measure<T>(state, c, *task);
                report.note_measurement();
            });
        registered->Unit(benchmark::kMicrosecond);
        if (c.wall_clock) registered->UseRealTime();
    }

    /// heed and both ways to compile plain Eigen, which are left out where they would take more
    /// than half a GiB.
    template <class T>
    void add_contest(const Problem& p, const std::string& table, const std::string& row, Size x) {
        const heed::Isa isa = heed::current_isa();
        const double at = static_cast<double>(x);
        add<T>({Contender::heed, p, isa}, {table, row, at, "heed"});
        if (pass_.template eigen_bytes<T>(p) > std::size_t{1} << 29) return;
        add<T>({Contender::eigen, p, isa}, {table, row, at, "Eigen"});
        add<T>({Contender::native_eigen, p, isa}, {table, row, at, "Eigen -march=native"});
    }

    template <class T>
    void add_by_length(const std::string& id, const Sizes& lengths, bool causal = false,
                       Size window = 0) {
        std::string title = type_name<T>() + ", B=1 H=12 D=64, by length";
        if (causal) title += ", causal";
        if (window > 0) title += ", window of " + std::to_string(window) + " keys";
        add_table(id, title, "L");
        for (Size L : lengths)
            add_contest<T>({.Lq = L, .Lk = L, .causal = causal, .window = window}, id,
                           std::to_string(L), L);
    }

    void add_by_head_size(const Sizes& head_sizes) {
        add_table("head_size", "float, B=1 H=12 L=1024, by head size", "D");
        for (Size D : head_sizes)
            add_contest<float>({.Lq = 1024, .Lk = 1024, .D = D}, "head_size", std::to_string(D), D);
    }

    void add_by_threads(const Sizes& lengths) {
        const int all = static_cast<int>(std::thread::hardware_concurrency());
        if (all < 2) return;
        add_table("threads", "float, B=1 H=12 D=64, several threads against one, wall clock",
                  "L, threads");
        const heed::Isa isa = heed::current_isa();
        for (int threads : std::set<int>{2, all})
            for (Size L : lengths) {
                const Problem p{.Lq = L, .Lk = L};
                const std::string row = std::to_string(L) + ", " + std::to_string(threads);
                const double x = static_cast<double>(L);
                add<float>({Contender::heed, p, isa, threads, true},
                           {"threads", row, x, "several"});
                add<float>({Contender::heed, p, isa, 1, true}, {"threads", row, x, "one thread"});
            }
    }

  private:
    Report& report_;
    Pass pass_;
    std::set<std::string> names_;
};

/// The first when there is little time, else the second.
inline Sizes pick(Extent extent, const Sizes& quick, const Sizes& full) {
    return extent == Extent::quick ? quick : full;
}

}  // namespace bench
