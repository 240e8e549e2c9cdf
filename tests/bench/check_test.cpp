// Does the benches' check accept what is right, and nothing else? Are their FLOPs the visible ones?

#include "../../bench/check.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "../../bench/check_backward.hpp"
#include "../../bench/check_layer.hpp"
#include "../../bench/check_linear.hpp"
#include "../../bench/plain_eigen.hpp"
#include "../../bench/plain_eigen_linear.hpp"

namespace {

using bench::Bias;
using bench::LayerProblem;
using bench::LinearPass;
using bench::LinearProblem;
using bench::Problem;
using bench::Size;

/// Random inputs of a problem, and what plain Eigen makes of them.
template <class T>
struct Computed {
    explicit Computed(const Problem& problem, const Problem& computed)
        : p(problem),
          q(random.normals<T>(static_cast<std::size_t>(p.query_count()))),
          k(random.normals<T>(static_cast<std::size_t>(p.key_count()))),
          v(random.normals<T>(static_cast<std::size_t>(p.key_count()))),
          out(q.size()) {
        bench::PlainEigen<T>(computed).run(q.data(), k.data(), v.data(), out.data());
    }
    explicit Computed(const Problem& problem) : Computed(problem, problem) {}

    [[nodiscard]] bool is_right() const {
        return bench::check_attention(p, q.data(), k.data(), v.data(), out.data()).ok;
    }

    support::Random random;
    Problem p;
    std::vector<T> q, k, v, out;
};

const Problem full{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16};
const Problem causal{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16, .causal = true};
const Problem window{.B = 2, .H = 3, .Lq = 40, .Lk = 40, .D = 16, .causal = true, .window = 8};

TEST(BenchCheck, AcceptsPlainEigen) {
    for (const Problem& p : {full, causal, window}) {
        EXPECT_TRUE(Computed<float>(p).is_right());
        EXPECT_TRUE(Computed<double>(p).is_right());
    }
}

TEST(BenchCheck, RefusesAnotherMask) {
    Problem wider = window;
    wider.window += 1;
    EXPECT_FALSE(Computed<float>(causal, full).is_right());
    EXPECT_FALSE(Computed<float>(causal, window).is_right());
    EXPECT_FALSE(Computed<float>(window, wider).is_right());
}

TEST(BenchCheck, RefusesOneWrongElementInAnyHead) {
    Computed<float> computed(causal);
    for (Size head = 0; head < causal.B * causal.H; ++head) {
        float& element = computed.out[static_cast<std::size_t>((head + 1) * 40 * 16 - 1)];
        const float right = element;
        element += 1e-4f;
        EXPECT_FALSE(computed.is_right()) << "head " << head;
        element = right;
    }
    EXPECT_TRUE(computed.is_right());
}

TEST(BenchProblem, CountsVisiblePairs) {
    const auto pairs = [](Size Lq, Size Lk, bool is_causal, Size keys) {
        return Problem{.Lq = Lq, .Lk = Lk, .causal = is_causal, .window = keys}.visible_pairs();
    };
    EXPECT_EQ(pairs(3, 5, false, 0), 15);
    EXPECT_EQ(pairs(4, 4, true, 0), 10);  // 1 + 2 + 3 + 4
    EXPECT_EQ(pairs(4, 4, true, 2), 7);   // 1 + 2 + 2 + 2
    EXPECT_EQ(pairs(4, 2, true, 0), 7);   // 1 + 2 + 2 + 2
    EXPECT_EQ((Problem{.B = 2, .H = 3, .Lq = 4, .Lk = 4, .D = 8, .causal = true}.flops()),
              4 * 2 * 3 * 8 * 10);
    EXPECT_EQ((Problem{.B = 2, .H = 3, .Lq = 4, .Lk = 4, .D = 8, .causal = true}.backward_flops()),
              10 * 2 * 3 * 8 * 10);
}

// --- Gradients ----------------------------------------------------------------------------------

/// Random inputs of the way back, and what plain Eigen makes of them. With T5's table Eigen gets
/// the bias of each score.
template <class T>
struct BackwardComputed {
    BackwardComputed(const Problem& problem, const Problem& computed, Bias kind = Bias::none)
        : p(problem),
          q(normals(p.query_count())),
          d_out(normals(p.query_count())),
          k(normals(p.key_count())),
          v(normals(p.key_count())),
          bias(normals(bench::BiasTensors<T>::count(p, kind))),
          scores(kind == Bias::none ? 0 : static_cast<std::size_t>(p.H * p.Lq * p.Lk)),
          dq(q.size()),
          dk(k.size()),
          dv(k.size()),
          d_bias(bias.size()),
          d_scores(scores.size()) {
        for_each_score(kind, [&](std::size_t score, std::size_t at) { scores[score] = bias[at]; });
        auto eigen = tensors(Bias::none);
        if (kind != Bias::none) eigen.bias = {Bias::full, scores.data(), d_scores.data()};
        bench::PlainEigenBackward<T>(computed, eigen).run();
        for_each_score(kind,
                       [&](std::size_t score, std::size_t at) { d_bias[at] += d_scores[score]; });
        checked = tensors(kind);
    }
    explicit BackwardComputed(const Problem& problem, Bias kind = Bias::none)
        : BackwardComputed(problem, problem, kind) {}

