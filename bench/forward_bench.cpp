// How fast is attention, as a fraction of what the machine can do and beside plain Eigen?

#include <iterator>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "check.hpp"
#include "fma_peak.hpp"
#include "heed/heed.hpp"
#include "native_eigen.hpp"
#include "plain_eigen.hpp"
#include "suite.hpp"

namespace bench {
namespace {

enum class Contender { heed, eigen, native_eigen };

struct Case {
    Contender contender;
    Problem problem;
    heed::Isa isa;
    int threads = 1;
    bool wall_clock = false;  ///< several threads have no CPU time in common
};

/// The pool for this many threads, started when first needed.
heed::ThreadPool& pool_of(int threads) {
    static std::map<int, std::unique_ptr<heed::ThreadPool>> pools;
    auto& pool = pools[threads];
    if (!pool) pool = std::make_unique<heed::ThreadPool>(threads);
    return *pool;
}

template <class T>
class HeedAttention final : public Attention<T> {
  public:
    HeedAttention(const Problem& problem, int threads)
        : problem_(problem),
          executor_(pool_of(threads)),
          workspace_(heed::attention_workspace_bytes<T>({.batch = problem.B,
                                                         .heads = problem.H,
                                                         .kv_heads = problem.H,
                                                         .q_len = problem.Lq,
                                                         .kv_len = problem.Lk,
                                                         .head_dim = problem.D,
                                                         .value_dim = problem.D},
                                                        false, threads)) {}

    void run(const T* q, const T* k, const T* v, T* out) override {
        if (problem_.window > 0)
            attend(q, k, v, out,
                   heed::Causal::top_left() &
                       heed::SlidingWindow{.left = problem_.window - 1, .right = 0});
        else if (problem_.causal)
            attend(q, k, v, out, heed::Causal::top_left());
        else
            attend(q, k, v, out, heed::NoMask{});
    }

    [[nodiscard]] std::size_t scratch_bytes() const override { return workspace_.size(); }

  private:
    template <class Mask>
    void attend(const T* q, const T* k, const T* v, T* out, const Mask& mask) {
        const auto& [B, H, Lq, Lk, D, causal, window] = problem_;
        heed::scaled_dot_product_attention(heed::TensorView<const T, 4>(q, {B, H, Lq, D}),
                                           heed::TensorView<const T, 4>(k, {B, H, Lk, D}),
                                           heed::TensorView<const T, 4>(v, {B, H, Lk, D}),
                                           heed::TensorView<T, 4>(out, {B, H, Lq, D}), mask,
                                           {.executor = executor_, .workspace = workspace_});
    }

    Problem problem_;
    heed::ExecutorRef executor_;
    std::vector<std::byte> workspace_;
};

template <class T>
std::unique_ptr<Attention<T>> make_attention(const Case& c) {
    switch (c.contender) {
        case Contender::heed:
            return std::make_unique<HeedAttention<T>>(c.problem, c.threads);
        case Contender::eigen:
            return std::make_unique<PlainEigen<T>>(c.problem);
        case Contender::native_eigen:
            break;
    }
    return make_native_eigen<T>(c.problem);
}

/// Normal random numbers in memory that all cases share, and room for the output.
template <class T>
struct Tensors {
    const T *q, *k, *v;
    T* out;

