// When tiles of queries pass over the keys together, do they stay as apart as if each went alone?
// Keys that are far away, or widened for all tiles of a group at once; judged by single queries,
// whose group is but a tile.

#include <gtest/gtest.h>

#include <cmath>

#include "attention/attend.hpp"
#include "attention/part_checks.hpp"
#include "heed/attention/score.hpp"

namespace {

using attend::Inputs;
using heed::AttentionShape;
using heed::Causal;
using heed::Index;
using heed::Tensor;

/// The keys of a head take more than a near cache; there are a few groups of queries.
constexpr AttentionShape far_keys{1, 2, 1, 500, 2100, 32, 33};
/// Queries of several tiles.
constexpr AttentionShape near_keys{1, 2, 1, 250, 300, 16, 17};

/// The output of the queries [first, first + count) computed by a call of their own.
template <class T, class MakeMask>
Tensor<T, 4> attend_slice(const Inputs<T>& in, Index first, Index count, const MakeMask& mask) {
    return heed::scaled_dot_product_attention(in.q.view().slice(2, first, count), in.k, in.v,
                                              mask(first));
}

/// All queries together have the bits that pairs of them have alone.
template <class T, class MakeMask>
void expect_alone_as_together(const Inputs<T>& in, const MakeMask& mask) {
    const Index queries = in.q.extent(2);
    const Tensor<T, 4> together = attend_slice(in, 0, queries, mask);
    for (Index first = 0; first + 2 <= queries; first += 29)
        EXPECT_SAME(together.view().slice(2, first, 2), attend_slice(in, first, 2, mask));
}

const auto no_mask = [](Index) { return heed::NoMask{}; };
const auto causal = [](Index first) { return Causal::offset(50 + first); };
const auto window = [](Index first) {
    return heed::SlidingWindow{40, 3, heed::Alignment::offset(20 + first)};
};

template <class T>
class Group : public testing::Test {};
using Storage = testing::Types<float, double, heed::half, heed::bfloat16>;
TYPED_TEST_SUITE(Group, Storage);

TYPED_TEST(Group, OfQueriesOverFarKeysChangesNoBit) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Inputs<TypeParam> in(random, far_keys);
    expect_alone_as_together(in, no_mask);
    expect_alone_as_together(in, causal);
    expect_alone_as_together(in, window);
}

TYPED_TEST(Group, HasTheSameBitsForAllThreads) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const Inputs<TypeParam> in(random, far_keys);
    attend::expect_same_bits_for_all_threads(in, heed::NoMask{});
    attend::expect_same_bits_for_all_threads(in, Causal::bottom_right());
}

// One tile of a group sees all of a key tile, the next a part: poison is cleared for one of them.
TYPED_TEST(Group, SharesKeysWithPoisonThatOnlySomeQueriesSee) {
    using T = TypeParam;
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (const AttentionShape& shape : {near_keys, far_keys}) {
        const Inputs<T> clean(random, shape);
        for (const float poison : {attend::not_a_number, attend::infinity, -attend::infinity}) {
            Inputs<T> in = clean;
            const Index key = 200, feature = 5;
            in.v(0, 0, key, feature) = static_cast<T>(poison);
            // Query i sees the key from i = 150 on.
            const Tensor<T, 4> good = attend_slice(clean, 0, shape.q_len, causal);
            const Tensor<T, 4> bad = attend_slice(in, 0, shape.q_len, causal);
            for (Index h = 0; h < shape.heads; ++h)
                for (Index i = 0; i < shape.q_len; ++i)
                    for (Index c = 0; c < shape.value_dim; ++c) {
                        const auto actual = static_cast<float>(bad(0, h, i, c));
                        if (i >= 150 && c == feature)
                            EXPECT_TRUE(std::isnan(poison) ? std::isnan(actual) : actual == poison)
                                << "query " << i << ": " << actual;
                        else
                            EXPECT_EQ(actual, static_cast<float>(good(0, h, i, c)))
                                << "query " << i << ", feature " << c;
                    }
        }
    }
}

}  // namespace
