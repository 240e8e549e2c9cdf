// Real bugs of other attention code, each with the test that it must not pass here. The first line
// of a test names where the bug was found. Everything runs both with and without weights.
// Here: shapes, strides and indices (B3), dropout (B4), log-sum-exp (B5), types and memory (B7,
// B8).
#include "attention/museum.hpp"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace {

using namespace museum;

// pytorch#193728
TEST(Museum, B3_31_KeysAndValuesOfDifferentLengths) {
    const Tensor<float, 4> q({1, 1, 2, 3}), five({1, 1, 5, 3}), six({1, 1, 6, 3});
    EXPECT_THROW((void)heed::scaled_dot_product_attention(q, five, six), heed::ShapeError);
    EXPECT_THROW((void)heed::scaled_dot_product_attention(q, six, five), heed::ShapeError);
}

// pytorch#187506, #181133, torch-spyre#4331
TEST(Museum, B3_32_Strides) {
    const AttentionShape s{2, 3, 3, 20, 35, 6, 6};
    const auto in = inputs(s);
    const auto expected = everything(in.q, in.k, in.v);
    // The same values under another order of dimensions, read back through strides.
    const auto reordered = [](const Tensor<float, 4>& tensor, const std::array<int, 4>& order) {
        std::array<int, 4> back{};
        for (int d = 0; d < 4; ++d)
            back[static_cast<std::size_t>(order[static_cast<std::size_t>(d)])] = d;
        return std::pair(Tensor<float, 4>(TensorView<const float, 4>(tensor).permute(order)), back);
    };
    for (const std::array<int, 4>& order : {std::array{0, 2, 1, 3}, std::array{0, 1, 3, 2},
                                            std::array{3, 2, 1, 0}, std::array{2, 0, 3, 1}}) {
        const auto [q, back] = reordered(in.q, order);
        const auto k = reordered(in.k, order).first, v = reordered(in.v, order).first;
        EXPECT_SAME(expected, everything(q.view().permute(back), k.view().permute(back),
                                         v.view().permute(back)));
    }
    // Backwards in memory along every dimension.
    const auto backwards = [](const Tensor<float, 4>& tensor) {
        std::vector<float> values = elements(tensor);
        std::reverse(values.begin(), values.end());
        return Tensor<float, 4>(tensor.shape(), values);
    };
    const auto reversed_view = [](const Tensor<float, 4>& tensor) {
        heed::Strides<4> strides = tensor.view().strides();
        for (Index& stride : strides) stride = -stride;
        return TensorView<const float, 4>(tensor.data() + tensor.element_count() - 1,
                                          tensor.shape(), strides);
    };
    const Tensor<float, 4> q = backwards(in.q), k = backwards(in.k), v = backwards(in.v);
    EXPECT_SAME(expected, everything(reversed_view(q), reversed_view(k), reversed_view(v)));
}

// pytorch#141218, #191325, #106700
TEST(Museum, B3_34_ZeroHeads) {
    const auto run = [](Index heads, Index kv_heads) {
        const Tensor<float, 4> q({1, heads, 2, 3}), k({1, kv_heads, 4, 3});
        (void)heed::scaled_dot_product_attention(q, k, k);
    };
    EXPECT_THROW(run(0, 0), heed::ShapeError);
    EXPECT_THROW(run(0, 2), heed::ShapeError);
    EXPECT_THROW(run(2, 0), heed::ShapeError);
    EXPECT_THROW(run(6, 4), heed::ShapeError);
    EXPECT_THROW(run(2, 4), heed::ShapeError);
    EXPECT_NO_THROW(run(4, 2));
}