    [[nodiscard]] bench::BackwardTensors<T> tensors(Bias kind) {
        return {q.data(),  k.data(),
                v.data(),  d_out.data(),
                nullptr,   nullptr,
                dq.data(), dk.data(),
                dv.data(), {kind, bias.data(), kind == Bias::none ? nullptr : d_bias.data()}};
    }
    [[nodiscard]] bool is_right() const { return bench::check_backward(p, checked).ok; }

    /// Visits each score of each head and its bias.
    template <class Visit>
    void for_each_score(Bias kind, const Visit& visit) const {
        if (kind == Bias::none) return;
        for (Size h = 0; h < p.H; ++h)
            for (Size i = 0; i < p.Lq; ++i)
                for (Size j = 0; j < p.Lk; ++j) {
                    const Size score = (h * p.Lq + i) * p.Lk + j;
                    const Size entry = oracle::t5_bucket(j - i, 32, true, 128);
                    visit(static_cast<std::size_t>(score),
                          static_cast<std::size_t>(kind == Bias::full ? score : entry * p.H + h));
                }
    }
    std::vector<T> normals(Size count) {
        return random.normals<T>(static_cast<std::size_t>(count));
    }

    support::Random random;
    Problem p;
    std::vector<T> q, d_out, k, v, bias, scores;
    std::vector<T> dq, dk, dv, d_bias, d_scores;
    bench::BackwardTensors<T> checked;
};

/// Gradients of (sum of output * d_out) by central differences of the oracle.
struct Differences {
    explicit Differences(const BackwardComputed<double>& computed)
        : c(computed),
          q(oracle::convert<long double>(c.q)),
          k(oracle::convert<long double>(c.k)),
          v(oracle::convert<long double>(c.v)),
          bias(oracle::convert<long double>(c.scores)) {}

    [[nodiscard]] long double loss() const {
        const Problem& p = c.p;
        const oracle::Sizes sizes{
            .B = p.B, .H = p.H, .Hk = p.H, .Lq = p.Lq, .Lk = p.Lk, .D = p.D, .Dv = p.D};
        oracle::Rules rules;
        rules.visible = [&](Size, Size, Size i, Size j) {
            return j >= p.first_key(i) && j < p.end_key(i);
        };
        if (!bias.empty())
            rules.modify = [&](double score, Size, Size h, Size i, Size j) {
                const Size at = (h * p.Lq + i) * p.Lk + j;
                return score + static_cast<double>(bias[static_cast<std::size_t>(at)]);
            };
        const auto out = oracle::attention(sizes, q, k, v, rules).output;
        long double sum = 0;
        for (std::size_t n = 0; n < out.size(); ++n) sum += out[n] * c.d_out[n];
        return sum;
    }

