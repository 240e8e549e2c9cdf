// Does a query see its own document only, and do corners refer to it? Packed sequences by hand,
// against the oracle with the documents as labels, and against each document by itself.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "attention/part_checks.hpp"
#include "attention/random_case.hpp"
#include "tensor/strided.hpp"

namespace {

using attend::everything;
using attend::for_random_cases;
using attend::infinity;
using attend::Inputs;
using heed::Alignment;
using heed::ArgumentError;
using heed::AttentionShape;
using heed::Causal;
using heed::Documents;
using heed::Index;
using heed::ShapeError;
using heed::SlidingWindow;
using heed::Tensor;

using Bounds = std::vector<Index>;

/// Outputs of queries that like all keys the same, with values 1, 2, 3, ...: the means of the
/// numbers of the visible keys, and 0 for a query that sees none.
template <class Mask>
std::vector<float> means(Index queries, Index keys, const Mask& mask) {
    const Tensor<float, 4> q({1, 1, queries, 1}), k({1, 1, keys, 1});
    Tensor<float, 4> v({1, 1, keys, 1});
    for (Index j = 0; j < keys; ++j) v(0, 0, j, 0) = static_cast<float>(j + 1);
    const auto result = everything(q, k, v, mask);
    return attend::elements(result.lean_out);
}

using Means = std::vector<float>;

// Keys 1 2 | | 3 4 5: the documents' means are (1 + 2) / 2 and (3 + 4 + 5) / 3.
TEST(Documents, ByHand) {
    const Bounds cu{0, 2, 2, 5};
    EXPECT_EQ(means(5, 5, Documents{cu}), (Means{1.5f, 1.5f, 4, 4, 4}));
    EXPECT_EQ(means(5, 5, Documents{cu} & Causal{}), (Means{1, 1.5f, 3, 3.5f, 4}));
    EXPECT_EQ(means(5, 5, SlidingWindow{.left = 1, .right = 0} & Documents{cu}),
              (Means{1, 1.5f, 3, 3.5f, 4.5f}));
    // The counter-check: without documents the second one begins with 1.
    EXPECT_EQ(means(5, 5, Causal{}), (Means{1, 1.5f, 2, 2.5f, 3}));
}

TEST(Documents, WithEqualBoundsHaveOneCorner) {
    const Bounds cu{0, 2, 5};
    const Means causal{1, 1.5f, 3, 3.5f, 4};
    EXPECT_EQ(means(5, 5, Documents{cu} & Causal::top_left()), causal);
    EXPECT_EQ(means(5, 5, Documents{cu} & Causal::bottom_right()), causal);
    EXPECT_EQ(means(5, 5, Documents(cu, cu) & Causal{}), causal);
    EXPECT_EQ(means(5, 5, Documents{cu} & Causal::offset(1)), (Means{1.5f, 1.5f, 3.5f, 4, 4}));
}

// Query 1 before keys 1 2 3; queries 2 3 4 before keys 4 5; query 5 before no key; no query before
// key 6. At the bottom right, query 1 sees all three keys; of 2 3 4 the first sees none, the second
// key 4, the third both. At the top left, query 1 sees key 1, queries 2 3 4 see 4, 4 5, 4 5.
TEST(Documents, OfDifferentLengthsHaveCornersOfTheirOwn) {
    const Bounds queries{0, 1, 4, 5, 5}, keys{0, 3, 5, 5, 6};
    const Documents documents(queries, keys);
    EXPECT_EQ(means(5, 6, documents), (Means{2, 4.5f, 4.5f, 4.5f, 0}));
    EXPECT_EQ(means(5, 6, documents & Causal::bottom_right()), (Means{2, 0, 4, 4.5f, 0}));
    EXPECT_EQ(means(5, 6, Causal::top_left() & documents), (Means{1, 4, 4.5f, 4.5f, 0}));
    EXPECT_EQ(means(5, 6, documents & Causal::offset(1)), (Means{1.5f, 4.5f, 4.5f, 4.5f, 0}));
    const std::array<Index, 1> offsets{-1};
    EXPECT_EQ(means(5, 6, documents & Causal::offsets(offsets)), (Means{0, 0, 4, 4.5f, 0}));
    // The window takes the corner that the causal mask names.
    EXPECT_EQ(means(5, 6, documents & Causal::bottom_right() & SlidingWindow{.left = 1}),
              (Means{2.5f, 0, 4, 4.5f, 0}));
}

// Query 1 at the bottom right of keys 1 2 3 is at distance 2, 1, 0 of them; slope log 2 gives the
// weights 1/7, 2/7, 4/7. The queries of the second document are at distance 0, 1 and 1, 0.
TEST(Documents, GiveAlibiTheDistanceWithinThem) {
    const Bounds queries{0, 1, 3}, keys{0, 3, 5};
    const Tensor<float, 1> slope({1}, {std::log(2.0f)});
    const auto found =
        means(3, 5, Documents(queries, keys) & heed::Alibi{slope, Alignment::bottom_right()});
    const std::array expected{(1 + 4 + 12) / 7.0, (2 * 4 + 5) / 3.0, (4 + 2 * 5) / 3.0};
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(found[i], expected[i], 1e-6);
}

TEST(Documents, MayBeNoneOrOneOrEachPositionByItself) {
    EXPECT_EQ(means(0, 0, Documents{Bounds{0}}), Means{});
    EXPECT_EQ(means(0, 0, Documents{Bounds{0, 0, 0}}), Means{});
    EXPECT_EQ(means(3, 3, Documents{Bounds{0, 3}}), (Means{2, 2, 2}));
    EXPECT_EQ(means(3, 3, Documents{Bounds{0, 0, 3, 3, 3}}), (Means{2, 2, 2}));
    EXPECT_EQ(means(3, 3, Documents{Bounds{0, 1, 2, 3}}), (Means{1, 2, 3}));
    EXPECT_EQ(means(2, 0, Documents(Bounds{0, 1, 2}, Bounds{0, 0, 0})), (Means{0, 0}));
}

// The interval of a query is what lets whole tiles be skipped.
TEST(Documents, AreAnIntervalOfKeysForEachQuery) {
    const Bounds queries{0, 100, 100, 300}, keys{0, 7, 50, 1000};
    const AttentionShape s{1, 1, 1, 300, 1000, 1, 1};
    const auto rule = Documents(queries, keys).bind(s, {});
    for (const Index q : {0, 1, 99}) {
        EXPECT_EQ(rule.range({0, 0, q, 0}).begin, 0);
        EXPECT_EQ(rule.range({0, 0, q, 0}).end, 7);
    }
    for (const Index q : {100, 101, 299}) {
        EXPECT_EQ(rule.range({0, 0, q, 0}).begin, 50);
        EXPECT_EQ(rule.range({0, 0, q, 0}).end, 1000);
    }
}

/// Random documents as labels of each position: plain, and nothing of the library.
struct RandomDocuments {
    Bounds queries{0}, keys{0};
    std::vector<std::size_t> label_of_query, label_of_key;

