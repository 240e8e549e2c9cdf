// What is refused, with which error, before anything is written? Every argument of an attention and
// every mask, made wrong in every way.
#include "heed/attention/plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "attention/attend.hpp"

namespace {

using heed::AdditiveBias;
using heed::Alibi;
using heed::Alignment;
using heed::ArgumentError;
using heed::AttendWhere;
using heed::AttentionOptions;
using heed::BlockWhere;
using heed::Causal;
using heed::Index;
using heed::KeyLengths;
using heed::NoMask;
using heed::ScoreStage;
using heed::Shape;
using heed::ShapeError;
using heed::SlidingWindow;
using heed::SoftCap;
using heed::Strides;
using heed::Tensor;
using heed::TensorView;
using testing::HasSubstr;
using testing::StartsWith;

using View = TensorView<float, 4>;

constexpr Index B = 2, H = 4, Hk = 2, Lq = 3, Lk = 5, D = 6, Dv = 7;
const Shape<4> square(B, H, Lq, Lk);
const std::string sdpa = "scaled_dot_product_attention";
constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double inf = std::numeric_limits<double>::infinity();

/// One block of memory in which every argument has a place of its own; every byte of it counts.
class Fixture {
    std::vector<float> memory_ = std::vector<float>(8192);
    Index used_ = 0;

  public:
    View q = take({B, H, Lq, D}), k = take({B, Hk, Lk, D}), v = take({B, Hk, Lk, Dv});
    View out = take({B, H, Lq, Dv}), weights = take(square), scores = take(square);
    TensorView<float, 3> lse = take({B, H, Lq, 1}).reshape(Shape<3>(B, H, Lq));
    View bias = take(square);
    /// Free memory, enough for any argument.
    float* spare = memory_.data() + used_;
    static constexpr Index spare_size = 4096;

    Fixture() {
        std::memset(memory_.data(), 0xA5, memory_.size() * sizeof(float));
        support::Random random(5);
        for (const View& input : {q, k, v, bias})
            heed::copy(attend::normals<float, 4>(random, input.shape()).view(), input);
    }

    template <int Rank>
    [[nodiscard]] TensorView<float, Rank> at(float* place, const Shape<Rank>& shape) const {
        return {place, shape};
    }
    [[nodiscard]] View spare_view(const Shape<4>& shape) const { return {spare, shape}; }

    template <class Mask = NoMask>
    void run(const Mask& mask = {}, const AttentionOptions<float>& options = {}) const {
        heed::scaled_dot_product_attention(q, k, v, out, mask, options);
    }

    [[nodiscard]] std::vector<std::byte> bytes() const {
        const auto* begin = reinterpret_cast<const std::byte*>(memory_.data());
        return {begin, begin + memory_.size() * sizeof(float)};
    }

