#pragma once
// Which parts of a picture does the answer come from, judging by the attention alone?
// Follows the averaged attention of all blocks backwards; draws the result over the picture.
//
// Source: Abnar, Zuidema, "Quantifying Attention Flow in Transformers", arXiv 2005.00928.

#include "heed/tensor/tensor.hpp"
#include "image.hpp"

namespace vit {

/// The row by `from` of the attention rollout A_depth ... A_2 A_1, where
///
///     A_l = (attention_l + 1) / 2, each row divided by its sum
///
/// and 1, the identity, stands for the residual connection. `attention` is [depth, tokens, tokens],
/// first block first, `from` [tokens], the share of each token of the last block in the answer; the
/// result is that of each token at the entrance, and sums to what `from` does.
/// Throws heed::ShapeError when the numbers of tokens differ. Cost: O(depth * tokens^2), since a
/// row is multiplied, not a matrix.
template <class T>
[[nodiscard]] heed::Tensor<double, 1> attention_rollout(heed::TensorView<const T, 3> attention,
                                                        heed::TensorView<const double, 1> from) {
    const Index tokens = from.extent(0);
    if (attention.shape() != heed::Shape<3>(attention.extent(0), tokens, tokens))
        throw heed::ShapeError("[attention_rollout] the attention must be [depth, " +
                               std::to_string(tokens) + ", " + std::to_string(tokens) +
                               "]; found " + to_string(attention.shape()));
    heed::Tensor<double, 1> share(from);
    for (Index layer = attention.extent(0); layer-- > 0;) {
        const auto weights = attention.select(0, layer);
        heed::Tensor<double, 1> before(tokens);
        for (Index i = 0; i < tokens; ++i) {
            double sum = 1.0;
            for (Index j = 0; j < tokens; ++j) sum += static_cast<double>(weights(i, j));
            const double part = share(i) / sum;
            for (Index j = 0; j < tokens; ++j)
                before(j) += part * static_cast<double>(weights(i, j));
            before(i) += part;
        }
        share = std::move(before);
    }
    return share;
}

/// The picture and, at its right, the same in grey under the colours of `shares`, a grid of
/// patches: from dark violet for the smallest to yellow for the largest, with smooth transitions.
[[nodiscard]] Image draw_over(ImageView picture, heed::TensorView<const double, 2> shares);

}  // namespace vit
