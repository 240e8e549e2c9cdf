// What must hold for any attention? Laws over random sizes, strides and masks, most of them to the
// last bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/random_case.hpp"
#include "support/random.hpp"
#include "support/tolerance.hpp"
#include "tensor/strided.hpp"

namespace {

using attend::everything;
using attend::for_random_cases;
using attend::infinity;
using attend::Inputs;
using attend::Outputs;
using attend::RandomMasks;
using attend::same_bits;
using heed::AttentionShape;
using heed::Index;
using heed::Shape;
using heed::Tensor;
using heed::TensorView;

/// The same values in memory of another order, with gaps of NaN.
template <class T>
struct Scattered : support::Strided<T, 4> {
    Scattered(support::Random& random, const Tensor<T, 4>& tensor)
        : support::Strided<T, 4>(random, tensor.shape(), static_cast<T>(attend::not_a_number)) {
        this->assign(attend::elements(tensor));
    }
};

TEST(Law, WeightsOfARowSumToOneOrToZeroWithoutAVisibleKey) {
    for_random_cases(200, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const Outputs<float> result = everything(in.q, in.k, in.v, masks.masks_and_cap());
        // A division each, and the sum of kv_len numbers of which the whole is 1.
        const double bound = 0x1p-24 * static_cast<double>(s.kv_len + 1);
        for (Index b = 0; b < s.batch; ++b)
            for (Index h = 0; h < s.heads; ++h)
                for (Index i = 0; i < s.q_len; ++i) {
                    double sum = 0;
                    bool any = false;
                    for (Index j = 0; j < s.kv_len; ++j) {
                        const float weight = result.weights(b, h, i, j);
                        EXPECT_GE(weight, 0.0f);
                        EXPECT_TRUE(weight == 0.0f || masks.visible(b, h, i, j));
                        any = any || masks.visible(b, h, i, j);
                        sum += static_cast<double>(weight);
                    }
                    EXPECT_NEAR(sum, any ? 1.0 : 0.0, bound);
                    EXPECT_EQ(result.lse(b, h, i) == -infinity, !any);
                }
    });
}

TEST(Law, GroupedHeadsEqualRepeatedHeads) {
    for_random_cases(150, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const auto repeated = [&](const Tensor<float, 4>& kv) {
            Tensor<float, 4> result(kv.shape().with(1, s.heads));
            for (Index h = 0; h < s.heads; ++h)
                heed::copy(kv.view().select(1, h / (s.heads / s.kv_heads)),
                           result.view().select(1, h));
            return result;
        };
        EXPECT_SAME(everything(in.q, in.k, in.v, masks.masks()),
                    everything(in.q, repeated(in.k), repeated(in.v), masks.masks()));
    });
}

TEST(Law, StridesChangeNoBit) {
    for_random_cases(150, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const Scattered<float> q(random, in.q), k(random, in.k), v(random, in.v);
        const Outputs<float> dense = everything(in.q, in.k, in.v, masks.masks_and_cap());
        EXPECT_SAME(dense, everything(q.view(), k.view(), v.view(), masks.masks_and_cap()));
        const support::Strided<float, 4> out(random, dense.out.shape());
        heed::scaled_dot_product_attention(q.view(), k.view(), v.view(), out.view(),
                                           masks.masks_and_cap());
        EXPECT_SAME(dense.lean_out, out.view());
        EXPECT_TRUE(out.gaps_untouched());
    });
}

