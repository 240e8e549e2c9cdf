// Atoms, neighbours and hydrogens of examples/02_atom_mapping, against molecules drawn by hand.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "02_atom_mapping/reaction.hpp"

namespace atom_mapping {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

/// The bonds of a molecule as pairs of atoms, each with the smaller number first.
std::vector<std::pair<std::size_t, std::size_t>> bonds(const std::string& molecule) {
    const Reaction reaction = parse_reaction(molecule + ">>C");
    std::vector<std::pair<std::size_t, std::size_t>> result;
    for (std::size_t a = 0; a < reaction.reactants.size(); ++a)
        for (const std::size_t b : reaction.reactants[a].neighbours)
            if (a < b) result.emplace_back(a, b);
    return result;
}

/// Every atom of a molecule with a number: shows how many hydrogens each has.
std::string numbered(const std::string& molecule) {
    const Reaction reaction = parse_reaction(molecule + ">>C");
    std::vector<int> numbers(reaction.reactants.size());
    for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<int>(i) + 1;
    const std::string text = write_numbered(reaction, numbers, {0});
    return text.substr(0, text.size() - 3);
}

/// Neighbours are mutual, different and exist; sizes are those of the text.
void expect_sound(const Reaction& reaction) {
    for (const auto* side : {&reaction.reactants, &reaction.products})
        for (std::size_t a = 0; a < side->size(); ++a) {
            const Atom& atom = (*side)[a];
            ASSERT_LT(atom.piece, reaction.pieces.size());
            for (const std::size_t b : atom.neighbours) {
                ASSERT_LT(b, side->size());
                ASSERT_NE(a, b);
                const auto& back = (*side)[b].neighbours;
                ASSERT_EQ(std::count(back.begin(), back.end(), a), 1);
            }
        }
}

/// Published examples of the method: branches, fused rings, charges, ions.
const std::array<std::string, 6> reactions{
    "C(C)O.BrC(C)>>CCOCC",
    "CC(C)S.CN(C)C=O.Fc1cccnc1F.O=C([O-])[O-].[K+].[K+]>>CC(C)Sc1ncccc1F",
    "C1COCCO1.CC(C)(C)OC(=O)CONC(=O)NCc1cccc2ccccc12.Cl>>O=C(O)CONC(=O)NCc1cccc2ccccc12",
    "C=CCN=C=S.CNCc1ccc(C#N)cc1.NNC(=O)c1cn2c(n1)CCCC2>>"
    "C=CCn1c(-c2cn3c(n2)CCCC3)nnc1N(C)Cc1ccc(C#N)cc1",
    "CCOCC.[Br-]~[Na+]>>CCBr.CC[O-]~[Na+]",
    "C/C=C/C(=O)O.O=C1C=CC(=O)O1.[13CH3]%12CC%12>>[C@@H](Cl)(Br)I",
};

TEST(Reaction, NeighboursFollowChainsBranchesAndRings) {
    using Bonds = std::vector<std::pair<std::size_t, std::size_t>>;
    EXPECT_EQ(bonds("CCO"), (Bonds{{0, 1}, {1, 2}}));
    // Both methyls and the oxygen hang on atom 1.
    EXPECT_EQ(bonds("CC(C)(C)O"), (Bonds{{0, 1}, {1, 2}, {1, 3}, {1, 4}}));
    // A branch in a branch: 4 hangs on 1 again.
    EXPECT_EQ(bonds("CC(C(=O)O)N"), (Bonds{{0, 1}, {1, 2}, {1, 5}, {2, 3}, {2, 4}}));
    EXPECT_EQ(bonds("c1ccncc1"), (Bonds{{0, 1}, {0, 5}, {1, 2}, {2, 3}, {3, 4}, {4, 5}}));
    // Naphthalene: ring 2 opens at atom 3 and closes at atom 8.
    EXPECT_EQ(bonds("c1ccc2ccccc2c1"), (Bonds{{0, 1},
                                              {0, 9},
                                              {1, 2},
                                              {2, 3},
                                              {3, 4},
                                              {3, 8},
                                              {4, 5},
                                              {5, 6},
                                              {6, 7},
                                              {7, 8},
                                              {8, 9}}));
    // Two rings close at one atom; a number is free again once its ring is closed.
    EXPECT_EQ(bonds("C12CC1C2"), (Bonds{{0, 1}, {0, 2}, {0, 3}, {1, 2}, {2, 3}}));
    EXPECT_EQ(bonds("C1CC1C1CC1"), (Bonds{{0, 1}, {0, 2}, {1, 2}, {2, 3}, {3, 4}, {3, 5}, {4, 5}}));
    EXPECT_EQ(bonds("C%12CC%12"), (Bonds{{0, 1}, {0, 2}, {1, 2}}));
    EXPECT_EQ(bonds("C=1CC=1"), (Bonds{{0, 1}, {0, 2}, {1, 2}}));
}

TEST(Reaction, DotsSeparateAndTildesJoin) {
    EXPECT_TRUE(bonds("C.C").empty());
    EXPECT_EQ(bonds("C[O-]~[Na+].C").size(), 2u);
    const Reaction reaction = parse_reaction("C[O-].[Na+]>>CC");
    EXPECT_EQ(reaction.reactants.size(), 3u);
    EXPECT_THAT(reaction.products[0].neighbours, ElementsAre(1u));
}

TEST(Reaction, ElementsIgnoreChargeIsotopeHydrogensAndAromaticity) {
    const Reaction reaction = parse_reaction(
        "C.[CH3-].[13CH4].[C@@H](F)(Cl)Br.c1cc[nH]c1.[se]1cccc1.[Na+].[2H]C>>[Fe+2]");
    std::string elements;
    for (const Atom& atom : reaction.reactants) elements += atom.element + " ";
    EXPECT_EQ(elements, "C C C C F Cl Br C C C N C Se C C C C Na H C ");
    EXPECT_EQ(reaction.products[0].element, "Fe");
}

TEST(Reaction, WritesTheHydrogensThatSmilesLeavesUnsaid) {
    EXPECT_EQ(numbered("CC(C)S"), "[CH3:1][CH:2]([CH3:3])[SH:4]");
    EXPECT_EQ(numbered("O=C(O)C#N"), "[O:1]=[C:2]([OH:3])[C:4]#[N:5]");
    EXPECT_EQ(numbered("Fc1cccnc1F"), "[F:1][c:2]1[cH:3][cH:4][cH:5][n:6][c:7]1[F:8]");
    EXPECT_EQ(numbered("c1cc[nH]c1"), "[cH:1]1[cH:2][cH:3][nH:4][cH:5]1");
    EXPECT_EQ(numbered("Cn1cccc1"), "[CH3:1][n:2]1[cH:3][cH:4][cH:5][cH:6]1");
    EXPECT_EQ(numbered("c1ccsc1"), "[cH:1]1[cH:2][cH:3][s:4][cH:5]1");
    EXPECT_EQ(numbered("O=c1cccc[nH]1"), "[O:1]=[c:2]1[cH:3][cH:4][cH:5][cH:6][nH:7]1");
    EXPECT_EQ(numbered("C1=CCC1"), "[CH:1]1=[CH:2][CH2:3][CH2:4]1");
    // Sulfur has valences 2, 4 and 6, phosphorus and nitrogen 3 and 5.
    EXPECT_EQ(numbered("CS(=O)C"), "[CH3:1][S:2](=[O:3])[CH3:4]");
    EXPECT_EQ(numbered("CS(=O)(=O)C"), "[CH3:1][S:2](=[O:3])(=[O:4])[CH3:5]");
    EXPECT_EQ(numbered("OP(=O)(O)O"), "[OH:1][P:2](=[O:3])([OH:4])[OH:5]");
    EXPECT_EQ(numbered("CN(=O)=O"), "[CH3:1][N:2](=[O:3])=[O:4]");
    // Beyond every normal valence there is none to write.
    EXPECT_EQ(numbered("CFC"), "[CH3:1][F:2][CH3:3]");
    EXPECT_EQ(numbered("[NH4+].[Cl-]"), "[NH4+:1].[Cl-:2]");
    EXPECT_EQ(numbered("O~[Na]"), "[OH2:1]~[Na:2]");
}

struct Refusal {
    const char* smiles;
    std::size_t position;
    const char* problem;
};

TEST(Reaction, RefusesSayingWhyAndWhere) {
    const Refusal refusals[] = {{"", 0, "form reactants>>products"},
                                {"CCO", 3, "form reactants>>products"},
                                {">>", 0, "no reactants"},
                                {">>C", 0, "no reactants"},
                                {"C>>", 3, "no products"},
                                {"C>>C>>C", 4, "one '>>'"},
                                {"C>O>C", 1, "agents among the reactants"},
                                {"C >>C", 1, "begins with this"},
                                {"CQ>>C", 1, "begins with this"},
                                {"*C>>C", 0, "begins with this"},
                                {"[CH3>>C", 0, "not closed"},
                                {"[]>>C", 0, "no atom"},
                                {"C[CLS]>>C", 1, "no atom"},
                                {"[unused1]>>C", 0, "no atom"},
                                {"[CH3+-]>>C", 0, "no atom"},
                                {"[CH3:1]C>>C", 0, "numbers"},
                                {"C(C>>C", 1, "branch is not closed"},
                                {"C)C>>C", 1, "no branch is open"},
                                {"(C)C>>C", 0, "atom before"},
                                {"C()C>>C", 2, "must not begin with"},
                                {"C((C))>>C", 2, "must not begin with"},
                                {"C(.C)C>>C", 1, "not closed"},
                                {"C1CC>>C", 1, "ring is not closed"},
                                {"C1.C1>>C", 1, "ring is not closed"},
                                {"C1>>C1", 1, "ring is not closed"},
                                {"1CC1>>C", 0, "atom before"},
                                {"C11>>C", 2, "different atoms"},
                                {"C1C1>>C", 3, "different atoms"},
                                {"C=1CCC#1>>C", 7, "same bond"},
                                {"C%1>>C", 1, "two digits"},
                                {"=C>>C", 0, "atom before"},
                                {"C=>>C", 1, "atom after"},
                                {"C=.C>>C", 1, "atom after"},
                                {"C==C>>C", 2, "followed by '='"},
                                {"C(=)C>>C", 3, "followed by ')'"},
                                {"C=(C)>>C", 2, "followed by '('"},
                                {".C>>C", 0, "missing before"},
                                {"C..C>>C", 2, "missing before"},
                                {"C.>>C", 1, "missing after"},
                                {"C>>C.", 4, "missing after"}};
    for (const auto& [smiles, position, problem] : refusals) {
        SCOPED_TRACE(smiles);
        try {
            (void)parse_reaction(smiles);
            ADD_FAILURE() << "it passed";
        } catch (const SmilesError& error) {
            EXPECT_THAT(error.what(), HasSubstr(problem));
            EXPECT_EQ(error.position(), position);
        }
    }
}

// Damaged reactions are refused or read soundly; nothing else ever happens.
TEST(Reaction, SurvivesDamagedText) {
    const std::uint64_t seed = 20;
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    const std::string alphabet = "CNOcn[]()123%=#~.>+-@H:/\\ \t\xc3\n";
    const auto below = [&](std::size_t limit) { return random() % limit; };
    std::size_t accepted = 0, refused = 0;
    for (int round = 0; round < 20000; ++round) {
        std::string text = reactions[below(reactions.size())];
        for (std::size_t edits = 1 + below(4); edits > 0 && !text.empty(); --edits) {
            const std::size_t place = below(text.size());
            const char letter = alphabet[below(alphabet.size())];
            switch (below(4)) {
                case 0:
                    text.erase(place, 1 + below(3));
                    break;
                case 1:
                    text.insert(place, 1, letter);
                    break;
                case 2:
                    text[place] = letter;
                    break;
                default:
                    text = text.substr(place) + text.substr(0, place);
                    break;
            }
        }
        try {
            expect_sound(parse_reaction(text));
            ++accepted;
        } catch (const SmilesError& error) {
            ASSERT_LE(error.position(), text.size()) << text;
            ++refused;
        }
        ASSERT_FALSE(HasFatalFailure()) << text;
    }
    EXPECT_GT(accepted, 1000u);
    EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace atom_mapping
