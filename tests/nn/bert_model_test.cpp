// Is BERT the model that Hugging Face publishes, on padded batches and on packed ones?

#include "heed/nn/bert_model.hpp"

#include <gtest/gtest.h>

#include <array>

#include "nn/bert_golden.hpp"
#include "nn/gradients.hpp"
#include "nn/is_golden.hpp"
#include "support/allocation_counter.hpp"
#include "support/golden.hpp"

namespace {

using heed::ArgumentError;
using heed::BertConfig;
using heed::BertModel;
using heed::FormatError;
using heed::ShapeError;
using nn_test::all_zero;
using nn_test::expect_refused;
using nn_test::Index;
using nn_test::nans;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;
using support::GoldenCase;
using support::GoldenFile;

const BertConfig tiny{.vocab_size = 23,
                      .hidden_size = 24,
                      .num_hidden_layers = 2,
                      .num_attention_heads = 3,
                      .intermediate_size = 20,
                      .max_position_embeddings = 40,
                      .type_vocab_size = 3};

template <class T>
BertModel<T> random_model(Random& random) {
    BertModel<T> model(tiny);
    randomise_parameters(random, model);
    return model;
}

/// Padded and packed, the same tokens.
struct Batch {
    std::vector<Index> lengths, cu_seqlens{0};
    Tensor<int, 2> ids, types;
    std::vector<int> packed_ids{}, packed_types{};
};

Batch random_batch(Random& random, const std::vector<Index>& lengths) {
    const Shape<2> shape(std::ssize(lengths), *std::max_element(lengths.begin(), lengths.end()));
    Batch batch{.lengths = lengths, .ids = Tensor<int, 2>(shape), .types = Tensor<int, 2>(shape)};
    for (Index b = 0; b < shape[0]; ++b) {
        for (Index i = 0; i < shape[1]; ++i) {
            batch.ids(b, i) = static_cast<int>(random.integer(0, tiny.vocab_size - 1));
            batch.types(b, i) = static_cast<int>(random.integer(0, tiny.type_vocab_size - 1));
            if (i >= lengths[static_cast<std::size_t>(b)]) continue;
            batch.packed_ids.push_back(batch.ids(b, i));
            batch.packed_types.push_back(batch.types(b, i));
        }
        batch.cu_seqlens.push_back(std::ssize(batch.packed_ids));
    }
    return batch;
}

/// The rows of the tokens, without those of the padding.
template <class T>
std::vector<T> live(const Tensor<T, 3>& hidden, const std::vector<Index>& lengths) {
    std::vector<T> result;
    for (std::size_t b = 0; b < lengths.size(); ++b) {
        const auto rows =
            values(hidden.view().select(0, static_cast<Index>(b)).slice(0, 0, lengths[b]));
        result.insert(result.end(), rows.begin(), rows.end());
    }
    return result;
}

template <class T>
Tensor<T, 2> run_packed(BertModel<T>& model, const Batch& batch, bool with_types = true) {
    Tensor<T, 2> hidden({std::ssize(batch.packed_ids), model.config().hidden_size});
    if (with_types)
        model.forward_packed(batch.packed_ids, batch.cu_seqlens, hidden, batch.packed_types);
    else
        model.forward_packed(batch.packed_ids, batch.cu_seqlens, hidden);
    return hidden;
}

// --- Hugging Face
// ---------------------------------------------------------------------------------

TEST(BertModel, EveryHuggingFaceCase) {
    const GoldenFile file("bert_model");
    ASSERT_EQ(file.cases().size(), 3u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file, name);
        BertModel<double> model(nn_test::bert_config(golden, /*add_pooling_layer=*/true));
        model.load(file.tensors(), golden.parameter_prefix());
        const auto ids = golden.input("input_ids").view<std::int64_t, 2>();
        const auto types = golden.input("token_type_ids").view<std::int64_t, 2>();
        const auto lengths = nn_test::lengths_of(golden);
        Tensor<double, 3> hidden({ids.extent(0), ids.extent(1), model.config().hidden_size});
        model.forward(ids, lengths, hidden, types);

        // Padding means nothing, there or here.
        const auto expected = live(golden.output("last_hidden_state").to<double, 3>(), lengths);
        const heed::AnyTensor wanted{Tensor<double, 1>(Shape<1>(expected.size()), expected)};
        EXPECT_TRUE(nn_test::is_golden(live(hidden, lengths), wanted));
        Tensor<double, 2> pooled({ids.extent(0), model.config().hidden_size});
        model.pool(hidden.view().select(1, 0), pooled);
        EXPECT_TRUE(nn_test::is_golden(values(pooled), golden.output("pooler_output")));

        // Types and lengths matter where a case has some.
        const bool has_types = name == "types", has_padding = lengths.size() > 1;
        EXPECT_EQ(nn_test::is_golden(live(model(ids, lengths), lengths), wanted), !has_types);
        const std::vector<Index> full(lengths.size(), ids.extent(1));
        model.forward(ids, full, hidden, types);
        EXPECT_EQ(nn_test::is_golden(live(hidden, lengths), wanted), !has_padding);
    }
}

