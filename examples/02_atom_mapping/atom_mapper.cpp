#include "atom_mapper.hpp"

#include <algorithm>

namespace atom_mapping {

namespace {

constexpr double neighbour_factor = 90.0;

/// The row of an atom in the attention matrix: [CLS] stands before the pieces.
heed::Index token_of(const Atom& atom) {
    return static_cast<heed::Index>(atom.piece) + 1;
}

struct Match {
    std::size_t product = 0, reactant = 0;
    double confidence = 0.0;  ///< 0 when there is none
};

void divide_by_row_sums(heed::Tensor<double, 2>& shares) {
    for (heed::Index p = 0; p < shares.extent(0); ++p) {
        auto row = shares.matrix().row(p);
        const double sum = row.sum();
        if (sum > 0.0) row /= sum;
    }
}

/// The largest share; of equal ones the first.
Match best_match(const heed::Tensor<double, 2>& shares) {
    const auto values = shares.values();
    const auto largest = std::max_element(values.begin(), values.end());
    const auto place = static_cast<std::size_t>(largest - values.begin());
    const auto columns = static_cast<std::size_t>(shares.extent(1));
    return {place / columns, place % columns, *largest};
}

/// Neighbours of matched atoms likely match; the matched atoms themselves are done.
void update(heed::Tensor<double, 2>& shares, const Reaction& reaction, const Match& match) {
    const auto at = [&](std::size_t p, std::size_t r) -> double& {
        return shares(static_cast<heed::Index>(p), static_cast<heed::Index>(r));
    };
    for (const std::size_t p : reaction.products[match.product].neighbours)
        for (const std::size_t r : reaction.reactants[match.reactant].neighbours)
            at(p, r) *= neighbour_factor;
    for (std::size_t r = 0; r < reaction.reactants.size(); ++r) at(match.product, r) = 0.0;
    for (std::size_t p = 0; p < reaction.products.size(); ++p) at(p, match.reactant) = 0.0;
    divide_by_row_sums(shares);
}

}  // namespace

heed::Tensor<double, 2> attention_shares(heed::TensorView<const float, 2> attention,
                                         const Reaction& reaction) {
    const auto tokens = static_cast<heed::Index>(reaction.pieces.size()) + 2;
    if (attention.shape() != heed::Shape<2>(tokens, tokens))
        throw heed::ShapeError("[attention_shares] the attention must be " +
                               to_string(heed::Shape<2>(tokens, tokens)) + "; found " +
                               to_string(attention.shape()));
    heed::Tensor<double, 2> shares({reaction.products.size(), reaction.reactants.size()});
    for (heed::Index p = 0; p < shares.extent(0); ++p)
        for (heed::Index r = 0; r < shares.extent(1); ++r) {
            const Atom& product = reaction.products[static_cast<std::size_t>(p)];
            const Atom& reactant = reaction.reactants[static_cast<std::size_t>(r)];
            if (product.element != reactant.element) continue;
            const heed::Index i = token_of(product), j = token_of(reactant);
            shares(p, r) = static_cast<double>(attention(i, j) + attention(j, i));
        }
    divide_by_row_sums(shares);
    return shares;
}

AtomMapping map_atoms(heed::TensorView<const float, 2> attention, const Reaction& reaction) {
    const std::size_t count = reaction.products.size();
    AtomMapping mapping{.reactant_of = std::vector<int>(count, -1),
                        .confidences = std::vector<double>(count, 1.0)};
    heed::Tensor<double, 2> shares = attention_shares(attention, reaction);
    for (;;) {
        const Match match = best_match(shares);
        if (match.confidence == 0.0) return mapping;
        mapping.reactant_of[match.product] = static_cast<int>(match.reactant);
        mapping.confidences[match.product] = match.confidence;
        mapping.confidence *= match.confidence;
        update(shares, reaction, match);
    }
}

std::string write_mapped(const Reaction& reaction, const AtomMapping& mapping) {
    std::vector<int> products(reaction.products.size()), reactants(reaction.reactants.size());
    for (std::size_t p = 0; p < products.size(); ++p)
        if (mapping.reactant_of[p] >= 0) {
            products[p] = static_cast<int>(p) + 1;
            reactants[static_cast<std::size_t>(mapping.reactant_of[p])] = products[p];
        }
    return write_numbered(reaction, reactants, products);
}

}  // namespace atom_mapping