  private:
    View take(const Shape<4>& shape) {
        View view(memory_.data() + used_, shape);
        used_ += shape.element_count();
        return view;
    }
};

/// The call throws `Kind`, whose text names the function and what was found, and writes nothing.
template <class Kind, class Call>
void expect_refused(const Fixture& fixture, const std::string& where, const std::string& rule,
                    const std::string& found, const Call& call) {
    const std::vector<std::byte> before = fixture.bytes();
    try {
        call();
        ADD_FAILURE() << "accepted; expected [" << where << "] " << rule;
    } catch (const heed::Error& error) {
        EXPECT_NE(dynamic_cast<const Kind*>(&error), nullptr)
            << "another type of error: " << error.what();
        EXPECT_THAT(error.what(), StartsWith("[" + where + "] "));
        EXPECT_THAT(error.what(), HasSubstr(rule));
        EXPECT_THAT(error.what(), HasSubstr("found"));
        EXPECT_THAT(error.what(), HasSubstr(found));
    }
    EXPECT_EQ(before, fixture.bytes()) << "something was written: [" << where << "] " << rule;
}

#define EXPECT_REFUSED(Kind, fixture, where, rule, found, ...)                   \
    do {                                                                         \
        SCOPED_TRACE("line " + std::to_string(__LINE__));                        \
        expect_refused<Kind>(fixture, where, rule, found, [&] { __VA_ARGS__; }); \
    } while (false)

/// A mask is refused with and without weights asked for, alone and composed.
template <class Kind, class Mask>
void expect_mask_refused(const Mask& mask, const std::string& where, const std::string& rule,
                         const std::string& found) {
    const Fixture f;
    expect_refused<Kind>(f, where, rule, found, [&] { f.run(mask); });
    expect_refused<Kind>(f, where, rule, found, [&] {
        f.run(mask, {.lse = f.lse, .weights = f.weights, .scores = f.scores});
    });
    expect_refused<Kind>(f, where, rule, found, [&] { f.run(SoftCap{1} & mask); });
    expect_refused<Kind>(f, where, rule, found,
                         [&] { (void)heed::scaled_dot_product_attention(f.q, f.k, f.v, mask); });
}

TEST(Refused, TheFixtureItselfIsAccepted) {
    const Fixture f;
    EXPECT_NO_THROW(f.run());
    EXPECT_NO_THROW(f.run(AdditiveBias{f.bias} & Causal::top_left(),
                          {.lse = f.lse, .weights = f.weights, .scores = f.scores}));
    const Fixture untouched;
    EXPECT_NE(f.bytes(), untouched.bytes());
}

TEST(Refused, InputsThatDoNotFitEachOther) {
    const Fixture f;
    const auto run = [&](const View& q, const View& k, const View& v) {
        heed::scaled_dot_product_attention(q, k, v, f.out);
    };
    const auto cut = [](const View& view, int dimension, Index count) {
        return view.slice(dimension, 0, count);
    };
    const std::string same_batch = "q, k and v must have the same batch";
    EXPECT_REFUSED(ShapeError, f, sdpa, same_batch, "q [1, 4, 3, 6]",
                   run(cut(f.q, 0, 1), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_batch, "k [1, 2, 5, 6]",
                   run(f.q, cut(f.k, 0, 1), f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_batch, "v [1, 2, 5, 7]",
                   run(f.q, f.k, cut(f.v, 0, 1)));
    const std::string same_dim = "q and k must have the same head_dim";
    EXPECT_REFUSED(ShapeError, f, sdpa, same_dim, "q [2, 4, 3, 5]", run(cut(f.q, 3, 5), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_dim, "k [2, 2, 5, 1]", run(f.q, cut(f.k, 3, 1), f.v));
    const std::string same_kv = "k and v must have the same kv_heads and kv_len";
    EXPECT_REFUSED(ShapeError, f, sdpa, same_kv, "v [2, 1, 5, 7]", run(f.q, f.k, cut(f.v, 1, 1)));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_kv, "k [2, 1, 5, 6]", run(f.q, cut(f.k, 1, 1), f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_kv, "v [2, 2, 4, 7]", run(f.q, f.k, cut(f.v, 2, 4)));
    EXPECT_REFUSED(ShapeError, f, sdpa, same_kv, "k [2, 2, 0, 6]", run(f.q, cut(f.k, 2, 0), f.v));
    const std::string divide = "kv_heads must divide heads, and neither may be 0";
    EXPECT_REFUSED(ShapeError, f, sdpa, divide, "heads 3, kv_heads 2",
                   run(cut(f.q, 1, 3), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, divide, "heads 1, kv_heads 2",
                   run(cut(f.q, 1, 1), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, divide, "heads 0, kv_heads 2",
                   run(cut(f.q, 1, 0), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, divide, "heads 4, kv_heads 0",
                   run(f.q, cut(f.k, 1, 0), cut(f.v, 1, 0)));
}

TEST(Refused, InputsThatDoNotFitByTheReturningFunctionToo) {
    const Fixture f;
    EXPECT_REFUSED(ShapeError, f, sdpa, "the same batch", "[1, 4, 3, 6]",
                   (void)heed::scaled_dot_product_attention(f.q.slice(0, 0, 1), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, "the same head_dim", "[2, 4, 3, 5]",
                   (void)heed::scaled_dot_product_attention(f.q.slice(3, 0, 5), f.k, f.v));
    EXPECT_REFUSED(ShapeError, f, sdpa, "kv_heads must divide heads", "heads 3, kv_heads 2",
                   (void)heed::scaled_dot_product_attention(f.q.slice(1, 0, 3), f.k, f.v));
    EXPECT_REFUSED(
        ArgumentError, f, sdpa, "the scale must be finite", "nan",
        (void)heed::scaled_dot_product_attention(f.q, f.k, f.v, NoMask{}, {.scale = nan}));
}

TEST(Refused, NullPointersWithElements) {
    const Fixture f;
    const auto null = [](const View& like) { return View(nullptr, like.shape()); };
    EXPECT_REFUSED(ArgumentError, f, sdpa, "q must point at memory", "null with shape [2, 4, 3, 6]",
                   heed::scaled_dot_product_attention(null(f.q), f.k, f.v, f.out));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "k must point at memory", "null with shape [2, 2, 5, 6]",
                   heed::scaled_dot_product_attention(f.q, null(f.k), f.v, f.out));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "v must point at memory", "null with shape [2, 2, 5, 7]",
                   heed::scaled_dot_product_attention(f.q, f.k, null(f.v), f.out));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "out must point at memory",
                   "null with shape [2, 4, 3, 7]",
                   heed::scaled_dot_product_attention(f.q, f.k, f.v, null(f.out)));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "weights must point at memory", "null",
                   f.run(NoMask{}, {.weights = null(f.weights)}));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "scores must point at memory", "null",
                   f.run(NoMask{}, {.scores = null(f.scores)}));
    EXPECT_REFUSED(ArgumentError, f, sdpa, "lse must point at memory", "null",
                   f.run(NoMask{}, {.lse = TensorView<float, 3>(nullptr, f.lse.shape())}));
    const std::string masks = "masks and biases must point at memory";
    EXPECT_REFUSED(ArgumentError, f, sdpa, masks, "null", f.run(AdditiveBias{null(f.bias)}));
    EXPECT_REFUSED(ArgumentError, f, sdpa, masks, "null",
                   f.run(AttendWhere{TensorView<const bool, 2>(nullptr, {Lq, Lk})}));
    EXPECT_REFUSED(
        ArgumentError, f, sdpa, masks, "null",
        f.run(Causal::top_left() & BlockWhere{TensorView<const std::uint8_t, 1>(nullptr, {Lk})}));
    EXPECT_REFUSED(ArgumentError, f, sdpa, masks, "null",
                   f.run(Alibi{TensorView<const float, 1>(nullptr, {H}), Alignment::top_left()}));
}

TEST(Refused, OutputsOfAnotherShape) {
    const Fixture f;
    const auto with_out = [&](const View& out) {
        heed::scaled_dot_product_attention(f.q, f.k, f.v, out);
    };
    for (int d = 0; d < 4; ++d)
        for (const Index change : {-1, 1}) {
            const Shape<4> wrong = f.out.shape().with(d, f.out.extent(d) + change);
            EXPECT_REFUSED(ShapeError, f, sdpa, "out must have shape [2, 4, 3, 7]",
                           to_string(wrong), with_out(f.spare_view(wrong)));
            const Shape<4> wrong_square = square.with(d, square[d] + change);
            EXPECT_REFUSED(ShapeError, f, sdpa, "weights must have shape [2, 4, 3, 5]",
                           to_string(wrong_square),
                           f.run(NoMask{}, {.weights = f.spare_view(wrong_square)}));
            EXPECT_REFUSED(ShapeError, f, sdpa, "scores must have shape [2, 4, 3, 5]",
                           to_string(wrong_square),
                           f.run(NoMask{}, {.scores = f.spare_view(wrong_square)}));
            if (d == 3) continue;
            const Shape<3> wrong_rows = f.lse.shape().with(d, f.lse.extent(d) + change);
            EXPECT_REFUSED(ShapeError, f, sdpa, "lse must have shape [2, 4, 3]",
                           to_string(wrong_rows),
                           f.run(NoMask{}, {.lse = f.at(f.spare, wrong_rows)}));
        }
    // An output that has memory and no elements is not an absent one.
    EXPECT_REFUSED(ShapeError, f, sdpa, "weights must have shape [2, 4, 3, 5]", "[2, 4, 3, 0]",
                   f.run(NoMask{}, {.weights = f.spare_view(square.with(3, 0))}));
}

/// A byte that is shared, exactly, in part, or in one element, in both directions.
TEST(Refused, OutputsThatOverlapInputs) {
    const Fixture f;
    const auto named = {std::pair{"q", f.q}, std::pair{"k", f.k}, std::pair{"v", f.v}};
    for (const auto& [name, input] : named) {
        SCOPED_TRACE(name);
        const Index last = input.element_count() - 1;
        for (const Index shift : {Index{0}, Index{1}, last, 1 - f.out.element_count()}) {
            EXPECT_REFUSED(ShapeError, f, sdpa, "out must not overlap an input or another output",
                           "overlapping memory",
                           heed::scaled_dot_product_attention(
                               f.q, f.k, f.v, f.at(input.data() + shift, f.out.shape())));
        }
        for (const Index shift : {Index{0}, last}) {
            float* const place = input.data() + shift;
            EXPECT_REFUSED(ShapeError, f, sdpa, "weights must not overlap", "overlapping memory",
                           f.run(NoMask{}, {.weights = f.at(place, square)}));
            EXPECT_REFUSED(ShapeError, f, sdpa, "scores must not overlap", "overlapping memory",
                           f.run(NoMask{}, {.scores = f.at(place, square)}));
            EXPECT_REFUSED(ShapeError, f, sdpa, "lse must not overlap", "overlapping memory",
                           f.run(NoMask{}, {.lse = f.at(place, f.lse.shape())}));
        }
    }
}

TEST(Refused, OutputsThatOverlapEachOther) {
    const Fixture f;
    EXPECT_REFUSED(ShapeError, f, sdpa, "weights must not overlap", "overlapping memory",
                   f.run(NoMask{}, {.weights = f.at(f.out.data() + 167, square)}));
    EXPECT_REFUSED(ShapeError, f, sdpa, "scores must not overlap", "overlapping memory",
                   f.run(NoMask{}, {.scores = f.at(f.out.data() + 167, square)}));
    EXPECT_REFUSED(ShapeError, f, sdpa, "lse must not overlap", "overlapping memory",
                   f.run(NoMask{}, {.lse = f.at(f.out.data(), f.lse.shape())}));
    EXPECT_REFUSED(ShapeError, f, sdpa, "scores must not overlap", "overlapping memory",
                   f.run(NoMask{}, {.weights = f.weights, .scores = f.weights}));
    EXPECT_REFUSED(ShapeError, f, sdpa, "lse must not overlap", "overlapping memory",
                   f.run(NoMask{}, {.lse = f.at(f.weights.data() + 119, f.lse.shape()),
                                    .weights = f.weights}));
    EXPECT_REFUSED(
        ShapeError, f, sdpa, "lse must not overlap", "overlapping memory",
        f.run(NoMask{}, {.lse = f.at(f.scores.data(), f.lse.shape()), .scores = f.scores}));
}

TEST(Refused, OutputsThatOverlapMasks) {
    const Fixture f;
    const std::string rule = "masks and biases must not overlap an output";
    const auto over = [&](float* place) { return AdditiveBias{f.at(place, square)}; };
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                   f.run(over(f.out.data() + 167)));
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                   f.run(over(f.weights.data()), {.weights = f.weights}));
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                   f.run(over(f.scores.data()), {.scores = f.scores}));
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                   f.run(over(f.lse.data()), {.lse = f.lse}));
    const auto* flags = reinterpret_cast<const std::uint8_t*>(f.out.data());
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                   f.run(AttendWhere{TensorView<const std::uint8_t, 1>(flags, {Lk})}));
    EXPECT_REFUSED(
        ShapeError, f, sdpa, rule, "overlapping memory",
        f.run(Causal::top_left() & BlockWhere{TensorView<const std::uint8_t, 1>(flags, {Lk})}));
    EXPECT_REFUSED(
        ShapeError, f, sdpa, rule, "overlapping memory",
        f.run(Alibi{TensorView<const float, 1>(f.out.data(), {H}), Alignment::top_left()}));
    // An output that is not asked for may lie anywhere.
    EXPECT_NO_THROW(f.run(over(f.weights.data())));
}

