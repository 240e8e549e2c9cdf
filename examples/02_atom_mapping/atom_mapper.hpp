#pragma once
// Which reactant atom did each product atom come from?
// Reads one attention matrix over the tokens and the two molecular graphs; knows no model.
//
// Source: Schwaller, Hoover, Reymond, Strobelt, Laino, "Extraction of organic chemistry grammar
// from unsupervised learning of chemical reactions", Science Advances 7 (2021).

#include <string>
#include <vector>

#include "heed/tensor/tensor.hpp"
#include "reaction.hpp"

namespace atom_mapping {

struct AtomMapping {
    std::vector<int> reactant_of;     ///< for each product atom; -1 where none is left to come from
    std::vector<double> confidences;  ///< for each product atom; 1 where none is left
    double confidence = 1.0;          ///< their product
};

/// The layer and the head, counted from 0, whose attention the authors found to map atoms.
inline constexpr heed::Index mapping_layer = 10, mapping_head = 5;

/// How the attention of each product atom is shared among the reactant atoms, [products,
/// reactants]:
///
///     a(p, r) = attention(token of p, token of r) + attention(token of r, token of p)
///
/// and 0 where the elements differ; then each row is divided by its sum, if it has one.
/// `attention` is [tokens, tokens] with [CLS] as token 0. Throws heed::ShapeError unless there are
/// as many tokens as the reaction has.
[[nodiscard]] heed::Tensor<double, 2> attention_shares(heed::TensorView<const float, 2> attention,
                                                       const Reaction& reaction);

/// Maps atoms greedily. As long as any share is left: take the largest, of (p, r); r is p's origin
/// and the share is the confidence; multiply the shares between the neighbours of p and the
/// neighbours of r by 90, clear row p and column r, and divide each row by its sum.
/// Cost: O(products^2 * reactants). Errors as above.
[[nodiscard]] AtomMapping map_atoms(heed::TensorView<const float, 2> attention,
                                    const Reaction& reaction);

/// The reaction with the number n + 1 at product atom n and at the reactant atom it came from.
[[nodiscard]] std::string write_mapped(const Reaction& reaction, const AtomMapping& mapping);

}  // namespace atom_mapping
