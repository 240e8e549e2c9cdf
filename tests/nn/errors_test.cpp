// What do modules refuse? Every constructor and every forward, with every bad argument: the right
// error, a message that names function, rule and what was found, nothing written, and a module that
// answers the next good call as if nothing had happened.

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <functional>
#include <limits>

#include "heed/nn/transformer.hpp"
#include "nn/nn_support.hpp"

namespace {

using heed::ArgumentError;
using heed::ShapeError;
using nn_test::expect_refused;
using nn_test::Index;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index huge = Index{1} << 62;

template <class T>
class ErrorsTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ErrorsTest, Scalars);

// --- Constructors
// ---------------------------------------------------------------------------------

/// The constructor of M, which must refuse these options.
template <class Expected, class M>
void refuse(const typename M::Options& options, std::initializer_list<std::string_view> text) {
    expect_refused<Expected>([&] { (void)M(options); }, text);
}

TYPED_TEST(ErrorsTest, ConstructorsOfLayers) {
    using T = TypeParam;
    using heed::Embedding, heed::LayerNorm, heed::Linear, heed::RMSNorm;
    for (const Index bad : {Index{0}, Index{-1}, -huge}) {
        const std::string found = "must be at least 1; found " + std::to_string(bad);
        refuse<ArgumentError, Linear<T>>({.in_features = bad, .out_features = 2},
                                         {"[Linear] in_features ", found});
        refuse<ArgumentError, Linear<T>>({.in_features = 2, .out_features = bad},
                                         {"[Linear] out_features ", found});
        refuse<ArgumentError, LayerNorm<T>>({.features = bad}, {"[LayerNorm] features ", found});
        refuse<ArgumentError, RMSNorm<T>>({.features = bad}, {"[RMSNorm] features ", found});
        refuse<ArgumentError, Embedding<T>>({.count = bad, .features = 2},
                                            {"[Embedding] count ", found});
        refuse<ArgumentError, Embedding<T>>({.count = 2, .features = bad},
                                            {"[Embedding] features ", found});
    }
    for (const double bad : {-1e-9, nan, infinity, -infinity}) {
        refuse<ArgumentError, LayerNorm<T>>({.features = 2, .epsilon = bad},
                                            {"[LayerNorm] epsilon must be finite and 0 or more"});
        refuse<ArgumentError, RMSNorm<T>>({.features = 2, .epsilon = bad},
                                          {"[RMSNorm] epsilon must be finite and 0 or more"});
    }
    refuse<ShapeError, Linear<T>>({.in_features = huge, .out_features = 3}, {"63 bits"});
    refuse<ShapeError, Embedding<T>>({.count = huge, .features = 3}, {"63 bits"});
}

TYPED_TEST(ErrorsTest, ConstructorsOfAttention) {
    using T = TypeParam;
    using Plain = heed::ScaledDotProductAttention<T>;
    using OneHead = heed::SelfAttention<T>;
    for (const double bad : {-0.001, 1.001, nan, infinity}) {
        const std::initializer_list<std::string_view> text{"dropout probability",
                                                           "must be in [0, 1]; found "};
        refuse<ArgumentError, Plain>({.dropout = bad}, text);
        refuse<ArgumentError, OneHead>({.embed_dim = 2, .dropout = bad}, text);
    }
    for (const double bad : {nan, infinity, -infinity}) {
        refuse<ArgumentError, Plain>({.scale = bad}, {"the scale must be finite"});
        refuse<ArgumentError, OneHead>({.embed_dim = 2, .scale = bad},
                                       {"the scale must be finite"});
    }
    if constexpr (std::is_same_v<T, float>)
        refuse<ArgumentError, Plain>({.scale = 1e300}, {"the scale must be finite", "1e+300"});
    for (const Index bad : {Index{0}, Index{-2}})
        refuse<ArgumentError, OneHead>({.embed_dim = bad}, {"must be at least 1"});
    refuse<ArgumentError, OneHead>({.embed_dim = 2, .k_dim = -1}, {"at least 1; found -1"});
    refuse<ArgumentError, OneHead>({.embed_dim = 2, .v_dim = -2}, {"at least 1; found -2"});
    refuse<ArgumentError, OneHead>({.embed_dim = 2, .context_dim = -3}, {"at least 1; found -3"});
}

