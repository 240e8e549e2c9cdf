// Which keys does each mask show? Every mask against its formula, seen through the output alone.
#include "heed/attention/mask.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "attention/attend.hpp"

namespace {

using heed::Alignment;
using heed::Causal;
using heed::Index;
using heed::KeyLengths;
using heed::Shape;
using heed::SlidingWindow;
using heed::Tensor;

constexpr Index unbounded = -1;
constexpr Index largest = std::numeric_limits<Index>::max();

/// Is key k visible to query q in batch element b and head h?
using Formula = std::function<bool(Index b, Index h, Index q, Index k)>;

/// Attention weights seen through the output alone: with the unit matrix as values,
/// out[b, h, q, k] is the weight of key k; with queries of 0 all visible keys weigh the same.
template <class Mask>
Tensor<float, 4> weights_through_output(const Shape<4>& s, const Mask& mask) {
    const Tensor<float, 4> q({s[0], s[1], s[2], 1}), k({s[0], s[1], s[3], 1});
    Tensor<float, 4> v({s[0], s[1], s[3], s[3]});
    for (Index b = 0; b < s[0]; ++b)
        for (Index h = 0; h < s[1]; ++h)
            for (Index j = 0; j < s[3]; ++j) v(b, h, j, j) = 1;
    return heed::scaled_dot_product_attention(q, k, v, mask);
}

/// The first place at which the visible keys, or their equal weights, differ from the formula.
template <class Mask>
std::string difference(const Shape<4>& s, const Mask& mask, const Formula& formula) {
    const Tensor<float, 4> weights = weights_through_output(s, mask);
    for (Index b = 0; b < s[0]; ++b)
        for (Index h = 0; h < s[1]; ++h)
            for (Index q = 0; q < s[2]; ++q) {
                Index count = 0;
                for (Index k = 0; k < s[3]; ++k) count += formula(b, h, q, k) ? 1 : 0;
                for (Index k = 0; k < s[3]; ++k) {
                    const float expected =
                        formula(b, h, q, k) ? 1.0f / static_cast<float>(count) : 0.0f;
                    if (weights(b, h, q, k) != expected)
                        return to_string(s) + " at b " + std::to_string(b) + ", h " +
                               std::to_string(h) + ", q " + std::to_string(q) + ", k " +
                               std::to_string(k) + ": weight " +
                               std::to_string(weights(b, h, q, k)) + " instead of " +
                               std::to_string(expected);
                }
            }
    return "";
}

constexpr auto everything_visible = [](Index, Index, Index, Index) { return true; };

struct NamedAlignment {
    const char* name;
    Alignment alignment;
    std::function<Index(Index q_len, Index kv_len)> offset;
};

std::vector<NamedAlignment> alignments() {
    return {{"top_left", Alignment::top_left(), [](Index, Index) { return Index{0}; }},
            {"bottom_right", Alignment::bottom_right(), [](Index q, Index k) { return k - q; }},
            {"offset -3", Alignment::offset(-3), [](Index, Index) { return Index{-3}; }},
            {"offset 2", Alignment::offset(2), [](Index, Index) { return Index{2}; }},
            {"offset 40", Alignment::offset(40), [](Index, Index) { return Index{40}; }}};
}

TEST(Mask, NoMaskShowsEveryKey) {
    EXPECT_EQ(difference({2, 2, 3, 5}, heed::NoMask{}, everything_visible), "");
}

TEST(Mask, CausalIsItsFormulaForAllLengths) {
    for (Index q_len = 1; q_len <= 17; ++q_len)
        for (Index kv_len = 1; kv_len <= 17; ++kv_len)
            for (const auto& [name, alignment, offset_of] : alignments()) {
                const Index offset = offset_of(q_len, kv_len);
                EXPECT_EQ(
                    difference({1, 1, q_len, kv_len}, Causal{alignment},
                               [&](Index, Index, Index q, Index k) { return k <= q + offset; }),
                    "")
                    << name;
            }
}

// The counter-check: with one corner taken for the other, all but the squares fail.
TEST(Mask, TheCausalTestSeesAWrongCorner) {
    for (Index q_len = 1; q_len <= 17; ++q_len)
        for (Index kv_len = 1; kv_len <= 17; ++kv_len) {
            const auto top_left = [](Index, Index, Index q, Index k) { return k <= q; };
            const std::string found =
                difference({1, 1, q_len, kv_len}, Causal::bottom_right(), top_left);
            EXPECT_EQ(found.empty(), q_len == kv_len) << q_len << " x " << kv_len;
        }
}

TEST(Mask, CausalNeedsNoNameInASquare) {
    EXPECT_EQ(
        difference({1, 1, 9, 9}, Causal{}, [](Index, Index, Index q, Index k) { return k <= q; }),
        "");
}

TEST(Mask, CausalOffsetsAreOneForEachBatchElement) {
    const std::array<Index, 4> offsets{5, 0, -2, 100};
    EXPECT_EQ(difference({4, 2, 6, 9}, Causal::offsets(offsets),
                         [&](Index b, Index, Index q, Index k) {
                             return k <= q + offsets[static_cast<std::size_t>(b)];
                         }),
              "");
}

bool in_window(Index left, Index right, Index position, Index k) {
    const Index before = position - k;
    return (left == unbounded || before <= left) && (right == unbounded || -before <= right);
}

TEST(Mask, SlidingWindowIsItsFormulaForAllLengthsAndWidths) {
    const std::array<Index, 6> widths{unbounded, 0, 1, 3, 16, largest};
    for (Index q_len = 1; q_len <= 17; ++q_len)
        for (Index kv_len = 1; kv_len <= 17; ++kv_len)
            for (const auto& [name, alignment, offset_of] : alignments()) {
                // All pairs of widths for some lengths, some pairs for all lengths.
                for (std::size_t i = 0; i < widths.size(); ++i)
                    for (std::size_t j = 0; j < widths.size(); ++j) {
                        const Index left = widths[i], right = widths[j];
                        if ((i + j + static_cast<std::size_t>(q_len * 17 + kv_len)) % 5 != 0)
                            continue;
                        const Index offset = offset_of(q_len, kv_len);
                        EXPECT_EQ(
                            difference({1, 1, q_len, kv_len}, SlidingWindow{left, right, alignment},
                                       [&](Index, Index, Index q, Index k) {
                                           return in_window(left, right, q + offset, k);
                                       }),
                            "")
                            << name << ", left " << left << ", right " << right;
                    }
            }
}

// Visible keys of a row: min(p + right, Lk - 1) - max(p - left, 0) + 1, where that is positive.
TEST(Mask, SlidingWindowShowsAsManyKeysAsTheCountSays) {
    const Index q_len = 11, kv_len = 14, offset = 2;
    for (Index left = 0; left <= 15; ++left)
        for (Index right = 0; right <= 15; ++right) {
            const Tensor<float, 4> weights = weights_through_output(
                {1, 1, q_len, kv_len}, SlidingWindow{left, right, Alignment::offset(offset)});
            for (Index q = 0; q < q_len; ++q) {
                const Index p = q + offset;
                const Index count = std::max<Index>(
                    0, std::min(p + right, kv_len - 1) - std::max<Index>(p - left, 0) + 1);
                Index visible = 0;
                for (Index k = 0; k < kv_len; ++k) visible += weights(0, 0, q, k) > 0 ? 1 : 0;
                EXPECT_EQ(visible, count) << "q " << q << ", left " << left << ", right " << right;
            }
        }
}

TEST(Mask, SlidingWindowWithoutNumbersShowsEverything) {
    EXPECT_EQ(difference({1, 1, 5, 5}, SlidingWindow{}, everything_visible), "");
}

TEST(Mask, SlidingWindowsSurviveTheFarthestNumbers) {
    constexpr Index farthest = Index{1} << 61;
    for (const Index left : {unbounded, Index{0}, largest - 1, largest})
        for (const Index right : {unbounded, Index{0}, largest - 1, largest})
            for (const Index offset : {-farthest, Index{0}, farthest})
                EXPECT_EQ(
                    difference({1, 1, 3, 4}, SlidingWindow{left, right, Alignment::offset(offset)},
                               [&](Index, Index, Index q, Index k) {
                                   return in_window(left, right, q + offset, k);
                               }),
                    "")
                    << "left " << left << ", right " << right << ", offset " << offset;
}

TEST(Mask, KeyLengthsHideTheRest) {
    const std::array<Index, 5> lengths{7, 3, 1, 0, 6};
    EXPECT_EQ(difference({5, 2, 3, 7}, KeyLengths{lengths},
                         [&](Index b, Index, Index, Index k) {
                             return k < lengths[static_cast<std::size_t>(b)];
                         }),
              "");
}

TEST(Mask, KeyLengthsShowTheCapacityOfACacheOnlyUpToItsFill) {
    for (Index length = 0; length <= 9; ++length) {
        const std::array<Index, 1> lengths{length};
        EXPECT_EQ(difference({1, 1, 2, 9}, KeyLengths{lengths},
                             [&](Index, Index, Index, Index k) { return k < length; }),
                  "");
    }
}

TEST(Mask, TrueAttendsOrBlocksAsTheTypeSays) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> shape(3, 2, 5, 6);
    const Tensor<bool, 4> mask = attend::flags(random, shape, 0.6);
    const auto is_true = [&](Index b, Index h, Index q, Index k) { return mask(b, h, q, k); };
    const auto is_false = [&](Index b, Index h, Index q, Index k) { return !mask(b, h, q, k); };
    EXPECT_EQ(difference(shape, heed::AttendWhere{mask}, is_true), "");
    EXPECT_EQ(difference(shape, heed::BlockWhere{mask}, is_false), "");
    // The counter-check: the other polarity is seen.
    EXPECT_NE(difference(shape, heed::AttendWhere{mask}, is_false), "");
    EXPECT_NE(difference(shape, heed::BlockWhere{mask}, is_true), "");
}

