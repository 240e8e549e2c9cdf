// Is a stack of encoder layers its layers one after another, forward and back, and are sequences
// packed one behind another the same as in a padded batch, bit for bit?

#include "heed/nn/transformer_encoder.hpp"

#include <gtest/gtest.h>

#include "nn/gradients.hpp"
#include "nn/is_golden.hpp"
#include "nn/reference.hpp"
#include "support/allocation_counter.hpp"
#include "support/golden.hpp"
#include "support/threads.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Activation;
using heed::ArgumentError;
using heed::AttentionNames;
using heed::ShapeError;
using heed::TransformerEncoder;
using nn_test::all_nan;
using nn_test::all_zero;
using nn_test::compare_parameters;
using nn_test::Differences;
using nn_test::expect_agreement;
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

template <class T>
class TransformerEncoderTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(TransformerEncoderTest, Scalars);

constexpr Index width = 8, heads = 2;

struct Choice {
    Index layers = 2;
    bool norm_first = false, norm = false;
};

constexpr std::array choices{Choice{1, false, false}, Choice{3, false, true}, Choice{2, true, true},
                             Choice{3, true, false}};

/// A small encoder whose layers have the reference's names.
template <class T>
TransformerEncoder<T> random_encoder(Random& random, const Choice& c, double dropout = 0.0) {
    TransformerEncoder<T> encoder(
        {.layer = {.d_model = width,
                   .nhead = heads,
                   .dim_feedforward = 11,
                   .dropout = dropout,
                   .activation = Activation::gelu,
                   .layer_norm_eps = 0.1,
                   .norm_first = c.norm_first,
                   .names = {"", "norm1.", "linear1.", "linear2.", "norm2.", "gate.",
                             AttentionNames::separate("q", "k", "v", "o")}},
         .num_layers = c.layers,
         .norm = c.norm});
    randomise_parameters(random, encoder);
    return encoder;
}

/// The parameters under a prefix.
template <class Real>
reference::Parameters<Real> under(const reference::Parameters<Real>& p, const std::string& prefix) {
    reference::Parameters<Real> result;
    for (const auto& [name, numbers] : p)
        if (name.starts_with(prefix)) result[name.substr(prefix.size())] = numbers;
    return result;
}

/// Plain loops: the layers in this order, then the norm.
auto encoder_answer(const Choice& c, const Shape<3>& shape, const std::vector<int>& order,
                    const oracle::Rules& rules = {}) {
    const reference::EncoderLayer layer{.attention = {.B = shape[0],
                                                      .Lq = shape[1],
                                                      .Lk = shape[1],
                                                      .E = width,
                                                      .kdim = width,
                                                      .vdim = width,
                                                      .H = heads,
                                                      .Hk = heads,
                                                      .rules = rules},
                                        .activation = "gelu",
                                        .epsilon = 0.1,
                                        .norm_first = c.norm_first};
    return [=]<class Real>(const reference::Parameters<Real>& p, std::vector<Real> x) {
        for (const int i : order)
            x = reference::encoder_layer(layer, under(p, "layers." + std::to_string(i) + "."), x);
        if (!c.norm) return x;
        return oracle::layer_norm(x, width, layer.epsilon, p.at("norm.weight"), p.at("norm.bias"));
    };
}

std::vector<int> ascending(Index count) {
    std::vector<int> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    return order;
}

oracle::Rules causal_rules() {
    return {.visible = [](Index, Index, Index q, Index k) { return k <= q; }};
}

TYPED_TEST(TransformerEncoderTest, IsItsLayersOneAfterAnother) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Choice& c : choices) {
        auto encoder = random_encoder<T>(random, c);
        EXPECT_EQ(encoder.num_layers(), c.layers);
        for (const Shape<3>& shape : {Shape<3>{2, 5, width}, {1, 1, width}, {3, 7, width}}) {
            SCOPED_TRACE(testing::Message() << c.layers << " layers, norm_first " << c.norm_first
                                            << ", norm " << c.norm << ", " << to_string(shape));
            const auto x = random_tensor<T, 3>(random, shape);
            const auto order = ascending(c.layers);
            const auto p = parameters_of(encoder);
            EXPECT_VERDICT(reference::compare_module<T>(values(encoder(x)), p, values(x),
                                                        encoder_answer(c, shape, order)));
            EXPECT_VERDICT(
                reference::compare_module<T>(values(encoder(x, heed::Causal{})), p, values(x),
                                             encoder_answer(c, shape, order, causal_rules())));
        }
    }
}