    RandomDocuments(support::Random& random, Index q_len, Index kv_len) {
        const auto count = static_cast<std::size_t>(random.integer(1, 6));
        cut(random, count, q_len, queries, label_of_query);
        cut(random, count, kv_len, keys, label_of_key);
    }

    [[nodiscard]] bool same(Index q, Index k) const {
        return label_of_query[static_cast<std::size_t>(q)] ==
               label_of_key[static_cast<std::size_t>(k)];
    }

    /// Where query q stands on the key axis, counted from the end of its document.
    [[nodiscard]] Index position_from_end(Index q) const {
        const std::size_t label = label_of_query[static_cast<std::size_t>(q)];
        const auto after = [&](const std::vector<std::size_t>& labels) {
            return std::count_if(labels.begin(), labels.end(), [&](auto l) { return l <= label; });
        };
        return after(label_of_key) - (after(label_of_query) - q);
    }

  private:
    static void cut(support::Random& random, std::size_t count, Index length, Bounds& bounds,
                    std::vector<std::size_t>& labels) {
        for (std::size_t d = 1; d < count; ++d) bounds.push_back(random.integer(0, length));
        bounds.push_back(length);
        std::sort(bounds.begin(), bounds.end());
        for (std::size_t d = 0; d < count; ++d)
            labels.insert(labels.end(), static_cast<std::size_t>(bounds[d + 1] - bounds[d]), d);
    }
};

TEST(Documents, AgreeWithTheOracle) {
    for_random_cases(200, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomDocuments d(random, s.q_len, s.kv_len);
        attend::expect_oracle(
            s, in.q, in.k, in.v, Documents(d.queries, d.keys),
            {.visible = [&](Index, Index, Index q, Index k) { return d.same(q, k); }});
    });
}

