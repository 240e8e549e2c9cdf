// Is ScaledDotProductAttention the function with its options fixed, and SelfAttention one head of
// it with its own projections? And is memory kept between calls, without a trace in the results?

#include "heed/nn/attention.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <memory>

#include "nn/nn_support.hpp"
#include "nn/reference.hpp"
#include "support/allocation_counter.hpp"
#include "support/threads.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::AttentionOutputs;
using heed::Causal;
using heed::NoMask;
using heed::ScaledDotProductAttention;
using heed::SelfAttention;
using nn_test::Index;
using nn_test::parameters_of;
using nn_test::Random;
using nn_test::random_tensor;
using nn_test::randomise_parameters;
using nn_test::Shape;
using nn_test::Tensor;
using nn_test::TensorView;
using nn_test::values;

template <class T>
struct Heads {
    Tensor<T, 4> q, k, v;

    Heads(Random& random, const heed::AttentionShape& s)
        : q(random_tensor<T, 4>(random, {s.batch, s.heads, s.q_len, s.head_dim})),
          k(random_tensor<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.head_dim})),
          v(random_tensor<T, 4>(random, {s.batch, s.kv_heads, s.kv_len, s.value_dim})) {}
};

/// What one attention writes, prefilled with NaN.
template <class T>
struct Written {
    Tensor<T, 4> out, weights;
    Tensor<T, 3> lse;

    explicit Written(const Heads<T>& in)
        : out(in.q.shape().with(3, in.v.extent(3))),
          weights(in.q.shape().with(3, in.k.extent(2))),
          lse({in.q.extent(0), in.q.extent(1), in.q.extent(2)}) {
        const T nan = std::numeric_limits<T>::quiet_NaN();
        heed::fill(out.view(), nan);
        heed::fill(weights.view(), nan);
        heed::fill(lse.view(), nan);
    }

    AttentionOutputs<T> outputs() { return {.weights = weights, .lse = lse}; }
};

template <class T>
void expect_same_bits(const Written<T>& a, const Written<T>& b) {
    EXPECT_VERDICT(support::compare_bits(values(a.out), values(b.out)));
    EXPECT_VERDICT(support::compare_bits(values(a.weights), values(b.weights)));
    EXPECT_VERDICT(support::compare_bits(values(a.lse), values(b.lse)));
}

/// What the function writes, which the tests of attention/ judge.
template <class T, class Mask>
Written<T> by_function(const Heads<T>& in, const Mask& mask,
                       heed::AttentionOptions<T> options = {}) {
    Written<T> result(in);
    options.weights = result.weights;
    options.lse = result.lse;
    heed::scaled_dot_product_attention(in.q, in.k, in.v, result.out, mask, options);
    return result;
}

template <class T>
class ScaledDotProductAttentionTest : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ScaledDotProductAttentionTest, Scalars);

// --- The mask is a type
// ---------------------------------------------------------------------------

template <class T, class Mask>
void expect_module_is_function(const char* what, const Heads<T>& in, const Mask& mask) {
    SCOPED_TRACE(what);
    const Written<T> expected = by_function(in, mask);
    ScaledDotProductAttention<T, Mask> module({}, mask);
    Written<T> fixed(in);
    module.forward(in.q, in.k, in.v, fixed.out, fixed.outputs());
    expect_same_bits(fixed, expected);

    ScaledDotProductAttention<T> plain;
    Written<T> passed(in);
    plain.forward_with(in.q, in.k, in.v, passed.out, mask, passed.outputs());
    expect_same_bits(passed, expected);

    const Tensor<T, 4> out = module(in.q, in.k, in.v);
    Tensor<T, 4> without(out.shape());
    heed::scaled_dot_product_attention(in.q, in.k, in.v, without, mask);
    EXPECT_VERDICT(support::compare_bits(values(out), values(without)));
}