// The layouts that frameworks use: [B, L, H, D], and all three in one buffer [B, L, 3, H, D].
TEST(Law, LayoutsOfFrameworksAreOnlyStrides) {
    for_random_cases(100, [](support::Random& random, AttentionShape s) {
        s.kv_heads = s.heads;
        s.kv_len = s.q_len;
        s.value_dim = s.head_dim;
        const Tensor<float, 5> packed =
            attend::normals<float, 5>(random, {s.batch, s.q_len, 3, s.heads, s.head_dim});
        const auto part = [&](Index n) { return packed.view().select(2, n).transpose(1, 2); };
        const auto dense = [&](Index n) { return Tensor<float, 4>(part(n)); };
        const auto reference = everything(dense(0), dense(1), dense(2), heed::Causal{});
        EXPECT_SAME(reference, everything(part(0), part(1), part(2), heed::Causal{}));
        // Into [B, L, H, D] as well, and into a part of the buffer that holds the inputs.
        Tensor<float, 4> blhd({s.batch, s.q_len, s.heads, s.head_dim});
        heed::scaled_dot_product_attention(part(0), part(1), part(2), blhd.view().transpose(1, 2),
                                           heed::Causal{});
        EXPECT_SAME(reference.lean_out, blhd.view().transpose(1, 2));
        Tensor<float, 5> with_out({s.batch, s.q_len, 4, s.heads, s.head_dim});
        heed::copy(TensorView<const float, 5>(packed), with_out.view().slice(2, 0, 3));
        const auto slot = [&](Index n) { return with_out.view().select(2, n).transpose(1, 2); };
        heed::scaled_dot_product_attention(slot(0), slot(1), slot(2), slot(3), heed::Causal{});
        EXPECT_SAME(reference.lean_out, slot(3));
    });
}

TEST(Law, RepeatedElementsEqualTheirCopies) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Tensor<float, 4> q = attend::normals<float, 4>(random, {2, 3, 5, 8}),
                           row = attend::normals<float, 4>(random, {1, 1, 7, 8});
    const auto everywhere = heed::broadcast_to(row.view(), Shape<4>(2, 3, 7, 8));
    EXPECT_SAME(everything(q, everywhere, everywhere),
                everything(q, Tensor<float, 4>(TensorView<const float, 4>(everywhere)),
                           Tensor<float, 4>(TensorView<const float, 4>(everywhere))));
    const Tensor<float, 4> one = attend::normals<float, 4>(random, {1, 1, 1, 1});
    const auto constant = heed::broadcast_to(one.view(), Shape<4>(2, 3, 7, 8));
    EXPECT_SAME(everything(q, constant, constant),
                everything(q, Tensor<float, 4>(TensorView<const float, 4>(constant)),
                           Tensor<float, 4>(TensorView<const float, 4>(constant))));
}

TEST(Law, TokenByTokenEqualsOneShot) {
    for_random_cases(60, [](support::Random& random, AttentionShape s) {
        s.kv_len = s.q_len;
        if (random.chance(0.1)) s.q_len = s.kv_len = random.integer(100, 300);
        const Index window = random.integer(-1, 2 * s.q_len);
        const Inputs<float> in(random, s);
        const auto whole =
            everything(in.q, in.k, in.v, heed::Causal{} & heed::SlidingWindow{.left = window});
        const bool capacity = random.chance(0.5);
        for (Index t = 0, count; t < s.q_len; t += count) {
            count = std::min(random.integer(1, 3), s.q_len - t);
            // Either only the keys so far exist, or a cache of full capacity whose rest is masked.
            const Index keys = capacity ? s.kv_len : t + count;
            const auto step =
                everything(in.q.view().slice(2, t, count), in.k.view().slice(2, 0, keys),
                           in.v.view().slice(2, 0, keys),
                           heed::Causal::offset(t) & heed::SlidingWindow{.left = window});
            EXPECT_SAME(step.out, whole.out.view().slice(2, t, count));
            EXPECT_SAME(step.lse, whole.lse.view().slice(2, t, count));
            EXPECT_SAME(step.lean_out, whole.lean_out.view().slice(2, t, count));
            EXPECT_SAME(step.lean_lse, whole.lean_lse.view().slice(2, t, count));
            EXPECT_SAME(step.weights, whole.weights.view().slice(2, t, count).slice(3, 0, keys));
        }
    });
}