TEST(Documents, AgreeWithTheOracleBesideAllThatIsRelativeToThem) {
    for_random_cases(200, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const RandomDocuments d(random, s.q_len, s.kv_len);
        const Index left = random.integer(0, 9), right = random.integer(-1, 3);
        const double cap = random.uniform(0.5, 4);
        Tensor<float, 1> slopes(s.heads);
        for (float& x : slopes.values()) x = static_cast<float>(random.uniform(0, 0.5));
        const auto p = [&](Index q) { return d.position_from_end(q); };
        const auto mask = heed::Alibi{slopes} & SlidingWindow{left, right} & heed::SoftCap{cap} &
                          Documents(d.queries, d.keys) & Causal::bottom_right();
        oracle::Rules rules;
        rules.softcap = cap;
        rules.modify = [&](double score, Index, Index h, Index q, Index k) {
            return score - static_cast<double>(slopes(h)) * static_cast<double>(std::abs(p(q) - k));
        };
        rules.visible = [&](Index, Index, Index q, Index k) {
            return d.same(q, k) && k <= p(q) && p(q) - k <= left &&
                   (right < 0 || k - p(q) <= right);
        };
        const double added = 0.5 * static_cast<double>(s.q_len + s.kv_len);
        attend::expect_oracle(s, in.q, in.k, in.v, mask, rules, added);
    });
}

// Each document computed by itself has the same queries, keys and corner.
// Bit for bit, wherever a document lies: tiles of queries and keys begin with it.
TEST(Documents, EqualEachDocumentByItself) {
    for_random_cases(100, [](support::Random& random, AttentionShape s) {
        if (random.chance(0.3)) s.q_len = random.integer(0, 500), s.kv_len = random.integer(0, 900);
        const Inputs<float> in(random, s);
        const RandomDocuments d(random, s.q_len, s.kv_len);
        for (const auto& causal : {Causal::top_left(), Causal::bottom_right(), Causal::offset(2)}) {
            const auto packed = heed::scaled_dot_product_attention(
                in.q, in.k, in.v, Documents(d.queries, d.keys) & causal);
            for (std::size_t n = 0; n + 1 < d.queries.size(); ++n) {
                const auto cut = [n](const auto& x, const Bounds& bounds) {
                    return heed::read(x).slice(2, bounds[n], bounds[n + 1] - bounds[n]);
                };
                const auto alone = heed::scaled_dot_product_attention(
                    cut(in.q, d.queries), cut(in.k, d.keys), cut(in.v, d.keys), causal);
                EXPECT_SAME(cut(packed, d.queries), alone);
            }
        }
    });
}

// What padding is for: a batch of sequences of unequal lengths, with the padding masked, has the
// bits of the same sequences one behind the other.
TEST(Documents, EqualAPaddedBatchOnItsLivePositions) {
    for_random_cases(60, [](support::Random& random, AttentionShape s) {
        s.batch = random.integer(1, 4);
        s.kv_len = s.q_len = random.integer(1, 400);
        const Inputs<float> in(random, s);
        Bounds lengths, cu{0};
        for (Index b = 0; b < s.batch; ++b) {
            lengths.push_back(random.integer(0, s.q_len));
            cu.push_back(cu.back() + lengths.back());
        }
        const auto padded =
            heed::scaled_dot_product_attention(in.q, in.k, in.v, heed::KeyLengths{lengths});
        const auto live = [&](const Tensor<float, 4>& x, Index b) {
            return heed::read(x).select(0, b).slice(1, 0, lengths[static_cast<std::size_t>(b)]);
        };
        const auto packed = [&](const Tensor<float, 4>& x) {
            Tensor<float, 4> all({Index{1}, x.shape()[1], cu.back(), x.shape()[3]});
            for (Index b = 0; b < s.batch; ++b) {
                const auto i = static_cast<std::size_t>(b);
                copy(live(x, b), all.view().select(0, 0).slice(1, cu[i], lengths[i]));
            }
            return all;
        };
        const auto found = heed::scaled_dot_product_attention(packed(in.q), packed(in.k),
                                                              packed(in.v), Documents{cu});
        EXPECT_SAME(found, packed(padded));
    });
}

