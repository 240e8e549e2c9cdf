// What do several masks and modifications mean together, and does the order of writing matter?
#include "heed/attention/compose.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "attention/attend.hpp"

namespace {

using attend::everything;
using attend::infinity;
using attend::same_bits;
using heed::AdditiveBias;
using heed::Alibi;
using heed::Alignment;
using heed::AttendWhere;
using heed::Causal;
using heed::Index;
using heed::KeyLengths;
using heed::ScoreIndex;
using heed::SlidingWindow;
using heed::SoftCap;
using heed::Tensor;

static_assert(heed::ScorePart<Causal> && heed::ScorePart<SlidingWindow> &&
              heed::ScorePart<KeyLengths> && heed::ScorePart<SoftCap> &&
              heed::ScorePart<AttendWhere<bool>> && heed::ScorePart<AdditiveBias<float>> &&
              heed::ScorePart<Alibi<float>> && heed::ScorePart<heed::NoMask>);
// A mask tensor without the type that says what true means is not a mask.
static_assert(!heed::ScorePart<Tensor<bool, 2>> && !heed::ScorePart<int> &&
              !heed::ScorePart<Alignment>);

struct Case {
    support::Random random;
    attend::Inputs<float> in{random, {2, 4, 2, 6, 9, 5, 3}};
    Tensor<float, 2> bias = attend::normals<float, 2>(random, {6, 9});
    Tensor<bool, 4> flags = attend::flags<4>(random, {2, 1, 6, 9}, 0.8);
    Tensor<float, 1> slopes = heed::alibi_slopes<float>(4);
    std::array<Index, 2> lengths{8, 5};

    template <class Mask>
    [[nodiscard]] attend::Outputs<float> run(const Mask& mask) const {
        return everything(in.q, in.k, in.v, mask);
    }
};

/// Applies f to all 24 orders of four parts, joined from left to right.
template <class F, class A, class B, class C, class D>
void for_all_orders(const F& f, const A& a, const B& b, const C& c, const D& d) {
    const auto inner = [&](const auto& w, const auto& x, const auto& y, const auto& z) {
        f(w & x & y & z);
        f(w & x & z & y);
        f(w & y & x & z);
        f(w & y & z & x);
        f(w & z & x & y);
        f(w & z & y & x);
    };
    inner(a, b, c, d);
    inner(b, a, c, d);
    inner(c, a, b, d);
    inner(d, a, b, c);
}

TEST(Compose, TheStagesHaveOneOrderWhateverTheOrderOfWriting) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const SoftCap cap{0.7};
    const AdditiveBias bias{c.bias};
    const auto causal = Causal::bottom_right();
    const KeyLengths lengths{c.lengths};
    const auto reference = c.run(cap & bias & causal & lengths);
    for_all_orders([&](const auto& mask) { EXPECT_SAME(c.run(mask), reference); }, cap, bias,
                   causal, lengths);
    const AttendWhere where{c.flags};
    const SlidingWindow window{.left = 3, .right = 2};
    const auto other = c.run(where & window & cap & causal);
    for_all_orders([&](const auto& mask) { EXPECT_SAME(c.run(mask), other); }, where, window, cap,
                   causal);
}

// The counter-check: had the cap been applied after the bias, the numbers would be others.
TEST(Compose, SoftCapComesBeforeTheBias) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 1, 1}, {3}), v({1, 1, 1, 1});
    const Tensor<float, 1> bias({1}, {10});
    const float score = everything(q, k, v, AdditiveBias{bias} & SoftCap{2}).scores(0, 0, 0, 0);
    EXPECT_FLOAT_EQ(score, 2 * std::tanh(1.5f) + 10);
    EXPECT_GT(std::abs(score - 2 * std::tanh(6.5f)), 8.0f);
}