TYPED_TEST(ScaledDotProductAttentionTest, EveryKindOfMask) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const heed::AttentionShape s{2, 4, 2, 5, 7, 3, 6};
    const Heads<T> in(random, s);
    Tensor<bool, 2> flags({s.q_len, s.kv_len}), padding({s.batch, s.kv_len});
    for (auto view : {flags.view(), padding.view()})
        heed::detail::for_each_element([&](bool& flag) { flag = random.chance(0.4); }, view);
    const Tensor<float, 4> bias =
        random_tensor<float, 4>(random, {s.batch, s.heads, s.q_len, s.kv_len});
    const Tensor<T, 1> slopes = heed::alibi_slopes<T>(s.heads);
    const std::array<Index, 2> lengths{7, 2};
    const auto tilt = [](auto score, heed::ScoreIndex at) {
        return score - decltype(score)(0.125) * static_cast<decltype(score)>(at.k);
    };

    expect_module_is_function("none", in, NoMask{});
    expect_module_is_function("causal, top left", in, Causal::top_left());
    expect_module_is_function("causal, bottom right", in, Causal::bottom_right());
    expect_module_is_function("window", in,
                              heed::SlidingWindow{2, 1, heed::Alignment::bottom_right()});
    expect_module_is_function("lengths", in, heed::KeyLengths{lengths});
    expect_module_is_function("attend", in, heed::AttendWhere(flags));
    expect_module_is_function("block", in, heed::BlockWhere(flags));
    expect_module_is_function("padding", in, heed::block_keys(padding));
    expect_module_is_function("bias", in, heed::AdditiveBias(bias));
    expect_module_is_function("ALiBi", in, heed::Alibi(slopes, heed::Alignment::top_left()));
    expect_module_is_function("soft-cap", in, heed::SoftCap{0.5});
    expect_module_is_function("function", in, tilt);
    expect_module_is_function("together", in,
                              Causal::bottom_right() & heed::SoftCap{2.0} &
                                  heed::block_keys(padding) & heed::AdditiveBias(bias) & tilt);
}

// A module that ignored its mask, or took the other corner, would be caught.
TYPED_TEST(ScaledDotProductAttentionTest, TheMaskMatters) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {1, 1, 1, 3, 5, 2, 2});
    const auto plain = values(ScaledDotProductAttention<T>()(in.q, in.k, in.v));
    const auto top =
        values(ScaledDotProductAttention<T, Causal>({}, Causal::top_left())(in.q, in.k, in.v));
    const auto bottom =
        values(ScaledDotProductAttention<T, Causal>({}, Causal::bottom_right())(in.q, in.k, in.v));
    EXPECT_FALSE(support::compare_bits(plain, top));
    EXPECT_FALSE(support::compare_bits(plain, bottom));
    EXPECT_FALSE(support::compare_bits(top, bottom));
}

TYPED_TEST(ScaledDotProductAttentionTest, TheMaskCanBeExchanged) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {2, 1, 1, 3, 5, 2, 2});
    const std::array<Index, 2> first{5, 2}, second{1, 4};
    ScaledDotProductAttention<T, heed::KeyLengths> attend({}, {first});
    EXPECT_EQ(attend.mask().lengths.data(), first.data());
    Tensor<T, 4> expected({2, 1, 3, 2});
    for (const auto* lengths : {&first, &second}) {
        attend.set_mask({*lengths});
        EXPECT_EQ(attend.mask().lengths.data(), lengths->data());
        heed::scaled_dot_product_attention(in.q, in.k, in.v, expected, heed::KeyLengths{*lengths});
        EXPECT_VERDICT(support::compare_bits(values(attend(in.q, in.k, in.v)), values(expected)));
    }
    // forward_with takes another mask for one call, and keeps its own.
    Tensor<T, 4> out({2, 1, 3, 2});
    attend.forward_with(in.q, in.k, in.v, out, NoMask{});
    EXPECT_FALSE(support::compare_bits(values(out), values(expected)));
    EXPECT_VERDICT(support::compare_bits(values(attend(in.q, in.k, in.v)), values(expected)));
}

// A causal mask without a corner is one as long as the lengths agree.
TYPED_TEST(ScaledDotProductAttentionTest, ADefaultConstructedCausalMaskAsksForItsCorner) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> square(random, {1, 1, 1, 4, 4, 2, 2}), wide(random, {1, 1, 1, 3, 4, 2, 2});
    ScaledDotProductAttention<T, Causal> attend;
    Tensor<T, 4> expected({1, 1, 4, 2});
    heed::scaled_dot_product_attention(square.q, square.k, square.v, expected, Causal::top_left());
    EXPECT_VERDICT(
        support::compare_bits(values(attend(square.q, square.k, square.v)), values(expected)));
    nn_test::expect_refused<heed::ArgumentError>([&] { (void)attend(wide.q, wide.k, wide.v); },
                                                 {"alignment", "q_len 3", "kv_len 4"});
}