// Weights depend on their own key and on the sum alone; the sum is formed in another order.
TEST(Law, PermutedKeysPermuteTheWeights) {
    for_random_cases(150, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        std::vector<Index> from(static_cast<std::size_t>(s.kv_len));
        std::iota(from.begin(), from.end(), Index{0});
        for (std::size_t j = from.size(); j > 1; --j)
            std::swap(from[j - 1], from[static_cast<std::size_t>(
                                       random.integer(0, static_cast<std::int64_t>(j) - 1))]);
        const auto permuted = [&](const Tensor<float, 4>& kv) {
            Tensor<float, 4> result(kv.shape());
            for (Index j = 0; j < s.kv_len; ++j)
                heed::copy(kv.view().select(2, from[static_cast<std::size_t>(j)]),
                           result.view().select(2, j));
            return result;
        };
        const auto before = everything(in.q, in.k, in.v);
        const auto after = everything(in.q, permuted(in.k), permuted(in.v));
        const double bound = 0x1p-23 * static_cast<double>(s.kv_len + 2);
        for (Index j = 0; j < s.kv_len; ++j)
            EXPECT_TRUE(heed::all_close(
                after.weights.view().select(3, j),
                before.weights.view().select(3, from[static_cast<std::size_t>(j)]), bound, 0.0));
        const double terms = bound * support::max_magnitude(attend::elements(in.v));
        EXPECT_TRUE(heed::all_close(after.out, before.out, 0.0, terms));
        EXPECT_TRUE(heed::all_close(after.lean_out, before.lean_out, 0.0, 4 * terms));
    });
}

/// Two partial attentions over disjoint keys, merged by their log-sum-exp.
struct Merged {
    Tensor<double, 4> out;
    Tensor<double, 3> lse;
};

template <class T>
Merged merge(const Tensor<T, 4>& out_a, const Tensor<T, 3>& lse_a, const Tensor<T, 4>& out_b,
             const Tensor<T, 3>& lse_b) {
    Merged result{Tensor<double, 4>(out_a.shape()), Tensor<double, 3>(lse_a.shape())};
    for (Index b = 0; b < out_a.extent(0); ++b)
        for (Index h = 0; h < out_a.extent(1); ++h)
            for (Index i = 0; i < out_a.extent(2); ++i) {
                const double a = static_cast<double>(lse_a(b, h, i)),
                             c = static_cast<double>(lse_b(b, h, i)), top = std::max(a, c);
                const double lse =
                    std::isinf(top) ? top : top + std::log(std::exp(a - top) + std::exp(c - top));
                result.lse(b, h, i) = lse;
                for (Index d = 0; d < out_a.extent(3); ++d)
                    result.out(b, h, i, d) =
                        std::isinf(top)
                            ? 0.0
                            : std::exp(a - lse) * static_cast<double>(out_a(b, h, i, d)) +
                                  std::exp(c - lse) * static_cast<double>(out_b(b, h, i, d));
            }
    return result;
}

TEST(Law, SplitKeysMergedByLogSumExpEqualTheWhole) {
    for_random_cases(150, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const Index offset = random.integer(-s.q_len, s.kv_len), cut = random.integer(0, s.kv_len);
        const auto part = [&](Index begin, Index count) {
            return everything(in.q, in.k.view().slice(2, begin, count),
                              in.v.view().slice(2, begin, count),
                              heed::Causal::offset(offset - begin));
        };
        const auto whole = part(0, s.kv_len), left = part(0, cut),
                   right = part(cut, s.kv_len - cut);
        // Scores of normal numbers in head_dim dimensions, and an exponential that doubles errors.
        const double values = support::max_magnitude(attend::elements(in.v));
        const double bound = 0x1p-24 * static_cast<double>(s.kv_len + s.head_dim + 64);
        const auto check = [&](const auto& out, const auto& lse, const Merged& merged) {
            EXPECT_TRUE(heed::all_close(out, merged.out, 0.0, bound * values));
            EXPECT_TRUE(heed::all_close(lse, merged.lse, bound, bound));
        };
        check(whole.out, whole.lse, merge(left.out, left.lse, right.out, right.lse));
        check(whole.lean_out, whole.lean_lse,
              merge(left.lean_out, left.lean_lse, right.lean_out, right.lean_lse));
    });
}

TEST(Law, BatchElementsAndHeadsKnowNothingOfEachOther) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const Index offset = random.integer(-s.q_len, s.kv_len);
        const auto mask = heed::Causal::offset(offset);
        const auto whole = everything(in.q, in.k, in.v, mask);
        for (Index b = 0; b < s.batch; ++b)
            for (Index h = 0; h < s.heads; ++h) {
                const auto one = [&](const auto& tensor, Index head) {
                    return tensor.view().slice(0, b, 1).slice(1, head, 1);
                };
                const Index g = h / (s.heads / s.kv_heads);
                const auto alone = everything(one(in.q, h), one(in.k, g), one(in.v, g), mask);
                EXPECT_SAME(alone.out, one(whole.out, h));
                EXPECT_SAME(alone.weights, one(whole.weights, h));
                EXPECT_SAME(alone.lse, one(whole.lse, h));
                EXPECT_SAME(alone.lean_out, one(whole.lean_out, h));
                EXPECT_SAME(alone.lean_lse, one(whole.lean_lse, h));
            }
    });
}