TEST(Mask, AnyByteButZeroIsTrue) {
    const Tensor<std::uint8_t, 1> mask({6}, {0, 1, 2, 128, 255, 0});
    const auto is_true = [&](Index, Index, Index, Index k) { return k >= 1 && k <= 4; };
    const auto is_false = [&](Index, Index, Index, Index k) { return k < 1 || k > 4; };
    EXPECT_EQ(difference({2, 1, 3, 6}, heed::AttendWhere{mask}, is_true), "");
    EXPECT_EQ(difference({2, 1, 3, 6}, heed::BlockWhere{mask}, is_false), "");
}

/// All 16 shapes in which each dimension is 1 or full, in memory of exactly that size, so that a
/// sanitizer sees the slightest step outside.
TEST(Mask, BooleanMasksBroadcastOverEverySetOfDimensions) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const std::array<Index, 4> full{3, 2, 4, 5};
    for (unsigned set = 0; set < 16; ++set) {
        std::array<Index, 4> extents{};
        for (std::size_t d = 0; d < 4; ++d) extents[d] = set >> d & 1u ? full[d] : 1;
        const Shape<4> shape(extents);
        const auto count = static_cast<std::size_t>(shape.element_count());
        const std::unique_ptr<bool[]> exact(new bool[count]);
        for (std::size_t i = 0; i < count; ++i) exact[i] = random.chance(0.7);
        const heed::TensorView<const bool, 4> mask(exact.get(), shape);
        const auto is_true = [&](Index b, Index h, Index q, Index k) {
            const auto at = [&](std::size_t d, Index i) { return extents[d] == 1 ? 0 : i; };
            return mask(at(0, b), at(1, h), at(2, q), at(3, k));
        };
        const Shape<4> whole(full);
        EXPECT_EQ(difference(whole, heed::AttendWhere{mask}, is_true), "") << to_string(shape);
        EXPECT_EQ(difference(whole, heed::BlockWhere{mask}, std::not_fn(is_true)), "")
            << to_string(shape);
    }
}