TYPED_TEST(ErrorsTest, ConstructorsOfMultiHeadAttention) {
    using T = TypeParam;
    using Attention = heed::MultiHeadAttention<T>;
    using Options = heed::MultiHeadAttentionOptions;
    const auto refused = [](auto kind, const std::function<void(Options&)>& spoil,
                            std::initializer_list<std::string_view> text) {
        Options options{.embed_dim = 12, .num_heads = 4};
        spoil(options);
        refuse<decltype(kind), Attention>(options, text);
    };
    const ArgumentError argument("");
    const ShapeError shape("");
    struct Size {
        std::string name;
        Index Options::*member;
        bool zero_is_usual;
    };
    for (const auto& [name, member, zero_is_usual] :
         {Size{"embed_dim", &Options::embed_dim, false},
          {"num_heads", &Options::num_heads, false},
          {"num_kv_heads", &Options::num_kv_heads, true},
          {"head_dim", &Options::head_dim, true},
          {"value_head_dim", &Options::value_head_dim, true},
          {"kdim", &Options::kdim, true},
          {"vdim", &Options::vdim, true}}) {
        for (const Index bad : {Index{0}, Index{-1}, -huge}) {
            if (bad == 0 && zero_is_usual) continue;
            refused(argument, [&, at = member](Options& o) { o.*at = bad; },
                    {"[MultiHeadAttention] " + name + " must be at least 1; found " +
                     std::to_string(bad)});
        }
    }
    refused(argument, [](Options& o) { o.num_heads = 5; },
            {"[MultiHeadAttention] num_heads must divide embed_dim unless head_dim is given; found "
             "embed_dim 12, num_heads 5"});
    refused(argument, [](Options& o) { o.num_heads = 13; }, {"must divide", "num_heads 13"});
    refused(argument, [](Options& o) { o.num_kv_heads = 3; },
            {"[MultiHeadAttention] num_kv_heads must divide num_heads; found num_heads 4, "
             "num_kv_heads 3"});
    refused(argument, [](Options& o) { o.num_kv_heads = 8; }, {"must divide", "num_kv_heads 8"});
    for (const double bad : {-0.001, 1.001, nan}) {
        refused(argument, [=](Options& o) { o.dropout = bad; }, {"dropout", "[0, 1]"});
        refused(argument, [=](Options& o) { o.out_dropout = bad; }, {"dropout", "[0, 1]"});
    }
    for (const double bad : {-1e-9, nan, infinity})
        refused(argument, [=](Options& o) { o.qk_norm_epsilon = bad; },
                {"[MultiHeadAttention] qk_norm_epsilon must be finite and 0 or more"});
    for (const double bad : {nan, infinity})
        refused(argument, [=](Options& o) { o.scale = bad; }, {"the scale must be finite"});
    // Sizes whose products do not fit: each by itself does.
    for (Index Options::*const member :
         {&Options::head_dim, &Options::value_head_dim, &Options::kdim, &Options::vdim})
        refused(shape, [=](Options& o) { o.*member = huge; }, {"63 bits"});
    refused(shape, [](Options& o) { o.embed_dim = huge; }, {"63 bits"});
    refused(shape, [](Options& o) { o.value_head_dim = huge / 3, o.num_kv_heads = 1; },
            {"63 bits"});
    refused(shape,
            [](Options& o) {
                o.head_dim = huge / 4 - 1, o.value_head_dim = huge / 2;
                o.num_heads = 4, o.num_kv_heads = 1;
            },
            {"63 bits"});

    // The presets are the same constructor.
    expect_refused<ArgumentError>(
        [] { (void)Attention(heed::PyTorchMultiheadAttention{.embed_dim = 8, .num_heads = 3}); },
        {"num_heads must divide embed_dim"});
    expect_refused<ArgumentError>([] { (void)Attention(heed::TimmAttention{.dim = 12}); },
                                  {"embed_dim 12, num_heads 8"});
    expect_refused<ArgumentError>(
        [] {
            (void)Attention(heed::BertSelfAttention{.hidden_size = 0, .num_attention_heads = 1});
        },
        {"embed_dim must be at least 1"});
}

TYPED_TEST(ErrorsTest, ConstructorsOfTransformers) {
    using T = TypeParam;
    using Feed = heed::FeedForward<T>;
    using Layer = heed::TransformerEncoderLayer<T>;
    for (const Index bad : {Index{0}, Index{-1}}) {
        refuse<ArgumentError, Feed>({.dim = bad, .hidden_dim = 2}, {"must be at least 1"});
        refuse<ArgumentError, Feed>({.dim = 2, .hidden_dim = bad, .gated = true},
                                    {"must be at least 1"});
        refuse<ArgumentError, Layer>({.d_model = bad}, {"must be at least 1"});
        refuse<ArgumentError, Layer>({.d_model = 2, .nhead = bad}, {"num_heads", "at least 1"});
        refuse<ArgumentError, Layer>({.d_model = 2, .dim_feedforward = bad}, {"at least 1"});
    }
    refuse<ArgumentError, Layer>({.d_model = 8, .nhead = 3}, {"embed_dim 8, num_heads 3"});
    for (const double bad : {-0.001, 1.001, nan}) {
        refuse<ArgumentError, Feed>({.dim = 2, .hidden_dim = 2, .dropout = bad}, {"[0, 1]"});
        refuse<ArgumentError, Layer>({.d_model = 2, .dropout = bad}, {"[0, 1]"});
    }
    for (const double bad : {-1e-9, nan, infinity})
        refuse<ArgumentError, Layer>({.d_model = 2, .layer_norm_eps = bad},
                                     {"[LayerNorm] epsilon must be finite and 0 or more"});
}

// --- Calls
// ----------------------------------------------------------------------------------------

/// A view of the same pointer with other strides.
template <class T, int Rank>
TensorView<T, Rank> with_strides(TensorView<T, Rank> view,
                                 const std::type_identity_t<heed::Strides<Rank>>& strides) {
    return {view.data(), view.shape(), strides};
}

/// The view without its memory.
template <class T, int Rank>
TensorView<T, Rank> at_null(TensorView<T, Rank> view) {
    return {static_cast<T*>(nullptr), view.shape(), view.strides()};
}

/// The view with a neighbour missing in each row of its last dimension: every second element.
template <class T, int Rank>
TensorView<T, Rank> with_gaps(TensorView<T, Rank> view) {
    heed::Strides<Rank> strides = view.strides();
    for (Index& stride : strides) stride *= 2;
    return with_strides(view, strides);
}

/// One arena per role, larger than needed, so that views of odd strides stay inside; filled with
/// numbers that a refused call must leave as they are, bit by bit.
template <class T>
class Arena {
  public:
    explicit Arena(std::uint64_t seed) : memory_(Shape<1>(4096)) {
        Random random(seed);
        nn_test::randomise(random, memory_.view());
        before_ = Tensor<T, 1>(memory_);
    }

    template <int Rank>
    TensorView<T, Rank> view(const Shape<Rank>& shape, Index offset = 0) {
        return {memory_.data() + offset, shape};
    }

