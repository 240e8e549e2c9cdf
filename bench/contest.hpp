#pragma once
// What do all contests with plain Eigen have in common?
// Contenders, cases, memory, timing and the registration; knows neither problems nor passes.

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "fma_peak.hpp"
#include "heed/heed.hpp"
#include "report.hpp"
#include "size.hpp"
#include "suite.hpp"

namespace bench {

enum class Contender { heed, eigen, native_eigen };

template <class Problem>
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
    [[nodiscard]] virtual std::size_t scratch_bytes() const { return 0; }
    /// Memory that a run has to read and write at least, where that is what takes the time.
    [[nodiscard]] virtual double bytes() const { return 0; }
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

template <class T>
std::string type_name() {
    return std::is_same_v<T, float> ? "float" : "double";
}

/// FLOP/s of all threads of the case together, each at its own multiply-adds.
template <class T, class Problem>
double peak_of(const Case<Problem>& c) {
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
template <class T, class Problem>
std::string peak_name(const Case<Problem>& c) {
    const std::string name = type_name<T>() + " " + std::string(heed::isa_name(c.isa));
    return c.wall_clock ? name + ", wall clock, threads: " + std::to_string(c.threads) : name;
}

template <class T, class Problem>
void measure(benchmark::State& state, const Case<Problem>& c, Task& task) {
    const double peak_before = peak_of<T>(c);
    for ([[maybe_unused]] auto _ : state) {
        task.run();
        benchmark::ClobberMemory();
    }
    const double peak = (peak_before + peak_of<T>(c)) / 2;
    report_speed(state, task.flops(), peak, static_cast<double>(task.scratch_bytes()),
                 task.bytes());
    state.SetLabel(peak_name<T>(c));
}

/// The name of a case in Google Benchmark, from that of what it measures.
template <class T, class Problem>
std::string name_of(const std::string& function, const Case<Problem>& c) {
    std::string name = function + "<" + type_name<T>() + ">";
    const auto add = [&name](const char* argument, Size value) {
        name.append("/").append(argument).append(":").append(std::to_string(value));
    };
    c.problem.for_each_argument(add);
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

/// Adds the cases of a pass to Google Benchmark, each once, and to the report. A Pass has `names`,
/// Problem, make_task<T>(case) -> std::unique_ptr<Task>, and eigen_bytes<T>(problem), the memory
/// that plain Eigen takes.
template <class Pass>
class Registrar {
  public:
    using Problem = typename Pass::Problem;

    Registrar(Report& report, const Pass& pass) : report_(report), pass_(pass) {}

    void add_table(const std::string& id, const std::string& title, const std::string& row_header) {
        report_.add_table({pass_.names.id + id, pass_.names.title + title, row_header});
    }

    /// In the table of this id, without what all ids of the pass begin with.
    template <class T>
    void add(const Case<Problem>& c, Place place) {
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
                task->run();  // the first call packs weights and touches memory
                if (!checked) {
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