TEST(Law, RowsKnowNothingOfEachOther) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const Index offset = random.integer(-s.q_len, s.kv_len);
        const auto whole = everything(in.q, in.k, in.v, heed::Causal::offset(offset));
        if (s.q_len == 0) return;
        const Index first = random.integer(0, s.q_len - 1);
        const Index count = random.integer(1, s.q_len - first);
        const auto rows = everything(in.q.view().slice(2, first, count), in.k, in.v,
                                     heed::Causal::offset(offset + first));
        EXPECT_SAME(rows.out, whole.out.view().slice(2, first, count));
        EXPECT_SAME(rows.lean_out, whole.lean_out.view().slice(2, first, count));
        EXPECT_SAME(rows.lean_lse, whole.lean_lse.view().slice(2, first, count));
    });
}

/// Attention with a mask that multiplies and adds, as it is often written: the counter-check of the
/// poison laws.
std::vector<float> by_arithmetic(const Inputs<float>& in, Index q_len, Index kv_len) {
    std::vector<float> out;
    for (Index i = 0; i < q_len; ++i) {
        float sum = 0, result = 0;
        for (Index j = 0; j < kv_len; ++j) {
            const float visible = j <= i ? 1.0f : 0.0f;
            const float weight =
                std::exp(in.q(0, 0, i, 0) * in.k(0, 0, j, 0) + (1 - visible) * -1e9f);
            sum += weight;
            result += weight * in.v(0, 0, j, 0);
        }
        out.push_back(result / sum);
    }
    return out;
}

TEST(Poison, AMaskOfArithmeticLeaks) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    Inputs<float> in(random, {1, 1, 1, 4, 4, 1, 1});
    const std::vector<float> clean = by_arithmetic(in, 4, 4);
    const auto ours = everything(in.q, in.k, in.v, heed::Causal{});
    in.v(0, 0, 3, 0) = attend::not_a_number;
    const std::vector<float> poisoned = by_arithmetic(in, 4, 4);
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_FALSE(std::isnan(clean[i]));
        EXPECT_TRUE(std::isnan(poisoned[i]));
    }
    const auto ours_poisoned = everything(in.q, in.k, in.v, heed::Causal{});
    for (Index i = 0; i < 3; ++i) {
        EXPECT_EQ(ours.out(0, 0, i, 0), ours_poisoned.out(0, 0, i, 0));
        EXPECT_EQ(ours.lean_out(0, 0, i, 0), ours_poisoned.lean_out(0, 0, i, 0));
    }
}

const std::array<float, 4> poisons{attend::not_a_number, infinity, -infinity, 1e38f};

/// True when no query of the heads that read kv head g sees key j.
bool hidden_from_all(const RandomMasks& masks, Index b, Index g, Index j) {
    const AttentionShape& s = masks.shape;
    const Index group = s.heads / s.kv_heads;
    for (Index h = g * group; h < (g + 1) * group; ++h)
        for (Index i = 0; i < s.q_len; ++i)
            if (masks.visible(b, h, i, j)) return false;
    return true;
}

// In every key and value that no query sees, whatever hides it.
TEST(Poison, InHiddenKeysAndValuesChangesNoBit) {
    int poisoned_keys = 0;
    for_random_cases(300, [&](support::Random& random, const AttentionShape& s) {
        Inputs<float> in(random, s);
        const RandomMasks masks(random, s, 0.6);
        heed::AttentionOptions<float> options;
        if (random.chance(0.3)) options.dropout = {.probability = 0.4, .seed = random.bits()};
        options.scores_at = heed::ScoreStage::masked;
        const auto run = [&] {
            return everything(in.q, in.k, in.v, masks.masks_and_cap(), options);
        };
        const auto clean = run();
        for (Index b = 0; b < s.batch; ++b)
            for (Index g = 0; g < s.kv_heads; ++g)
                for (Index j = 0; j < s.kv_len; ++j) {
                    if (!hidden_from_all(masks, b, g, j)) continue;
                    const float poison = poisons[static_cast<std::size_t>(random.integer(0, 3))];
                    heed::fill(in.k.view().select(0, b).select(0, g).select(0, j), poison);
                    heed::fill(in.v.view().select(0, b).select(0, g).select(0, j), poison);
                    ++poisoned_keys;
                }
        EXPECT_SAME(clean, run());
    });
    EXPECT_GT(poisoned_keys, 1000);
}