TYPED_TEST(ScaledDotProductAttentionTest, ScaleIsHonoured) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {1, 2, 2, 3, 4, 9, 2});
    for (const std::optional<double> scale : {std::optional<double>{}, {0.0}, {-0.5}, {2.0}}) {
        ScaledDotProductAttention<T> attend({.scale = scale});
        Written<T> actual(in);
        attend.forward(in.q, in.k, in.v, actual.out, actual.outputs());
        expect_same_bits(actual, by_function(in, NoMask{}, {.scale = scale}));
    }
    // 1 / sqrt(9)
    Written<T> said(in);
    ScaledDotProductAttention<T>({.scale = T(1) / T(3)})
        .forward(in.q, in.k, in.v, said.out, said.outputs());
    expect_same_bits(said, by_function(in, NoMask{}));
}

// --- Dropout
// --------------------------------------------------------------------------------------

TYPED_TEST(ScaledDotProductAttentionTest, DropoutIsThatOfTheFunctionCallByCall) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {2, 2, 2, 4, 6, 3, 3});
    const std::uint64_t seed = random.bits();
    ScaledDotProductAttention<T> attend({.dropout = 0.4, .seed = seed});
    const Written<T> plain = by_function(in, NoMask{});
    const auto run = [&] {
        Written<T> result(in);
        attend.forward(in.q, in.k, in.v, result.out, result.outputs());
        return result;
    };
    expect_same_bits(run(), plain);  // the initial state is evaluation
    attend.train();
    std::vector<std::vector<T>> seen{values(plain.out)};
    for (std::uint32_t call = 0; call < 4; ++call) {
        const Written<T> dropped = run();
        expect_same_bits(dropped, by_function(in, NoMask{}, {.dropout = {0.4, seed, call}}));
        for (const auto& earlier : seen)
            EXPECT_FALSE(support::compare_bits(values(dropped.out), earlier));
        seen.push_back(values(dropped.out));
        if (call == 1) {  // An evaluation in between draws nothing.
            attend.eval();
            expect_same_bits(run(), plain);
            attend.train(true);
        }
        if (call == 2) {  // Nor does a call that is refused.
            const Tensor<T, 4> wrong({2, 2, 6, 4});
            Tensor<T, 4> out({2, 2, 4, 3});
            EXPECT_THROW(attend.forward(in.q, wrong, in.v, out), heed::ShapeError);
            EXPECT_THROW(attend.forward_with(in.q, in.k, in.v, out, heed::SoftCap{-1}),
                         heed::ArgumentError);
        }
    }
    attend.train(false);
    expect_same_bits(run(), plain);
}

TYPED_TEST(ScaledDotProductAttentionTest, DropoutOfEverythingLeavesNothing) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {1, 2, 2, 4, 6, 3, 3});
    ScaledDotProductAttention<T> attend({.dropout = 1.0});
    attend.train();
    for (const T value : values(attend(in.q, in.k, in.v))) EXPECT_EQ(value, T(0));
}

// --- Memory
// ---------------------------------------------------------------------------------------

const std::vector<heed::AttentionShape> growing_and_shrinking{
    {1, 2, 2, 3, 4, 3, 2},  {3, 4, 2, 17, 33, 8, 9}, {1, 1, 1, 1, 1, 1, 1}, {2, 2, 1, 40, 5, 16, 3},
    {1, 2, 2, 3, 90, 3, 2}, {0, 2, 2, 3, 4, 3, 2},   {2, 2, 2, 3, 0, 3, 2}, {1, 2, 2, 3, 4, 3, 2}};

TYPED_TEST(ScaledDotProductAttentionTest, ReusedMemoryChangesNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    ScaledDotProductAttention<T, Causal> reused({}, Causal::bottom_right());
    for (const heed::AttentionShape& s : growing_and_shrinking) {
        const Heads<T> in(random, s);
        Written<T> actual(in);
        reused.forward(in.q, in.k, in.v, actual.out, actual.outputs());
        expect_same_bits(actual, by_function(in, Causal::bottom_right()));
        // The same without the optional outputs, for which another path may serve.
        Tensor<T, 4> alone(actual.out.shape()), expected(actual.out.shape());
        reused.forward(in.q, in.k, in.v, alone);
        heed::scaled_dot_product_attention(in.q, in.k, in.v, expected, Causal::bottom_right());
        EXPECT_VERDICT(support::compare_bits(values(alone), values(expected)));
    }
}