// pytorch#174951, flash-attention#2470, #2568
TEST(Museum, B3_35_EverySubsetOfDimensionsZero) {
    for (unsigned set = 0; set < 32; ++set) {
        const auto extent = [&](unsigned bit, Index usual) { return set >> bit & 1u ? 0 : usual; };
        const AttentionShape s{extent(0, 2), 4,           2, extent(1, 5), extent(2, 6),
                               extent(3, 3), extent(4, 4)};
        SCOPED_TRACE(attend::to_string(s));
        const auto in = inputs(s);
        const Tensor<float, 2> padding_bias({s.batch, s.kv_len});
        Tensor<bool, 2> padding({s.batch, s.kv_len});
        heed::fill(padding.view(), true);
        const std::vector<Index> lengths(static_cast<std::size_t>(s.batch), s.kv_len);
        for (const auto& result :
             {everything(in.q, in.k, in.v), everything(in.q, in.k, in.v, Causal::bottom_right()),
              everything(in.q, in.k, in.v, KeyLengths{lengths}),
              everything(in.q, in.k, in.v, heed::attend_keys(padding)),
              everything(in.q, in.k, in.v, Causal::top_left() & SoftCap{2},
                         {.dropout = {.probability = 0.5}})}) {
            EXPECT_EQ(result.out.shape(), Shape<4>(s.batch, 4, s.q_len, s.value_dim));
            expect_no_nan(result);
            if (s.kv_len > 0) continue;
            for (const auto& out : outs(result))
                for (const float x : elements(out)) EXPECT_EQ(x, 0.0f);
            for (const auto& lse : lses(result))
                for (const float x : elements(lse)) EXPECT_EQ(x, -infinity);
        }
        if (s.kv_len > 0) expect_right(s, in, NoMask{}, {});
    }
}

// xformers#719: NaN above 32,768 keys.
TEST(Museum, B3_36_MoreThan32768Keys) {
    for (const Index L : {32767, 32768, 65537}) {
        const AttentionShape s{1, 1, 1, 2, L, 4, 4};
        expect_no_nan(expect_right(s, inputs(s), NoMask{}, {}));
        expect_no_nan(expect_right(
            s, inputs(s), Causal::bottom_right(),
            {.visible = [&](Index, Index, Index i, Index j) { return j <= i + L - 2; }}));
    }
}

/// Address space that costs memory only where it is touched; zeros elsewhere.
class Sparse {
  public:
    explicit Sparse(std::size_t bytes)
        : bytes_(bytes),
          memory_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
    ~Sparse() {
        if (reserved()) munmap(memory_, bytes_);
    }
    Sparse(const Sparse&) = delete;
    Sparse& operator=(const Sparse&) = delete;

    [[nodiscard]] bool reserved() const { return memory_ != MAP_FAILED; }
    [[nodiscard]] float* data() const { return static_cast<float*>(memory_); }

  private:
    std::size_t bytes_;
    void* memory_;
};

// flash-attention#1500, SageAttention#386, pytorch#190857: "silent corruption first, crash second".
TEST(Museum, B3_37_StridesBeyond32Bits) {
    const AttentionShape s{2, 2, 1, 3, 4, 4, 4};
    const auto in = inputs(s);
    const auto expected = everything(in.q, in.k, in.v, Causal::bottom_right());
    // A stride of more than 2^31 elements along the positions, then along the batch.
    for (const heed::Strides<4>& strides : {heed::Strides<4>{16, 8, (Index{1} << 31) + 64, 1},
                                            heed::Strides<4>{(Index{1} << 33) + 64, 32, 8, 1}}) {
        const std::size_t reach =
            sizeof(float) * static_cast<std::size_t>(std::max(strides[0], strides[2]) * 4);
        const Sparse q_memory(reach), k_memory(reach), v_memory(reach), out_memory(reach);
        for (const Sparse* memory : {&q_memory, &k_memory, &v_memory, &out_memory})
            if (!memory->reserved()) GTEST_SKIP() << "no address space for " << reach << " bytes";
        const auto place = [&](const Sparse& memory, const Tensor<float, 4>& values) {
            const TensorView<float, 4> view(memory.data(), values.shape(), strides);
            heed::copy(TensorView<const float, 4>(values), view);
            return view;
        };
        const auto q = place(q_memory, in.q), k = place(k_memory, in.k), v = place(v_memory, in.v);
        EXPECT_SAME(expected, everything(q, k, v, Causal::bottom_right()));
        const auto out = place(out_memory, Tensor<float, 4>(expected.out.shape()));
        heed::scaled_dot_product_attention(q, k, v, out, Causal::bottom_right());
        EXPECT_SAME(expected.lean_out, out);
    }
}