// The counter-check.
TYPED_TEST(TransformerEncoderTest, OtherStacksAreNoticed) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Shape<3> shape(2, 5, width);
    const Choice c{.layers = 3, .norm = true};
    auto encoder = random_encoder<T>(random, c);
    const auto x = random_tensor<T, 3>(random, shape);
    const auto judge = [&](const Choice& as, const std::vector<int>& order,
                           const oracle::Rules& rules = {}) {
        return reference::compare_module<T>(values(encoder(x)), parameters_of(encoder), values(x),
                                            encoder_answer(as, shape, order, rules));
    };
    EXPECT_TRUE(judge(c, {0, 1, 2}));
    EXPECT_FALSE(judge(c, {0, 2, 1}));
    EXPECT_FALSE(judge(c, {0, 1}));
    EXPECT_FALSE(judge({.layers = 3, .norm = false}, {0, 1, 2}));
    EXPECT_FALSE(judge(c, {0, 1, 2}, causal_rules()));
}

TYPED_TEST(TransformerEncoderTest, InPlaceAndInTrainingTheSameBits) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Choice& c : choices) {
        auto encoder = random_encoder<T>(random, c);
        const auto x = random_tensor<T, 3>(random, {2, 5, width});
        const auto y = values(encoder(x, heed::Causal{}));
        Tensor<T, 3> in_place(x);
        encoder.forward(in_place, in_place, heed::Causal{});
        EXPECT_VERDICT(support::compare_bits(values(in_place), y));
        encoder.train();  // without dropout
        EXPECT_VERDICT(support::compare_bits(values(encoder(x, heed::Causal{})), y));
    }
}

TYPED_TEST(TransformerEncoderTest, LayersHaveTheirOwnWeightsAndDropout) {
    using T = TypeParam;
    TransformerEncoder<T> encoder(
        {.layer = {.d_model = 8, .nhead = 2, .dim_feedforward = 8}, .num_layers = 3, .norm = true});
    encoder.reset_parameters(5);
    const auto p = parameters_of(encoder);
    for (const std::string name : {"self_attn.in_proj_weight", "linear1.weight", "linear2.weight"})
        for (const int i : {1, 2})
            EXPECT_NE(p.at("layers." + std::to_string(i) + "." + name), p.at("layers.0." + name));
    EXPECT_EQ(p.at("norm.weight"), std::vector<T>(8, T(1)));

    // With the same weights everywhere, layers differ by what they drop.
    Random random;
    auto alike = random_encoder<T>(random, {.layers = 2}, 0.4);
    const auto x = random_tensor<T, 3>(random, {2, 5, width});
    heed::NamedTensors weights;
    alike.layer(0).save(weights);
    alike.layer(1).load(weights);
    alike.train();
    EXPECT_FALSE(support::compare_bits(values(alike.layer(0)(x)), values(alike.layer(1)(x))));
}

// --- Names
// ----------------------------------------------------------------------------------------

TEST(TransformerEncoder, ParametersHavePyTorchsNames) {
    const TransformerEncoder<float> encoder(
        {.layer = {.d_model = 4, .nhead = 2, .dim_feedforward = 3}, .num_layers = 2, .norm = true});
    const auto p = parameters_of(encoder);
    EXPECT_EQ(p.size(), 2 * 12 + 2u);
    EXPECT_TRUE(p.contains("layers.1.self_attn.in_proj_weight"));
    EXPECT_TRUE(p.contains("norm.bias"));
    // torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(512, 8), 6)
    EXPECT_EQ(TransformerEncoder<float>({.layer = {.d_model = 512, .nhead = 8}, .num_layers = 6})
                  .parameter_count(),
              18'914'304);
}