    void expect(const char* name, std::vector<long double>& x, const std::vector<double>& actual) {
        constexpr long double step = 1e-5L;
        for (std::size_t n = 0; n < x.size(); ++n) {
            const long double before = x[n];
            x[n] = before + step;
            const long double above = loss();
            x[n] = before - step;
            const double expected = static_cast<double>((above - loss()) / (2 * step));
            x[n] = before;
            ASSERT_NEAR(actual[n], expected, 1e-8 + 1e-6 * std::abs(expected))
                << name << "[" << n << "]";
        }
    }

    const BackwardComputed<double>& c;
    std::vector<long double> q, k, v, bias;
};

TEST(BenchPlainEigenBackward, HasTheSlopesOfTheOracle) {
    for (Problem p : {full, causal, window}) {
        p.Lq = p.Lk = 5;
        p.D = 3;
        p.window = std::min<Size>(p.window, 2);
        for (Bias kind : {Bias::none, Bias::full}) {
            const BackwardComputed<double> computed(p, kind);
            SCOPED_TRACE(computed.random.describe());
            Differences differences(computed);
            differences.expect("dq", differences.q, computed.dq);
            differences.expect("dk", differences.k, computed.dk);
            differences.expect("dv", differences.v, computed.dv);
            differences.expect("d_bias", differences.bias, computed.d_scores);
        }
    }
}

TEST(BenchBackwardCheck, AcceptsPlainEigen) {
    for (const Problem& p : {full, causal, window}) {
        EXPECT_TRUE(BackwardComputed<float>(p).is_right());
        EXPECT_TRUE(BackwardComputed<double>(p).is_right());
    }
}

TEST(BenchBackwardCheck, RefusesAnotherMask) {
    EXPECT_FALSE(BackwardComputed<float>(causal, full).is_right());
    EXPECT_FALSE(BackwardComputed<float>(causal, window).is_right());
}

TEST(BenchBackwardCheck, RefusesOneWrongElementOfAnyGradientInAnyHead) {
    BackwardComputed<float> computed(causal);
    for (auto* gradient : {&computed.dq, &computed.dk, &computed.dv})
        for (Size head = 0; head < causal.B * causal.H; ++head)
            for (float wrong : {1e-4f, std::numeric_limits<float>::quiet_NaN()}) {
                float& element = (*gradient)[static_cast<std::size_t>((head * 40 + 17) * 16 + 3)];
                const float right = element;
                element += wrong;
                EXPECT_FALSE(computed.is_right()) << "head " << head;
                element = right;
            }
    EXPECT_TRUE(computed.is_right());
}

TEST(BenchBackwardCheck, KnowsTheGradientsOfBiases) {
    Problem p = full;
    p.B = 1;
    for (Bias kind : {Bias::t5, Bias::full}) {
        BackwardComputed<float> computed(p, kind);
        EXPECT_TRUE(computed.is_right());
        for (std::size_t at : {std::size_t{0}, computed.d_bias.size() - 1}) {
            const float right = computed.d_bias[at];
            computed.d_bias[at] += 1e-3f;
            EXPECT_FALSE(computed.is_right()) << at;
            computed.d_bias[at] = right;
        }
        computed.bias[0] += 1;  // the bias itself counts, too
        EXPECT_FALSE(computed.is_right());
    }
}

TEST(BenchBackwardCheck, LooksAtWholeHeadsOfLargeProblems) {
    using Heads = std::set<Size>;
    EXPECT_EQ(bench::heads_to_check<float>({.H = 12, .Lq = 1024, .Lk = 1024}).size(), 12u);
    EXPECT_EQ(bench::heads_to_check<float>({.H = 12, .Lq = 4096, .Lk = 4096}), (Heads{0, 11}));
    EXPECT_EQ(bench::heads_to_check<double>({.H = 12, .Lq = 4096, .Lk = 4096}), (Heads{0, 11}));
    EXPECT_EQ(bench::heads_to_check<double>({.H = 1, .Lq = 4, .Lk = 4}), Heads{0});
}

/// Random inputs of a product of a linear layer, and what plain Eigen makes of them.
struct Product {
    explicit Product(const LinearProblem& problem)
        : p(problem),
          x(normals(p.M * p.K)),
          weight(normals(p.N * p.K)),
          bias(normals(p.N)),
          dy(normals(p.M * p.N)),
          result(static_cast<std::size_t>(p.result_count())) {
        bench::PlainEigenLinear<float>(p, tensors()).run();
    }