TEST(BertModel, ParametersHaveHuggingFacesNames) {
    const GoldenFile file("bert_model");
    const GoldenCase golden(file, "one");
    const auto p = parameters_of(BertModel<float>(nn_test::bert_config(golden, true)));
    const heed::NamedTensors published = golden.parameters();
    EXPECT_EQ(p.size(), published.size());
    for (const auto& [name, tensor] : published) EXPECT_TRUE(p.contains(name)) << name;
    // bert-base-uncased
    EXPECT_EQ(BertModel<float>().parameter_count(), 109'482'240);
}

TEST(BertModel, LoadsStrictly) {
    const GoldenFile file("bert_model");
    const GoldenCase golden(file, "one");
    heed::NamedTensors weights = golden.parameters();
    weights.add("embeddings.position_ids",
                heed::AnyTensor(heed::ScalarType::i64, {1, golden.integer("hidden_size")}));
    BertModel<float> model(nn_test::bert_config(golden, true));
    BertModel<float> without(nn_test::bert_config(golden, false));
    model.load(weights);
    expect_refused<FormatError>([&] { without.load(weights); }, {"unused: pooler.dense.bias"});
    heed::WeightLoader(weights)
        .ignore("embeddings.position_ids")
        .ignore("pooler.")
        .load_strictly(without);
    weights.add("embeddings.other", Tensor<float, 1>(3));
    expect_refused<FormatError>([&] { model.load(weights); }, {"unused: embeddings.other"});
    expect_refused<FormatError>([&] { model.load({}); }, {"missing: embeddings.word_embeddings"});
}

// --- Packed
// ---------------------------------------------------------------------------------------

template <class T>
class BertModelTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(BertModelTest, Scalars);

TYPED_TEST(BertModelTest, PackedIsPaddedBitForBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto model = random_model<T>(random);
    for (const auto& lengths :
         {std::vector<Index>{6}, {9, 9}, {1, 9, 2, 4, 3}, {5, 40, 0, 17, 8}}) {
        const Batch batch = random_batch(random, lengths);
        Tensor<T, 3> hidden({std::ssize(lengths), batch.ids.extent(1), tiny.hidden_size});
        model.forward(batch.ids, batch.lengths, hidden, batch.types);
        const auto packed = run_packed(model, batch);
        EXPECT_VERDICT(support::compare_bits(values(packed), live(hidden, lengths)));
        // Without types all are 0: other rows, packed as padded.
        const auto plain = run_packed(model, batch, false);
        EXPECT_FALSE(support::compare_bits(values(plain), values(packed)));
        EXPECT_VERDICT(
            support::compare_bits(values(plain), live(model(batch.ids, batch.lengths), lengths)));
    }
}

TYPED_TEST(BertModelTest, PaddingIsNotSeen) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto model = random_model<T>(random);
    const Batch batch = random_batch(random, {7, 4, 12});
    Tensor<int, 2> other(batch.ids);
    for (Index b = 0; b < 3; ++b)
        for (Index i = batch.lengths[static_cast<std::size_t>(b)]; i < 12; ++i)
            other(b, i) = (other(b, i) + 1) % static_cast<int>(tiny.vocab_size);
    const auto hidden = model(batch.ids, batch.lengths), same = model(other, batch.lengths);
    EXPECT_VERDICT(support::compare_bits(live(hidden, batch.lengths), live(same, batch.lengths)));
    // A token is.
    other(0, 6) = (other(0, 6) + 1) % static_cast<int>(tiny.vocab_size);
    EXPECT_FALSE(support::compare_bits(live(hidden, batch.lengths),
                                       live(model(other, batch.lengths), batch.lengths)));
}

