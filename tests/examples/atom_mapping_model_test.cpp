// RXNMapper itself, run by heed, against what its authors published. Skipped without its weights.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "02_atom_mapping/albert.hpp"
#include "02_atom_mapping/atom_mapper.hpp"
#include "02_atom_mapping/published_results.hpp"
#include "examples/weights_folder.hpp"
#include "heed/io/safetensors.hpp"

namespace atom_mapping {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::filesystem::path model_folder() {
    return examples_test::weights_folder("rxnmapper");
}

class RxnMapper : public testing::Test {
  protected:
    static void SetUpTestSuite() {
        if (model_folder().empty()) return;
        weights_ = std::make_unique<heed::NamedTensors>(
            heed::read_safetensors(model_folder() / "model.safetensors"));
        model_ = std::make_unique<Albert>(*weights_);
        vocabulary_ = std::make_unique<Vocabulary>(Vocabulary::read(model_folder() / "vocab.txt"));
    }
    static void TearDownTestSuite() {
        weights_.reset();
        model_.reset();
        vocabulary_.reset();
    }
    void SetUp() override {
        if (!model_) GTEST_SKIP() << "no weights: run examples/02_atom_mapping/fetch_weights.py";
    }

    static heed::Tensor<float, 4> attention(const Reaction& reaction) {
        const std::vector<int> ids = vocabulary_->ids(reaction.pieces);
        heed::Tensor<float, 4> weights(
            {Albert::layers, Albert::heads, std::ssize(ids), std::ssize(ids)});
        (void)(*model_)(ids, weights);
        return weights;
    }
    static AtomMapping map(const Reaction& reaction, heed::Index head = mapping_head) {
        return map_atoms(attention(reaction).view().select(0, mapping_layer).select(0, head),
                         reaction);
    }