// triton#621, FasterTransformer#89: only the first 64 features used, 80 wrong.
TEST(Museum, B3_38_EveryHeadDim) {
    const auto run = [](Index head_dim, Index value_dim) {
        const AttentionShape s{1, 2, 1, 3, 5, head_dim, value_dim};
        expect_right(s, inputs(s, static_cast<std::uint64_t>(head_dim)), NoMask{}, {});
    };
    for (Index d = 1; d <= 130; ++d) run(d, d);
    for (Index d = 1; d <= 130; d += 3) run(d, 131 - d);
    run(256, 256);
    run(256, 3);
    run(3, 256);
}

// onnx#7274, onnxruntime#25966, jax-js#180, ONNXim#34: heads mapped with a modulo.
TEST(Museum, B3_39_GroupedHeads) {
    for (const auto& [heads, kv_heads] :
         {std::pair<Index, Index>{12, 12}, {8, 2}, {28, 4}, {6, 1}, {6, 3}}) {
        const AttentionShape s{2, heads, kv_heads, 3, 5, 4, 3};
        Inputs<float> in = inputs(s);
        for (Index g = 0; g < kv_heads; ++g)
            heed::fill(in.v.view().select(1, g), static_cast<float>(g));
        const auto result = everything(in.q, in.k, in.v);
        bool modulo_differs = false;
        for (Index h = 0; h < heads; ++h) {
            const auto g = static_cast<float>(h / (heads / kv_heads));
            for (const auto& out : outs(result))
                for (const float x : elements(out.select(1, h))) EXPECT_NEAR(x, g, 1e-6f * g);
            modulo_differs = modulo_differs || g != static_cast<float>(h % kv_heads);
        }
        EXPECT_EQ(modulo_differs, kv_heads > 1 && kv_heads < heads);
    }
}

template <class Q, class K, class V>
void expect_types_work() {
    const AttentionShape s{1, 2, 1, 5, 20, 9, 7};
    support::Random random(11);
    const auto q = attend::normals<Q, 4>(random, {1, 2, 5, 9});
    const auto k = attend::normals<K, 4>(random, {1, 1, 20, 9});
    const auto v = attend::normals<V, 4>(random, {1, 1, 20, 7});
    expect_oracle(s, q, k, v, Causal::bottom_right(),
                  {.visible = [](Index, Index, Index i, Index j) { return j <= i + 15; }});
}

template <class Q, class K>
void expect_every_value_type() {
    expect_types_work<Q, K, float>();
    expect_types_work<Q, K, heed::half>();
    expect_types_work<Q, K, heed::bfloat16>();
}

template <class Q>
void expect_every_type() {
    expect_every_value_type<Q, float>();
    expect_every_value_type<Q, heed::half>();
    expect_every_value_type<Q, heed::bfloat16>();
}

// onnxruntime#25156: a kernel declared for a type and not there.
TEST(Museum, B3_40_EveryCombinationOfTypes) {
    expect_types_work<double, double, double>();
    expect_every_type<float>();
    expect_every_type<heed::half>();
    expect_every_type<heed::bfloat16>();
}

constexpr AttentionShape dropout_sizes{2, 4, 2, 33, 70, 5, 6};

/// Weights that are dropped, seen on both paths: values of 1 in one key after the other.
Tensor<bool, 4> dropped(const AttentionShape& s, const heed::Dropout& dropout) {
    const Tensor<float, 4> q({s.batch, s.heads, s.q_len, 1}), k({s.batch, 1, s.kv_len, 1});
    Tensor<float, 4> v({s.batch, 1, s.kv_len, s.kv_len});
    for (Index b = 0; b < s.batch; ++b)
        for (Index j = 0; j < s.kv_len; ++j) v(b, 0, j, j) = 1;
    const auto result = everything(q, k, v, NoMask{}, {.dropout = dropout});
    Tensor<bool, 4> flags(result.out.shape());
    for (std::size_t n = 0; n < flags.values().size(); ++n) {
        flags.values()[n] = result.out.values()[n] == 0;
        EXPECT_EQ(flags.values()[n], result.lean_out.values()[n] == 0) << "the paths differ";
    }
    return flags;
}