// A key that some rows see and others do not: those that do not keep every bit. The value of NaN
// spoils one feature, the key of NaN all of them.
TEST(Poison, InAKeyThatSomeRowsSeeChangesNoBitOfTheOthers) {
    for_random_cases(300, [&](support::Random& random, const AttentionShape& s) {
        if (s.batch * s.q_len * s.kv_len * s.head_dim * s.value_dim == 0) return;
        Inputs<float> in(random, s);
        const RandomMasks masks(random, s, 0.6);
        const auto mask = masks.masks();
        const auto clean = everything(in.q, in.k, in.v, mask);
        const Index b = random.integer(0, s.batch - 1), g = random.integer(0, s.kv_heads - 1),
                    j = random.integer(0, s.kv_len - 1), d = random.integer(0, s.head_dim - 1),
                    c = random.integer(0, s.value_dim - 1);
        const float poison = poisons[static_cast<std::size_t>(random.integer(0, 2))];
        const bool in_value = random.chance(0.5);
        (in_value ? in.v(b, g, j, c) : in.k(b, g, j, d)) = poison;
        const auto spoiled = everything(in.q, in.k, in.v, mask);
        const Index group = s.heads / s.kv_heads;
        for (Index bb = 0; bb < s.batch; ++bb)
            for (Index h = 0; h < s.heads; ++h)
                for (Index i = 0; i < s.q_len; ++i) {
                    const bool sees = bb == b && h / group == g && masks.visible(bb, h, i, j);
                    const auto row = [&](const Tensor<float, 4>& tensor) {
                        return tensor.view().select(0, bb).select(0, h).select(0, i);
                    };
                    if (!sees) {
                        EXPECT_SAME(row(clean.out), row(spoiled.out));
                        EXPECT_SAME(row(clean.weights), row(spoiled.weights));
                        EXPECT_SAME(row(clean.lean_out), row(spoiled.lean_out));
                        EXPECT_EQ(clean.lse(bb, h, i), spoiled.lse(bb, h, i));
                        EXPECT_EQ(clean.lean_lse(bb, h, i), spoiled.lean_lse(bb, h, i));
                        continue;
                    }
                    if (!in_value && !std::isnan(poison)) continue;  // may end as -inf: hidden
                    for (Index e = 0; e < s.value_dim; ++e) {
                        if (in_value && e != c) {
                            EXPECT_EQ(clean.out(bb, h, i, e), spoiled.out(bb, h, i, e));
                            EXPECT_EQ(clean.lean_out(bb, h, i, e), spoiled.lean_out(bb, h, i, e));
                            continue;
                        }
                        // A weight that underflowed to 0 makes NaN of infinity as well.
                        const auto spoils = [&](float x) {
                            return std::isnan(x) || (in_value && x == poison);
                        };
                        EXPECT_TRUE(spoils(spoiled.out(bb, h, i, e)));
                        EXPECT_TRUE(spoils(spoiled.lean_out(bb, h, i, e)));
                    }
                    EXPECT_EQ(std::isnan(spoiled.lse(bb, h, i)), !in_value);
                    EXPECT_EQ(std::isnan(spoiled.lean_lse(bb, h, i)), !in_value);
                }
    });
}