    bool untouched() const {
        return std::memcmp(memory_.data(), before_.data(), memory_.values().size_bytes()) == 0;
    }
    void restore() { heed::copy(TensorView<const T, 1>(before_), memory_.view()); }

  private:
    Tensor<T, 1> memory_, before_;
};

/// Runs bad calls: each must be refused and write nothing, after which `good` must still give the
/// bits it gave at first.
template <class T>
class CallMatrix {
  public:
    CallMatrix(std::vector<Arena<T>*> arenas, std::function<std::vector<T>()> good)
        : arenas_(std::move(arenas)), good_(std::move(good)), expected_(run_good()) {}

    template <class Expected>
    void refuse(const char* what, const std::function<void()>& call,
                std::initializer_list<std::string_view> text) {
        SCOPED_TRACE(what);
        expect_refused<Expected>(call, text);
        for (std::size_t i = 0; i < arenas_.size(); ++i)
            EXPECT_TRUE(arenas_[i]->untouched()) << "arena " << i << " was written";
        EXPECT_VERDICT(support::compare_bits(run_good(), expected_));
    }

  private:
    std::vector<T> run_good() {
        const std::vector<T> result = good_();
        for (Arena<T>* arena : arenas_) arena->restore();
        return result;
    }

    std::vector<Arena<T>*> arenas_;
    std::function<std::vector<T>()> good_;
    std::vector<T> expected_;
};

TYPED_TEST(ErrorsTest, CallsOfLinear) {
    using T = TypeParam;
    Random random(1);
    heed::Linear<T> layer({.in_features = 3, .out_features = 4});
    randomise_parameters(random, layer);
    Arena<T> in(1), out(2);
    const TensorView<T, 2> x = in.view(Shape<2>(5, 3)), y = out.view(Shape<2>(5, 4));
    const auto call = [&](TensorView<const T, 2> from, TensorView<T, 2> to) {
        return [&layer, from, to] { layer.forward(from, to); };
    };
    CallMatrix<T> matrix({&in, &out}, [&] {
        layer.forward(x, y);
        return values(y);
    });
    matrix.template refuse<ShapeError>("input too wide", call(in.view(Shape<2>(5, 4)), y),
                                       {"[linear]", "input [5, 4], weight [4, 3]"});
    matrix.template refuse<ShapeError>("rows", call(x, out.view(Shape<2>(6, 4))),
                                       {"the output must have shape [5, 4]; found [6, 4]"});
    matrix.template refuse<ShapeError>("columns", call(x, out.view(Shape<2>(5, 3))),
                                       {"the output must have shape [5, 4]; found [5, 3]"});
    matrix.template refuse<ArgumentError>("null input", call(at_null(x), y),
                                          {"[linear] the input", "found null"});
    matrix.template refuse<ArgumentError>("null output", call(x, at_null(y)),
                                          {"[linear] the output", "found null"});
    matrix.template refuse<ShapeError>("gaps in the input", call(with_gaps(x), y), {"contiguous"});
    matrix.template refuse<ShapeError>("gaps in the output", call(x, with_gaps(y)), {"contiguous"});
    matrix.template refuse<ShapeError>("rows in one place", call(x, with_strides(y, {0, 1})),
                                       {"a place for each element", "strides [0, 1]"});
    matrix.template refuse<ShapeError>("rows that overlap", call(x, with_strides(y, {3, 1})),
                                       {"a place for each element"});
    matrix.template refuse<ShapeError>("over the input", call(x, in.view(Shape<2>(5, 4))),
                                       {"must not overlap"});
    matrix.template refuse<ShapeError>("over a corner of the input",
                                       call(x, in.view(Shape<2>(5, 4), 14)), {"must not overlap"});
    const auto square = [&] { layer.forward(layer.weight(), layer.weight().slice(1, 0, 3)); };
    matrix.template refuse<ShapeError>("over the weight", square, {"[linear]"});
    matrix.template refuse<ShapeError>("the value-returning call",
                                       [&] { (void)layer(in.view(Shape<2>(5, 2))); },
                                       {"input [5, 2], weight [4, 3]"});
}

TYPED_TEST(ErrorsTest, CallsOfNorms) {
    using T = TypeParam;
    Random random(1);
    const auto check = [&](auto layer, const char* where) {
        randomise_parameters(random, layer);
        Arena<T> in(1), out(2);
        const TensorView<T, 2> x = in.view(Shape<2>(5, 3)), y = out.view(Shape<2>(5, 3));
        const auto call = [&](TensorView<const T, 2> from, TensorView<T, 2> to) {
            return [&layer, from, to] { layer.forward(from, to); };
        };
        CallMatrix<T> matrix({&in, &out}, [&] {
            layer.forward(x, y);
            return values(y);
        });
        const std::string name(where);
        matrix.template refuse<ShapeError>("another shape", call(x, out.view(Shape<2>(3, 5))),
                                           {name, "must have shape [5, 3]; found [3, 5]"});
        matrix.template refuse<ShapeError>("another width",
                                           call(in.view(Shape<2>(5, 4)), out.view(Shape<2>(5, 4))),
                                           {name, "found [3]"});
        matrix.template refuse<ArgumentError>("null input", call(at_null(x), y),
                                              {name, "the input", "found null"});
        matrix.template refuse<ArgumentError>("null output", call(x, at_null(y)),
                                              {name, "the output", "found null"});
        matrix.template refuse<ShapeError>("rows in one place", call(x, with_strides(y, {0, 1})),
                                           {name, "a place for each element"});
        matrix.template refuse<ShapeError>("a shifted view of the input",
                                           call(x, in.view(Shape<2>(5, 3), 1)),
                                           {name, "partial overlap"});
        matrix.template refuse<ShapeError>(
            "the input backwards", call(x, with_strides(in.view(Shape<2>(5, 3), 12), {-3, 1})),
            {name, "partial overlap"});
        matrix.template refuse<ShapeError>("the value-returning call",
                                           [&] { (void)layer(in.view(Shape<2>(5, 2))); },
                                           {name, "found [3]"});
    };
    check(heed::LayerNorm<T>({.features = 3}), "[layer_norm]");
    check(heed::RMSNorm<T>({.features = 3}), "[rms_norm]");
}

