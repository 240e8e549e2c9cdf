// What torch.nn.functional.scaled_dot_product_attention answers for the same numbers
// (tests/golden/README.md).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "support/golden.hpp"
#include "support/oracle.hpp"

namespace {

using attend::elements;
using heed::Index;
using heed::Tensor;

const support::GoldenFile& file() {
    static const support::GoldenFile golden("sdpa");
    return golden;
}

/// One case: its inputs, its mask in heed's terms, and what both say about a score.
class Case {
  public:
    explicit Case(const std::string& name)
        : golden_(file(), name),
          q_(golden_.input("query").to<float, 4>()),
          k_(golden_.input("key").to<float, 4>()),
          v_(golden_.input("value").to<float, 4>()),
          mask_(golden_.find_input("attn_mask")) {}

    /// Calls check(mask of heed, rules of the oracle, magnitude of the bias).
    template <class Check>
    void with_mask(const Check& check) const {
        oracle::Rules rules{.scale = golden_.real("scale")};
        if (golden_.flag("is_causal")) {
            rules.visible = [](Index, Index, Index i, Index j) { return j <= i; };
            check(heed::Causal::top_left(), rules, 0.0);
        } else if (mask_ == nullptr) {
            check(heed::NoMask{}, rules, 0.0);
        } else if (mask_->scalar_type() == heed::ScalarType::boolean) {
            const Tensor<bool, 4> mask = rank_4<bool>();
            const oracle::Broadcast<bool> flags = broadcast(mask);
            rules.visible = flags;
            check(heed::AttendWhere{mask}, rules, 0.0);
        } else {
            const Tensor<float, 4> bias = rank_4<float>();
            const oracle::Broadcast<float> added = broadcast(bias);
            rules.modify = [added](double score, Index b, Index h, Index i, Index j) {
                return score + static_cast<double>(added(b, h, i, j));
            };
            check(heed::AdditiveBias{bias}, rules, support::max_magnitude(elements(bias)));
        }
    }

    void check() const {
        const heed::AttentionShape s{q_.extent(0), q_.extent(1), k_.extent(1), q_.extent(2),
                                     k_.extent(2), q_.extent(3), v_.extent(3)};
        with_mask([&](const auto& mask, const oracle::Rules& rules, double added) {
            const auto ours = attend::everything(q_, k_, v_, mask, {.scale = rules.scale});
            const auto wide = [](const auto& x) { return oracle::convert<double>(elements(x)); };
            const attend::Expected<float> e(s, wide(q_), wide(k_), wide(v_), rules, added);
            const auto output = support::float_values(golden_.output("output"));
            const auto lse = support::float_values(golden_.output("log_sum_exp"));
            // The file holds the right answer rounded once: half a unit in the last place.
            expect_within("oracle's output", e.right.output, output, 0);
            expect_within("oracle's log-sum-exp", e.right.log_sum_exp, lse, 0);
            const double out_bound =
                2 * support::max_abs_error(e.plain.output, output).error +
                support::rounding_floor<float>(e.weight_magnitude() * e.value_magnitude);
            expect_within("out", elements(ours.out), output, out_bound);
            expect_within("out alone", elements(ours.lean_out), output, out_bound);
            const double lse_bound =
                2 * support::max_abs_error(e.plain.log_sum_exp, lse).error +
                support::rounding_floor<float>(e.score_magnitude + support::max_magnitude(lse));
            expect_within("lse", elements(ours.lse), lse, lse_bound);
            expect_within("lse without weights", elements(ours.lean_lse), lse, lse_bound);
        });
    }

  private:
    template <class T>
    [[nodiscard]] Tensor<T, 4> rank_4() const {
        if (mask_->shape().size() == 4) return Tensor<T, 4>(mask_->view<T, 4>());
        return Tensor<T, 4>(mask_->view<T, 2>().unsqueeze().unsqueeze());
    }

    template <class T>
    static oracle::Broadcast<T> broadcast(const Tensor<T, 4>& tensor) {
        return {.values = elements(tensor),
                .B = tensor.extent(0),
                .H = tensor.extent(1),
                .Lq = tensor.extent(2),
                .Lk = tensor.extent(3)};
    }

    template <class Found>
    static void expect_within(const char* name, const Found& found,
                              const std::vector<float>& golden, double bound) {
        const auto verdict = support::compare_within(
            found, golden, bound + 0x1p-24 * support::max_magnitude(golden));
        EXPECT_TRUE(verdict) << name << ": " << verdict.message;
    }

    support::GoldenCase golden_;
    Tensor<float, 4> q_, k_, v_;
    const heed::AnyTensor* mask_;
};

TEST(Golden, ScaledDotProductAttentionOfPyTorch) {
    const std::vector<std::string> cases = file().cases();
    EXPECT_GE(cases.size(), 25u);
    for (const std::string& name : cases) {
        SCOPED_TRACE(name);
        Case(name).check();
    }
}

}  // namespace