    explicit Tensors(const Problem& p) {
        static heed::Tensor<T, 1> inputs, outputs;
        const heed::Index wanted = p.query_count() + 2 * p.key_count();
        if (inputs.element_count() < wanted) {
            inputs = heed::Tensor<T, 1>(wanted);
            heed::fill_normal(inputs.view(), 1);
        }
        if (outputs.element_count() < p.query_count())
            outputs = heed::Tensor<T, 1>(p.query_count());
        q = inputs.data();
        k = q + p.query_count();
        v = k + p.key_count();
        out = outputs.data();
    }
};

constexpr double probe_seconds = 0.005;

/// FLOP/s of all threads of the case together, each at its own multiply-adds.
template <class T>
double peak_of(const Case& c) {
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

/// Computes once and returns what is wrong with the result; nothing when it is right.
template <class T>
std::string complaint_about(const Case& c) {
    const Tensors<T> tensors(c.problem);
    make_attention<T>(c)->run(tensors.q, tensors.k, tensors.v, tensors.out);
    const support::Verdict verdict =
        check_attention(c.problem, tensors.q, tensors.k, tensors.v, tensors.out);
    return verdict ? "" : verdict.message;
}

template <class T>
void measure(benchmark::State& state, const Case& c) {
    const Problem& p = c.problem;
    const Tensors<T> tensors(p);
    const auto attention = make_attention<T>(c);
    const double peak_before = peak_of<T>(c);
    for ([[maybe_unused]] auto _ : state) {
        attention->run(tensors.q, tensors.k, tensors.v, tensors.out);
        benchmark::ClobberMemory();
    }
    const double peak = (peak_before + peak_of<T>(c)) / 2;
    report_speed(state, p.flops(), peak, static_cast<double>(attention->scratch_bytes()));
}

template <class T>
std::string type_name() {
    return std::is_same_v<T, float> ? "float" : "double";
}

template <class T>
std::string name_of(const Case& c) {
    const char* const functions[] = {"forward", "plain_eigen", "plain_eigen_native"};
    std::string name = functions[static_cast<int>(c.contender)] + ("<" + type_name<T>()) + ">";
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

/// Names the peak that a case is measured against.
template <class T>
std::string peak_name(const Case& c) {
    const std::string name = type_name<T>() + " " + std::string(heed::isa_name(c.isa));
    return c.wall_clock ? name + ", wall clock, threads: " + std::to_string(c.threads) : name;
}

/// Adds cases to Google Benchmark, each once, and to the report.
class Registrar {
  public:
    explicit Registrar(Report& report) : report_(report) {}

    template <class T>
    void add(const Case& c, const Place& place) {
        const std::string name = name_of<T>(c);
        report_.add_place(name, place);
        if (!names_.insert(name).second) return;
        auto* const registered = benchmark::RegisterBenchmark(
            name.c_str(),
            [c, name, &report = report_, checked = false](benchmark::State& state) mutable {
                heed::use_isa(c.isa);
                const std::string complaint = checked ? "" : complaint_about<T>(c);
                checked = complaint.empty();
                if (!checked) {
                    report.note_failure(name, complaint);
                    return state.SkipWithError("wrong result");
                }
                measure<T>(state, c);
                state.SetLabel(peak_name<T>(c));
                report.note_measurement();
            });
        registered->Unit(benchmark::kMicrosecond);
        if (c.wall_clock) registered->UseRealTime();
    }

    /// heed and both ways to compile plain Eigen, which are left out where their matrix of scores
    /// would be large.
    template <class T>
    void add_contest(const Problem& p, const std::string& table, const std::string& row, double x) {
        const heed::Isa isa = heed::current_isa();
        add<T>({Contender::heed, p, isa}, {table, row, x, "heed"});
        if (p.Lq > 4096) return;
        add<T>({Contender::eigen, p, isa}, {table, row, x, "Eigen"});
        add<T>({Contender::native_eigen, p, isa}, {table, row, x, "Eigen -march=native"});
    }

  private:
    Report& report_;
    std::set<std::string> names_;
};

Problem problem_of_length(Size length) {
    return {.Lq = length, .Lk = length};
}

using Sizes = std::vector<Size>;

template <class T>
void add_by_length(const std::string& id, const Sizes& lengths, bool causal, Size window,
                   Report& report, Registrar& registrar) {
    std::string title = type_name<T>() + ", B=1 H=12 D=64, by length";
    if (causal) title += ", causal";
    if (window > 0) title += ", window of " + std::to_string(window) + " keys";
    report.add_table({id, title, "L"});
    for (Size length : lengths) {
        Problem p = problem_of_length(length);
        p.causal = causal;
        p.window = window;
        registrar.add_contest<T>(p, id, std::to_string(length), static_cast<double>(length));
    }
}

void add_by_heads(const Sizes& heads, Report& report, Registrar& registrar) {
    report.add_table({"heads", "float, B=1 L=512 D=64, by number of heads", "H"});
    for (Size H : heads)
        registrar.add_contest<float>({.H = H}, "heads", std::to_string(H), static_cast<double>(H));
}

void add_by_batch(const Sizes& batches, Report& report, Registrar& registrar) {
    report.add_table({"batch", "float, H=12 L=128 D=64, by batch", "B"});
    for (Size B : batches)
        registrar.add_contest<float>({.B = B, .Lq = 128, .Lk = 128}, "batch", std::to_string(B),
                                     static_cast<double>(B));
}

void add_by_head_size(const Sizes& head_sizes, Report& report, Registrar& registrar) {
    report.add_table({"head_size", "float, B=1 H=12 L=1024, by head size", "D"});
    for (Size D : head_sizes)
        registrar.add_contest<float>({.Lq = 1024, .Lk = 1024, .D = D}, "head_size",
                                     std::to_string(D), static_cast<double>(D));
}

void add_by_isa(Report& report, Registrar& registrar) {
    report.add_table({"isa", "B=1 H=12 L=1024 D=64, each instruction set against its own peak",
                      "instruction set"});
    const Problem p = problem_of_length(1024);
    const auto add = [&]<class T>(heed::Isa isa, T) {
        registrar.add<T>({Contender::heed, p, isa},
                         {"isa", type_name<T>() + " " + std::string(heed::isa_name(isa)),
                          static_cast<double>(isa), "heed"});
    };
    for (heed::Isa isa : {heed::Isa::avx512, heed::Isa::avx2, heed::Isa::baseline})
        if (heed::isa_is_supported(isa)) add(isa, float{});
    for (heed::Isa isa : {heed::Isa::avx512, heed::Isa::avx2, heed::Isa::baseline})
        if (heed::isa_is_supported(isa)) add(isa, double{});
}

void add_by_threads(const Sizes& lengths, Report& report, Registrar& registrar) {
    const int all = static_cast<int>(std::thread::hardware_concurrency());
    if (all < 2) return;
    report.add_table(
        {"threads", "float, B=1 H=12 D=64, several threads against one, wall clock", "L, threads"});
    for (int threads : std::set<int>{2, all})
        for (Size length : lengths) {
            const Problem p = problem_of_length(length);
            const std::string row = std::to_string(length) + ", " + std::to_string(threads);
            const double x = static_cast<double>(length);
            const heed::Isa isa = heed::current_isa();
            registrar.add<float>({Contender::heed, p, isa, threads, true},
                                 {"threads", row, x, "several"});
            registrar.add<float>({Contender::heed, p, isa, 1, true},
                                 {"threads", row, x, "one thread"});
        }
}

}  // namespace

void add_forward_benchmarks(Extent extent, Report& report) {
    const bool quick = extent == Extent::quick;
    const auto pick = [quick](Sizes quick_sizes, Sizes full_sizes) {
        return quick ? quick_sizes : full_sizes;
    };
    Registrar registrar(report);
    add_by_length<float>(
        "float", pick({32, 128, 197, 512, 1024}, {32, 64, 128, 197, 256, 512, 1024, 2048, 4096}),
        false, 0, report, registrar);
    add_by_length<float>("float_causal", pick({128, 1024}, {32, 128, 197, 512, 1024, 2048, 4096}),
                         true, 0, report, registrar);
    add_by_length<float>("float_window", pick({1024, 4096}, {512, 1024, 2048, 4096, 16384}), true,
                         256, report, registrar);
    add_by_length<double>("double", pick({128, 1024}, {32, 128, 197, 512, 1024, 2048}), false, 0,
                          report, registrar);
    add_by_length<double>("double_causal", pick({128, 1024}, {128, 512, 1024, 2048}), true, 0,
                          report, registrar);
    add_by_heads(pick({1, 12}, {1, 2, 4, 8, 12, 16, 32}), report, registrar);
    add_by_batch(pick({8}, {1, 2, 8, 32}), report, registrar);
    add_by_head_size(pick({128}, {32, 64, 80, 128, 256}), report, registrar);
    add_by_isa(report, registrar);
    add_by_threads(pick({1024}, {128, 512, 1024, 4096}), report, registrar);
}

}  // namespace bench