TYPED_TEST(ErrorsTest, CallsOfEmbedding) {
    using T = TypeParam;
    Random random(1);
    heed::Embedding<T> layer({.count = 4, .features = 3});
    randomise_parameters(random, layer);
    Arena<T> out(2);
    const TensorView<T, 2> y = out.view(Shape<2>(3, 3));
    const auto call = [&](const std::vector<int>& ids, TensorView<T, 2> to) {
        return [&layer, ids, to] { layer.forward(std::span<const int>(ids), to); };
    };
    CallMatrix<T> matrix({&out}, [&] {
        call({0, 3, 1}, y)();
        return values(y);
    });
    matrix.template refuse<ArgumentError>("negative", call({0, -1, 1}, y),
                                          {"[embedding]", "[0, 4)", "found -1 at position 1"});
    matrix.template refuse<ArgumentError>("too large", call({0, 1, 4}, y),
                                          {"[embedding]", "found 4 at position 2"});
    matrix.template refuse<ShapeError>("too few rows", call({0, 3}, y), {"found [3, 3]"});
    matrix.template refuse<ShapeError>("too narrow", call({0, 3, 1}, out.view(Shape<2>(3, 2))),
                                       {"must have shape [3, 3]; found [3, 2]"});
    matrix.template refuse<ArgumentError>("null output", call({0, 3, 1}, at_null(y)),
                                          {"[embedding] the output", "found null"});
    matrix.template refuse<ShapeError>("rows in one place",
                                       call({0, 3, 1}, with_strides(y, {0, 1})),
                                       {"a place for each element"});
    matrix.template refuse<ShapeError>(
        "over the table", call({0, 3, 1}, layer.weight().slice(0, 0, 3)), {"must not overlap"});
}

TYPED_TEST(ErrorsTest, CallsOfScaledDotProductAttention) {
    using T = TypeParam;
    heed::ScaledDotProductAttention<T> attend;
    Arena<T> in(1), more(2), out(3), extra(4);
    const TensorView<T, 4> q = in.view(Shape<4>(2, 4, 3, 5)), k = more.view(Shape<4>(2, 2, 6, 5));
    const TensorView<T, 4> v = more.view(Shape<4>(2, 2, 6, 7), 200);
    const TensorView<T, 4> y = out.view(Shape<4>(2, 4, 3, 7));
    const TensorView<T, 4> weights = extra.view(Shape<4>(2, 4, 3, 6));
    const TensorView<T, 3> lse = extra.view(Shape<3>(2, 4, 3), 500);
    using View = TensorView<const T, 4>;
    const auto call = [&](View a, View b, View c, TensorView<T, 4> to,
                          const heed::AttentionOutputs<T>& outputs = {}) {
        return [=, &attend] { attend.forward(a, b, c, to, outputs); };
    };
    CallMatrix<T> matrix({&in, &more, &out, &extra}, [&] {
        attend.forward(q, k, v, y, {.weights = weights, .lse = lse});
        return values(y);
    });
    const std::string where = "[scaled_dot_product_attention]";
    matrix.template refuse<ShapeError>("batch", call(q, k.slice(0, 0, 1), v, y),
                                       {where, "same batch"});
    matrix.template refuse<ShapeError>("head_dim", call(q, k.slice(3, 0, 4), v, y),
                                       {where, "same head_dim"});
    matrix.template refuse<ShapeError>("kv_len", call(q, k, v.slice(2, 0, 5), y),
                                       {where, "kv_len"});
    matrix.template refuse<ShapeError>("kv_heads", call(q.slice(1, 0, 3), k, v, y),
                                       {where, "heads 3, kv_heads 2"});
    matrix.template refuse<ShapeError>("output", call(q, k, v, y.slice(3, 0, 6)), {where, "out"});
    matrix.template refuse<ShapeError>(
        "weights", call(q, k, v, y, {.weights = weights.slice(3, 0, 5)}), {where, "weights"});
    matrix.template refuse<ShapeError>("lse", call(q, k, v, y, {.lse = lse.slice(2, 0, 2)}),
                                       {where, "lse"});
    matrix.template refuse<ArgumentError>("null", call(q, at_null(k), v, y), {where, "null"});
    matrix.template refuse<ArgumentError>("null weights",
                                          call(q, k, v, y, {.weights = at_null(weights)}),
                                          {where, "weights", "null"});
    matrix.template refuse<ShapeError>("output over q", call(q, k, v, in.view(y.shape())),
                                       {where, "overlap"});
    matrix.template refuse<ShapeError>(
        "mask",
        [&] {
            attend.forward_with(q, k, v, y, heed::BlockWhere(Tensor<bool, 2>({3, 5})));
        },
        {"[BlockWhere]", "3, 5]"});
    matrix.template refuse<ArgumentError>(
        "alignment", [&] { attend.forward_with(q, k, v, y, heed::Causal{}); }, {"[Causal]"});
    matrix.template refuse<ShapeError>("the value-returning call",
                                       [&] { (void)attend(q, k.slice(3, 0, 4), v); }, {where});
}