TYPED_TEST(BertModelTest, IdsOfAnyIntegerType) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto model = random_model<T>(random);
    const Batch batch = random_batch(random, {7, 9});
    const auto expected = values(run_packed(model, batch, false));
    const auto packed = [&]<class Id>(Id) {
        const std::vector<Id> ids(batch.packed_ids.begin(), batch.packed_ids.end());
        Tensor<T, 2> hidden({16, tiny.hidden_size});
        model.forward_packed(std::span<const Id>(ids), batch.cu_seqlens, hidden);
        return values(hidden);
    };
    EXPECT_EQ(packed(std::int64_t{}), expected);
    EXPECT_EQ(packed(std::uint8_t{}), expected);
    EXPECT_EQ(packed(std::uint16_t{}), expected);
}

TYPED_TEST(BertModelTest, NothingToRead) {
    using T = TypeParam;
    BertModel<T> model(tiny);
    const std::vector<Index> none{0}, no_lengths, zeros{0, 0};
    Tensor<T, 2> rows({0, tiny.hidden_size});
    model.forward_packed(std::vector<int>{}, none, rows);
    EXPECT_EQ(model(Tensor<int, 2>({0, 5}), no_lengths).shape(), Shape<3>(0, 5, 24));
    EXPECT_EQ(model(Tensor<int, 2>({2, 0}), zeros).shape(), Shape<3>(2, 0, 24));
}

TEST(BertModel, CallsOfOneSizeAllocateNothing) {
    Random random;
    auto model = random_model<float>(random);
    const Batch batch = random_batch(random, {9, 30, 5});
    Tensor<float, 3> hidden({3, 30, tiny.hidden_size});
    Tensor<float, 2> rows({44, tiny.hidden_size});
    const auto run = [&] {
        model.forward(batch.ids, batch.lengths, hidden, batch.types);
        model.forward_packed(batch.packed_ids, batch.cu_seqlens, rows, batch.packed_types);
    };
    run();
    const support::AllocationCounter counter;
    run();
    EXPECT_EQ(counter.count(), 0u);
}

// --- The way back
// ---------------------------------------------------------------------------------

TEST(BertModelBackward, IsThatOfCentralDifferences) {
    Random random;
    SCOPED_TRACE(random.describe());
    BertModel<double> model({.vocab_size = 6,
                             .hidden_size = 4,
                             .num_hidden_layers = 2,
                             .num_attention_heads = 2,
                             .intermediate_size = 3,
                             .max_position_embeddings = 5,
                             .layer_norm_eps = 0.1,
                             .add_pooling_layer = false});
    randomise_parameters(random, model);
    model.train();
    const Tensor<int, 2> ids({2, 4}, {1, 5, 1, 3, 2, 4, 0, 0}),
        types({2, 4}, {0, 0, 1, 1, 0, 1, 0, 0});
    const std::vector<Index> lengths{4, 2};
    auto d = random_tensor<double, 3>(random, {2, 4, 4});
    heed::fill(d.view().select(0, 1).slice(0, 2, 2), 0.0);
    Tensor<double, 3> hidden(d.shape());
    auto gradients = model.make_gradients();
    model.forward(ids, lengths, hidden, types);
    model.backward(ids, lengths, d, gradients, types);
    nn_test::Differences differences;
    nn_test::compare_parameters(differences, model, gradients, [&](BertModel<double>& m) {
        Tensor<double, 3> out(d.shape());
        m.forward(ids, lengths, out, types);
        return nn_test::weighted_sum<3>(out, d);
    });
    nn_test::expect_agreement(differences);
}

TEST(BertModelBackward, TrainingGivesTheSameBits) {
    Random random;
    SCOPED_TRACE(random.describe());
    auto model = random_model<double>(random);
    const Batch batch = random_batch(random, {7, 5});
    const auto hidden = values(model(batch.ids, batch.lengths));
    model.train();
    EXPECT_EQ(values(model(batch.ids, batch.lengths)), hidden);
}