TEST(Poison, InAQuerySpoilsItsRowAndNoOther) {
    for_random_cases(100, [&](support::Random& random, const AttentionShape& s) {
        if (s.batch * s.q_len * s.kv_len * s.head_dim * s.value_dim == 0) return;
        Inputs<float> in(random, s);
        const auto clean = everything(in.q, in.k, in.v);
        const Index b = random.integer(0, s.batch - 1), h = random.integer(0, s.heads - 1),
                    i = random.integer(0, s.q_len - 1);
        in.q(b, h, i, random.integer(0, s.head_dim - 1)) = attend::not_a_number;
        auto spoiled = everything(in.q, in.k, in.v);
        for (Index c = 0; c < s.value_dim; ++c) {
            EXPECT_TRUE(std::isnan(spoiled.out(b, h, i, c)));
            EXPECT_TRUE(std::isnan(spoiled.lean_out(b, h, i, c)));
        }
        EXPECT_TRUE(std::isnan(spoiled.lse(b, h, i)) && std::isnan(spoiled.lean_lse(b, h, i)));
        const auto mend = [&](Tensor<float, 4>& to, const Tensor<float, 4>& from) {
            const auto row = [&](const auto& tensor) {
                return tensor.select(0, b).select(0, h).select(0, i);
            };
            heed::copy(row(from.view()), row(to.view()));
        };
        mend(spoiled.out, clean.out);
        mend(spoiled.weights, clean.weights);
        mend(spoiled.scores, clean.scores);
        mend(spoiled.lean_out, clean.lean_out);
        spoiled.lse(b, h, i) = clean.lse(b, h, i);
        spoiled.lean_lse(b, h, i) = clean.lean_lse(b, h, i);
        EXPECT_SAME(clean, spoiled);
    });
}

// The places of a bias or of another mask's flags that are hidden anyway.
TEST(Poison, InHiddenPlacesOfABiasChangesNoBit) {
    for_random_cases(150, [&](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        Tensor<float, 4> bias =
            attend::normals<float, 4>(random, {s.batch, s.heads, s.q_len, s.kv_len});
        const Index offset = random.integer(-s.q_len, s.kv_len);
        const auto run = [&] {
            return everything(in.q, in.k, in.v,
                              heed::AdditiveBias{bias} & heed::Causal::offset(offset));
        };
        const auto clean = run();
        for (Index b = 0; b < s.batch; ++b)
            for (Index h = 0; h < s.heads; ++h)
                for (Index i = 0; i < s.q_len; ++i)
                    for (Index j = std::max<Index>(0, i + offset + 1); j < s.kv_len; ++j)
                        bias(b, h, i, j) = poisons[static_cast<std::size_t>(random.integer(0, 3))];
        EXPECT_SAME(clean, run());
    });
}

constexpr AttentionShape dropout_sizes{2, 4, 2, 33, 70, 8, 8};

TEST(Dropout, WithProbabilityZeroChangesNoBit) {
    for_random_cases(50, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const auto with = [&](heed::Dropout dropout) {
            return everything(in.q, in.k, in.v, masks.masks(), {.dropout = dropout});
        };
        EXPECT_SAME(with({}), with({.probability = 0, .seed = random.bits(), .call = 9}));
    });
}

TEST(Dropout, WithProbabilityOneIsZeroAndNotNaN) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    Inputs<float> in(random, dropout_sizes);
    in.v(0, 0, 3, 2) = attend::not_a_number;
    in.v(1, 1, 5, 5) = infinity;
    const auto result =
        everything(in.q, in.k, in.v, heed::NoMask{}, {.dropout = {.probability = 1, .seed = 1}});
    for (float x : result.out.values()) EXPECT_EQ(x, 0.0f);
    for (float x : result.lean_out.values()) EXPECT_EQ(x, 0.0f);
}

TEST(Dropout, LeavesWeightsScoresAndLogSumExpAsTheyWere) {
    for_random_cases(50, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const auto without = everything(in.q, in.k, in.v);
        const auto with = everything(in.q, in.k, in.v, heed::NoMask{},
                                     {.dropout = {.probability = 0.5, .seed = random.bits()}});
        EXPECT_SAME(without.weights, with.weights);
        EXPECT_SAME(without.scores, with.scores);
        EXPECT_SAME(without.lse, with.lse);
        EXPECT_SAME(without.lean_lse, with.lean_lse);
    });
}