TYPED_TEST(ErrorsTest, CallsOfSelfAttention) {
    using T = TypeParam;
    Random random(1);
    heed::SelfAttention<T> attend({.embed_dim = 5, .k_dim = 4, .v_dim = 7, .context_dim = 6});
    randomise_parameters(random, attend);
    Arena<T> in(1), more(2), out(3), extra(4);
    const TensorView<T, 3> x = in.view(Shape<3>(2, 3, 5)), c = more.view(Shape<3>(2, 8, 6));
    const TensorView<T, 3> y = out.view(Shape<3>(2, 3, 7));
    const TensorView<T, 4> weights = extra.view(Shape<4>(2, 1, 3, 8));
    const TensorView<T, 3> lse = extra.view(Shape<3>(2, 1, 3), 500);
    using View = TensorView<const T, 3>;
    const auto call = [&](View a, View b, TensorView<T, 3> to,
                          const heed::AttentionOutputs<T>& outputs = {}) {
        return [=, &attend] { attend.forward(a, b, to, heed::NoMask{}, outputs); };
    };
    CallMatrix<T> matrix({&in, &more, &out, &extra}, [&] {
        attend.forward(x, c, y, heed::NoMask{}, {.weights = weights, .lse = lse});
        return values(y);
    });
    matrix.template refuse<ShapeError>("width", call(in.view(Shape<3>(2, 3, 6)), c, y),
                                       {"[linear]", "[2, 3, 6]"});
    matrix.template refuse<ShapeError>("context's width", call(x, x, y), {"[linear]", "[2, 3, 5]"});
    matrix.template refuse<ShapeError>("batch", call(x, c.slice(0, 0, 1), y), {"same batch"});
    matrix.template refuse<ShapeError>("output's length", call(x, c, y.slice(1, 0, 2)),
                                       {"out must have shape"});
    matrix.template refuse<ShapeError>("output's width", call(x, c, y.slice(2, 0, 6)),
                                       {"out must have shape"});
    matrix.template refuse<ShapeError>(
        "weights", call(x, c, y, {.weights = weights.slice(3, 0, 7)}), {"weights must have shape"});
    matrix.template refuse<ShapeError>("lse", call(x, c, y, {.lse = lse.slice(2, 0, 2)}),
                                       {"lse must have shape"});
    matrix.template refuse<ArgumentError>("null input", call(at_null(x), c, y),
                                          {"the input", "null"});
    matrix.template refuse<ArgumentError>("null context", call(x, at_null(c), y),
                                          {"the input", "null"});
    matrix.template refuse<ArgumentError>("null output", call(x, c, at_null(y)), {"out", "null"});
    matrix.template refuse<ShapeError>("gaps", call(with_gaps(x), c, y), {"contiguous"});
    matrix.template refuse<ShapeError>("rows in one place", call(x, c, with_strides(y, {0, 7, 1})),
                                       {"a place for each element"});
    matrix.template refuse<ShapeError>("weights over the output",
                                       call(x, c, y, {.weights = out.view(weights.shape(), 5)}),
                                       {"overlap"});
    matrix.template refuse<ArgumentError>(
        "alignment", [&] { attend.forward(x, c, y, heed::Causal{}); }, {"q_len 3", "kv_len 8"});
    matrix.template refuse<ShapeError>("the value-returning call", [&] { (void)attend(x); },
                                       {"[linear]"});
}

