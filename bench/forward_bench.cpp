// How fast is attention, as a fraction of what the machine can do and beside plain Eigen?

#include "attention_contest.hpp"
#include "check.hpp"
#include "native_eigen.hpp"
#include "plain_eigen.hpp"

namespace bench {
namespace {

template <class T>
class HeedAttention final : public Attention<T> {
  public:
    HeedAttention(const Problem& problem, int threads)
        : problem_(problem),
          executor_(pool_of(threads)),
          workspace_(heed::attention_workspace_bytes<T>(shape_of(problem), false, threads)) {}

    void run(const T* q, const T* k, const T* v, T* out) override {
        const Problem& p = problem_;
        with_mask(p, [&](const auto& mask) {
            heed::scaled_dot_product_attention(queries_of(p, q), keys_of(p, k), keys_of(p, v),
                                               queries_of(p, out), mask,
                                               {.executor = executor_, .workspace = workspace_});
        });
    }

    [[nodiscard]] std::size_t scratch_bytes() const override { return workspace_.size(); }

  private:
    Problem problem_;
    heed::ExecutorRef executor_;
    std::vector<std::byte> workspace_;
};

template <class T>
std::unique_ptr<Attention<T>> make_attention(const Case<Problem>& c) {
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

template <class T>
class ForwardTask final : public Task {
  public:
    explicit ForwardTask(const Case<Problem>& c)
        : problem_(c.problem),
          q_(normal_numbers<T>(problem_.query_count() + 2 * problem_.key_count())),
          k_(q_ + problem_.query_count()),
          v_(k_ + problem_.key_count()),
          out_(room_for<T>(problem_.query_count())),
          attention_(make_attention<T>(c)) {}

    void run() override { attention_->run(q_, k_, v_, out_); }

    [[nodiscard]] std::string complaint() const override {
        const support::Verdict verdict = check_attention(problem_, q_, k_, v_, out_);
        return verdict ? "" : verdict.message;
    }
    [[nodiscard]] double flops() const override { return problem_.flops(); }
    [[nodiscard]] std::size_t scratch_bytes() const override { return attention_->scratch_bytes(); }

  private:
    Problem problem_;
    const T *q_, *k_, *v_;
    T* out_;
    std::unique_ptr<Attention<T>> attention_;
};

struct Forward {
    using Problem = bench::Problem;

    PassNames names{{"forward", "plain_eigen", "plain_eigen_native"}, "", ""};

    template <class T>
    [[nodiscard]] std::unique_ptr<Task> make_task(const Case<Problem>& c) const {
        return std::make_unique<ForwardTask<T>>(c);
    }
    /// A matrix of scores.
    template <class T>
    [[nodiscard]] std::size_t eigen_bytes(const Problem& p) const {
        return static_cast<std::size_t>(p.Lq * p.Lk) * sizeof(T);
    }
};

using ForwardRegistrar = AttentionRegistrar<Forward>;

void add_by_heads(const Sizes& heads, ForwardRegistrar& registrar) {
    registrar.add_table("heads", "float, B=1 L=512 D=64, by number of heads", "H");
    for (Size H : heads) registrar.add_contest<float>({.H = H}, "heads", std::to_string(H), H);
}

void add_by_batch(const Sizes& batches, ForwardRegistrar& registrar) {
    registrar.add_table("batch", "float, H=12 L=128 D=64, by batch", "B");
    for (Size B : batches)
        registrar.add_contest<float>({.B = B, .Lq = 128, .Lk = 128}, "batch", std::to_string(B), B);
}

void add_by_isa(ForwardRegistrar& registrar) {
    registrar.add_table("isa", "B=1 H=12 L=1024 D=64, each instruction set against its own peak",
                        "instruction set");
    const auto add = [&]<class T>(heed::Isa isa, T) {
        registrar.add<T>({Contender::heed, {.Lq = 1024, .Lk = 1024}, isa},
                         {"isa", type_name<T>() + " " + std::string(heed::isa_name(isa)),
                          static_cast<double>(isa), "heed"});
    };
    for (heed::Isa isa : {heed::Isa::avx512, heed::Isa::avx2, heed::Isa::baseline})
        if (heed::isa_is_supported(isa)) add(isa, float{});
    for (heed::Isa isa : {heed::Isa::avx512, heed::Isa::avx2, heed::Isa::baseline})
        if (heed::isa_is_supported(isa)) add(isa, double{});
}

}  // namespace

void add_forward_benchmarks(Extent extent, Report& report) {
    const auto sizes = [extent](const Sizes& quick, const Sizes& full) {
        return pick(extent, quick, full);
    };
    ForwardRegistrar registrar(report, {});
    registrar.add_by_length<float>(
        "float", sizes({32, 128, 197, 512, 1024}, {32, 64, 128, 197, 256, 512, 1024, 2048, 4096}));
    registrar.add_by_length<float>("float_causal",
                                   sizes({128, 1024}, {32, 128, 197, 512, 1024, 2048, 4096}), true);
    registrar.add_by_length<float>("float_window",
                                   sizes({1024, 4096}, {512, 1024, 2048, 4096, 16384}), true, 256);
    registrar.add_by_length<double>("double", sizes({128, 1024}, {32, 128, 197, 512, 1024, 2048}));
    registrar.add_by_length<double>("double_causal", sizes({128, 1024}, {128, 512, 1024, 2048}),
                                    true);
    add_by_heads(sizes({1, 12}, {1, 2, 4, 8, 12, 16, 32}), registrar);
    add_by_batch(sizes({8}, {1, 2, 8, 32}), registrar);
    registrar.add_by_head_size(sizes({128}, {32, 64, 80, 128, 256}));
    add_by_isa(registrar);
    registrar.add_by_threads(sizes({1024}, {128, 512, 1024, 4096}));
}

}  // namespace bench