// pytorch#124464, #99293, pytorch-image-models#1978, wenet#2699
TEST(Museum, B4_41_ProbabilityZeroIsNoDropout) {
    const auto in = inputs(dropout_sizes);
    EXPECT_SAME(everything(in.q, in.k, in.v),
                everything(in.q, in.k, in.v, NoMask{},
                           {.dropout = {.probability = 0, .seed = 9, .call = 3}}));
}

// pytorch#190717: the same mask on every path, whatever else is asked for or masked.
TEST(Museum, B4_43_MaskIsAFunctionOfThePlace) {
    const heed::Dropout dropout{0.4, 77, 2};
    const Tensor<bool, 4> flags = dropped(dropout_sizes, dropout);
    const auto in = inputs(dropout_sizes);
    const auto kept = [&](Index b, Index h, Index i, Index j) { return !flags(b, h, i, j); };
    const auto shown = [](Index, Index, Index i, Index j) { return j <= i + 37 && i - j <= 3; };
    const oracle::Rules rules{.visible = shown, .keep = kept, .dropout = 0.4};
    const auto as_double = [](const auto& x) { return oracle::convert<double>(elements(x)); };
    const attend::Expected<float> e(dropout_sizes, as_double(in.q), as_double(in.k),
                                    as_double(in.v), rules);
    const auto result = everything(
        in.q, in.k, in.v, Causal::bottom_right() & SlidingWindow{3, -1, Alignment::top_left()},
        {.dropout = dropout});
    for (const auto& out : outs(result)) {
        const auto verdict = e.judge_out<float>(as_double(out));
        EXPECT_TRUE(verdict) << verdict.message;
    }
}

// flash-attention#314
TEST(Museum, B4_44_ConsecutiveCallsDiffer) {
    const auto first = elements(dropped(dropout_sizes, {0.5, 1, 0}));
    EXPECT_EQ(first, elements(dropped(dropout_sizes, {0.5, 1, 0})));
    EXPECT_NE(first, elements(dropped(dropout_sizes, {0.5, 1, 1})));
    EXPECT_NE(first, elements(dropped(dropout_sizes, {0.5, 2, 0})));
}

// AiDotNet.Tensors#732: everything was dropped. 18480 draws, five standard deviations.
TEST(Museum, B4_45_KeptFraction) {
    for (const double p : {0.1, 0.5, 0.8}) {
        const auto flags = elements(dropped(dropout_sizes, {p, 3, 0}));
        const auto n = static_cast<double>(flags.size());
        EXPECT_NEAR(static_cast<double>(std::count(flags.begin(), flags.end(), true)), n * p,
                    5 * std::sqrt(n * p * (1 - p)));
    }
}

// pytorch#59421: infinity times 0 is NaN.
TEST(Museum, B4_46_DroppedMeansSelected) {
    Inputs<float> in = inputs(dropout_sizes);
    heed::fill(in.v.view().select(2, 4), infinity);
    const heed::Dropout dropout{0.5, 6, 0};
    const Tensor<bool, 4> flags = dropped(dropout_sizes, dropout);
    const auto result = everything(in.q, in.k, in.v, NoMask{}, {.dropout = dropout});
    for (const auto& out : outs(result))
        for (Index h = 0; h < 4; ++h)
            for (Index i = 0; i < 33; ++i)
                EXPECT_EQ(std::isfinite(out(0, h, i, 0)), flags(0, h, i, 4));
    const auto nothing = everything(in.q, in.k, in.v, NoMask{}, {.dropout = {.probability = 1}});
    for (const auto& out : outs(nothing))
        for (const float x : elements(out)) EXPECT_EQ(x, 0.0f);
    for (const double p : {-0.1, 1.1, std::nan("")})
        EXPECT_THROW((void)heed::scaled_dot_product_attention(in.q, in.k, in.v, NoMask{},
                                                              {.dropout = {.probability = p}}),
                     heed::ArgumentError);
}