TYPED_TEST(ErrorsTest, CallsOfMultiHeadAttention) {
    using T = TypeParam;
    Random random(1);
    heed::MultiHeadAttention<T> attend(
        {.embed_dim = 6, .num_heads = 2, .kdim = 4, .vdim = 5, .add_bias_kv = true});
    randomise_parameters(random, attend);
    Arena<T> in(1), more(2), out(3), extra(4);
    const TensorView<T, 3> q = in.view(Shape<3>(2, 3, 6)), k = more.view(Shape<3>(2, 7, 4));
    const TensorView<T, 3> v = more.view(Shape<3>(2, 7, 5), 100), y = out.view(Shape<3>(2, 3, 6));
    const TensorView<T, 4> weights = extra.view(Shape<4>(2, 2, 3, 8));
    const TensorView<T, 3> averaged = extra.view(Shape<3>(2, 3, 8), 200);
    const TensorView<T, 3> lse = extra.view(Shape<3>(2, 2, 3), 300);
    using View = TensorView<const T, 3>;
    const auto call = [&](View a, View b, View c, TensorView<T, 3> to,
                          const heed::MultiHeadAttentionOutputs<T>& outputs = {}) {
        return [=, &attend] { attend.forward(a, b, c, to, heed::NoMask{}, outputs); };
    };
    const auto with = [&](const heed::MultiHeadAttentionOutputs<T>& outputs) {
        return call(q, k, v, y, outputs);
    };
    CallMatrix<T> matrix({&in, &more, &out, &extra}, [&] {
        with({.weights = weights, .averaged_weights = averaged, .lse = lse})();
        std::vector<T> result = values(y);
        for (const auto& part : {values(weights), values(averaged), values(lse)})
            result.insert(result.end(), part.begin(), part.end());
        return result;
    });
    const std::string where = "[MultiHeadAttention] ";
    // Shapes.
    matrix.template refuse<ShapeError>("query's width", call(in.view(Shape<3>(2, 3, 5)), k, v, y),
                                       {where + "the query must have shape [2, 3, 6]; found "
                                                "[2, 3, 5]"});
    matrix.template refuse<ShapeError>("key's width", call(q, more.view(Shape<3>(2, 7, 6)), v, y),
                                       {where + "the key must have shape [2, 7, 4]; found "});
    matrix.template refuse<ShapeError>("key's batch", call(q, k.slice(0, 0, 1), v, y),
                                       {where + "the key must have shape [2, 7, 4]; found "});
    matrix.template refuse<ShapeError>("value's width", call(q, k, more.view(Shape<3>(2, 7, 4)), y),
                                       {where + "the value must have shape [2, 7, 5]; found "});
    matrix.template refuse<ShapeError>("value's length", call(q, k, v.slice(1, 0, 6), y),
                                       {where + "the value must have shape [2, 7, 5]; found "});
    matrix.template refuse<ShapeError>("value's batch", call(q, k, v.slice(0, 0, 1), y),
                                       {where + "the value must have shape [2, 7, 5]; found "});
    matrix.template refuse<ShapeError>("output's batch", call(q, k, v, y.slice(0, 0, 1)),
                                       {where + "the output must have shape [2, 3, 6]; found "});
    matrix.template refuse<ShapeError>("output's length", call(q, k, v, y.slice(1, 0, 2)),
                                       {where + "the output must have shape [2, 3, 6]; found "});
    matrix.template refuse<ShapeError>("output's width", call(q, k, v, y.slice(2, 0, 5)),
                                       {where + "the output must have shape [2, 3, 6]; found "});
    matrix.template refuse<ShapeError>("weights without the extra key",
                                       with({.weights = weights.slice(3, 0, 7)}),
                                       {where + "the weights must have shape [2, 2, 3, 8]; found"});
    matrix.template refuse<ShapeError>("weights without heads",
                                       with({.weights = weights.slice(1, 0, 1)}),
                                       {where + "the weights must have shape"});
    matrix.template refuse<ShapeError>(
        "averaged weights", with({.averaged_weights = averaged.slice(2, 0, 7)}),
        {where + "the averaged weights must have shape [2, 3, 8]; found"});
    matrix.template refuse<ShapeError>(
        "log-sum-exp", with({.lse = lse.slice(1, 0, 1)}),
        {where + "the log-sum-exp must have shape [2, 2, 3]; found"});
    // Memory.
    for (const auto& [name, bad] : {std::pair{"the query", call(at_null(q), k, v, y)},
                                    {"the key", call(q, at_null(k), v, y)},
                                    {"the value", call(q, k, at_null(v), y)},
                                    {"the output", call(q, k, v, at_null(y))},
                                    {"the weights", with({.weights = at_null(weights)})}})
        matrix.template refuse<ArgumentError>(name, bad,
                                              {where + name + " must point at memory; found null"});
    matrix.template refuse<ArgumentError>("null averaged weights",
                                          with({.averaged_weights = at_null(averaged)}),
                                          {where + "the averaged weights must point at memory"});
    matrix.template refuse<ArgumentError>("null log-sum-exp", with({.lse = at_null(lse)}),
                                          {where + "the log-sum-exp must point at memory"});
    for (const auto& [name, bad] : {std::pair{"the query", call(with_gaps(q), k, v, y)},
                                    {"the key", call(q, with_gaps(k), v, y)},
                                    {"the value", call(q, k, with_gaps(v), y)},
                                    {"the output", call(q, k, v, with_gaps(y))}})
        matrix.template refuse<ShapeError>(
            name, bad, {where + name + " must have a contiguous last dimension; found strides"});
    // With outputs asked for, a late refusal would leave them written.
    matrix.template refuse<ShapeError>(
        "gaps in the output, with weights",
        call(q, k, v, with_gaps(y), {.weights = weights, .averaged_weights = averaged, .lse = lse}),
        {where + "the output must have a contiguous last dimension"});
    matrix.template refuse<ShapeError>("rows in one place",
                                       call(q, k, v, with_strides(y, {18, 0, 1})),
                                       {where + "the output must have a place for each element"});
    matrix.template refuse<ShapeError>("weights in one place",
                                       with({.weights = with_strides(weights, {48, 24, 8, 0})}),
                                       {where + "the weights must have a place"});
    matrix.template refuse<ShapeError>(
        "averaged weights in one place",
        with({.averaged_weights = with_strides(averaged, {24, 0, 1})}),
        {where + "the averaged weights must have a place"});
    // Overlap: of outputs with inputs, and with each other.
    const std::string overlap = "must not overlap an input or another output";
    matrix.template refuse<ShapeError>("output over query", call(q, k, v, q),
                                       {where + "the output " + overlap});
    matrix.template refuse<ShapeError>("output over query's end",
                                       call(q, k, v, in.view(y.shape(), 35)),
                                       {where + "the output " + overlap});
    matrix.template refuse<ShapeError>("output over key", call(q, k, v, more.view(y.shape(), 40)),
                                       {where + "the output " + overlap});
    matrix.template refuse<ShapeError>("output over value",
                                       call(q, k, v, more.view(y.shape(), 165)),
                                       {where + "the output " + overlap});
    for (const auto& [arena, offset] :
         {std::pair{&in, 35}, {&more, 55}, {&more, 169}, {&out, 35}}) {
        matrix.template refuse<ShapeError>("weights",
                                           with({.weights = arena->view(weights.shape(), offset)}),
                                           {where + "the weights " + overlap});
        matrix.template refuse<ShapeError>(
            "averaged weights", with({.averaged_weights = arena->view(averaged.shape(), offset)}),
            {where + "the averaged weights " + overlap});
        matrix.template refuse<ShapeError>("log-sum-exp",
                                           with({.lse = arena->view(lse.shape(), offset)}),
                                           {where + "the log-sum-exp " + overlap});
    }
    matrix.template refuse<ShapeError>(
        "averaged weights over weights",
        with({.weights = weights, .averaged_weights = extra.view(averaged.shape(), 95)}),
        {where + "the averaged weights " + overlap});
    matrix.template refuse<ShapeError>(
        "log-sum-exp over weights", with({.weights = weights, .lse = extra.view(lse.shape(), 95)}),
        {where + "the log-sum-exp " + overlap});
    matrix.template refuse<ShapeError>(
        "log-sum-exp over averaged weights",
        with({.averaged_weights = averaged, .lse = extra.view(lse.shape(), 240)}),
        {where + "the log-sum-exp " + overlap});
    // Masks, which concern the keys given.
    const auto under = [&](const auto& mask) {
        return [=, &attend] {
            attend.forward(q, k, v, y, mask,
                           {.weights = weights, .averaged_weights = averaged, .lse = lse});
        };
    };
    const Tensor<bool, 2> wide({3, 8}), padding({2, 8});
    const std::array<Index, 2> lengths{3, 8};
    const std::array<Index, 3> many{1, 1, 1};
    matrix.template refuse<ShapeError>("a mask of the extra key", under(heed::BlockWhere(wide)),
                                       {"[BlockWhere]", "[2, 2, 3, 7]", "[1, 1, 3, 8]"});
    matrix.template refuse<ShapeError>("padding of the extra key", under(heed::block_keys(padding)),
                                       {"[2, 1, 1, 8]"});
    matrix.template refuse<ArgumentError>("a length beyond the keys",
                                          under(heed::KeyLengths{lengths}),
                                          {"[KeyLengths]", "found 8, kv_len 7"});
    matrix.template refuse<ShapeError>("too many lengths", under(heed::KeyLengths{many}),
                                       {"[KeyLengths]", "lengths 3, batch 2"});
    matrix.template refuse<ArgumentError>("no corner", under(heed::Causal{}),
                                          {"[Causal]", "q_len 3, kv_len 7"});
    matrix.template refuse<ArgumentError>("a soft-cap", under(heed::SoftCap{0}), {"[SoftCap]"});
    matrix.template refuse<ShapeError>("a bias in an output",
                                       under(heed::AdditiveBias(extra.view(Shape<2>(3, 7)))),
                                       {"masks and biases must not overlap an output"});
    matrix.template refuse<ShapeError>("the value-returning call", [&] { (void)attend(q, k, k); },
                                       {where + "the value"});
    matrix.template refuse<ShapeError>("self-attention with other widths", [&] { (void)attend(q); },
                                       {where + "the key"});
}

