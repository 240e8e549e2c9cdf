// How fast are gradients of attention, as a fraction of what the machine can do and beside plain
// Eigen, and what does the gradient of a bias cost?

#include "attention_contest.hpp"
#include "check_backward.hpp"
#include "native_eigen.hpp"
#include "plain_eigen.hpp"

namespace bench {
namespace {

/// heed's way: the forward pass leaves out and lse.
template <class T>
class HeedBackward final : public BackwardPass {
  public:
    HeedBackward(const Problem& problem, const BackwardTensors<T>& tensors, int threads)
        : problem_(problem), tensors_(tensors), executor_(pool_of(threads)) {
        const Problem& p = problem_;
        const BackwardTensors<T>& t = tensors_;
        with_rules([&](const auto& rules) {
            heed::scaled_dot_product_attention(queries_of(p, t.q), keys_of(p, t.k), keys_of(p, t.v),
                                               queries_of(p, t.out), rules,
                                               {.lse = lse(), .executor = executor_});
            workspace_.resize(
                heed::attention_backward_workspace_bytes<T>(shape_of(p), rules, threads));
        });
    }

    void run() override {
        const Problem& p = problem_;
        const BackwardTensors<T>& t = tensors_;
        with_rules([&](const auto& rules) {
            heed::scaled_dot_product_attention_backward(
                queries_of(p, t.q), keys_of(p, t.k), keys_of(p, t.v), queries_of(p, t.out), lse(),
                queries_of(p, t.d_out),
                {.dq = queries_of(p, t.dq), .dk = keys_of(p, t.dk), .dv = keys_of(p, t.dv)}, rules,
                {.executor = executor_, .workspace = workspace_});
        });
    }

    [[nodiscard]] std::size_t scratch_bytes() const override { return workspace_.size(); }

  private:
    [[nodiscard]] heed::TensorView<T, 3> lse() const {
        return {tensors_.lse, {problem_.B, problem_.H, problem_.Lq}};
    }

    /// Calls visit with the mask or the bias.
    template <class Visit>
    void with_rules(const Visit& visit) const {
        const Problem& p = problem_;
        const BiasTensors<T>& bias = tensors_.bias;
        if (bias.kind == Bias::none) return with_mask(p, visit);
        if (bias.kind == Bias::full) {
            const heed::Shape<4> shape(1, p.H, p.Lq, p.Lk);
            const heed::AdditiveBias full(heed::TensorView<const T, 4>(bias.values, shape));
            return visit(full.with_gradient(bias_gradient(shape)));
        }
        const heed::Shape<2> shape(t5_buckets, p.H);
        const heed::T5Bias table(heed::TensorView<const T, 2>(bias.values, shape),
                                 {.bidirectional = true, .max_distance = t5_max_distance});
        visit(table.with_gradient(bias_gradient(shape)));
    }

    /// Empty when it is not wanted.
    template <int Rank>
    [[nodiscard]] heed::TensorView<T, Rank> bias_gradient(const heed::Shape<Rank>& shape) const {
        if (tensors_.bias.gradient == nullptr) return {};
        return {tensors_.bias.gradient, shape};
    }

    Problem problem_;
    BackwardTensors<T> tensors_;
    heed::ExecutorRef executor_;
    std::vector<std::byte> workspace_;
};

template <class T>
std::unique_ptr<BackwardPass> make_backward(const Case<Problem>& c,
                                            const BackwardTensors<T>& tensors) {
    switch (c.contender) {
        case Contender::heed:
            return std::make_unique<HeedBackward<T>>(c.problem, tensors, c.threads);
        case Contender::eigen:
            return std::make_unique<PlainEigenBackward<T>>(c.problem, tensors);
        case Contender::native_eigen:
            break;
    }
    return make_native_eigen_backward<T>(c.problem, tensors);
}

/// The memory of a task, in pieces of what all tasks share.
template <class T>
BackwardTensors<T> tensors_of(const Problem& p, Bias bias, bool wants_bias_gradient) {
    const Size queries = p.query_count(), keys = p.key_count(), rows = p.B * p.H * p.Lq,
               biases = BiasTensors<T>::count(p, bias);
    const T* inputs = normal_numbers<T>(2 * queries + 2 * keys + biases);
    T* results = room_for<T>(2 * queries + 2 * keys + rows + biases);
    const auto next = [](auto*& memory, Size count) {
        auto* const begin = memory;
        memory += count;
        return begin;
    };
    BackwardTensors<T> t;
    t.q = next(inputs, queries);
    t.k = next(inputs, keys);
    t.v = next(inputs, keys);
    t.d_out = next(inputs, queries);
    t.out = next(results, queries);
    t.lse = next(results, rows);
    t.dq = next(results, queries);
    t.dk = next(results, keys);
    t.dv = next(results, keys);
    if (bias != Bias::none) t.bias = {bias, inputs, wants_bias_gradient ? results : nullptr};
    return t;
}

template <class T>
class BackwardTask final : public Task {
  public:
    BackwardTask(const Case<Problem>& c, const BackwardTensors<T>& tensors)
        : problem_(c.problem), tensors_(tensors), backward_(make_backward(c, tensors)) {}