TEST(TransformerEncoder, OtherNames) {
    const TransformerEncoder<float> encoder({.layer = {.d_model = 4,
                                                       .nhead = 2,
                                                       .dim_feedforward = 3,
                                                       .bias = false,
                                                       .names = heed::EncoderLayerNames::bert()},
                                             .num_layers = 1,
                                             .norm = true,
                                             .layer_prefix = "layer.",
                                             .norm_prefix = "final_norm."});
    const auto p = parameters_of(encoder);
    EXPECT_TRUE(p.contains("layer.0.attention.self.query.weight"));
    EXPECT_TRUE(p.contains("final_norm.weight"));
    EXPECT_FALSE(p.contains("final_norm.bias"));
}

// --- Packed
// ---------------------------------------------------------------------------------------

/// Where each sequence begins, and the end.
std::vector<Index> boundaries(const std::vector<Index>& lengths) {
    std::vector<Index> bounds{0};
    for (const Index length : lengths) bounds.push_back(bounds.back() + length);
    return bounds;
}

/// The rows of all sequences, one behind another, from a padded batch; and back.
template <class T, class Copy>
void for_each_sequence(TensorView<T, 2> packed, TensorView<T, 3> padded,
                       const std::vector<Index>& lengths, const Copy& copy) {
    const auto bounds = boundaries(lengths);
    for (std::size_t s = 0; s < lengths.size(); ++s)
        copy(packed.slice(0, bounds[s], lengths[s]),
             padded.select(0, static_cast<Index>(s)).slice(0, 0, lengths[s]));
}

template <class T>
Tensor<T, 2> pack(Tensor<T, 3>& padded, const std::vector<Index>& lengths) {
    Tensor<T, 2> packed({boundaries(lengths).back(), padded.extent(2)});
    for_each_sequence(packed.view(), padded.view(), lengths,
                      [](auto row, auto from) { heed::copy(from, row); });
    return packed;
}

template <class T>
Tensor<T, 2> run_packed(TransformerEncoder<T>& encoder, const Tensor<T, 2>& x,
                        const std::vector<Index>& lengths) {
    Tensor<T, 2> y(x.shape());
    encoder.forward_packed(x, boundaries(lengths), y);
    return y;
}

/// A padded batch of sequences; NaN where the padding is, for nobody may read it.
template <class T>
Tensor<T, 3> random_batch(Random& random, const std::vector<Index>& lengths, Index features) {
    const Index longest = *std::max_element(lengths.begin(), lengths.end());
    Tensor<T, 3> x({std::ssize(lengths), longest, features});
    heed::fill(x.view(), std::numeric_limits<T>::quiet_NaN());
    for (std::size_t s = 0; s < lengths.size(); ++s)
        nn_test::randomise(random,
                           x.view().select(0, static_cast<Index>(s)).slice(0, 0, lengths[s]));
    return x;
}

template <class T>
TransformerEncoder<T> larger_encoder(Random& random, bool norm_first) {
    TransformerEncoder<T> encoder({.layer = {.d_model = 48,
                                             .nhead = 3,
                                             .dim_feedforward = 64,
                                             .activation = Activation::gelu,
                                             .norm_first = norm_first},
                                   .num_layers = 2,
                                   .norm = norm_first});
    randomise_parameters(random, encoder, 0.2);
    return encoder;
}

// Lengths on both sides of a tile of keys (128), with empty sequences between.
const std::vector<std::vector<Index>> batches{
    {5}, {1}, {3, 1, 4, 2}, {7, 7, 7}, {31, 5, 0, 12, 6}, {0, 127, 128, 129, 20, 0}, {300, 5, 257}};

TYPED_TEST(TransformerEncoderTest, PackedIsPaddedBitForBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (const bool norm_first : {false, true})
        for (const auto& lengths : batches) {
            auto encoder = larger_encoder<T>(random, norm_first);
            auto padded = random_batch<T>(random, lengths, 48);
            const Tensor<T, 2> packed = run_packed(encoder, pack(padded, lengths), lengths);
            Tensor<T, 3> expected = encoder(padded, heed::KeyLengths{lengths});
            EXPECT_VERDICT(support::compare_bits(values(packed), values(pack(expected, lengths))));

            // In place, with threads, and in a larger batch: still the same bits.
            Tensor<T, 2> in_place = pack(padded, lengths);
            {
                const support::WithThreads shared(3);
                encoder.forward_packed(in_place, boundaries(lengths), in_place);
            }
            EXPECT_VERDICT(support::compare_bits(values(in_place), values(packed)));
        }
}