/// Which weights are kept, read off the outputs of both paths: with equal weights and the unit
/// matrix as values, out[b, h, q, k] is 0 or 1 / (kv_len (1 - p)).
std::vector<bool> kept(const AttentionShape& s, const heed::Dropout& dropout) {
    const Tensor<float, 4> q({s.batch, s.heads, s.q_len, 1}), k({s.batch, 1, s.kv_len, 1});
    Tensor<float, 4> v({s.batch, 1, s.kv_len, s.kv_len});
    for (Index b = 0; b < s.batch; ++b)
        for (Index j = 0; j < s.kv_len; ++j) v(b, 0, j, j) = 1;
    const auto result = everything(q, k, v, heed::NoMask{}, {.dropout = dropout});
    std::vector<bool> flags;
    const double weight = 1 / (static_cast<double>(s.kv_len) * (1 - dropout.probability));
    for (std::size_t n = 0; n < result.out.values().size(); ++n) {
        const double x = static_cast<double>(result.out.values()[n]);
        EXPECT_TRUE(x == 0 || std::abs(x - weight) < 1e-6 * weight) << x;
        EXPECT_EQ(x == 0, result.lean_out.values()[n] == 0);
        flags.push_back(x != 0);
    }
    return flags;
}

// (seed, call, b, h, q, k) are the counter of one Philox4x32-10 draw: four keys share a block.
TEST(Dropout, IsPhiloxOfSeedCallAndPlace) {
    const AttentionShape s{2, 3, 3, 5, 9, 1, 1};
    for (const double p : {0.1, 0.5, 0.75})
        for (const std::uint64_t seed : {0ull, 1ull, 0xfedcba9876543210ull})
            for (const std::uint32_t call : {0u, 7u}) {
                const std::vector<bool> flags = kept(s, {p, seed, call});
                std::size_t n = 0;
                for (std::uint32_t b = 0; b < 2; ++b)
                    for (std::uint32_t h = 0; h < 3; ++h)
                        for (std::uint32_t i = 0; i < 5; ++i)
                            for (std::uint32_t j = 0; j < 9; ++j) {
                                const auto bits = heed::philox({j / 4, i, b * 3 + h, call},
                                                               heed::philox_key(seed));
                                EXPECT_EQ(flags[n++], bits[j % 4] * 0x1p-32 >= p);
                            }
            }
}

TEST(Dropout, ChangesWithSeedCallHeadAndPlace) {
    const AttentionShape s{2, 2, 2, 16, 64, 1, 1};
    const std::vector<bool> flags = kept(s, {0.5, 11, 0});
    EXPECT_EQ(flags, kept(s, {0.5, 11, 0}));
    EXPECT_NE(flags, kept(s, {0.5, 12, 0}));
    EXPECT_NE(flags, kept(s, {0.5, 11, 1}));
    EXPECT_NE(flags, kept(s, {0.5, 11 + (1ull << 32), 0}));
    // No two rows of any batch element and head are alike.
    std::map<std::vector<bool>, int> rows;
    for (std::size_t row = 0; row < 2 * 2 * 16; ++row)
        ++rows[{flags.begin() + static_cast<std::ptrdiff_t>(row * 64),
                flags.begin() + static_cast<std::ptrdiff_t>(row * 64 + 64)}];
    EXPECT_EQ(rows.size(), 2u * 2u * 16u);
}

TEST(Dropout, DependsOnThePlaceAndNotOnTheLengths) {
    const heed::Dropout dropout{0.5, 5, 0};
    const AttentionShape small{1, 1, 1, 6, 7, 1, 1}, large{1, 1, 1, 40, 300, 1, 1};
    const std::vector<bool> few = kept(small, dropout), many = kept(large, dropout);
    for (std::size_t i = 0; i < 6; ++i)
        for (std::size_t j = 0; j < 7; ++j) EXPECT_EQ(few[i * 7 + j], many[i * 300 + j]);
}

// Binomial with n = 2 * 4 * 33 * 70 = 18480 draws: five standard deviations of n.
TEST(Dropout, KeepsTheRightFraction) {
    for (const double p : {0.01, 0.1, 0.5, 0.9, 0.99})
        for (std::uint64_t seed = 0; seed < 3; ++seed) {
            const std::vector<bool> flags = kept(dropout_sizes, {p, seed, 0});
            const auto n = static_cast<double>(flags.size());
            const auto count = static_cast<double>(std::count(flags.begin(), flags.end(), true));
            EXPECT_NEAR(count, n * (1 - p), 5 * std::sqrt(n * p * (1 - p)))
                << "p " << p << ", seed " << seed;
        }
}