// Without an output projection the attention writes the output itself, on any strides.
TYPED_TEST(ErrorsTest, CallsOfMultiHeadAttentionWithoutProjection) {
    using T = TypeParam;
    Random random(1);
    heed::MultiHeadAttention<T> attend(
        {.embed_dim = 6, .num_heads = 2, .value_head_dim = 2, .out_projection = false});
    randomise_parameters(random, attend);
    Arena<T> in(1), out(3);
    const TensorView<T, 3> x = in.view(Shape<3>(2, 3, 6)), y = out.view(Shape<3>(2, 3, 4));
    const auto call = [&](TensorView<T, 3> to) {
        return [=, &attend] { attend.forward(x, x, x, to); };
    };
    CallMatrix<T> matrix({&in, &out}, [&] {
        attend.forward(x, x, x, with_gaps(y));
        return values(with_gaps(y));
    });
    matrix.template refuse<ShapeError>("embed_dim as width", call(out.view(Shape<3>(2, 3, 6))),
                                       {"the output must have shape [2, 3, 4]; found [2, 3, 6]"});
    matrix.template refuse<ShapeError>("over the input", call(in.view(y.shape())),
                                       {"[MultiHeadAttention] the output must not overlap"});
    matrix.template refuse<ShapeError>("in one place", call(with_strides(y, {12, 4, 0})),
                                       {"a place for each element"});
}

TYPED_TEST(ErrorsTest, CallsOfFeedForward) {
    using T = TypeParam;
    Random random(1);
    for (const bool gated : {false, true}) {
        heed::FeedForward<T> feed({.dim = 4, .hidden_dim = 5, .gated = gated});
        randomise_parameters(random, feed);
        Arena<T> in(1), out(2);
        const TensorView<T, 3> x = in.view(Shape<3>(2, 3, 4)), y = out.view(Shape<3>(2, 3, 4));
        const auto call = [&](TensorView<const T, 3> from, TensorView<T, 3> to) {
            return [=, &feed] { feed.forward(from, to); };
        };
        CallMatrix<T> matrix({&in, &out}, [&] {
            feed.forward(x, y);
            return values(y);
        });
        const TensorView<T, 3> wide_x = in.view(Shape<3>(2, 3, 5));
        const TensorView<T, 3> wide_y = out.view(Shape<3>(2, 3, 5));
        matrix.template refuse<ShapeError>("width", call(wide_x, wide_y),
                                           {"input [2, 3, 5], weight [5, 4]"});
        feed.train();  // where input and output must not overlap, either
        matrix.template refuse<ShapeError>("width above all", call(wide_x, wide_x),
                                           {"input [2, 3, 5], weight [5, 4]"});
        feed.eval();
        matrix.template refuse<ShapeError>("output's width", call(x, wide_y),
                                           {"[FeedForward] the output must have shape"});
        matrix.template refuse<ShapeError>("output's length", call(x, y.slice(1, 0, 2)),
                                           {"[FeedForward] the output must have shape"});
        matrix.template refuse<ArgumentError>("null input", call(at_null(x), y), {"null"});
        matrix.template refuse<ArgumentError>("null output", call(x, at_null(y)),
                                              {"[FeedForward] the output", "null"});
        matrix.template refuse<ShapeError>("gaps", call(with_gaps(x), y), {"contiguous"});
        matrix.template refuse<ShapeError>("gaps in the output", call(x, with_gaps(y)),
                                           {"contiguous"});
        matrix.template refuse<ShapeError>("in one place", call(x, with_strides(y, {0, 4, 1})),
                                           {"[FeedForward] the output must have a place"});
        matrix.template refuse<ShapeError>("the value-returning call", [&] { (void)feed(wide_x); },
                                           {"input [2, 3, 5]"});
    }
}

