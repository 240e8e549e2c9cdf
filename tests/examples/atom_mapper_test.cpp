// The greedy mapping of examples/02_atom_mapping, against arithmetic by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "02_atom_mapping/atom_mapper.hpp"

namespace atom_mapping {
namespace {

using testing::DoubleNear;
using testing::ElementsAre;

/// Attention over the tokens in which product atom p sees reactant atom r as `weights[p][r]` says,
/// half of it in each direction, and everything else is a large number that nobody may read.
heed::Tensor<float, 2> attention_of(const Reaction& reaction,
                                    const std::vector<std::vector<float>>& weights) {
    const auto count = reaction.pieces.size() + 2;
    heed::Tensor<float, 2> attention({count, count});
    fill(attention.view(), 1e6f);
    for (std::size_t p = 0; p < weights.size(); ++p)
        for (std::size_t r = 0; r < weights[p].size(); ++r) {
            const auto i = static_cast<heed::Index>(reaction.products[p].piece) + 1;
            const auto j = static_cast<heed::Index>(reaction.reactants[r].piece) + 1;
            attention(i, j) = attention(j, i) = weights[p][r] / 2;
        }
    return attention;
}

AtomMapping map(const Reaction& reaction, const std::vector<std::vector<float>>& weights) {
    return map_atoms(attention_of(reaction, weights), reaction);
}

TEST(AtomMapper, TakesTheSurestMatchFirst) {
    // Rows divided by their sums: .6 .4 and .625 .375. So atom 1 takes atom 0, and atom 0 has to
    // be content with atom 1, its only candidate left: .625 * 1.
    const AtomMapping mapping = map(parse_reaction("C.C>>C.C"), {{0.6f, 0.4f}, {0.5f, 0.3f}});
    EXPECT_THAT(mapping.reactant_of, ElementsAre(1, 0));
    EXPECT_THAT(mapping.confidences, ElementsAre(DoubleNear(1.0, 1e-7), DoubleNear(0.625, 1e-7)));
    EXPECT_NEAR(mapping.confidence, 0.625, 1e-7);
}

TEST(AtomMapper, NeighboursOfAMatchAreNinetyTimesAsLikely) {
    // Atom 0 takes 0 with .8. Their neighbours are both atoms 1: .3 * 90 = 27 beats .4 by far.
    // Without the factor, atom 1 would have taken 2.
    const std::vector<std::vector<float>> weights{{0.8f, 0.1f, 0.1f}, {0.3f, 0.3f, 0.4f}};
    const AtomMapping bonded = map(parse_reaction("CC.C>>CC"), weights);
    EXPECT_THAT(bonded.reactant_of, ElementsAre(0, 1));
    EXPECT_NEAR(bonded.confidence, 0.8 * 27.0 / 27.4, 1e-6);

    const AtomMapping apart = map(parse_reaction("C.C.C>>CC"), weights);
    EXPECT_THAT(apart.reactant_of, ElementsAre(0, 2));
    EXPECT_NEAR(apart.confidence, 0.8 * 0.4 / 0.7, 1e-6);
}

TEST(AtomMapper, ElementsNeverChange) {
    const Reaction reaction = parse_reaction("OC>>CBr");
    const AtomMapping mapping = map(reaction, {{0.9f, 0.1f}, {0.5f, 0.5f}});
    EXPECT_THAT(mapping.reactant_of, ElementsAre(1, -1));  // no bromine to come from
    EXPECT_THAT(mapping.confidences, ElementsAre(1.0, 1.0));
    EXPECT_EQ(mapping.confidence, 1.0);
    EXPECT_EQ(write_mapped(reaction, mapping), "O[CH3:1]>>[CH3:1]Br");
}

TEST(AtomMapper, MoreProductAtomsThanReactantAtoms) {
    const AtomMapping mapping = map(parse_reaction("C>>C.C.C"), {{0.2f}, {0.3f}, {0.1f}});
    EXPECT_THAT(mapping.reactant_of, ElementsAre(0, -1, -1));  // all are sure: the first one
    EXPECT_EQ(mapping.confidence, 1.0);
}

TEST(AtomMapper, NoAttentionIsNoMatch) {
    const AtomMapping mapping = map(parse_reaction("C.C>>CC"), {{0.0f, 0.0f}, {0.0f, 0.0f}});
    EXPECT_THAT(mapping.reactant_of, ElementsAre(-1, -1));
}

TEST(AtomMapper, SharesAreOfBothDirectionsAndSumToOne) {
    const Reaction reaction = parse_reaction("C.C>>C.O");
    heed::Tensor<float, 2> attention({9, 9});
    attention(5, 1) = 0.125f;                  // the product's C looks at the first C
    attention(3, 5) = 0.375f;                  // the second C looks back
    attention(5, 4) = attention(4, 5) = 1.0f;  // an arrow is no atom
    const heed::Tensor<double, 2> shares = attention_shares(attention, reaction);
    EXPECT_EQ(shares(0, 0), 0.25);
    EXPECT_EQ(shares(0, 1), 0.75);
    EXPECT_EQ(shares(1, 0), 0.0);  // no oxygen to look at: the row stays 0
    EXPECT_EQ(shares(1, 1), 0.0);
    EXPECT_THAT(map_atoms(attention, reaction).reactant_of, ElementsAre(1, -1));
}

TEST(AtomMapper, RefusesAttentionOverOtherTokens) {
    const Reaction reaction = parse_reaction("C>>C");
    EXPECT_THROW((void)map_atoms(heed::Tensor<float, 2>({5, 4}), reaction), heed::ShapeError);
    EXPECT_THROW((void)map_atoms(heed::Tensor<float, 2>({3, 3}), reaction), heed::ShapeError);
}

}  // namespace
}  // namespace atom_mapping
