// Which row of a relative position table does a pair of positions read? T5's buckets and Swin's
// windows by hand, by published tables, and against the oracle with indices counted in loops.
#include "heed/attention/relative_bias.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "attention/attend.hpp"
#include "attention/judge.hpp"
#include "attention/part_checks.hpp"
#include "attention/random_case.hpp"

namespace {

using attend::everything;
using attend::for_random_cases;
using attend::infinity;
using attend::Inputs;
using heed::Alignment;
using heed::ArgumentError;
using heed::AttentionShape;
using heed::Causal;
using heed::Index;
using heed::Shape;
using heed::ShapeError;
using heed::SwinBias;
using heed::T5Bias;
using heed::Tensor;
using heed::TensorView;

/// A table of one head that holds the number of each row.
Tensor<float, 2> numbered(Index rows) {
    Tensor<float, 2> table({rows, 1});
    for (Index r = 0; r < rows; ++r) table(r, 0) = static_cast<float>(r);
    return table;
}

/// The rows that the bias reads for queries x keys, as the final scores of queries of zeros.
template <class Bias>
Tensor<float, 4> rows_read(Index queries, Index keys, const Bias& bias) {
    const Tensor<float, 4> q({1, 1, queries, 1}), k({1, 1, keys, 1}), v({1, 1, keys, 1});
    return everything(q, k, v, bias).scores;
}

/// The bucket of each distance in [0, count) of a key before the query.
std::vector<Index> buckets(Index num_buckets, heed::T5Distances distances, Index count) {
    const Tensor<float, 2> table = numbered(num_buckets);
    // One query at position count - 1, so that key j is at distance count - 1 - j.
    const auto rows = rows_read(1, count, T5Bias{table, distances, Alignment::offset(count - 1)});
    std::vector<Index> result;
    for (Index d = 0; d < count; ++d)
        result.push_back(static_cast<Index>(rows(0, 0, 0, count - 1 - d)));
    return result;
}

/// The first distance of each bucket.
std::vector<Index> first_distances(const std::vector<Index>& bucket_of) {
    std::vector<Index> result;
    for (std::size_t d = 0; d < bucket_of.size(); ++d)
        if (d == 0 || bucket_of[d] != bucket_of[d - 1]) result.push_back(static_cast<Index>(d));
    return result;
}

// 8 buckets for both directions: 4 for each, 2 of them for the distances 0 and 1, and
// 2 + floor(2 log(d / 2) / log(8 / 2)) = 2 + floor(log2(d / 2)) for d in 2 ... 7: 2 2 3 3 3 3, then
// 3. A key after the query has 4 more. Query 2 of 5 and 13 keys:
TEST(T5Bias, ByHand) {
    const Tensor<float, 2> table = numbered(8);
    const auto rows = rows_read(5, 13, T5Bias{table, {.max_distance = 8}, Alignment::top_left()});
    const std::vector<float> expected{2, 1, 0, 5, 6, 6, 7, 7, 7, 7, 7, 7, 7};
    for (std::size_t j = 0; j < expected.size(); ++j)
        EXPECT_EQ(rows(0, 0, 2, static_cast<Index>(j)), expected[j]) << j;
}

// T5's own encoder: 32 buckets up to 128, so 16 of a direction and 8 of one distance each. Bucket
// 8 + k begins where 8 log(d / 8) / log(128 / 8) = 2 log2(d / 8) reaches k: at d = 8 sqrt(2)^k =
// 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5, rounded up.
TEST(T5Bias, BucketsOfThePublishedEncoder) {
    const std::vector<Index> bucket = buckets(32, {}, 300);
    EXPECT_EQ(first_distances(bucket),
              (std::vector<Index>{0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91}));
    EXPECT_EQ(bucket.back(), 15);
}

// T5's own decoder: 16 buckets of one distance, and 16 + k from d = 16 * 8^(k / 16) on, rounded up.
TEST(T5Bias, BucketsOfThePublishedDecoder) {
    const std::vector<Index> bucket = buckets(32, {.bidirectional = false}, 300);
    EXPECT_EQ(
        first_distances(bucket),
        (std::vector<Index>{0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
                            16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113}));
    EXPECT_EQ(bucket.back(), 31);
}

// Hugging Face's T5Attention._relative_position_bucket, run in PyTorch 2 on CPU in float, printed
// the first distances for other tables: odd, small, far.
TEST(T5Bias, BucketsOfOtherTablesAsHuggingFaceHasThem) {
    EXPECT_EQ(
        first_distances(buckets(33, {.bidirectional = false, .max_distance = 100}, 200)),
        (std::vector<Index>{0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16,
                            18, 20, 23, 25, 28, 31, 35, 38, 43, 48, 53, 59, 65, 73, 81, 90}));
    EXPECT_EQ(first_distances(buckets(10, {.max_distance = 1000}, 1200)),
              (std::vector<Index>{0, 1, 2, 16, 126}));
    EXPECT_EQ(first_distances(buckets(64, {.max_distance = 800}, 1000)),
              (std::vector<Index>{0,  1,  2,   3,   4,   5,   6,   7,   8,   9,  10,
                                  11, 12, 13,  14,  15,  16,  21,  27,  34,  43, 55,
                                  70, 89, 114, 145, 185, 236, 301, 385, 491, 627}));
}

// Keys after the query of a decoder share the bucket of distance 0.
TEST(T5Bias, OfADecoderDoesNotLookAhead) {
    const Tensor<float, 2> table = numbered(4);
    const auto rows =
        rows_read(2, 4, T5Bias{table, {.bidirectional = false}, Alignment::top_left()});
    EXPECT_EQ(attend::elements(rows), (std::vector<float>{0, 0, 0, 0, 1, 0, 0, 0}));
}

// With a table of 4 rows, distances 0 and beyond are told apart: 0 | 1, and after: 2 never, 3.
TEST(T5Bias, FarPositionsAreTheLastBucket) {
    const Tensor<float, 2> table = numbered(4);
    const Index far = heed::detail::farthest_position;
    for (const Index offset : {far, -far}) {
        const auto rows = rows_read(1, 2, T5Bias{table, {}, Alignment::offset(offset)});
        EXPECT_EQ(rows(0, 0, 0, 1), offset > 0 ? 1.0f : 3.0f);
    }
    // One before a max_distance so large that the logarithm cannot tell the two apart.
    const Index most = Index{1} << 50;
    const auto rows =
        rows_read(1, 1, T5Bias{table, {.max_distance = most}, Alignment::offset(most - 1)});
    EXPECT_EQ(rows(0, 0, 0, 0), 1.0f);
}

TEST(T5Bias, AgreesWithTheOracle) {
    for_random_cases(150, [](support::Random& random, const AttentionShape& s) {
        const Inputs<float> in(random, s);
        const bool both = random.chance(0.5);
        const Index rows = random.integer(both ? 4 : 2, 40);
        const Index most = random.integer(rows, 150), offset = random.integer(-s.q_len, s.kv_len);
        const auto table = attend::normals<float, 2>(random, {rows, s.heads});
        const double cap = random.uniform(0.5, 4);
        const Index left = random.integer(0, 100);
        oracle::Rules rules;
        rules.softcap = cap;
        rules.modify = [&](double score, Index, Index h, Index q, Index k) {
            return score + static_cast<double>(
                               table(oracle::t5_bucket(k - q - offset, rows, both, most), h));
        };
        rules.visible = [&](Index, Index, Index q, Index k) {
            return k <= q + offset && k >= q + offset - left;
        };
        attend::expect_oracle(s, in.q, in.k, in.v,
                              Causal::offset(offset) & heed::SlidingWindow{left, 0} &
                                  heed::SoftCap{cap} &
                                  T5Bias{table, {.bidirectional = both, .max_distance = most}},
                              rules, support::max_magnitude(table.values()));
    });
}

// Query 1 stands before keys 1 2 3 at its bottom right: distances 2 1 0 within the document.
TEST(T5Bias, RefersToTheDocument) {
    const Tensor<float, 2> table = numbered(8);
    const std::vector<Index> queries{0, 1, 3}, keys{0, 3, 5};
    const auto rows = rows_read(3, 5,
                                heed::Documents(queries, keys) & Causal::bottom_right() &
                                    T5Bias{table, {.bidirectional = false}});
    EXPECT_EQ(attend::elements(rows),
              (std::vector<float>{2, 1, 0, -infinity, -infinity,                  //
                                  -infinity, -infinity, -infinity, 0, -infinity,  //
                                  -infinity, -infinity, -infinity, 1, 0}));
}

TEST(T5Bias, NeedsANamedCornerWhereLengthsDiffer) {
    const Tensor<float, 2> table = numbered(8);
    attend::expect_refused<ArgumentError>({1, 1, 1, 3, 5, 2, 2}, T5Bias{table}, "T5Bias",
                                          {"the alignment must be named", "q_len 3, kv_len 5"});
}

TEST(T5Bias, IsRefusedWhenItDoesNotFit) {
    const AttentionShape s{2, 4, 2, 5, 5, 3, 3};
    const auto table = [](Index rows, Index heads) { return Tensor<float, 2>({rows, heads}); };
    attend::expect_refused<ShapeError>(s, T5Bias{table(32, 3)}, "T5Bias",
                                       {"the table must have shape [32, 4]", "found [32, 3]"});
    attend::expect_refused<ShapeError>(s, T5Bias{table(4, 32)}, "T5Bias", {"found [4, 32]"});
    attend::expect_refused<ShapeError>(s, T5Bias{table(3, 4)}, "T5Bias",
                                       {"at least 4 buckets", "found 3"});
    attend::expect_refused<ShapeError>(s, T5Bias{table(0, 4)}, "T5Bias", {"found 0"});
    attend::expect_refused<ShapeError>(s, T5Bias{table(1, 4), {.bidirectional = false}}, "T5Bias",
                                       {"at least 2 buckets", "found 1"});
    for (const Index distance : {8, 0, -1})
        attend::expect_refused<ArgumentError>(
            s, T5Bias{table(32, 4), {.max_distance = distance}}, "T5Bias",
            {"larger than the 8 distances", "found " + std::to_string(distance)});
    attend::expect_refused<ArgumentError>(
        s, T5Bias{table(32, 4), {.bidirectional = false, .max_distance = 16}}, "T5Bias",
        {"larger than the 16 distances", "found 16"});
    const TensorView<const float, 2> null(nullptr, {32, 4});
    attend::expect_refused<ArgumentError>(s, T5Bias{null}, "scaled_dot_product_attention",
                                          {"masks and biases must point at memory", "null"});
}

// The index matrix of a 2 x 2 window, as in the authors' code: rows and columns of query minus key,
// from -1 to 1 each, counted row by row. Tokens (0,0) (0,1) (1,0) (1,1): query (0,0) and key (0,1)
// differ by (0, -1), row 1 * 3 + 0 = 3.
TEST(SwinBias, ByHand) {
    const Tensor<float, 2> table = numbered(9);
    EXPECT_EQ(attend::elements(rows_read(4, 4, SwinBias{table, 2})),
              (std::vector<float>{4, 3, 1, 0, 5, 4, 2, 1, 7, 6, 4, 3, 8, 7, 5, 4}));
}

// One row of three tokens has 5 differences; one column too.
TEST(SwinBias, OfALineIsTheDifference) {
    const Tensor<float, 2> table = numbered(5);
    const std::vector<float> expected{2, 1, 0, 3, 2, 1, 4, 3, 2};
    EXPECT_EQ(attend::elements(rows_read(3, 3, SwinBias(table, 1, 3))), expected);
    EXPECT_EQ(attend::elements(rows_read(3, 3, SwinBias(table, 3, 1))), expected);
    EXPECT_EQ(attend::elements(rows_read(1, 1, SwinBias(numbered(1), 1))), std::vector<float>{0});
}

TEST(SwinBias, AgreesWithTheOracle) {
    for_random_cases(150, [](support::Random& random, AttentionShape s) {
        const Index height = random.integer(1, 8), width = random.integer(1, 8);
        s.q_len = s.kv_len = height * width;
        SCOPED_TRACE(std::to_string(height) + " x " + std::to_string(width));
        const Inputs<float> in(random, s);
        const auto table =
            attend::normals<float, 2>(random, {(2 * height - 1) * (2 * width - 1), s.heads});
        const auto masked = attend::flags<4>(random, {s.batch, 1, s.q_len, s.kv_len}, 0.8);
        const double cap = random.uniform(0.5, 4);
        oracle::Rules rules;
        rules.softcap = cap;
        rules.modify = [&](double score, Index, Index h, Index q, Index k) {
            const Index rows = q / width - k / width + height - 1;
            const Index columns = q % width - k % width + width - 1;
            return score + static_cast<double>(table(rows * (2 * width - 1) + columns, h));
        };
        rules.visible = [&](Index b, Index, Index q, Index k) {
            return masked(b, 0, q, k) && k <= q;
        };
        attend::expect_oracle(s, in.q, in.k, in.v,
                              SwinBias(table, height, width) & heed::AttendWhere{masked} &
                                  heed::SoftCap{cap} & Causal{},
                              rules, support::max_magnitude(table.values()));
    });
}

TEST(SwinBias, IsRefusedWhenItDoesNotFit) {
    const AttentionShape s{2, 4, 2, 6, 6, 3, 3};
    const Tensor<float, 2> table({15, 4});
    attend::expect_refused<ShapeError>(
        s, SwinBias(table, 2, 2), "SwinBias",
        {"must be the tokens of a window", "q_len 6, kv_len 6, window 2 x 2"});
    attend::expect_refused<ShapeError>({2, 4, 2, 6, 5, 3, 3}, SwinBias(table, 2, 3), "SwinBias",
                                       {"q_len 6, kv_len 5, window 2 x 3"});
    attend::expect_refused<ShapeError>({2, 4, 2, 5, 6, 3, 3}, SwinBias(table, 2, 3), "SwinBias",
                                       {"q_len 5, kv_len 6, window 2 x 3"});
    attend::expect_refused<ShapeError>(s, SwinBias(table, 1, 6), "SwinBias",
                                       {"the table must have shape [11, 4]", "found [15, 4]"});
    attend::expect_refused<ShapeError>(s, SwinBias(Tensor<float, 2>({15, 2}), 2, 3), "SwinBias",
                                       {"the table must have shape [15, 4]", "found [15, 2]"});
    for (const auto& [height, width] : {std::pair{0, 6}, std::pair{6, 0}, std::pair{-2, -3}})
        attend::expect_refused<ArgumentError>(
            s, SwinBias(table, height, width), "SwinBias",
            {"a window must have a row and a column",
             "found " + std::to_string(height) + " x " + std::to_string(width)});
    const Index huge = Index{1} << 62;
    attend::expect_refused<ShapeError>(s, SwinBias(table, huge, huge), "SwinBias",
                                       {"must fit into 63 bits"});
    const TensorView<const float, 2> null(nullptr, {15, 4});
    attend::expect_refused<ArgumentError>(s, SwinBias(null, 2, 3), "scaled_dot_product_attention",
                                          {"masks and biases must point at memory", "null"});
}

template <class T, class Stored>
void expect_tables_of_any_kind() {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 4, 2, 6, 6, 5, 3};
    const Inputs<T> in(random, s);
    const auto stored = attend::normals<Stored, 2>(random, {4, 15});
    Tensor<float, 2> dense({15, 4});
    for (Index r = 0; r < 15; ++r)
        for (Index h = 0; h < 4; ++h) dense(r, h) = static_cast<float>(stored(h, r));
    const auto strided = stored.view().transpose(0, 1);
    EXPECT_SAME(everything(in.q, in.k, in.v, T5Bias{strided}),
                everything(in.q, in.k, in.v, T5Bias{dense}));
    EXPECT_SAME(everything(in.q, in.k, in.v, SwinBias(strided, 2, 3)),
                everything(in.q, in.k, in.v, SwinBias(dense, 2, 3)));
}