    static std::unique_ptr<heed::NamedTensors> weights_;
    static std::unique_ptr<Albert> model_;
    static std::unique_ptr<Vocabulary> vocabulary_;
};

std::unique_ptr<heed::NamedTensors> RxnMapper::weights_;
std::unique_ptr<Albert> RxnMapper::model_;
std::unique_ptr<Vocabulary> RxnMapper::vocabulary_;

TEST_F(RxnMapper, TokenIdsAreThePublishedOnes) {
    EXPECT_EQ(std::ssize(std::vector<int>(vocabulary_->size())), Albert::vocabulary);
    EXPECT_THAT(
        vocabulary_->ids(split_pieces("C(C)O.BrC(C)>>CCOCC")),
        ElementsAre(12, 16, 17, 16, 18, 19, 24, 37, 16, 17, 16, 18, 29, 16, 16, 19, 16, 16, 13));
}

TEST_F(RxnMapper, EveryAtomOfTheVocabularyCanBeRead) {
    std::ifstream lines(model_folder() / "vocab.txt");
    int atoms = 0;
    for (std::string token; std::getline(lines, token);) {
        const bool special = token == "[PAD]" || token == "[UNK]" || token == "[CLS]" ||
                             token == "[SEP]" || token == "[MASK]" || token.starts_with("[unused");
        if (!token.starts_with("[")) continue;
        if (special) {
            EXPECT_THROW((void)parse_reaction(token + ">>C"), SmilesError) << token;
        } else {
            EXPECT_NO_THROW((void)parse_reaction(token + ">>C")) << token;
            ++atoms;
        }
    }
    EXPECT_GT(atoms, 500);
}

TEST_F(RxnMapper, AttentionOfTheFirstAtomIsThePublishedOne) {
    const heed::Tensor<float, 4> weights = attention(parse_reaction("C(C)O.BrC(C)>>CCOCC"));
    const std::array<float, 7> published{.185246f, .259231f, .003012f, .199350f,
                                         .007703f, .002347f, .210992f};
    // Published with six decimals; the weights themselves are good to some 1e-6.
    for (heed::Index j = 0; j < 7; ++j)
        EXPECT_NEAR(weights(mapping_layer, mapping_head, 1, j),
                    published[static_cast<std::size_t>(j)], 2e-6);
}

TEST_F(RxnMapper, WeightsOfEveryRowSumToOne) {
    const heed::Tensor<float, 4> weights = attention(parse_reaction("CC[O-]~[Na+].BrCC>>CCOCC"));
    const heed::Index tokens = weights.extent(3);
    const auto rows =
        weights.view().reshape(heed::Shape<2>(weights.element_count() / tokens, tokens));
    for (heed::Index i = 0; i < rows.extent(0); ++i)
        ASSERT_NEAR(rows.matrix().row(i).sum(), 1, 1e-6);
}

TEST_F(RxnMapper, MappingsAndConfidencesAreThePublishedOnes) {
    for (const PublishedResult& published : published_results) {
        SCOPED_TRACE(published.reaction);
        const AtomMapping mapping = map(parse_reaction(published.reaction));
        EXPECT_EQ(mapping.reactant_of, reactants_in(published.mapping));
        EXPECT_NEAR(mapping.confidence, published.confidence,
                    published_tolerance * published.confidence);
    }
}

// Published with numbers in the text, on which all that precedes has to agree.
TEST_F(RxnMapper, NumberedReactionsAreThePublishedOnes) {
    const auto mapped = [](const char* smiles) {
        const Reaction reaction = parse_reaction(smiles);
        return write_mapped(reaction, map(reaction));
    };
    EXPECT_EQ(mapped("CCO.BrCFC>>CCOCFC"),
              "[CH3:1][CH2:2][OH:3].Br[CH2:4][F:5][CH3:6]>>"
              "[CH3:1][CH2:2][O:3][CH2:4][F:5][CH3:6]");
    EXPECT_EQ(mapped("CC[O-]~[Na+].BrCC>>CCOCC"),
              "[CH3:5][CH2:4][O-:3]~[Na+].Br[CH2:2][CH3:1]>>[CH3:1][CH2:2][O:3][CH2:4][CH3:5]");
    EXPECT_EQ(mapped("CCC[O-]~[Na+].BrCC>>CCOCCC"),
              "[CH3:6][CH2:5][CH2:4][O-:3]~[Na+].Br[CH2:1][CH3:2]>>"
              "[CH3:1][CH2:2][O:3][CH2:4][CH2:5][CH3:6]");
    EXPECT_EQ(mapped("NCC[O-]~[Na+].BrCC>>NCCOCC"),
              "[NH2:1][CH2:2][CH2:3][O-:4]~[Na+].Br[CH2:5][CH3:6]>>"
              "[NH2:1][CH2:2][CH2:3][O:4][CH2:5][CH3:6]");
    EXPECT_EQ(mapped("C(C)C[O-]~[Na+].BrCC>>C(C)COCC"),
              "[CH2:1]([CH3:2])[CH2:3][O-:4]~[Na+].Br[CH2:5][CH3:6]>>"
              "[CH2:1]([CH3:2])[CH2:3][O:4][CH2:5][CH3:6]");
}

// The agreement above says something: no other head of the layer maps so.
TEST_F(RxnMapper, OtherHeadsDoNotMap) {
    const PublishedResult& published = published_results[2];
    const Reaction reaction = parse_reaction(published.reaction);
    for (heed::Index head = 0; head < Albert::heads; ++head) {
        if (head == mapping_head) continue;
        const double confidence = map(reaction, head).confidence;
        EXPECT_GT(std::abs(confidence - published.confidence), 0.1) << "head " << head;
    }
}

TEST_F(RxnMapper, RefusesWeightsThatAreNotAllThere) {
    heed::NamedTensors incomplete;
    for (const auto& [name, tensor] : *weights_)
        if (!name.ends_with("attention.key.bias")) incomplete.add(name, tensor);
    try {
        const Albert model(incomplete);
        FAIL() << "missing weights passed";
    } catch (const heed::FormatError& error) {
        EXPECT_THAT(error.what(), HasSubstr("attention.key.bias"));
    }
    heed::NamedTensors more = *weights_;
    more.add("albert.encoder.second_layer", heed::Tensor<float, 1>(1));
    EXPECT_THROW(Albert{more}, heed::FormatError);
}

TEST_F(RxnMapper, RefusesMoreTokensThanItHasPositionsFor) {
    const std::vector<int> ids(513, 16);
    heed::Tensor<float, 4> weights({12, 8, 513, 513});
    EXPECT_THROW((void)(*model_)(ids, weights), heed::ShapeError);
}

}  // namespace
}  // namespace atom_mapping
