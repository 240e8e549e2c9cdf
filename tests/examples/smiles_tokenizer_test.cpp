// The pieces of a SMILES, and their ids, of examples/02_atom_mapping.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "02_atom_mapping/smiles_tokenizer.hpp"

namespace atom_mapping {
namespace {

using testing::ElementsAre;

std::vector<std::string> texts(const std::vector<Piece>& pieces) {
    std::vector<std::string> result;
    for (const Piece& piece : pieces) result.push_back(piece.text);
    return result;
}

TEST(SmilesTokenizer, CutsAtomsBondsRingsAndArrow) {
    EXPECT_THAT(texts(split_pieces("[NH4+].BrC(=O)c1nc%12Cl>>N#C/[C@@H]\\F")),
                ElementsAre("[NH4+]", ".", "Br", "C", "(", "=", "O", ")", "c", "1", "n", "c", "%12",
                            "Cl", ">>", "N", "#", "C", "/", "[C@@H]", "\\", "F"));
    EXPECT_EQ(split_pieces("CCl>>[OH-]").back().position, 5u);
    EXPECT_TRUE(split_pieces("").empty());
}

TEST(SmilesTokenizer, RefusesWhatBeginsNoPiece) {
    for (const char* text : {"CCQ", "CC[CH3", "CC%1", "CC>C", "CC C", "CC*", "CC\xc3\xa9"}) {
        try {
            (void)split_pieces(text);
            ADD_FAILURE() << text << " passed";
        } catch (const SmilesError& error) {
            EXPECT_EQ(error.position(), 2u) << text;
        }
    }
}

TEST(SmilesTokenizer, IdsAreLinesOfTheVocabulary) {
    std::istringstream lines("[PAD]\nC\n[CLS]\n>>\n[SEP]\nCl\n");
    const Vocabulary vocabulary(lines);
    EXPECT_EQ(vocabulary.size(), 6u);
    EXPECT_THAT(vocabulary.ids(split_pieces("CCl>>C")), ElementsAre(2, 1, 5, 3, 1, 4));
    EXPECT_THAT(tokens(split_pieces("CCl>>C")),
                ElementsAre("[CLS]", "C", "Cl", ">>", "C", "[SEP]"));
}

TEST(SmilesTokenizer, RefusesPiecesThatTheModelNeverSaw) {
    std::istringstream lines("[CLS]\n[SEP]\nC\n");
    const Vocabulary vocabulary(lines);
    try {
        (void)vocabulary.ids(split_pieces("CCN"));
        FAIL() << "an unknown piece passed";
    } catch (const SmilesError& error) {
        EXPECT_STREQ(error.what(), "the model does not know 'N'");
        EXPECT_EQ(error.position(), 2u);
    }
}

TEST(SmilesTokenizer, RefusesAVocabularyWithoutItsFrame) {
    std::istringstream lines("C\n");
    EXPECT_THROW((void)Vocabulary(lines).ids({}), std::runtime_error);
    EXPECT_THROW((void)Vocabulary::read("/no/such/vocab.txt"), std::runtime_error);
}

}  // namespace
}  // namespace atom_mapping