TYPED_TEST(ErrorsTest, CallsOfTransformerEncoderLayer) {
    using T = TypeParam;
    Random random(1);
    for (const bool norm_first : {false, true}) {
        SCOPED_TRACE(norm_first ? "pre-norm" : "post-norm");
        heed::TransformerEncoderLayer<T> layer(
            {.d_model = 4, .nhead = 2, .dim_feedforward = 5, .norm_first = norm_first});
        randomise_parameters(random, layer);
        Arena<T> in(1), out(2), extra(3);
        const TensorView<T, 3> x = in.view(Shape<3>(2, 3, 4)), y = out.view(Shape<3>(2, 3, 4));
        const TensorView<T, 4> weights = extra.view(Shape<4>(2, 2, 3, 3));
        const TensorView<T, 3> averaged = extra.view(Shape<3>(2, 3, 3), 100);
        const TensorView<T, 3> lse = extra.view(Shape<3>(2, 2, 3), 200);
        using Outputs = heed::MultiHeadAttentionOutputs<T>;
        const auto call = [&](TensorView<const T, 3> from, TensorView<T, 3> to,
                              const Outputs& outputs = {}) {
            return [=, &layer] { layer.forward(from, to, heed::NoMask{}, outputs); };
        };
        CallMatrix<T> matrix({&in, &out, &extra}, [&] {
            call(x, y, {.weights = weights, .averaged_weights = averaged, .lse = lse})();
            return values(y);
        });
        const std::string where = "[TransformerEncoderLayer] ";
        matrix.template refuse<ShapeError>(
            "width", call(in.view(Shape<3>(2, 3, 5)), out.view(Shape<3>(2, 3, 5))),
            {where + "the input must have shape [2, 3, 4]; found [2, 3, 5]"});
        matrix.template refuse<ShapeError>("output's width", call(x, out.view(Shape<3>(2, 3, 5))),
                                           {where + "the output must have shape [2, 3, 4]; found"});
        matrix.template refuse<ShapeError>("output's length", call(x, y.slice(1, 0, 2)),
                                           {where + "the output must have shape [2, 3, 4]; found"});
        matrix.template refuse<ArgumentError>("null input", call(at_null(x), y),
                                              {where + "the input must point at memory"});
        matrix.template refuse<ArgumentError>("null output", call(x, at_null(y)),
                                              {where + "the output must point at memory"});
        matrix.template refuse<ShapeError>("in one place", call(x, with_strides(y, {12, 0, 1})),
                                           {where + "the output must have a place"});
        // In place is one thing, half in place another.
        const std::string overlap = "the output must be the input's view or not overlap it; found";
        for (const Index offset : {1, 4, 12, 23})
            matrix.template refuse<ShapeError>(
                "partial overlap", call(x, in.view(x.shape(), offset)), {where + overlap});
        matrix.template refuse<ShapeError>("the input's memory in another order",
                                           call(x, with_strides(in.view(x.shape()), {4, 8, 1})),
                                           {where + overlap});
        // Outputs over the input, which the residual still needs, or over the output.
        for (Arena<T>* arena : {&in, &out}) {
            matrix.template refuse<ShapeError>(
                "weights", call(x, y, {.weights = arena->view(weights.shape(), 23)}),
                {where + "the weights must not overlap"});
            matrix.template refuse<ShapeError>(
                "averaged", call(x, y, {.averaged_weights = arena->view(averaged.shape(), 23)}),
                {where + "the averaged weights must not overlap"});
            matrix.template refuse<ShapeError>("lse",
                                               call(x, y, {.lse = arena->view(lse.shape(), 23)}),
                                               {where + "the log-sum-exp must not overlap"});
        }
        matrix.template refuse<ShapeError>("weights' shape",
                                           call(x, y, {.weights = weights.slice(3, 0, 2)}),
                                           {where + "the weights must have shape [2, 2, 3, 3]"});
        // Refused by the attention, before the residual is written.
        const Tensor<bool, 2> wide({3, 4});
        matrix.template refuse<ShapeError>(
            "mask", [&] { layer.forward(x, y, heed::BlockWhere(wide)); }, {"[BlockWhere]"});
        matrix.template refuse<ShapeError>("mask, in place",
                                           [&] { layer.forward(x, x, heed::BlockWhere(wide)); },
                                           {"[BlockWhere]"});
        matrix.template refuse<ShapeError>("the value-returning call",
                                           [&] { (void)layer(in.view(Shape<3>(2, 3, 5))); },
                                           {where + "the input must have shape"});
    }
}

// A refused call in training draws no mask: the next good call is the one that would have come.
TYPED_TEST(ErrorsTest, RefusedCallsDrawNoDropout) {
    using T = TypeParam;
    Random random(1);
    const auto x = random_tensor<T, 3>(random, {2, 3, 4});
    const Tensor<bool, 2> wide({3, 5});
    const auto check = [&](auto module) {
        randomise_parameters(random, module);
        module.train();
        auto undisturbed(module);
        for (int call = 0; call < 3; ++call) {
            EXPECT_THROW((void)module(x, heed::BlockWhere(wide)), ShapeError);
            EXPECT_VERDICT(support::compare_bits(values(module(x)), values(undisturbed(x))));
        }
    };
    check(heed::SelfAttention<T>({.embed_dim = 4, .dropout = 0.5}));
    check(heed::MultiHeadAttention<T>(
        {.embed_dim = 4, .num_heads = 2, .dropout = 0.5, .out_dropout = 0.5}));
    check(heed::TransformerEncoderLayer<T>(
        {.d_model = 4, .nhead = 2, .dim_feedforward = 5, .dropout = 0.5}));
}

}  // namespace