// --- Refusals
// -------------------------------------------------------------------------------------

class BertModelErrors : public testing::Test {
  protected:
    static constexpr std::string_view where = "[BertModel";
    Random random;
    BertModel<double> model = random_model<double>(random);
    Batch batch = random_batch(random, {4, 6});
    Tensor<double, 3> hidden = nans(Shape<3>(2, 6, tiny.hidden_size));
    Tensor<double, 2> rows = nans(Shape<2>(10, tiny.hidden_size));

    template <class Error>
    void refuse(std::string_view text) {
        expect_refused<Error>([&] { model.forward(batch.ids, batch.lengths, hidden, batch.types); },
                              {text});
        EXPECT_TRUE(nn_test::all_nan(hidden));
    }
    template <class Error>
    void refuse_packed(std::string_view text) {
        expect_refused<Error>(
            [&] {
                model.forward_packed(batch.packed_ids, batch.cu_seqlens, rows, batch.packed_types);
            },
            {text});
        for (const double x : rows.values()) EXPECT_TRUE(std::isnan(x));
    }
};

TEST_F(BertModelErrors, Constructor) {
    const std::array sizes{&BertConfig::vocab_size,        &BertConfig::hidden_size,
                           &BertConfig::num_hidden_layers, &BertConfig::num_attention_heads,
                           &BertConfig::intermediate_size, &BertConfig::max_position_embeddings,
                           &BertConfig::type_vocab_size};
    const std::array names{"vocab_size",          "hidden_size",       "num_hidden_layers",
                           "num_attention_heads", "intermediate_size", "max_position_embeddings",
                           "type_vocab_size"};
    for (std::size_t i = 0; i < sizes.size(); ++i)
        for (const Index bad : {Index{0}, Index{-3}}) {
            BertConfig config = tiny;
            config.*sizes[i] = bad;
            expect_refused<ArgumentError>(
                [&] { (void)BertModel<float>(config); },
                {"[BertModel] ", std::string(names[i]) + " must be at least 1"});
        }
    BertConfig config = tiny;
    config.num_attention_heads = 5;
    expect_refused<ArgumentError>([&] { (void)BertModel<float>(config); }, {"must divide"});
    config = tiny;
    config.layer_norm_eps = -1;
    expect_refused<ArgumentError>([&] { (void)BertModel<float>(config); }, {"epsilon"});
}

TEST_F(BertModelErrors, Ids) {
    for (const int bad : {-1, 23}) {
        batch.ids(1, 5) = batch.packed_ids[9] = bad;
        refuse<ArgumentError>("[BertModel] an id must be in [0, 23); found " + std::to_string(bad) +
                              " at position 5");
        refuse_packed<ArgumentError>("[BertModel] an id must be in [0, 23); found ");
    }
    batch = random_batch(random, {4, 6});
    for (const int bad : {-1, 3}) {
        batch.types(0, 2) = batch.packed_types[2] = bad;
        refuse<ArgumentError>("[BertModel, token_type_ids] an id must be in [0, 3); found ");
        refuse_packed<ArgumentError>("[BertModel, token_type_ids] an id must be in [0, 3); found ");
    }
}

TEST_F(BertModelErrors, Sizes) {
    batch.types = Tensor<int, 2>({2, 5});
    batch.packed_types.pop_back();
    refuse<ShapeError>("[BertModel] token_type_ids must have shape [2, 6]");
    refuse_packed<ShapeError>("[BertModel] token_type_ids must have shape [10]");

    batch = random_batch(random, {4, 6});
    hidden = nans(Shape<3>(2, 6, tiny.hidden_size - 1));
    rows = nans(Shape<2>(11, tiny.hidden_size));
    refuse<ShapeError>("[BertModel] hidden must have shape [2, 6, 24]");
    refuse_packed<ShapeError>("[BertModel] hidden must have shape [10, 24]");

    hidden = nans(Shape<3>(2, 6, tiny.hidden_size));
    rows = nans(Shape<2>(10, tiny.hidden_size));
    batch.lengths = {4, 7};
    batch.cu_seqlens = {0, 4, 9};
    refuse<ArgumentError>("[KeyLengths] a length must be in [0, kv_len]");
    refuse_packed<ArgumentError>("[Documents] the boundaries must end with");
    batch.lengths = {4};
    batch.cu_seqlens = {};
    refuse<ShapeError>("[KeyLengths] there must be one length for each batch element");
    refuse_packed<ShapeError>("[Documents] ");

    batch = random_batch(random, {41});
    hidden = nans(Shape<3>(1, 41, tiny.hidden_size));
    rows = nans(Shape<2>(41, tiny.hidden_size));
    refuse<ShapeError>("must have at most max_position_embeddings tokens; found 41 instead of 40");
    refuse_packed<ShapeError>("must have at most max_position_embeddings tokens; found 41");
}