TYPED_TEST(TransformerEncoderTest, PackedSequencesSeeThemselvesAlone) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto encoder = larger_encoder<T>(random, false);
    auto padded = random_batch<T>(random, {12, 8}, 48);
    const Tensor<T, 2> x = pack(padded, {12, 8});
    const auto y = run_packed(encoder, x, {12, 8});
    // A boundary elsewhere is noticed.
    EXPECT_FALSE(support::compare_bits(values(y), values(run_packed(encoder, x, {11, 9}))));
    EXPECT_FALSE(support::compare_bits(values(y), values(run_packed(encoder, x, {20}))));
    // Whatever the second sequence holds, the first is the same.
    Tensor<T, 2> poisoned(x);
    heed::fill(poisoned.view().slice(0, 12, 8), std::numeric_limits<T>::quiet_NaN());
    const auto first = [](const Tensor<T, 2>& rows) { return values(rows.view().slice(0, 0, 12)); };
    EXPECT_VERDICT(support::compare_bits(first(run_packed(encoder, poisoned, {12, 8})), first(y)));
}

TYPED_TEST(TransformerEncoderTest, GradientsOfPackedSequencesAreThoseOfEach) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto encoder = random_encoder<T>(random, {.layers = 2, .norm = true});
    encoder.train();
    const std::vector<Index> lengths{6, 0, 140, 3}, bounds = boundaries(lengths);
    const auto x = random_tensor<T, 2>(random, {bounds.back(), width}),
               dy = random_tensor<T, 2>(random, x.shape());
    Tensor<T, 2> y(x.shape()), dx(x.shape());
    auto together = encoder.make_gradients(), apart = encoder.make_gradients();
    encoder.forward_packed(x, bounds, y);
    encoder.backward(x.view().unsqueeze(), dy.view().unsqueeze(), dx.view().unsqueeze(), together,
                     heed::Documents{bounds});
    for (std::size_t s = 0; s < lengths.size(); ++s) {
        const auto part = [&](auto& rows) {
            return rows.view().slice(0, bounds[s], lengths[s]).unsqueeze();
        };
        Tensor<T, 3> alone({Index{1}, lengths[s], width}), d_alone(alone.shape());
        encoder.forward(part(x), alone);
        encoder.backward(part(x), part(dy), d_alone, apart);
        EXPECT_VERDICT(support::compare_bits(values(alone), values(part(y))));
        EXPECT_VERDICT(support::compare_within(values(d_alone), values(part(dx)),
                                               2000 * double{std::numeric_limits<T>::epsilon()}));
    }
    const auto sums = parameters_of(apart);
    for (const auto& [name, found] : parameters_of(together))
        EXPECT_VERDICT(support::compare_within(found, sums.at(name),
                                               2e4 * double{std::numeric_limits<T>::epsilon()}));
}

TYPED_TEST(TransformerEncoderTest, PackedRowsMayBeStrided) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    auto encoder = larger_encoder<T>(random, true);
    const std::vector<Index> lengths{6, 11};
    const auto x = random_tensor<T, 2>(random, {17, 48});
    using Strided = support::Strided<T, 2>;
    Strided from(random, x.shape(), T(77), Strided::Rows::contiguous);
    Strided to(random, x.shape(), T(77), Strided::Rows::contiguous);
    from.assign(x.values());
    encoder.forward_packed(from.const_view(), boundaries(lengths), to.view());
    EXPECT_VERDICT(
        support::compare_bits(values(to.view()), values(run_packed(encoder, x, lengths))));
    EXPECT_TRUE(to.gaps_untouched());
}

TYPED_TEST(TransformerEncoderTest, NothingToPack) {
    using T = TypeParam;
    Random random;
    auto encoder = random_encoder<T>(random, {.norm = true});
    const std::vector<Index> none{0}, empty{0, 0, 0};
    Tensor<T, 2> y({0, width});
    encoder.forward_packed(y, none, y);
    encoder.forward_packed(y, empty, y);
}