    std::vector<float> normals(Size count) {
        return random.normals<float>(static_cast<std::size_t>(count));
    }
    bench::LinearTensors<float> tensors() {
        return {x.data(), weight.data(), bias.data(), dy.data(), result.data()};
    }
    bool is_right() { return bench::check_linear(p, tensors()).ok; }

    support::Random random;
    LinearProblem p;
    std::vector<float> x, weight, bias, dy, result;
};

constexpr LinearPass linear_passes[] = {LinearPass::forward, LinearPass::dx, LinearPass::dweight};

TEST(BenchLinearCheck, AcceptsPlainEigen) {
    for (LinearPass pass : linear_passes)
        for (Size M : {1, 4, 100}) EXPECT_TRUE(Product({pass, M, 48, 32}).is_right());
}

TEST(BenchLinearCheck, RefusesOneWrongElement) {
    for (LinearPass pass : linear_passes) {
        Product product({pass, 100, 48, 32});
        product.result.back() += 1e-2f;
        EXPECT_FALSE(product.is_right());
    }
}

TEST(BenchLinearCheck, RefusesTheResultOfOtherInputs) {
    for (LinearPass pass : linear_passes) {
        Product product({pass, 100, 48, 32});
        for (auto* input : {&product.x, &product.weight, &product.bias, &product.dy})
            std::ranges::reverse(*input);
        EXPECT_FALSE(product.is_right());
    }
}

TEST(BenchLinearCheck, RefusesAForgottenBias) {
    Product product({LinearPass::forward, 100, 48, 32});
    std::ranges::fill(product.bias, 0.0f);
    EXPECT_FALSE(product.is_right());
}

TEST(BenchLinearProblem, CountsOperationsAndMemory) {
    const LinearProblem forward{LinearPass::forward, 2, 3, 5},
        dweight{LinearPass::dweight, 2, 3, 5};
    EXPECT_EQ(forward.flops(), 2 * 2 * 3 * 5);
    EXPECT_EQ(dweight.flops(), forward.flops());
    EXPECT_EQ(forward.weight_bytes<float>(), 4 * 3 * 5);
    EXPECT_EQ(dweight.weight_bytes<float>(), 2 * 4 * 3 * 5);
}

/// A layer of multi-head attention on random numbers.
struct LayerOfOracle {
    LayerOfOracle() {
        tensors = {x.data(),          in_weight.data(), in_bias.data(),
                   out_weight.data(), out_bias.data(),  out.data()};
        out = bench::oracle_layer<float>(p, tensors);
        tensors.out = out.data();
    }

    std::vector<float> normals(Size count) {
        return random.normals<float>(static_cast<std::size_t>(count));
    }

    support::Random random;
    LayerProblem p{.L = 5, .E = 12, .H = 3};
    std::vector<float> x = normals(p.L * p.E), in_weight = normals(3 * p.E * p.E),
                       in_bias = normals(3 * p.E), out_weight = normals(p.E * p.E),
                       out_bias = normals(p.E), out;
    bench::LayerTensors<float> tensors{};
};

TEST(BenchLayerCheck, AcceptsTheFormulaInFloat) {
    LayerOfOracle layer;
    EXPECT_TRUE(bench::check_layer(layer.p, layer.tensors));
}

TEST(BenchLayerCheck, RefusesOtherHeads) {
    LayerOfOracle layer;
    layer.p.H = 4;
    EXPECT_FALSE(bench::check_layer(layer.p, layer.tensors));
}

TEST(BenchLayerCheck, RefusesOneWrongElement) {
    LayerOfOracle layer;
    layer.out.back() += 1e-3f;
    EXPECT_FALSE(bench::check_layer(layer.p, layer.tensors));
}

TEST(BenchLayerProblem, CountsProjectionsAndAttention) {
    const LayerProblem p{.L = 5, .E = 12, .H = 3};
    EXPECT_EQ(p.flops(), 2 * 5 * 4 * 12 * 12 + 4 * 5 * 5 * 12);
}

}  // namespace