TEST(Compose, ModificationsRunAsWrittenFromLeftToRight) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 1, 1}, {3}), v({1, 1, 1, 1});
    const auto score_of = [&](const auto& mask) {
        return everything(q, k, v, mask).scores(0, 0, 0, 0);
    };
    const Tensor<float, 1> ten({1}, {10});
    const AdditiveBias plus_ten{ten};
    const auto twice = [](float s, ScoreIndex) { return 2 * s; };
    EXPECT_EQ(score_of(plus_ten & twice), 26.0f);
    EXPECT_EQ(score_of(twice & plus_ten), 16.0f);
    EXPECT_EQ(score_of(twice & plus_ten & twice), 32.0f);
    // The mask in between is no modification, and nor is the cap.
    EXPECT_EQ(score_of(plus_ten & Causal::top_left() & twice), 26.0f);
}

TEST(Compose, MasksIntersect) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    Tensor<bool, 4> both({2, 1, 6, 9});
    for (Index b = 0; b < 2; ++b)
        for (Index i = 0; i < 6; ++i)
            for (Index j = 0; j < 9; ++j)
                both(b, 0, i, j) = c.flags(b, 0, i, j) && j <= i + 3 && i + 3 - j <= 4 &&
                                   j < c.lengths[static_cast<std::size_t>(b)];
    EXPECT_SAME(c.run(AttendWhere{c.flags} & Causal::bottom_right() & SlidingWindow{.left = 4} &
                      KeyLengths{c.lengths}),
                c.run(AttendWhere{both}));
}

TEST(Compose, ChainsFlattenHoweverTheyAreBracketed) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const AdditiveBias bias{c.bias};
    const auto causal = Causal::bottom_right();
    const SoftCap cap{1};
    const Alibi alibi{c.slopes};
    const auto left = ((bias & causal) & alibi) & cap;
    const auto right = bias & (causal & (alibi & cap));
    const auto pairs = (bias & causal) & (alibi & cap);
    static_assert(std::same_as<decltype(left), decltype(right)>);
    static_assert(std::same_as<decltype(left), decltype(pairs)>);
    EXPECT_SAME(c.run(left), c.run(right));
    EXPECT_SAME(c.run(left), c.run(pairs));
    EXPECT_SAME(c.run(left & heed::NoMask{}), c.run(left));
    EXPECT_SAME(c.run(heed::NoMask{} & left), c.run(left));
}

TEST(Compose, AloneOrInAListOfOneIsTheSame) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const auto causal = Causal::top_left();
    EXPECT_SAME(c.run(causal), c.run(causal & heed::NoMask{}));
    EXPECT_SAME(c.run(causal), c.run(causal & causal));
}

TEST(CommonAlignment, AnUnnamedPartTakesTheNamedOne) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const auto bottom_right = Alignment::bottom_right();
    const auto named = c.run(Causal{bottom_right} & SlidingWindow{3, 1, bottom_right} &
                             Alibi{c.slopes, bottom_right});
    EXPECT_SAME(c.run(Causal{bottom_right} & SlidingWindow{3, 1} & Alibi{c.slopes}), named);
    EXPECT_SAME(c.run(Alibi{c.slopes} & SlidingWindow{3, 1} & Causal{bottom_right}), named);
    EXPECT_SAME(c.run(Causal{} & SlidingWindow{3, 1} & Alibi{c.slopes, bottom_right}), named);
    EXPECT_SAME(c.run(Causal{} & SlidingWindow{3, 1, bottom_right} & Alibi{c.slopes}), named);
    // The counter-check: a default of its own for the unnamed part would be seen.
    EXPECT_FALSE(same_bits(c.run(Causal{bottom_right} & SlidingWindow{3, 1, Alignment::top_left()} &
                                 Alibi{c.slopes, bottom_right}),
                           named));
}

TEST(CommonAlignment, TheFirstNamedServesTheUnnamedAndEachNamedKeepsItsOwn) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const auto first = Alignment::offset(4), second = Alignment::offset(1);
    EXPECT_SAME(c.run(SlidingWindow{2, 2} & Causal{first} & Alibi{c.slopes, second}),
                c.run(SlidingWindow{2, 2, first} & Causal{first} & Alibi{c.slopes, second}));
    EXPECT_SAME(c.run(SlidingWindow{2, 2} & Alibi{c.slopes, second} & Causal{first}),
                c.run(SlidingWindow{2, 2, second} & Alibi{c.slopes, second} & Causal{first}));
    EXPECT_FALSE(
        same_bits(c.run(SlidingWindow{2, 2, first} & Causal{first} & Alibi{c.slopes, second}),
                  c.run(SlidingWindow{2, 2, second} & Causal{first} & Alibi{c.slopes, second})));
}