TEST(Refused, OutputsWhoseElementsShareAPlace) {
    const Fixture f;
    for (std::size_t d = 0; d < 4; ++d) {
        Strides<4> strides = f.out.strides();
        strides[d] = 0;
        EXPECT_REFUSED(ShapeError, f, sdpa, "out must have a place for each element", "strides",
                       heed::scaled_dot_product_attention(f.q, f.k, f.v,
                                                          View(f.spare, f.out.shape(), strides)));
        strides = f.weights.strides();
        strides[d] = 0;
        const View weights(f.spare, square, strides);
        EXPECT_REFUSED(ShapeError, f, sdpa, "weights must have a place for each element", "strides",
                       f.run(NoMask{}, {.weights = weights}));
        EXPECT_REFUSED(ShapeError, f, sdpa, "scores must have a place for each element", "strides",
                       f.run(NoMask{}, {.scores = weights}));
    }
    // Rows that overlap by one element, forwards and backwards, and two dimensions that collide.
    for (const Strides<4>& strides :
         {Strides<4>{72, 18, Dv - 1, 1}, Strides<4>{-72, 18, -(Dv - 1), 1},
          Strides<4>{84, 21, 1, 1}, Strides<4>{84, 21, 1, 2}}) {
        float* const middle = f.spare + 400;
        EXPECT_REFUSED(ShapeError, f, sdpa, "out must have a place for each element",
                       std::to_string(strides[2]),
                       heed::scaled_dot_product_attention(f.q, f.k, f.v,
                                                          View(middle, f.out.shape(), strides)));
    }
    EXPECT_REFUSED(
        ShapeError, f, sdpa, "lse must have a place for each element", "strides",
        f.run(NoMask{}, {.lse = TensorView<float, 3>(f.spare, f.lse.shape(), {12, 3, 0})}));
}