TEST(TransformerEncoder, CallsOfOneSizeAllocateNothing) {
    Random random;
    auto encoder = larger_encoder<float>(random, true);
    const std::vector<Index> lengths{9, 30, 5}, bounds = boundaries(lengths);
    const auto x = random_tensor<float, 3>(random, {3, 30, 48});
    const auto rows = random_tensor<float, 2>(random, {bounds.back(), 48});
    Tensor<float, 3> y(x.shape());
    Tensor<float, 2> out(rows.shape());
    const auto run = [&] {
        encoder.forward(x, y, heed::KeyLengths{lengths});
        encoder.forward_packed(rows, bounds, out);
    };
    run();
    const support::AllocationCounter counter;
    run();
    EXPECT_EQ(counter.count(), 0u);
}

// --- The way back
// ---------------------------------------------------------------------------------

/// Goes forward and back once and judges all gradients by differences.
template <class Run, class Back>
Differences judge(Random& random, TransformerEncoder<double> encoder, const Run& run,
                  const Back& back) {
    const Shape<3> shape(2, 3, width);
    encoder.train();
    auto x = random_tensor<double, 3>(random, shape);
    const auto dy = random_tensor<double, 3>(random, shape);
    TransformerEncoder<double> running(encoder);
    auto gradients = running.make_gradients();
    Tensor<double, 3> y(shape), dx = nans(shape);
    run(running, x, y);
    back(running, gradients, x, dy, dx);
    const auto loss = [&](TransformerEncoder<double>& e) {
        Tensor<double, 3> out(shape);
        run(e, x, out);
        return nn_test::weighted_sum<3>(out, dy);
    };
    Differences differences;
    compare_parameters(differences, encoder, gradients, loss);
    differences.compare("x", x.view(), read(dx), [&] {
        TransformerEncoder<double> copy(encoder);
        return loss(copy);
    });
    return differences;
}

TEST(TransformerEncoderBackward, EveryStackWithAndWithoutDropout) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Choice& c : choices)
        for (const double dropout : {0.0, 0.2}) {
            SCOPED_TRACE(testing::Message() << c.layers << " layers, norm_first " << c.norm_first
                                            << ", norm " << c.norm << ", dropout " << dropout);
            expect_agreement(judge(
                random, random_encoder<double>(random, c, dropout),
                [](auto& e, auto& x, auto& y) { e.forward(x, y, heed::Causal{}); },
                [](auto& e, auto& gradients, auto& x, auto& dy, auto& dx) {
                    e.backward(x, dy, dx, gradients, heed::Causal{});
                }));
        }
}

TEST(TransformerEncoderBackward, AnotherMaskIsNoticed) {
    Random random;
    SCOPED_TRACE(random.describe());
    const Differences differences = judge(
        random, random_encoder<double>(random, {.layers = 2}),
        [](auto& e, auto& x, auto& y) { e.forward(x, y, heed::Causal{}); },
        [](auto& e, auto& gradients, auto& x, auto& dy, auto& dx) {
            e.backward(x, dy, dx, gradients);
        });
    EXPECT_GT(differences.wrong(), 10);
}

TEST(TransformerEncoderBackward, InputsNeedNotBeWanted) {
    Random random;
    SCOPED_TRACE(random.describe());
    for (const Choice& c : choices) {
        auto encoder = random_encoder<double>(random, c);
        encoder.train();
        const auto x = random_tensor<double, 3>(random, {2, 3, width});
        const auto dy = random_tensor<double, 3>(random, x.shape());
        Tensor<double, 3> dx(x.shape());
        (void)encoder(x);
        auto all = encoder.make_gradients(), parameters_only = encoder.make_gradients();
        encoder.backward(x, dy, dx, all);
        encoder.backward(x, dy, {}, parameters_only);
        EXPECT_EQ(parameters_of(all), parameters_of(parameters_only));
    }
}

// --- PyTorch
// --------------------------------------------------------------------------------------