TEST(RelativeBias, TablesMayBeStoredInAnyTypeAndWithAnyStrides) {
    expect_tables_of_any_kind<float, heed::half>();
    expect_tables_of_any_kind<heed::half, float>();
    expect_tables_of_any_kind<double, heed::bfloat16>();
}

TEST(RelativeBias, MinusInfinityHidesWhateverTheScoreIs) {
    Tensor<float, 2> t5 = numbered(8), swin = numbered(9);
    t5(1, 0) = -infinity;    // the key before
    swin(5, 0) = -infinity;  // the key to the left
    for (const float poison : {attend::not_a_number, infinity, -infinity}) {
        support::Random random;
        Inputs<float> in(random, {1, 1, 1, 4, 4, 3, 3});
        const auto run = [&](const auto& mask) { return everything(in.q, in.k, in.v, mask); };
        // Query 1 is the only one that sees key 0 beside itself, were it not for the table.
        const auto only = heed::SlidingWindow{1, 0};
        const auto clean = run(only & T5Bias{t5}), clean_swin = run(only & SwinBias{swin, 2});
        for (auto* tensor : {&in.k, &in.v})
            for (Index c = 0; c < 3; ++c) (*tensor)(0, 0, 0, c) = poison;
        const auto same_row = [](const auto& a, const auto& b) {
            return attend::same_bits(a.lean_out.view().slice(2, 1, 1),
                                     b.lean_out.view().slice(2, 1, 1)) &&
                   attend::same_bits(a.out.view().slice(2, 1, 1), b.out.view().slice(2, 1, 1));
        };
        EXPECT_TRUE(same_row(clean, run(only & T5Bias{t5}))) << poison;
        EXPECT_TRUE(same_row(clean_swin, run(only & SwinBias{swin, 2}))) << poison;
    }
}

TEST(RelativeBias, GivesTheSameBitsForAllThreadsAndAllocatesNothing) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    const AttentionShape s{2, 4, 2, 196, 196, 32, 32};
    const Inputs<float> in(random, s);
    const auto t5 = attend::normals<float, 2>(random, {32, 4});
    const auto swin = attend::normals<float, 2>(random, {27 * 27, 4});
    const auto mask = [&] { return T5Bias{t5} & SwinBias{swin, 14} & Causal{}; };
    attend::expect_same_bits_for_all_threads(in, mask());
    attend::expect_no_allocation(in, mask);
}

}  // namespace