TEST(Accepted, OutputsAmongInputsThatShareNoByte) {
    const Fixture f;
    // Directly behind and before each other: the fixture. Interleaved, element by element:
    const View q(f.spare, f.q.shape(), {288, 72, 24, 4});
    const View k(f.spare + 1, f.k.shape(), {240, 120, 24, 4});
    const View v(f.spare + 2, f.v.shape(), {280, 140, 28, 4});
    const View out(f.spare + 3, f.out.shape(), {336, 84, 28, 4});
    for (const View& input : {q, k, v}) heed::fill(input, 1.0f);
    EXPECT_NO_THROW(heed::scaled_dot_product_attention(q, k, v, out));
    EXPECT_EQ(out(1, 3, 2, 6), 1.0f);
    // Strides of dimensions that have one position mean nothing.
    const View one_head(f.spare, Shape<4>(1, 1, Lq, D), {0, 0, D, 1});
    const View one_out(f.spare + 100, Shape<4>(1, 1, Lq, D), {0, 0, D, 1});
    EXPECT_NO_THROW(heed::scaled_dot_product_attention(one_head, one_head, one_head, one_out));
}

TEST(Refused, Scales) {
    const Fixture f;
    for (const double scale : {nan, inf, -inf, 1e39, -1e300})
        EXPECT_REFUSED(ArgumentError, f, sdpa, "the scale must be finite",
                       heed::detail::text(scale), f.run(NoMask{}, {.scale = scale}));
    for (const double scale : {0.0, -0.0, -3.0, 1e-300, 1e38})
        EXPECT_NO_THROW(f.run(NoMask{}, {.scale = scale}));
}