// pytorch#27968: the weights that are returned are those before dropout.
TEST(Museum, B4_47_ReturnedWeightsAreBeforeDropout) {
    const auto in = inputs(dropout_sizes);
    const auto result =
        everything(in.q, in.k, in.v, NoMask{}, {.dropout = {.probability = 0.5, .seed = 1}});
    EXPECT_SAME(result.weights, everything(in.q, in.k, in.v).weights);
    for (Index i = 0; i < 33; ++i) {
        float sum = 0;
        for (Index j = 0; j < 70; ++j) sum += result.weights(0, 0, i, j);
        EXPECT_NEAR(sum, 1.0f, 1e-5f);
    }
}

// flash-attention#978: plus infinity for empty rows.
TEST(Museum, B5_50_MergingWithAnEmptyPart) {
    const AttentionShape s{1, 2, 1, 6, 20, 4, 3};
    const auto in = inputs(s);
    const auto part = [&](Index begin, Index count) {
        return everything(in.q, in.k.view().slice(2, begin, count),
                          in.v.view().slice(2, begin, count), Causal::offset(3 - begin));
    };
    const auto whole = part(0, 20), live = part(0, 9), empty = part(9, 11), none = part(20, 0);
    for (std::size_t path = 0; path < 2; ++path)
        for (Index h = 0; h < 2; ++h)
            for (Index i = 0; i < 6; ++i) {
                EXPECT_EQ(lses(empty)[path](0, h, i), -infinity);
                EXPECT_EQ(lses(none)[path](0, h, i), -infinity);
                const float a = lses(live)[path](0, h, i), b = lses(empty)[path](0, h, i);
                const float lse = a + std::log1p(std::exp(b - a));
                EXPECT_EQ(lse, lses(whole)[path](0, h, i));
                for (Index c = 0; c < 3; ++c)
                    EXPECT_EQ(std::exp(a - lse) * outs(live)[path](0, h, i, c) +
                                  std::exp(b - lse) * outs(empty)[path](0, h, i, c),
                              outs(whole)[path](0, h, i, c));
            }
}

// flash-attention#1936: a wrong sentinel in the padding of tiles.
TEST(Museum, B5_51_LogSumExpForEveryRemainder) {
    for (Index L = 1; L <= 100; ++L) {
        const AttentionShape s{1, 1, 1, L, L + 31, 3, 2};
        expect_right(s, inputs(s), Causal::top_left(),
                     {.visible = [](Index, Index, Index i, Index j) { return j <= i; }});
    }
}

// flash-attention#543, ik_llama.cpp#1196: sums in half precision overflow.
TEST(Museum, B7_70_HalfStorageFloatArithmetic) {
    const AttentionShape s{1, 1, 1, 2, 4096, 8, 2};
    Inputs<heed::half> in = inputs<heed::half>(s);
    heed::fill(in.v.view(), heed::half(60000.0f));
    const auto result = everything(in.q, in.k, in.v);
    for (const auto& out : outs(result))
        for (const heed::half x : elements(out)) EXPECT_EQ(static_cast<float>(x), 60000.0f);
}

// xformers#677: products of fewer bits that were called float.
TEST(Museum, B7_71_ErrorOfAtMostTwiceThePlainVersion) {
    const AttentionShape s{1, 2, 2, 40, 300, 64, 64};
    expect_right(s, inputs(s), NoMask{}, {});
    expect_right(s, inputs<double>(s), NoMask{}, {});
}

