// Attention rollout of examples/04_vit by hand and by its laws, and the picture of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "04_vit/rollout.hpp"
#include "heed/io/colour_map.hpp"
#include "heed/ops/softmax.hpp"
#include "support/random.hpp"
#include "tensor/errors.hpp"

namespace vit {
namespace {

using heed::Shape;
using heed::Tensor;
using support::Random;

/// All of the answer comes from one token.
Tensor<double, 1> only(Index tokens, Index token) {
    Tensor<double, 1> from(tokens);
    from(token) = 1.0;
    return from;
}

Tensor<double, 3> random_attention(Random& random, Index depth, Index tokens) {
    Tensor<double, 3> attention({depth, tokens, tokens});
    for (double& score : attention.values()) score = 2.0 * random.normal();
    for (Index l = 0; l < depth; ++l)
        for (Index i = 0; i < tokens; ++i)
            heed::softmax(std::span(attention.view().row(l, i), static_cast<std::size_t>(tokens)));
    return attention;
}

TEST(VitRollout, ByHand) {
    // Token 0 looks half at itself, half at token 1 in the last block, which looks at token 2 alone
    // in the first; the residual connections halve what is looked at.
    const Tensor<float, 3> attention({2, 3, 3}, {1, 0, 0, 0, 0, 1, 0, 0, 1,  // first block
                                                 .5f, .5f, 0, 0, 1, 0, 0, 0, 1});
    // Last block: .75 stay at 0, .25 go to 1. First block: all of 0 stays, half of 1 goes to 2.
    const auto share = attention_rollout<float>(attention, only(3, 0));
    EXPECT_EQ(share(0), 0.75);
    EXPECT_EQ(share(1), 0.125);
    EXPECT_EQ(share(2), 0.125);
}

TEST(VitRollout, OrderOfTheBlocksMatters) {
    const Tensor<float, 3> swapped({2, 3, 3}, {.5f, .5f, 0, 0, 1, 0, 0, 0, 1,  //
                                               1, 0, 0, 0, 0, 1, 0, 0, 1});
    const auto share = attention_rollout<float>(swapped, only(3, 0));
    EXPECT_EQ(share(0), 0.75);
    EXPECT_EQ(share(1), 0.25);
    EXPECT_EQ(share(2), 0.0);
}

TEST(VitRollout, RowsOfWeightsAreDividedByTheirSums) {
    // As dropout would leave them: [2, 2] counts as [.4, .4] beside a residual of .2.
    const Tensor<double, 3> attention({1, 2, 2}, {2, 2, 0, 1});
    const auto share = attention_rollout<double>(attention, only(2, 0));
    EXPECT_DOUBLE_EQ(share(0), 0.6);
    EXPECT_DOUBLE_EQ(share(1), 0.4);
}

TEST(VitRollout, WithoutBlocksNothingMoves) {
    const auto share = attention_rollout<float>(Tensor<float, 3>({0, 4, 4}), only(4, 2));
    EXPECT_EQ(share(2), 1.0);
    EXPECT_EQ(share(0), 0.0);
}

TEST(VitRollout, SharesAreNotNegativeAndSumToOne) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const auto& [depth, tokens] : {std::pair{1, 1}, {1, 7}, {5, 10}, {12, 50}}) {
        const Tensor<double, 3> attention = random_attention(random, depth, tokens);
        for (Index token = 0; token < tokens; ++token) {
            const auto share = attention_rollout<double>(attention, only(tokens, token));
            const auto values = share.values();
            EXPECT_GE(*std::ranges::min_element(values), 0.0);
            // Each block rounds some sums of `tokens` terms that are 1 together.
            EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0), 1.0,
                        depth * tokens * 0x1p-52);
        }
    }
}

// A row times the matrices is the row of their product, which the definition asks for.
TEST(VitRollout, IsARowOfTheProductOfMatrices) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Index depth = 4, tokens = 6;
    const Tensor<double, 3> attention = random_attention(random, depth, tokens);
    using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    Matrix product = Matrix::Identity(tokens, tokens);
    for (Index l = 0; l < depth; ++l) {
        const Matrix mixed = 0.5 * attention.matrix(l) + 0.5 * Matrix::Identity(tokens, tokens);
        product = (mixed.array().colwise() / mixed.rowwise().sum().array()).matrix() * product;
    }
    Tensor<double, 1> mean(tokens);
    heed::fill(mean.view(), 1.0 / static_cast<double>(tokens));
    const auto of_mean = attention_rollout<double>(attention, mean);
    for (Index j = 0; j < tokens; ++j) {
        for (Index i = 0; i < tokens; ++i)
            EXPECT_NEAR(attention_rollout<double>(attention, only(tokens, i))(j), product(i, j),
                        1e-15);
        EXPECT_NEAR(of_mean(j), product.col(j).mean(), 1e-15);
    }
}

TEST(VitRollout, RefusesAttentionOverOtherTokens) {
    const auto roll = [](const Shape<3>& shape) {
        return [shape] { (void)attention_rollout<float>(Tensor<float, 3>(shape), only(3, 0)); };
    };
    EXPECT_NE(support::error_text<heed::ShapeError>(roll({2, 3, 4})).find("[2, 3, 4]"),
              std::string::npos);
    EXPECT_THROW(roll({2, 4, 3})(), heed::ShapeError);
    EXPECT_THROW(roll({2, 4, 4})(), heed::ShapeError);
}

// --- The picture

Image plain(Index height, Index width, std::uint8_t value) {
    Image image({height, width, Index{3}});
    heed::fill(image.view(), value);
    return image;
}

heed::Rgb pixel(const Image& image, Index y, Index x) {
    return {image(y, x, 0), image(y, x, 1), image(y, x, 2)};
}

TEST(VitDrawOver, ThePictureIsAtTheLeftAndColoursAtTheRight) {
    const Tensor<double, 2> shares({2, 2}, {0.1, 0.2, 0.3, 0.9});
    Image picture = plain(64, 64, 0);
    picture(10, 20, 0) = 200;
    const Image drawn = draw_over(picture, shares);
    EXPECT_EQ(drawn.shape(), Shape<3>(64, 136, 3));
    EXPECT_EQ(pixel(drawn, 10, 20), (heed::Rgb{200, 0, 0}));
    EXPECT_EQ(pixel(drawn, 5, 68), (heed::Rgb{255, 255, 255}));  // between the two
    // At the corners the smallest and the largest share have the first and the last colour.
    const auto tinted = [](double place) {
        const heed::Rgb colour = heed::colour_of(place);
        const auto part = [](int channel) { return static_cast<int>(std::lround(0.6 * channel)); };
        return std::vector<int>{part(colour.red), part(colour.green), part(colour.blue)};
    };
    const auto at = [&](Index y, Index x) {
        return std::vector<int>{drawn(y, x, 0), drawn(y, x, 1), drawn(y, x, 2)};
    };
    EXPECT_EQ(at(0, 72), tinted(0.0));
    EXPECT_EQ(at(63, 135), tinted(1.0));
}

TEST(VitDrawOver, EqualSharesHaveOneColour) {
    Tensor<double, 2> shares({3, 3});
    heed::fill(shares.view(), 0.25);
    const Image drawn = draw_over(plain(30, 30, 77), shares);
    for (Index y = 0; y < 30; ++y)
        for (Index x = 38; x < 68; ++x) ASSERT_EQ(pixel(drawn, y, x), pixel(drawn, 0, 38));
}

}  // namespace
}  // namespace vit