TEST(Refused, DropoutProbabilities) {
    const Fixture f;
    for (const double p : {-1e-9, -1.0, 1.0000001, 2.0, nan, inf, -inf})
        EXPECT_REFUSED(ArgumentError, f, sdpa, "the dropout probability must be in [0, 1]",
                       heed::detail::text(p), f.run(NoMask{}, {.dropout = {.probability = p}}));
    for (const double p : {0.0, -0.0, 1e-300, 1.0})
        EXPECT_NO_THROW(f.run(NoMask{}, {.dropout = {.probability = p}}));
}

// Sizes of no elements, so that no memory is needed to name them.
TEST(Refused, DropoutBeyondItsCounter) {
    const Fixture f;
    constexpr Index beyond = Index{1} << 32;
    const auto run = [&](Index batch, Index heads, Index q_len, Index kv_len, double p) {
        const View q(nullptr, {batch, heads, q_len, 0}), k(nullptr, {batch, heads, kv_len, 0});
        heed::scaled_dot_product_attention(q, k, k, q, NoMask{}, {.dropout = {.probability = p}});
    };
    const std::string rule = "dropout needs q_len, kv_len and batch * heads below 2^32";
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "[1, 1, 4294967296, 1]", run(1, 1, beyond, 1, 0.5));
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "[1, 1, 1, 4294967296]", run(1, 1, 1, beyond, 0.5));
    EXPECT_REFUSED(ShapeError, f, sdpa, rule, "[65536, 65536, 1, 1]", run(65536, 65536, 1, 1, 0.5));
    EXPECT_NO_THROW(run(1, 1, 1, 1, 0.5));
}