// Weights are made from whole heads, which need more memory than tiles do when the keys are many.
TYPED_TEST(ScaledDotProductAttentionTest, WeightsOverManyKeys) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {1, 1, 1, 2, 20'000, 2, 2});
    ScaledDotProductAttention<T> attend;
    Written<T> actual(in);
    attend.forward(in.q, in.k, in.v, actual.out, actual.outputs());
    expect_same_bits(actual, by_function(in, NoMask{}));
}

/// Allocations of a second call of the same size, and of a smaller one, after a first.
template <class T, class Module, class Mask>
std::size_t allocations_in_steady_state(Module& attend, const Heads<T>& large,
                                        const Heads<T>& small, const Mask& mask) {
    Written<T> first(large), second(small);
    const auto run = [&] {
        attend.forward_with(large.q, large.k, large.v, first.out, mask, first.outputs());
        attend.forward_with(large.q, large.k, large.v, first.out, mask);
        attend.forward_with(small.q, small.k, small.v, second.out, mask, second.outputs());
    };
    run();
    const support::AllocationCounter counter;
    run();
    return counter.count();
}

TYPED_TEST(ScaledDotProductAttentionTest, AllocatesNothingInSteadyState) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> large(random, {2, 4, 2, 33, 65, 16, 8}), small(random, {1, 2, 2, 3, 5, 4, 4});
    const Tensor<float, 1> bias = random_tensor<float, 1>(random, Shape<1>(1));
    ScaledDotProductAttention<T> attend({.dropout = 0.5});
    EXPECT_EQ(allocations_in_steady_state(attend, large, small, NoMask{}), 0u);
    EXPECT_EQ(allocations_in_steady_state(attend, large, small, Causal::bottom_right()), 0u);
    EXPECT_EQ(allocations_in_steady_state(
                  attend, large, small,
                  Causal::bottom_right() & heed::AdditiveBias(bias) & heed::SoftCap{3.0}),
              0u);
    attend.train();
    EXPECT_EQ(allocations_in_steady_state(attend, large, small, NoMask{}), 0u);

    // With the threads of the process as well.
    const Heads<T> worth_it(random, {2, 4, 2, 130, 150, 32, 32});
    {
        const support::WithThreads several(2);
        EXPECT_EQ(allocations_in_steady_state(attend, worth_it, small, Causal::bottom_right()), 0u);
    }

    // The counter does count: without a kept workspace each call allocates.
    Written<T> out(large);
    const support::AllocationCounter counter;
    heed::scaled_dot_product_attention(large.q, large.k, large.v, out.out);
    EXPECT_GT(counter.count(), 0u);
}

TYPED_TEST(ScaledDotProductAttentionTest, CopiesShareNothing) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const Heads<T> in(random, {2, 2, 2, 9, 9, 4, 4});
    ScaledDotProductAttention<T> original({.dropout = 0.5, .seed = 3});
    original.train();
    (void)original(in.q, in.k, in.v);
    ScaledDotProductAttention<T> copy(original);  // at the same place of the stream
    const auto second = values(original(in.q, in.k, in.v));
    EXPECT_VERDICT(support::compare_bits(values(copy(in.q, in.k, in.v)), second));
    ScaledDotProductAttention<T> assigned;
    assigned = copy;
    const auto third = values(original(in.q, in.k, in.v));
    EXPECT_VERDICT(support::compare_bits(values(assigned(in.q, in.k, in.v)), third));
    ScaledDotProductAttention<T> moved(std::move(assigned));
    EXPECT_VERDICT(
        support::compare_bits(values(moved(in.q, in.k, in.v)), values(original(in.q, in.k, in.v))));
}

// --- SelfAttention
// --------------------------------------------------------------------------------

template <class T>
class SelfAttentionTest : public testing::Test {};
TYPED_TEST_SUITE(SelfAttentionTest, Scalars);

/// The parameters under the reference's names.
template <class T>
reference::Parameters<T> reference_parameters(const SelfAttention<T>& module) {
    reference::Parameters<T> result;
    for (const auto& [name, numbers] : parameters_of(module))
        result[name.substr(2, 1) + name.substr(name.find('.'))] = numbers;  // "W_query.weight"
    return result;
}