TEST_F(BertModelErrors, Memory) {
    const TensorView<double, 3> no_memory(nullptr, hidden.shape());
    const TensorView<const int, 2> no_ids(nullptr, batch.ids.shape());
    Tensor<double, 3> turned({2, tiny.hidden_size, 6});
    expect_refused<ArgumentError>([&] { model.forward(batch.ids, batch.lengths, no_memory); },
                                  {where, "hidden must point at memory"});
    expect_refused<ArgumentError>([&] { model.forward(no_ids, batch.lengths, hidden); },
                                  {where, "the ids must point at memory"});
    expect_refused<ShapeError>(
        [&] { model.forward(batch.ids, batch.lengths, turned.view().transpose(1, 2)); },
        {where, "hidden must have a contiguous last dimension"});
    model.train();
    refuse_packed<ArgumentError>("in evaluation only; found training");
}

TEST_F(BertModelErrors, Pool) {
    BertConfig config = tiny;
    config.add_pooling_layer = false;
    const auto first = random_tensor<double, 2>(random, {2, tiny.hidden_size});
    Tensor<double, 2> pooled(first.shape()), small({1, tiny.hidden_size});
    expect_refused<ArgumentError>([&] { BertModel<double>(config).pool(first, pooled); },
                                  {where, "pool needs a model with add_pooling_layer"});
    expect_refused<ShapeError>([&] { model.pool(first, small); }, {"[linear] "});
}

TEST_F(BertModelErrors, Backward) {
    auto gradients = model.make_gradients();
    const auto d = random_tensor<double, 3>(random, hidden.shape());
    const auto longer = random_batch(random, {4, 9});
    const auto refused = [&]<class Error>(Error, std::string_view text, const auto& call) {
        expect_refused<Error>(call, {text});
        EXPECT_TRUE(all_zero(gradients));
    };
    (void)model(batch.ids, batch.lengths);
    refused(ArgumentError(""), "[BertModel] backward needs a forward in training",
            [&] { model.backward(batch.ids, batch.lengths, d, gradients); });
    model.train();
    model.forward(batch.ids, batch.lengths, hidden, batch.types);
    refused(ShapeError(""), "the ids must have shape [2, 6]",
            [&] { model.backward(longer.ids, longer.lengths, d, gradients); });
    refused(ShapeError(""), "dy must have shape", [&] {
        model.backward(batch.ids, batch.lengths, Tensor<double, 3>({2, 5, 24}), gradients);
    });
    refused(ArgumentError(""), "the gradients must be another module",
            [&] { model.backward(batch.ids, batch.lengths, d, model); });
    refused(ShapeError(""), "token_type_ids must have shape",
            [&] { model.backward(batch.ids, batch.lengths, d, gradients, longer.types); });

    // After all that it goes back as if nothing had happened.
    model.backward(batch.ids, batch.lengths, d, gradients, batch.types);
    BertModel<double> fresh(model);
    fresh.train();
    auto expected = fresh.make_gradients();
    fresh.forward(batch.ids, batch.lengths, hidden, batch.types);
    fresh.backward(batch.ids, batch.lengths, d, expected, batch.types);
    EXPECT_EQ(parameters_of(gradients), parameters_of(expected));

    // A forward in evaluation is none to go back through.
    gradients.fill_parameters(0);
    model.eval();
    (void)model(batch.ids, batch.lengths);
    refused(ArgumentError(""), "[BertModel] backward needs a forward in training",
            [&] { model.backward(batch.ids, batch.lengths, d, gradients, batch.types); });
}

}  // namespace