TEST(CommonAlignment, OffsetsForEachBatchElementServeTheUnnamedToo) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const std::array<Index, 2> offsets{3, 1};
    EXPECT_SAME(c.run(Causal::offsets(offsets) & SlidingWindow{.left = 2}),
                c.run(SlidingWindow{2, 0, Alignment::offsets(offsets)}));
}

TEST(CommonAlignment, UnnamedEverywhereIsRefusedUnlessTheLengthsAgree) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    EXPECT_THROW((void)c.run(Causal{} & SlidingWindow{3, 1} & Alibi{c.slopes}),
                 heed::ArgumentError);
    EXPECT_THROW((void)c.run(Alibi{c.slopes}), heed::ArgumentError);
    const Case d;
    const auto square = [&](const auto& mask) { return everything(d.in.q, d.in.q, d.in.q, mask); };
    const auto top_left = Alignment::top_left();
    EXPECT_SAME(
        square(Causal{} & SlidingWindow{3, 1} & Alibi{d.slopes}),
        square(Causal{top_left} & SlidingWindow{3, 1, top_left} & Alibi{d.slopes, top_left}));
}

// Whatever comes before or after the bias that hides a key: it stays hidden, and is not NaN.
TEST(Compose, AHiddenKeyStaysHidden) {
    Case c;
    SCOPED_TRACE(c.random.describe());
    Tensor<float, 1> hide(9), strange(9);
    for (const Index j : {2, 7}) {
        hide(j) = -infinity;
        strange(j) = infinity;
    }
    const AdditiveBias hiding{hide}, showing{strange};
    Tensor<bool, 1> flags(9);
    for (Index j = 0; j < 9; ++j) flags(j) = hide(j) == 0;
    const auto by_flags = c.run(AttendWhere{flags});
    EXPECT_SAME(c.run(hiding & showing), by_flags);
    EXPECT_SAME(c.run(showing & hiding), by_flags);
    const auto times_zero = [&](float s, ScoreIndex at) { return hide(at.k) == 0 ? s : 0 * s; };
    EXPECT_SAME(c.run(hiding & times_zero), by_flags);
    EXPECT_SAME(c.run(times_zero & hiding), by_flags);
    const auto show_again = [&](float s, ScoreIndex at) { return hide(at.k) == 0 ? s : 1.0f; };
    EXPECT_SAME(c.run(hiding & show_again), by_flags);
    EXPECT_SAME(c.run(show_again & hiding), by_flags);
}

// Sums of biases are formed as written, so a score that one rounding loses is really lost.
TEST(Compose, TwoBiasesAddUp) {
    const Tensor<float, 4> q({1, 1, 1, 1}, {1}), k({1, 1, 1, 1}, {3}), v({1, 1, 1, 1});
    const Tensor<float, 1> big({1}, {1e8f}), small({1}, {-1e8f});
    EXPECT_EQ(everything(q, k, v, AdditiveBias{big} & AdditiveBias{small}).scores(0, 0, 0, 0),
              (3.0f + 1e8f) - 1e8f);
}

/// A mask of the user's own, with the same bind() as heed's.
struct EveryOtherHead {
    struct Rule {
        [[nodiscard]] bool visible(const ScoreIndex& at) const { return at.h % 2 == 0; }
    };
    [[nodiscard]] Rule bind(const heed::AttentionShape&, const Alignment&) const { return {}; }
};

TEST(Compose, AUsersOwnMaskTakesPart) {
    const Case c;
    SCOPED_TRACE(c.random.describe());
    const Tensor<bool, 3> even({4, 1, 1}, {true, false, true, false});
    EXPECT_SAME(c.run(EveryOtherHead{} & Causal::top_left()),
                c.run(AttendWhere{even} & Causal::top_left()));
    EXPECT_SAME(c.run(EveryOtherHead{}), c.run(AttendWhere{even}));
}

}  // namespace