TEST(TransformerEncoder, EveryPyTorchCase) {
    const GoldenFile file("transformer_encoder");
    ASSERT_EQ(file.cases().size(), 4u);
    for (const std::string& name : file.cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(file, name);
        TransformerEncoder<double> encoder(
            {.layer = {.d_model = golden.integer("d_model"),
                       .nhead = golden.integer("nhead"),
                       .dim_feedforward = golden.integer("dim_feedforward"),
                       .activation = golden.argument("activation") == "gelu" ? Activation::gelu
                                                                             : Activation::relu,
                       .layer_norm_eps = golden.real("layer_norm_eps").value(),
                       .norm_first = golden.flag("norm_first")},
             .num_layers = golden.integer("num_layers"),
             .norm = golden.flag("norm")});
        encoder.load(golden.parameters());
        const Tensor<double, 3> x = golden.input("src").to<double, 3>();
        const heed::AnyTensor& expected = golden.output("output");
        if (golden.find_input("mask") == nullptr) {
            EXPECT_TRUE(nn_test::is_golden(values(encoder(x)), expected));
        } else {
            const auto mask =
                heed::BlockWhere(golden.input("mask").view<bool, 2>()) &
                heed::block_keys(golden.input("src_key_padding_mask").view<bool, 2>());
            EXPECT_TRUE(nn_test::is_golden(values(encoder(x, mask)), expected));
            EXPECT_FALSE(nn_test::is_golden(values(encoder(x)), expected));
        }
    }
}

// --- Refusals
// -------------------------------------------------------------------------------------

class TransformerEncoderErrors : public testing::Test {
  protected:
    static constexpr std::string_view where = "[TransformerEncoder] ";
    Random random;
    TransformerEncoder<double> encoder =
        random_encoder<double>(random, {.layers = 2, .norm = true});
    Tensor<double, 3> x = random_tensor<double, 3>(random, {2, 6, width});
    Tensor<double, 3> y = nans(Shape<3>(2, 6, width));
};

TEST_F(TransformerEncoderErrors, Constructor) {
    using Encoder = TransformerEncoder<float>;
    const Encoder::Layer::Options layer{.d_model = 4, .nhead = 2, .dim_feedforward = 3};
    for (const Index bad : {Index{0}, Index{-1}})
        expect_refused<ArgumentError>([&] { (void)Encoder({.layer = layer, .num_layers = bad}); },
                                      {where, "num_layers must be at least 1"});
    expect_refused<ArgumentError>([&] { (void)Encoder({.layer = {.d_model = 4, .nhead = 3}}); },
                                  {"num_heads must divide embed_dim"});
}

TEST_F(TransformerEncoderErrors, Forward) {
    Tensor<double, 3> narrow({2, 6, width - 1}), small({2, 5, width}), both({2, 9, width});
    const TensorView<double, 3> no_memory(nullptr, x.shape());
    const TensorView<double, 3> begin = both.view().slice(1, 0, 6),
                                end = both.view().slice(1, 3, 6);
    const TensorView<double, 3> columns = Tensor<double, 3>({2, width, 6}).view().transpose(1, 2);
    const std::vector<Index> lengths{6, 7};
    for (const bool training : {false, true}) {
        encoder.train(training);
        const auto refused = [&]<class Error>(Error, TensorView<const double, 3> in,
                                              TensorView<double, 3> out, std::string_view text) {
            expect_refused<Error>([&] { encoder.forward(in, out); }, {where, text});
        };
        refused(ShapeError(""), narrow, y, "the input must have shape [2, 6, 8]");
        refused(ArgumentError(""), no_memory, y, "the input must point at memory");
        refused(ShapeError(""), columns, y, "the input must have a contiguous last dimension");
        refused(ShapeError(""), x, small, "the output must have shape [2, 6, 8]");
        refused(ArgumentError(""), x, no_memory, "the output must point at memory");
        refused(ShapeError(""), x, columns, "the output must have a contiguous last dimension");
        refused(ShapeError(""), begin, end, training ? "in training" : "partial overlap");
        expect_refused<ArgumentError>([&] { encoder.forward(x, y, heed::KeyLengths{lengths}); },
                                      {"[KeyLengths] "});
        EXPECT_TRUE(all_nan(y));
    }
    expect_refused<ShapeError>([&] { encoder.forward(x, x); },
                               {where, "in training the output must not overlap the input"});
}