TEST(Mask, MasksOfFewerDimensionsAlignAtTheKeys) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> whole(2, 3, 4, 5);
    const Tensor<bool, 1> keys = attend::flags<1>(random, {5}, 0.6);
    const Tensor<bool, 2> square = attend::flags<2>(random, {4, 5}, 0.6);
    const Tensor<bool, 3> heads = attend::flags<3>(random, {3, 4, 5}, 0.6);
    EXPECT_EQ(difference(whole, heed::AttendWhere{keys},
                         [&](Index, Index, Index, Index k) { return keys(k); }),
              "");
    EXPECT_EQ(difference(whole, heed::AttendWhere{square},
                         [&](Index, Index, Index q, Index k) { return square(q, k); }),
              "");
    EXPECT_EQ(difference(whole, heed::AttendWhere{heads},
                         [&](Index, Index h, Index q, Index k) { return heads(h, q, k); }),
              "");
}

TEST(Mask, MasksMayHaveAnyStrides) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> shape(2, 3, 4, 5);
    const Tensor<bool, 4> stored = attend::flags<4>(random, {5, 4, 2, 3}, 0.6);
    const auto mask = stored.view().permute({2, 3, 1, 0});
    const auto is_true = [&](Index b, Index h, Index q, Index k) { return stored(k, q, b, h); };
    EXPECT_EQ(difference(shape, heed::AttendWhere{mask}, is_true), "");
    const bool* const last = stored.data() + stored.element_count() - 1;
    const heed::TensorView<const bool, 2> backwards(last, {4, 5}, {-5, -1});
    EXPECT_EQ(difference(shape, heed::BlockWhere{backwards},
                         [&](Index, Index, Index q, Index k) { return !*(last - 5 * q - k); }),
              "");
}