// optim#22, flucoma-core#61: aliasing, never silent.
TEST(Museum, B8_74_OutputsThatAliasInputs) {
    const AttentionShape s{1, 2, 2, 6, 6, 4, 4};
    Inputs<float> in = inputs(s);
    std::vector<float> memory(200, 0.5f);
    const Shape<4> shape(1, 2, 6, 4);
    const auto at = [&](Index place) { return TensorView<float, 4>(memory.data() + place, shape); };
    for (Tensor<float, 4>* input : {&in.q, &in.k, &in.v}) {
        const std::vector<float> before = elements(*input);
        EXPECT_THROW(heed::scaled_dot_product_attention(in.q, in.k, in.v, *input),
                     heed::ShapeError);
        EXPECT_EQ(before, elements(*input));
    }
    for (const Index shift : {1, 4, 24, 47}) {
        EXPECT_THROW(heed::scaled_dot_product_attention(at(0), in.k, in.v, at(shift)),
                     heed::ShapeError);
        EXPECT_THROW(heed::scaled_dot_product_attention(in.q, at(shift), in.v, at(0)),
                     heed::ShapeError);
        EXPECT_THROW(heed::scaled_dot_product_attention(in.q, in.k, at(shift), at(0)),
                     heed::ShapeError);
    }
    EXPECT_NO_THROW(heed::scaled_dot_product_attention(at(0), at(0), at(0), at(48)));
}

// flashinfer#4724, llama.cpp#4256: outputs or scratch read before they are written.
TEST(Museum, B8_76_NothingIsReadBeforeItIsWritten) {
    const AttentionShape s{2, 4, 2, 50, 140, 7, 9};
    const auto in = inputs(s);
    support::Random random(12);
    const attend::RandomMasks masks(random, s);
    std::vector<std::byte> memory(heed::attention_workspace_bytes<float>(s, true));
    const auto run = [&](float filling, int pattern) {
        Outputs<float> result = everything(in.q, in.k, in.v);
        for (Tensor<float, 4>* output :
             {&result.out, &result.weights, &result.scores, &result.lean_out})
            heed::fill(output->view(), filling);
        for (Tensor<float, 3>* output : {&result.lse, &result.lean_lse})
            heed::fill(output->view(), filling);
        heed::AttentionOptions<float> options{.lse = result.lean_lse, .workspace = memory};
        std::fill(memory.begin(), memory.end(), static_cast<std::byte>(pattern));
        heed::scaled_dot_product_attention(in.q, in.k, in.v, result.lean_out, masks.masks(),
                                           options);
        options.lse = result.lse;
        options.weights = result.weights;
        options.scores = result.scores;
        std::fill(memory.begin(), memory.end(), static_cast<std::byte>(pattern));
        heed::scaled_dot_product_attention(in.q, in.k, in.v, result.out, masks.masks(), options);
        return result;
    };
    const auto zeros = run(0.0f, 0), nans = run(not_a_number, 0xFF);
    EXPECT_SAME(zeros, nans);
    EXPECT_SAME(zeros, run(infinity, 0x7F));
    expect_no_nan(nans);
}

// polympc#16, sqp_solver#1: stacks of 256 KiB.
TEST(Museum, B8_77_SmallStack) {
    struct Work {
        static void* run(void*) {
            const AttentionShape s{2, 4, 2, 70, 300, 130, 140};
            support::Random random(13);
            const attend::RandomMasks masks(random, s);
            const Inputs<float> in(random, s);
            expect_no_nan(everything(in.q, in.k, in.v, masks.masks_and_cap(),
                                     {.dropout = {.probability = 0.1}}));
            const Inputs<double> doubles(random, s);
            expect_no_nan(everything(doubles.q, doubles.k, doubles.v, masks.masks()));
            const Inputs<heed::half> halves(random, s);
            expect_no_nan(everything(halves.q, halves.k, halves.v, masks.masks()));
            const Tensor<float, 4> wrong({1, 1, 1, 1});
            EXPECT_THROW((void)heed::scaled_dot_product_attention(in.q, wrong, in.v),
                         heed::ShapeError);
            return nullptr;
        }
    };
    pthread_attr_t attributes;
    ASSERT_EQ(pthread_attr_init(&attributes), 0);
    ASSERT_EQ(pthread_attr_setstacksize(&attributes, std::size_t{256} * 1024), 0);
    pthread_t thread{};
    ASSERT_EQ(pthread_create(&thread, &attributes, Work::run, nullptr), 0);
    EXPECT_EQ(pthread_join(thread, nullptr), 0);
    pthread_attr_destroy(&attributes);
}

}  // namespace