TEST(Refused, Workspaces) {
    const Fixture f;
    const heed::AttentionShape s{B, H, Hk, Lq, Lk, D, Dv};
    const std::size_t lean = heed::attention_workspace_bytes<float>(s);
    const std::size_t rich = heed::attention_workspace_bytes<float>(s, true);
    std::vector<std::byte> memory(std::max(lean, rich));
    const std::span<std::byte> all(memory);
    const auto rule = [](std::size_t bytes) {
        return "the workspace must have at least " + std::to_string(bytes) + " bytes";
    };
    for (const std::size_t bytes : {std::size_t{1}, lean - 1})
        EXPECT_REFUSED(ArgumentError, f, sdpa, rule(lean), std::to_string(bytes),
                       f.run(NoMask{}, {.workspace = all.first(bytes)}));
    for (const std::size_t bytes : {std::size_t{1}, rich - 1})
        EXPECT_REFUSED(ArgumentError, f, sdpa, rule(rich), std::to_string(bytes),
                       f.run(NoMask{}, {.weights = f.weights, .workspace = all.first(bytes)}));
    EXPECT_NO_THROW(f.run(NoMask{}, {.workspace = all.first(lean)}));
    EXPECT_NO_THROW(f.run(NoMask{}, {.scores = f.scores, .workspace = all.first(rich)}));
}

TEST(Refused, WorkspacesThatOverlap) {
    const Fixture f;
    const std::string rule = "the workspace must not overlap an input, a mask or an output";
    const auto at = [](auto* place) {
        return std::span<std::byte>(reinterpret_cast<std::byte*>(place), 4);
    };
    const AttentionOptions<float> options{
        .lse = f.lse, .weights = f.weights, .scores = f.scores, .workspace = {}};
    for (float* const place : {f.q.data(), f.k.data(), f.v.data() + 139, f.out.data(), f.lse.data(),
                               f.weights.data(), f.scores.data(), f.bias.data() + 119}) {
        AttentionOptions<float> overlapping = options;
        overlapping.workspace = at(place);
        EXPECT_REFUSED(ShapeError, f, sdpa, rule, "overlapping memory",
                       f.run(AdditiveBias{f.bias}, overlapping));
    }
}

TEST(Refused, SizesWhoseScratchDoesNotFit) {
    const Fixture f;
    constexpr Index most = std::numeric_limits<Index>::max();
    for (const bool rich : {false, true})
        for (const heed::AttentionShape& s :
             {heed::AttentionShape{1, 1, 1, 1, 1, most / 2, 1},
              heed::AttentionShape{1, 1, 1, 1, 1, 1, most},
              heed::AttentionShape{1, 1, 1, 1, most / 64, most / 64, 1}}) {
            EXPECT_REFUSED(ShapeError, f, "attention_workspace_bytes",
                           "a size must fit into 63 bits", "beyond it",
                           (void)heed::attention_workspace_bytes<float>(s, rich));
        }
}