TEST_F(TransformerEncoderErrors, ForwardPacked) {
    const auto rows = random_tensor<double, 2>(random, {6, width});
    Tensor<double, 2> out = nans(Shape<2>(6, width)), small({5, width}), both({9, width});
    const std::vector<Index> bounds{0, 4, 6};
    const auto refused = [&]<class Error>(Error, TensorView<const double, 2> in,
                                          std::vector<Index> at, TensorView<double, 2> to,
                                          std::string_view text) {
        expect_refused<Error>([&] { encoder.forward_packed(in, at, to); }, {text});
    };
    refused(ShapeError(""), rows, bounds, small, "the output must have shape [6, 8]");
    refused(ShapeError(""), rows.view().slice(1, 0, 7), bounds, out, "must have shape [6, 8]");
    refused(ShapeError(""), both.view().slice(0, 0, 6), bounds, both.view().slice(0, 3, 6),
            "partial overlap");
    refused(ShapeError(""), rows, {}, out, "equally many boundaries");
    refused(ArgumentError(""), rows, {1, 6}, out, "must begin with 0");
    refused(ArgumentError(""), rows, {0, 4, 3, 6}, out, "must ascend");
    refused(ArgumentError(""), rows, {0, 5}, out, "must end with q_len");
    refused(ArgumentError(""), rows, {0, 7}, out, "must end with q_len");
    for (const double value : out.values()) EXPECT_TRUE(std::isnan(value));
}

TEST_F(TransformerEncoderErrors, Backward) {
    const auto dy = random_tensor<double, 3>(random, x.shape());
    Tensor<double, 3> dx = nans(x.shape()), small({2, 5, width});
    auto gradients = encoder.make_gradients();
    auto others = random_encoder<double>(random, {.layers = 1, .norm = true}).make_gradients();
    const std::vector<Index> lengths{6, 5}, unfit{6};
    const auto refused = [&]<class Error>(Error, std::string_view text, const auto& call) {
        expect_refused<Error>(call, {text});
        EXPECT_TRUE(all_nan(dx));
        EXPECT_TRUE(all_zero(gradients));
    };
    refused(ArgumentError(""), "backward needs a forward in training",
            [&] { encoder.backward(x, dy, dx, gradients); });
    (void)encoder(x);
    refused(ArgumentError(""), "backward needs a forward in training",
            [&] { encoder.backward(x, dy, dx, gradients); });
    encoder.train();
    encoder.forward(x, y, heed::KeyLengths{lengths});
    refused(ShapeError(""), "the input must have shape",
            [&] { encoder.backward(small, dy, dx, gradients); });
    refused(ShapeError(""), "dy must have shape",
            [&] { encoder.backward(x, small, dx, gradients); });
    refused(ShapeError(""), "dx must have shape",
            [&] { encoder.backward(x, dy, small, gradients); });
    refused(ShapeError(""), "dx must not overlap", [&] { encoder.backward(x, dx, dx, gradients); });
    refused(ArgumentError(""), "the gradients must be another module",
            [&] { encoder.backward(x, dy, dx, encoder); });
    refused(ShapeError(""), "must have the parameters of the module",
            [&] { encoder.backward(x, dy, dx, others); });
    refused(ShapeError(""), "[KeyLengths] ",
            [&] { encoder.backward(x, dy, dx, gradients, heed::KeyLengths{unfit}); });

    // After all that it goes back as if nothing had happened.
    encoder.backward(x, dy, dx, gradients, heed::KeyLengths{lengths});
    TransformerEncoder<double> fresh(encoder);
    fresh.train();
    auto expected = fresh.make_gradients();
    Tensor<double, 3> again(x.shape());
    fresh.forward(x, y, heed::KeyLengths{lengths});
    fresh.backward(x, dy, again, expected, heed::KeyLengths{lengths});
    EXPECT_EQ(values(dx), values(again));
    EXPECT_EQ(parameters_of(gradients), parameters_of(expected));

    // A forward in evaluation, or a refused one, is none to go back through.
    dx = nans(x.shape());
    gradients.fill_parameters(0);
    encoder.eval();
    (void)encoder(x);
    refused(ArgumentError(""), "backward needs a forward in training",
            [&] { encoder.backward(x, dy, dx, gradients); });
    encoder.train();
    encoder.forward(x, y);
    expect_refused<ShapeError>([&] { encoder.forward(x, y, heed::KeyLengths{unfit}); },
                               {"[KeyLengths] "});
    refused(ArgumentError(""), "backward needs a forward in training",
            [&] { encoder.backward(x, dy, dx, gradients); });
}

}  // namespace