TEST(Documents, PoisonInOthersChangesNoBit) {
    for_random_cases(100, [](support::Random& random, const AttentionShape& s) {
        Inputs<float> in(random, s);
        const RandomDocuments d(random, s.q_len, s.kv_len);
        const auto mask = Documents(d.queries, d.keys) & Causal::bottom_right();
        const auto clean = everything(in.q, in.k, in.v, mask);
        const auto kept =
            static_cast<std::size_t>(random.integer(0, static_cast<Index>(d.queries.size()) - 2));
        for (auto* tensor : {&in.k, &in.v}) {
            const heed::TensorView<float, 4> view = tensor->view();
            support::for_each_position(view.shape(), [&](const auto& at) {
                if (at[2] < d.keys[kept] || at[2] >= d.keys[kept + 1])
                    *support::address(view, at) =
                        random.pick({attend::not_a_number, infinity, -infinity, 1e38f});
            });
        }
        const auto poisoned = heed::scaled_dot_product_attention(in.q, in.k, in.v, mask);
        const auto own = [&](const Tensor<float, 4>& out) {
            return heed::read(out).slice(2, d.queries[kept], d.queries[kept + 1] - d.queries[kept]);
        };
        EXPECT_SAME(own(clean.lean_out), own(poisoned));
    });
}

TEST(Documents, GiveTheSameBitsForAllThreadsAndAllocateNothing) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{1, 4, 2, 300, 260, 32, 32};
    const Inputs<float> in(random, s);
    const Bounds queries{0, 3, 120, 120, 300}, keys{0, 140, 141, 200, 260};
    const auto mask = [&] { return Documents(queries, keys) & Causal::bottom_right(); };
    attend::expect_same_bits_for_all_threads(in, mask());
    attend::expect_no_allocation(in, mask);
}

TEST(Documents, AreRefusedWhenTheyDoNotFit) {
    const AttentionShape s{2, 2, 1, 4, 6, 3, 3};
    const Bounds q{0, 1, 4}, k{0, 5, 6};
    attend::expect_refused<ArgumentError>(s, Documents(Bounds{1, 1, 4}, k), "Documents",
                                          {"must begin with 0", "found 1"});
    attend::expect_refused<ArgumentError>(s, Documents(q, Bounds{-1, 5, 6}), "Documents",
                                          {"must begin with 0", "found -1"});
    attend::expect_refused<ArgumentError>(s, Documents(Bounds{0, 5, 4}, k), "Documents",
                                          {"must ascend", "found 5 before 4 at 2"});
    attend::expect_refused<ArgumentError>(s, Documents(q, Bounds{0, -2, 6}), "Documents",
                                          {"must ascend", "found 0 before -2 at 1"});
    attend::expect_refused<ArgumentError>(s, Documents(Bounds{0, 1, 3}, k), "Documents",
                                          {"must end with q_len", "found 3, q_len 4"});
    attend::expect_refused<ArgumentError>(s, Documents(q, Bounds{0, 5, 7}), "Documents",
                                          {"must end with kv_len", "found 7, kv_len 6"});
    attend::expect_refused<ShapeError>(s, Documents(q, Bounds{0, 6}), "Documents",
                                       {"equally many", "found 3 of queries, 2 of keys"});
    attend::expect_refused<ShapeError>(s, Documents(Bounds{}, Bounds{}), "Documents",
                                       {"one more than documents", "found 0 of queries, 0 of"});
    attend::expect_refused<ShapeError>(s, Documents(Bounds{}, k), "Documents",
                                       {"found 0 of queries, 3 of keys"});
    // One span cannot fit two lengths.
    attend::expect_refused<ArgumentError>(s, Documents{q}, "Documents",
                                          {"must end with kv_len", "found 4, kv_len 6"});
}

TEST(Documents, AreRefusedBeforeAnotherPartReadsThem) {
    const AttentionShape s{1, 2, 1, 4, 6, 3, 3};
    attend::expect_refused<ShapeError>(
        s, Causal::bottom_right() & Documents(Bounds{0, 4}, Bounds{0, 2, 6}), "Documents",
        {"found 2 of queries, 3 of keys"});
    attend::expect_refused<ArgumentError>(
        s, SlidingWindow{1, 1} & Documents(Bounds{0, 7, 4}, Bounds{0, 2, 6}), "Documents",
        {"must ascend", "found 7 before 4"});
}

// Lengths that are equal in sum and not in each document have two corners.
TEST(Documents, OfDifferentLengthsNeedANamedCorner) {
    const AttentionShape s{1, 1, 1, 5, 5, 3, 3};
    const Bounds q{0, 1, 5}, k{0, 3, 5};
    attend::expect_refused<ArgumentError>(
        s, Causal{} & Documents(q, k), "Causal",
        {"the alignment must be named", "found q_len 1, kv_len 3 in a document"});
    attend::expect_refused<ArgumentError>(s, Documents(q, k) & SlidingWindow{1, 0}, "SlidingWindow",
                                          {"the alignment must be named"});
}

}  // namespace