// The mean over 2000 seeds: the standard deviation of one output is at most
// sqrt(p / (1 - p)) * sqrt(sum w^2 v^2).
TEST(Dropout, OfManySeedsAveragesToNoDropout) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{1, 1, 1, 3, 12, 4, 2};
    const Inputs<double> in(random, s);
    const double p = 0.3;
    const int seeds = 2000;
    const auto without = everything(in.q, in.k, in.v);
    Tensor<double, 4> sum(without.out.shape());
    for (int seed = 0; seed < seeds; ++seed) {
        const auto out = heed::scaled_dot_product_attention(
            in.q, in.k, in.v, heed::NoMask{},
            {.dropout = {.probability = p, .seed = static_cast<std::uint64_t>(seed)}});
        for (std::size_t n = 0; n < out.values().size(); ++n) sum.values()[n] += out.values()[n];
    }
    for (Index i = 0; i < s.q_len; ++i)
        for (Index c = 0; c < s.value_dim; ++c) {
            double squares = 0;
            for (Index j = 0; j < s.kv_len; ++j)
                squares += std::pow(without.weights(0, 0, i, j) * in.v(0, 0, j, c), 2);
            EXPECT_NEAR(sum(0, 0, i, c) / seeds, without.out(0, 0, i, c),
                        5 * std::sqrt(p / (1 - p) * squares / seeds));
        }
}

TEST(Law, AskingForMoreOutputsChangesNoBitOfTheOthers) {
    for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const auto all = everything(in.q, in.k, in.v, masks.masks());
        Outputs<float> some = everything(in.q, in.k, in.v);
        heed::scaled_dot_product_attention(in.q, in.k, in.v, some.out, masks.masks(),
                                           {.weights = some.weights});
        EXPECT_SAME(some.out, all.out);
        EXPECT_SAME(some.weights, all.weights);
        heed::scaled_dot_product_attention(in.q, in.k, in.v, some.out, masks.masks(),
                                           {.scores = some.scores});
        EXPECT_SAME(some.out, all.out);
        EXPECT_SAME(some.scores, all.scores);
        heed::scaled_dot_product_attention(in.q, in.k, in.v, some.out, masks.masks());
        EXPECT_SAME(some.out, all.lean_out);
        EXPECT_SAME(heed::scaled_dot_product_attention(in.q, in.k, in.v, masks.masks()),
                    all.lean_out);
    });
}

TEST(Law, TheSameCallGivesTheSameBits) {
    for_random_cases(30, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomMasks masks(random, s);
        const auto run = [&] {
            return everything(in.q, in.k, in.v, masks.masks(),
                              {.dropout = {.probability = 0.2, .seed = 4}});
        };
        EXPECT_SAME(run(), run());
    });
}

// The half types are storage: widening them first and computing in float is the same.
template <class T>
void expect_storage_only() {
    for_random_cases(60, [](support::Random& random, const AttentionShape& s) {
        const Inputs<T> in(random, s);
        const auto widened = [](const Tensor<T, 4>& tensor) {
            Tensor<float, 4> result(tensor.shape());
            heed::copy(tensor.view(), result.view());
            return result;
        };
        const auto rounded = [](const Tensor<float, 4>& tensor) {
            Tensor<T, 4> result(tensor.shape());
            heed::copy(tensor.view(), result.view());
            return result;
        };
        const RandomMasks masks(random, s);
        const auto half = everything(in.q, in.k, in.v, masks.masks());
        const auto full = everything(widened(in.q), widened(in.k), widened(in.v), masks.masks());
        EXPECT_SAME(half.out, rounded(full.out));
        EXPECT_SAME(half.weights, rounded(full.weights));
        EXPECT_SAME(half.lean_out, rounded(full.lean_out));
        EXPECT_SAME(half.lse, full.lse);
        EXPECT_SAME(half.lean_lse, full.lean_lse);
    });
}

TEST(Law, HalfTypesAreStorageOnly) {
    expect_storage_only<heed::half>();
    expect_storage_only<heed::bfloat16>();
}

}  // namespace