TEST(RefusedMask, UnnamedAlignments) {
    const std::string rule = "the alignment must be named", found = "q_len 3, kv_len 5";
    const Tensor<float, 1> slopes = heed::alibi_slopes<float>(H);
    expect_mask_refused<ArgumentError>(Causal{}, "Causal", rule, found);
    expect_mask_refused<ArgumentError>(SlidingWindow{1, 1}, "SlidingWindow", rule, found);
    expect_mask_refused<ArgumentError>(Alibi{slopes}, "Alibi", rule, found);
}

TEST(RefusedMask, OffsetsThatDoNotFit) {
    const std::array<Index, 3> three{};
    const std::array<Index, 2> far{0, Index{1} << 62};
    const Tensor<float, 1> slopes = heed::alibi_slopes<float>(H);
    const std::string one_each = "there must be one offset for each batch element";
    expect_mask_refused<ShapeError>(Causal::offsets(three), "Causal", one_each,
                                    "offsets 3, batch 2");
    expect_mask_refused<ShapeError>(SlidingWindow{1, 1, Alignment::offsets(three)}, "SlidingWindow",
                                    one_each, "offsets 3, batch 2");
    expect_mask_refused<ShapeError>(Alibi{slopes, Alignment::offsets({})}, "Alibi", one_each,
                                    "offsets 0, batch 2");
    const std::string within = "an offset must be within 2^61", found = std::to_string(far[1]);
    expect_mask_refused<ArgumentError>(Causal::offset(far[1]), "Causal", within, found);
    expect_mask_refused<ArgumentError>(Causal::offsets(far), "Causal", within, found);
    expect_mask_refused<ArgumentError>(SlidingWindow{1, 1, Alignment::offset(-far[1])},
                                       "SlidingWindow", within, "-" + found);
    expect_mask_refused<ArgumentError>(Alibi{slopes, Alignment::offsets(far)}, "Alibi", within,
                                       found);
}

TEST(RefusedMask, WindowsOfNegativeWidth) {
    constexpr Index least = std::numeric_limits<Index>::min();
    for (const Index width : {Index{-2}, Index{-100}, least}) {
        expect_mask_refused<ArgumentError>(
            SlidingWindow{.left = width, .alignment = Alignment::top_left()}, "SlidingWindow",
            "left must be -1 (unbounded) or more", std::to_string(width));
        expect_mask_refused<ArgumentError>(
            SlidingWindow{.right = width, .alignment = Alignment::top_left()}, "SlidingWindow",
            "right must be -1 (unbounded) or more", std::to_string(width));
    }
}

TEST(RefusedMask, KeyLengthsThatDoNotFit) {
    const std::array<Index, 1> one{3};
    const std::array<Index, 3> three{3, 3, 3};
    const std::string one_each = "there must be one length for each batch element";
    expect_mask_refused<ShapeError>(KeyLengths{one}, "KeyLengths", one_each, "lengths 1, batch 2");
    expect_mask_refused<ShapeError>(KeyLengths{three}, "KeyLengths", one_each,
                                    "lengths 3, batch 2");
    expect_mask_refused<ShapeError>(KeyLengths{}, "KeyLengths", one_each, "lengths 0, batch 2");
    constexpr Index least = std::numeric_limits<Index>::min();
    constexpr Index most = std::numeric_limits<Index>::max();
    for (const Index length : {Index{-1}, Lk + 1, least, most}) {
        const std::array<Index, 2> lengths{Lk, length};
        expect_mask_refused<ArgumentError>(KeyLengths{lengths}, "KeyLengths",
                                           "a length must be in [0, kv_len]",
                                           std::to_string(length) + ", kv_len 5");
    }
}