TEST(Mask, KeyPaddingMasksAreOneRowForEachBatchElement) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Shape<4> shape(3, 2, 4, 5);
    const Tensor<bool, 2> mask = attend::flags<2>(random, {3, 5}, 0.6);
    const auto is_true = [&](Index b, Index, Index, Index k) { return mask(b, k); };
    EXPECT_EQ(difference(shape, heed::attend_keys(mask), is_true), "");
    EXPECT_EQ(difference(shape, heed::block_keys(mask), std::not_fn(is_true)), "");
    const Tensor<bool, 2> common = attend::flags<2>(random, {1, 5}, 0.6);
    EXPECT_EQ(difference(shape, heed::attend_keys(common),
                         [&](Index, Index, Index, Index k) { return common(0, k); }),
              "");
    const Tensor<bool, 2> stored = attend::flags<2>(random, {5, 3}, 0.6);
    EXPECT_EQ(difference(shape, heed::block_keys(stored.view().transpose(0, 1)),
                         [&](Index b, Index, Index, Index k) { return !stored(k, b); }),
              "");
}

TEST(Mask, KeyPaddingMasksOfAnEmptyBatchAreAccepted) {
    const Tensor<bool, 2> mask({0, 5});
    EXPECT_EQ(difference({0, 2, 4, 5}, heed::attend_keys(mask), everything_visible), "");
    EXPECT_EQ(difference({0, 2, 4, 5}, heed::block_keys(mask), everything_visible), "");
}

// Lengths on both sides of every block that a faster path may work in.
TEST(Mask, MasksAreTheirFormulasAtLongerLengths) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const auto length = [&] {
        return random.pick<Index>({1,  15, 16, 17, 31, 32,  33,  47,  48,  49, 63,
                                   64, 65, 95, 96, 97, 127, 128, 129, 160, 193});
    };
    for (int round = 0; round < 60; ++round) {
        const Index q_len = length(), kv_len = length();
        const Shape<4> shape(2, 1, q_len, kv_len);
        const Index offset = random.integer(-q_len, kv_len);
        const Index left = random.integer(-1, kv_len), right = random.integer(-1, kv_len);
        const std::array<Index, 2> lengths{random.integer(0, kv_len), random.integer(0, kv_len)};
        const Tensor<bool, 4> flags = attend::flags<4>(random, shape, 0.9);
        SCOPED_TRACE(to_string(shape) + ", offset " + std::to_string(offset) + ", left " +
                     std::to_string(left) + ", right " + std::to_string(right));
        const auto causal = [&](Index, Index, Index q, Index k) { return k <= q + offset; };
        const auto window = [&](Index, Index, Index q, Index k) {
            return in_window(left, right, q + offset, k);
        };
        const auto length_of = [&](Index b, Index, Index, Index k) {
            return k < lengths[static_cast<std::size_t>(b)];
        };
        const auto all = [&](Index b, Index h, Index q, Index k) {
            return causal(b, h, q, k) && window(b, h, q, k) && length_of(b, h, q, k) &&
                   flags(b, h, q, k);
        };
        EXPECT_EQ(difference(shape, Causal::offset(offset), causal), "");
        EXPECT_EQ(difference(shape, SlidingWindow{left, right, Alignment::offset(offset)}, window),
                  "");
        EXPECT_EQ(difference(shape, KeyLengths{lengths}, length_of), "");
        EXPECT_EQ(difference(shape,
                             SlidingWindow{left, right} & heed::AttendWhere{flags} &
                                 KeyLengths{lengths} & Causal::offset(offset),
                             all),
                  "");
    }
}

TEST(Mask, ARowWithoutVisibleKeysIsZero) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const attend::Inputs<float> in(random, {1, 1, 1, 3, 4, 5, 6});
    const Tensor<bool, 2> mask({3, 1}, {true, false, true});
    const auto result = attend::everything(in.q, in.k, in.v, heed::AttendWhere{mask});
    for (Index c = 0; c < 6; ++c) EXPECT_EQ(result.out(0, 0, 1, c), 0.0f);
    for (Index k = 0; k < 4; ++k) {
        EXPECT_EQ(result.weights(0, 0, 1, k), 0.0f);
        EXPECT_EQ(result.scores(0, 0, 1, k), -attend::infinity);
    }
    EXPECT_EQ(result.lse(0, 0, 1), -attend::infinity);
    EXPECT_NE(result.out(0, 0, 0, 0), 0.0f);
    EXPECT_NE(result.out(0, 0, 2, 0), 0.0f);
}

}  // namespace