    void run() override { backward_->run(); }

    [[nodiscard]] std::string complaint() const override {
        const support::Verdict verdict = check_backward(problem_, tensors_);
        return verdict ? "" : verdict.message;
    }
    [[nodiscard]] double flops() const override { return problem_.backward_flops(); }
    [[nodiscard]] std::size_t scratch_bytes() const override { return backward_->scratch_bytes(); }

  private:
    Problem problem_;
    BackwardTensors<T> tensors_;
    std::unique_ptr<BackwardPass> backward_;
};

struct Backward {
    using Problem = bench::Problem;

    PassNames names{{"backward", "plain_eigen_backward", "plain_eigen_native_backward"},
                    "backward_",
                    "backward, "};
    Bias bias = Bias::none;
    bool wants_bias_gradient = false;

    template <class T>
    [[nodiscard]] std::unique_ptr<Task> make_task(const Case<Problem>& c) const {
        return std::make_unique<BackwardTask<T>>(
            c, tensors_of<T>(c.problem, bias, wants_bias_gradient));
    }
    /// The weights of all heads.
    template <class T>
    [[nodiscard]] std::size_t eigen_bytes(const Problem& p) const {
        return static_cast<std::size_t>(p.B * p.H * p.Lq * p.Lk) * sizeof(T);
    }
};

/// With the bias alone, and with its gradient.
void add_by_bias(Bias bias, const std::string& function, const std::string& row,
                 const Sizes& lengths, Report& report) {
    for (bool wanted : {false, true}) {
        Backward pass{.bias = bias, .wants_bias_gradient = wanted};
        pass.names.functions.front() = function + (wanted ? "_with_gradient" : "");
        Registrar<Backward> registrar(report, pass);
        for (Size L : lengths)
            registrar.add<float>({Contender::heed, {.Lq = L, .Lk = L}, heed::current_isa()},
                                 {"bias", row + ", " + std::to_string(L), static_cast<double>(L),
                                  wanted ? "with gradient" : "without"});
    }
}

}  // namespace

void add_backward_benchmarks(Extent extent, Report& report) {
    const auto sizes = [extent](const Sizes& quick, const Sizes& full) {
        return pick(extent, quick, full);
    };
    AttentionRegistrar<Backward> registrar(report, {});
    registrar.add_by_length<float>(
        "float", sizes({32, 128, 512, 1024}, {32, 64, 128, 197, 256, 512, 1024, 2048, 4096}));
    registrar.add_by_length<float>("float_causal",
                                   sizes({1024}, {32, 128, 197, 512, 1024, 2048, 4096}), true);
    registrar.add_by_length<double>("double", sizes({512}, {32, 128, 512, 1024, 2048}));
    registrar.add_by_length<double>("double_causal", sizes({}, {128, 512, 1024, 2048}), true);
    registrar.add_by_head_size(sizes({128}, {32, 64, 128, 256}));
    registrar.add_by_threads(sizes({1024}, {128, 512, 1024, 4096}));
    registrar.add_table("bias",
                        "float, B=1 H=12 D=64, with a bias; ratio: time with the bias's gradient "
                        "over time without",
                        "bias, L");
    const Sizes lengths = sizes({512}, {128, 512, 1024, 2048});
    add_by_bias(Bias::t5, "backward_t5_bias", "T5's table [32,H]", lengths, report);
    add_by_bias(Bias::full, "backward_full_bias", "full [1,H,L,L]", lengths, report);
}

}  // namespace bench