template <class T>
reference::Yardstick<T> yardstick(const SelfAttention<T>& module, TensorView<const T, 3> x,
                                  TensorView<const T, 3> context, const oracle::Rules& rules = {}) {
    const reference::MultiHead m{.B = x.extent(0),
                                 .Lq = x.extent(1),
                                 .Lk = context.extent(1),
                                 .E = x.extent(2),
                                 .kdim = context.extent(2),
                                 .vdim = context.extent(2),
                                 .rules = rules};
    return reference::yardstick<T>(m, reference_parameters(module), values(x), values(context),
                                   values(context));
}

/// Compares one call, with all that it writes, with the reference.
template <class T, class Mask = NoMask>
void check(SelfAttention<T>& module, TensorView<const T, 3> x, TensorView<const T, 3> context,
           Index v_dim, const Mask& mask = {}, const oracle::Rules& rules = {}) {
    Tensor<T, 3> out(x.shape().with(2, v_dim)), lse({x.extent(0), Index{1}, x.extent(1)});
    Tensor<T, 4> weights({x.extent(0), Index{1}, x.extent(1), context.extent(1)});
    module.forward(x, context, out, mask, {.weights = weights, .lse = lse});
    const auto answer = yardstick(module, x, context, rules);
    EXPECT_VERDICT(reference::compare_output(values(out), answer));
    EXPECT_VERDICT(reference::compare_weights(values(weights), answer));
    EXPECT_VERDICT(reference::compare_log_sum_exp(values(lse), answer));
    EXPECT_VERDICT(reference::compare_output(values(module(x, context, mask)), answer));
}

TYPED_TEST(SelfAttentionTest, WidthsAreFree) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    struct Widths {
        Index embed_dim, k_dim, v_dim, context_dim;
    };
    for (const Widths& w : {Widths{6, 0, 0, 0},
                            {6, 2, 0, 0},
                            {6, 0, 9, 0},
                            {6, 2, 9, 0},
                            {6, 0, 0, 4},
                            {6, 5, 3, 4},
                            {1, 1, 1, 1},
                            {16, 24, 28, 16}})
        for (const bool bias : {false, true}) {
            SCOPED_TRACE(testing::Message() << w.embed_dim << ' ' << w.k_dim << ' ' << w.v_dim
                                            << ' ' << w.context_dim << " bias " << bias);
            SelfAttention<T> module({.embed_dim = w.embed_dim,
                                     .k_dim = w.k_dim,
                                     .v_dim = w.v_dim,
                                     .context_dim = w.context_dim,
                                     .bias = bias});
            randomise_parameters(random, module);
            const Index k_dim = w.k_dim ? w.k_dim : w.embed_dim;
            const Index v_dim = w.v_dim ? w.v_dim : k_dim;
            const Index context_dim = w.context_dim ? w.context_dim : w.embed_dim;
            EXPECT_EQ(module.query().weight().shape(), (Shape<2>(k_dim, w.embed_dim)));
            EXPECT_EQ(module.key().weight().shape(), (Shape<2>(k_dim, context_dim)));
            EXPECT_EQ(module.value().weight().shape(), (Shape<2>(v_dim, context_dim)));
            EXPECT_EQ(module.query().bias().empty(), !bias);
            const auto x = random_tensor<T, 3>(random, {2, 4, w.embed_dim});
            const auto context = random_tensor<T, 3>(random, {2, 5, context_dim});
            check<T>(module, x, context, v_dim);
            if (context_dim != w.embed_dim) continue;
            check<T>(module, x, x, v_dim);
            EXPECT_VERDICT(support::compare_bits(values(module(x)), values(module(x, x))));
        }
}

TYPED_TEST(SelfAttentionTest, ScaleAndMasks) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 5, 6});
    for (const std::optional<double> scale : {std::optional<double>{}, {0.0}, {-0.75}}) {
        SelfAttention<T> module({.embed_dim = 6, .k_dim = 4, .scale = scale});
        randomise_parameters(random, module);
        oracle::Rules rules{.scale = scale};
        check<T>(module, x, x, 4, NoMask{}, rules);
        rules.visible = [](Index, Index, Index q, Index k) { return k <= q; };
        check<T>(module, x, x, 4, Causal{}, rules);
        EXPECT_VERDICT(support::compare_bits(values(module(x, Causal{})),
                                             values(module(x, x, Causal::bottom_right()))));
        const std::array<Index, 2> lengths{4, 0};  // the second sequence sees nothing
        rules.visible = [](Index b, Index, Index, Index k) { return b == 0 && k < 4; };
        check<T>(module, x, x, 4, heed::KeyLengths{lengths}, rules);
    }
}