/// Shapes that [2, 4, 3, 5] cannot be broadcast from, at each dimension.
template <class T, class MakeMask>
void expect_shapes_refused(const MakeMask& make_mask, const std::string& where,
                           const std::string& what) {
    const std::string rule = what + " must broadcast to [2, 4, 3, 5]";
    for (int d = 0; d < 4; ++d)
        for (const Index wrong : {Index{0}, square[d] - 1, square[d] + 1}) {
            if (wrong == 1) continue;
            const Tensor<T, 4> full(square.with(d, wrong));
            expect_mask_refused<ShapeError>(make_mask(full), where, rule, to_string(full.shape()));
            const Tensor<T, 4> thin(Shape<4>(1, 1, 1, 1).with(d, wrong));
            expect_mask_refused<ShapeError>(make_mask(thin), where, rule, to_string(thin.shape()));
        }
    const Tensor<T, 2> transposed({Lk, Lq});
    expect_mask_refused<ShapeError>(make_mask(transposed), where, rule, "[1, 1, 5, 3]");
    const Tensor<T, 1> of_queries(Lq);
    expect_mask_refused<ShapeError>(make_mask(of_queries), where, rule, "[1, 1, 1, 3]");
}

TEST(RefusedMask, TensorsOfAnotherShape) {
    expect_shapes_refused<bool>([](const auto& x) { return AttendWhere{x}; }, "AttendWhere",
                                "the mask");
    expect_shapes_refused<std::uint8_t>([](const auto& x) { return BlockWhere{x}; }, "BlockWhere",
                                        "the mask");
    expect_shapes_refused<heed::half>([](const auto& x) { return AdditiveBias{x}; }, "AdditiveBias",
                                      "the bias");
}

TEST(RefusedMask, KeyPaddingOfAnotherShape) {
    const std::string rule = "the mask must broadcast to [2, 4, 3, 5]";
    const Tensor<bool, 2> other_batch({3, Lk}), other_length({B, Lk - 1}), transposed({Lk, B});
    expect_mask_refused<ShapeError>(heed::attend_keys(other_batch), "AttendWhere", rule,
                                    "[3, 1, 1, 5]");
    expect_mask_refused<ShapeError>(heed::block_keys(other_length), "BlockWhere", rule,
                                    "[2, 1, 1, 4]");
    expect_mask_refused<ShapeError>(heed::block_keys(transposed), "BlockWhere", rule,
                                    "[5, 1, 1, 2]");
}

TEST(RefusedMask, SlopesOfAnotherShape) {
    const std::string rule = "the slopes must broadcast to [2, 4]";
    const auto at = Alignment::top_left();
    const Tensor<float, 1> three(3), none(Index{0});
    const Tensor<double, 2> other_batch({3, H}), other_heads({B, H + 1}), transposed({H, B});
    expect_mask_refused<ShapeError>(Alibi{three, at}, "Alibi", rule, "[1, 3]");
    expect_mask_refused<ShapeError>(Alibi{none, at}, "Alibi", rule, "[1, 0]");
    expect_mask_refused<ShapeError>(Alibi{other_batch, at}, "Alibi", rule, "[3, 4]");
    expect_mask_refused<ShapeError>(Alibi{other_heads, at}, "Alibi", rule, "[2, 5]");
    expect_mask_refused<ShapeError>(Alibi{transposed, at}, "Alibi", rule, "[4, 2]");
}

TEST(RefusedMask, Caps) {
    for (const double cap : {0.0, -0.0, -1.0, nan, inf, -inf, 1e39, 1e-46})
        expect_mask_refused<ArgumentError>(SoftCap{cap}, "SoftCap",
                                           "the cap must be positive and finite",
                                           heed::detail::text(cap));
}

TEST(Accepted, CallsWriteNothingOfTheirInputs) {
    const Fixture f;
    const auto bytes_of = [](const View& view) { return attend::elements(view); };
    const auto q = bytes_of(f.q), k = bytes_of(f.k), v = bytes_of(f.v), bias = bytes_of(f.bias);
    f.run(AdditiveBias{f.bias} & Causal::bottom_right() & SoftCap{2},
          {.dropout = {.probability = 0.5}, .lse = f.lse});
    f.run(AdditiveBias{f.bias}, {.lse = f.lse, .weights = f.weights, .scores = f.scores});
    EXPECT_TRUE(support::compare_bits(bytes_of(f.q), q));
    EXPECT_TRUE(support::compare_bits(bytes_of(f.k), k));
    EXPECT_TRUE(support::compare_bits(bytes_of(f.v), v));
    EXPECT_TRUE(support::compare_bits(bytes_of(f.bias), bias));
}

}  // namespace
