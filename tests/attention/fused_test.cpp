// What holds for the fused path alone: instruction sets, executors, tiles, memory.
#include "heed/attention/fused.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "heed/base/thread_pool.hpp"
#include "heed/heed.hpp"
#include "support/isas.hpp"
#include "support/threads.hpp"

namespace {

using heed::Index;
using heed::Isa;
using heed::Tensor;
using support::isas;
using support::WithIsa;

template <class T>
struct Inputs {
    Tensor<T, 4> q, k, v;

    Inputs(Index heads, Index q_len, Index kv_len, Index head_dim, Index value_dim)
        : q({Index{1}, heads, q_len, head_dim}),
          k({Index{1}, heads, kv_len, head_dim}),
          v({Index{1}, heads, kv_len, value_dim}) {
        heed::fill_normal(q.view(), 1);
        heed::fill_normal(k.view(), 2);
        heed::fill_normal(v.view(), 3);
    }
};

template <class T>
bool same_bits(const Tensor<T, 4>& a, const Tensor<T, 4>& b) {
    return a.shape() == b.shape() &&
           std::memcmp(a.data(), b.data(),
                       static_cast<std::size_t>(a.element_count()) * sizeof(T)) == 0;
}

/// The row-by-row path, which asking for weights selects.
template <class T, class Mask>
Tensor<T, 4> textbook(const Inputs<T>& in, const Mask& mask) {
    Tensor<T, 4> weights({in.q.extent(0), in.q.extent(1), in.q.extent(2), in.k.extent(2)});
    return heed::scaled_dot_product_attention(in.q, in.k, in.v, mask, {.weights = weights});
}

template <class T, class Mask>
void expect_fused_equals_textbook(const Inputs<T>& in, const Mask& mask) {
    const auto expected = textbook(in, mask);
    for (Isa isa : isas()) {
        const WithIsa forced(isa);
        const auto out = heed::scaled_dot_product_attention(in.q, in.k, in.v, mask);
        // Both sum in T; kv_len terms of size about 1 differ by their order and by exp.
        const double bound =
            8 * std::numeric_limits<T>::epsilon() * std::sqrt(double(in.k.extent(2)) + 1);
        EXPECT_TRUE(heed::all_close(out, expected, 0, bound))
            << heed::isa_name(isa) << ", q " << to_string(in.q.shape()) << ", k "
            << to_string(in.k.shape());
    }
}

TEST(Fused, LengthsAroundTilesOnEveryInstructionSet) {
    for (Index q_len : {1, 3, 4, 15, 16, 17, 31, 33, 47, 48, 49, 64, 65, 97})
        for (Index kv_len : {1, 7, 8, 9, 127, 128, 129, 257}) {
            const Inputs<float> in(1, q_len, kv_len, 20, 20);
            expect_fused_equals_textbook(in, heed::NoMask{});
            expect_fused_equals_textbook(in, heed::Causal::bottom_right());
        }
}

TEST(Fused, WidthsThatAreNoMultipleOfARegister) {
    for (Index head_dim : {1, 2, 15, 16, 17, 59, 64, 80, 96, 128, 256})
        for (Index value_dim : {1, 15, 33, 64}) {
            expect_fused_equals_textbook(Inputs<float>(1, 37, 140, head_dim, value_dim),
                                         heed::SlidingWindow{20, 30, heed::Alignment::top_left()});
            expect_fused_equals_textbook(Inputs<double>(1, 21, 70, head_dim, value_dim),
                                         heed::NoMask{});
        }
}

// Wide strided queries and narrow values: scratch rows for queries must not depend on value_dim.
TEST(Fused, StridedQueriesWiderThanValues) {
    Inputs<float> in(1, 48, 20, 200, 1);
    Tensor<float, 4> transposed({1, 1, 200, 48});
    heed::copy(in.q.view().transpose(2, 3), transposed.view());
    const auto strided = heed::scaled_dot_product_attention(
        heed::TensorView<const float, 4>(transposed).transpose(2, 3), in.k, in.v);
    EXPECT_TRUE(same_bits(strided, heed::scaled_dot_product_attention(in.q, in.k, in.v)));
}

// Museum B7 61 and 62: one result for every number of threads and every executor, also where the
// work is just enough to go parallel.
TEST(Museum, B7_61_SameBitsForEveryNumberOfThreads) {
    struct Backwards {
        int concurrency() const { return 2; }
        void parallel_for(Index count, heed::ParallelTask task) const {
            for (Index i = count; i-- > 0;) task(i, static_cast<int>(i % 2));
        }
    } backwards;
    for (Index q_len : {88, 89, 300}) {
        const Inputs<float> in(2, q_len, 89, 64, 64);
        const auto mask = heed::Causal::bottom_right();
        const heed::Dropout dropout{.probability = 0.2, .seed = 5};
        const auto expected = heed::scaled_dot_product_attention(
            in.q, in.k, in.v, mask, {.dropout = dropout, .executor = heed::serial});
        for (int threads = 1; threads <= 8; ++threads) {
            heed::ThreadPool pool(threads);
            for (int run = 0; run < 5; ++run)
                EXPECT_TRUE(same_bits(
                    expected, heed::scaled_dot_product_attention(
                                  in.q, in.k, in.v, mask, {.dropout = dropout, .executor = pool})))
                    << threads << " threads";
        }
        EXPECT_TRUE(same_bits(
            expected, heed::scaled_dot_product_attention(
                          in.q, in.k, in.v, mask, {.dropout = dropout, .executor = backwards})));
    }
}

TEST(Fused, TheProcessExecutorServesCallsThatNameNone) {
    const Inputs<float> in(4, 200, 200, 32, 32);
    const auto expected = heed::scaled_dot_product_attention(in.q, in.k, in.v);
    const support::WithThreads several(3);
    const auto parallel = heed::scaled_dot_product_attention(in.q, in.k, in.v);
    EXPECT_TRUE(same_bits(expected, parallel));
}

TEST(Fused, AnExceptionOfAScoreFunctionReachesTheCaller) {
    const auto thrower = [](float score, heed::ScoreIndex at) {
        if (at.q == 150 && at.k == 3) throw std::runtime_error("from a score function");
        return score;
    };
    const Inputs<float> in(2, 200, 200, 32, 32);
    heed::ThreadPool pool(2);
    EXPECT_THROW(
        (void)heed::scaled_dot_product_attention(in.q, in.k, in.v, thrower, {.executor = pool}),
        std::runtime_error);
    EXPECT_NO_THROW((void)heed::scaled_dot_product_attention(in.q, in.k, in.v, heed::NoMask{},
                                                             {.executor = pool}));
}

// The steps of the online softmax are tied to positions, so a sequence may be cut at will.
TEST(Fused, TokenByTokenEqualsOneShotBitForBit) {
    const Index length = 300;
    const Inputs<float> in(2, length, length, 24, 24);
    for (Isa isa : isas()) {
        const WithIsa forced(isa);
        const auto whole = heed::scaled_dot_product_attention(in.q, in.k, in.v, heed::Causal{});
        Tensor<float, 4> pieces(whole.shape());
        for (Index begin = 0, count; begin < length; begin += count) {
            count = std::min<Index>(begin % 5 == 0 ? 1 : begin % 37 + 2, length - begin);
            heed::scaled_dot_product_attention(
                in.q.view().slice(2, begin, count), in.k.view().slice(2, 0, begin + count),
                in.v.view().slice(2, 0, begin + count), pieces.view().slice(2, begin, count),
                heed::Causal::bottom_right());
        }
        EXPECT_TRUE(same_bits(whole, pieces)) << heed::isa_name(isa);
    }
}

// A maximum that lags, rises by much at once, or never comes: all against the textbook.
TEST(Fused, RisingFallingAndHugeScores) {
    for (const double step : {0.02, -0.02, 0.5, -0.5, 40.0, -40.0}) {
        Inputs<float> in(1, 50, 700, 1, 3);
        heed::fill(in.q.view(), 1.0f);
        for (Index j = 0; j < 700; ++j) in.k(0, 0, j, 0) = static_cast<float>(step * double(j));
        expect_fused_equals_textbook(in, heed::NoMask{});
        expect_fused_equals_textbook(in, heed::Causal::top_left());
    }
}

TEST(Fused, WorkspaceDoesNotGrowWithTheLengths) {
    const auto bytes = [](Index length) {
        return heed::attention_workspace_bytes<float>({1, 8, 8, length, length, 64, 64}, false, 1);
    };
    EXPECT_EQ(bytes(1024), bytes(1024 * 1024));
    EXPECT_LT(bytes(1024), 300u * 1024u);
}

TEST(Fused, LongSequencesTakeNoQuadraticMemory) {
    // The weights would be 64 GiB.
    const Index length = 131072;
    const Inputs<float> in(1, length, length, 1, 1);
    const auto out = heed::scaled_dot_product_attention(
        in.q, in.k, in.v, heed::Causal{} & heed::SlidingWindow{.left = 16});
    for (Index i : {Index{0}, Index{20}, length - 1}) {
        double sum = 0, value = 0;
        for (Index j = std::max<Index>(0, i - 16); j <= i; ++j) {
            const double weight = std::exp(double(in.q(0, 0, i, 0)) * double(in.k(0, 0, j, 0)));
            sum += weight;
            value += weight * double(in.v(0, 0, j, 0));
        }
        EXPECT_NEAR(out(0, 0, i, 0), value / sum, 1e-5) << i;
    }
}

// A schedule reads no more of a plan.
struct HeadsAlone {
    heed::AttentionShape shape;
    float scale;
    heed::TensorView<const float, 4> k, v;
};

using heed::detail::WorkItem;

std::array<Index, 5> fields_of(const WorkItem& item) {
    return {item.b, item.h, item.sequence, item.begin, item.end};
}
bool are_of_one_head(const WorkItem& a, const WorkItem& b) {
    return a.b == b.b && a.h == b.h;
}

/// Whoever takes a share of the items asks for all keys of the next head in it, a part with each
/// item of the one before.
void expect_parts_of_the_next_head(const heed::detail::Schedule& schedule, Index worker,
                                   Index workers) {
    const heed::detail::Shares shares{schedule.count(), workers};
    std::vector<Index> taken;
    for (Index i = shares.begin(worker); i < shares.begin(worker + 1); ++i) taken.push_back(i);
    for (std::size_t n = 0; n < taken.size(); ++n) {
        const WorkItem item = schedule[taken[n]];
        const heed::detail::Later later = schedule.later(taken[n], workers);
        EXPECT_EQ(later.is_unprepared, n == 0);
        ASSERT_EQ(later.next.is_empty(), n + 1 == taken.size());
        if (!later.next.is_empty()) {
            EXPECT_EQ(fields_of(later.next), fields_of(schedule[taken[n + 1]]));
        }

        std::size_t begin = n, end = n;
        while (begin > 0 && are_of_one_head(schedule[taken[begin - 1]], item)) --begin;
        while (end < taken.size() && are_of_one_head(schedule[taken[end]], item)) ++end;
        EXPECT_EQ(later.part, static_cast<Index>(n - begin));
        EXPECT_EQ(later.parts, static_cast<Index>(end - begin));
        ASSERT_EQ(later.elsewhere.is_empty(), end == taken.size());
        if (!later.elsewhere.is_empty()) {
            EXPECT_EQ(fields_of(later.elsewhere), fields_of(schedule[taken[end]]));
        }
    }
}

TEST(Schedule, PreparesTheNextHeadInParts) {
    for (Index q_len : {1, 48, 100, 500}) {
        const Tensor<float, 4> keys({2, 3, 200, 16});
        const HeadsAlone plan{{2, 3, 3, q_len, 200, 16, 16}, 1.0F, keys, keys};
        const int lanes = heed::detail::tile_kernels<float>().lanes;
        const heed::detail::QueryTiling tiling(q_len, {}, lanes);
        for (int workers : {1, 2, 3, 5, 100}) {
            SCOPED_TRACE(testing::Message() << q_len << " queries, " << workers << " workers");
            const heed::detail::Schedule schedule(plan, tiling, lanes, workers);
            for (Index worker = 0; worker < workers; ++worker)
                expect_parts_of_the_next_head(schedule, worker, workers);
        }
    }
}

TEST(KeyRange, IsAllOfItsShares) {
    const heed::detail::KeyRange range{3, 20};
    for (Index all : {1, 2, 5, 17, 40}) {
        Index end = range.begin;
        for (Index i = 0; i < all; ++i) {
            const heed::detail::KeyRange share = range.shares(i, i + 1, all);
            EXPECT_EQ(share.begin, end);
            EXPECT_NEAR(static_cast<double>(share.end - share.begin),
                        17.0 / static_cast<double>(all), 1.0);
            end = share.end;
        }
        EXPECT_EQ(end, range.end);
    }
}

}  // namespace