TYPED_TEST(SelfAttentionTest, ReusedMemoryChangesNoBit) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    SelfAttention<T> reused({.embed_dim = 6, .k_dim = 5, .v_dim = 7, .context_dim = 4});
    randomise_parameters(random, reused);
    for (const auto& [batch, q_len, kv_len] :
         {std::array<Index, 3>{1, 2, 3}, {3, 20, 30}, {2, 1, 4}, {1, 30, 1}, {1, 1, 1}}) {
        const auto x = random_tensor<T, 3>(random, {batch, q_len, Index{6}});
        const auto context = random_tensor<T, 3>(random, {batch, kv_len, Index{4}});
        SelfAttention<T> fresh(reused);
        EXPECT_VERDICT(
            support::compare_bits(values(reused(x, context)), values(fresh(x, context))));
    }
}

TYPED_TEST(SelfAttentionTest, AnyStridesWithContiguousRows) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    for (int turn = 0; turn < 20; ++turn) {
        SelfAttention<T> module({.embed_dim = 6, .v_dim = 3});
        randomise_parameters(random, module);
        const auto x = random_tensor<T, 3>(random, {2, 4, 6});
        support::Strided<T, 3> strided(random, x.shape(), T(77),
                                       support::Strided<T, 3>::Rows::contiguous);
        strided.assign(x.values());
        support::Strided<T, 3> out(random, {2, 4, 3});  // written by the attention: any strides
        module.forward(strided.const_view(), strided.const_view(), out.view());
        const auto answer = yardstick<T>(module, x, x);
        EXPECT_VERDICT(reference::compare_output(values(out.view()), answer));
        EXPECT_TRUE(out.gaps_untouched());
    }
}

TYPED_TEST(SelfAttentionTest, DropoutInTrainingOnly) {
    using T = TypeParam;
    Random random;
    SCOPED_TRACE(random.describe());
    const auto x = random_tensor<T, 3>(random, {2, 5, 6});
    SelfAttention<T> module({.embed_dim = 6, .dropout = 0.4, .seed = 11});
    randomise_parameters(random, module);
    SelfAttention<T> same(module);
    const auto plain = values(module(x));
    module.train();
    for (std::uint32_t call = 0; call < 3; ++call) {
        const heed::detail::DropoutRule rule("test", {0.4, 11, call});
        oracle::Rules rules;
        rules.dropout = 0.4;
        rules.keep = [&](Index b, Index h, Index q, Index k) {
            return rule.keeps(static_cast<std::uint32_t>(b + h), static_cast<std::uint32_t>(q),
                              static_cast<std::uint64_t>(k));
        };
        const auto answer = yardstick<T>(module, x, x, rules);
        EXPECT_VERDICT(reference::compare_output(values(module(x)), answer));
    }
    module.eval();
    EXPECT_VERDICT(support::compare_bits(values(module(x)), plain));
    EXPECT_VERDICT(support::compare_bits(values(same(x)), plain));
}

TYPED_TEST(SelfAttentionTest, ResetDrawsEachProjectionByItself) {
    using T = TypeParam;
    SelfAttention<T> a({.embed_dim = 6, .bias = true}), b({.embed_dim = 6, .bias = true});
    Random random;
    randomise_parameters(random, a);
    a.reset_parameters(4);
    b.reset_parameters(4);
    const auto p = parameters_of(a);
    EXPECT_EQ(p, parameters_of(b));
    EXPECT_NE(p.at("W_query.weight"), p.at("W_key.weight"));
    EXPECT_NE(p.at("W_query.weight"), p.at("W_value.weight"));
    EXPECT_NE(p.at("W_key.weight"), p.at("W_value.weight"));
    for (const char* name : {"W_query.bias", "W_key.bias", "W_value.bias"})
        EXPECT_EQ(p.at(name), std::vector<T>(6)) << name;
    b.reset_parameters(5);
    EXPECT_NE(p.at("W_query.weight"), parameters_of(b).at("W_query.weight"));
}

}  // namespace
