// Whose memory is used? A caller's workspace of any alignment, and no allocation beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include "attention/attend.hpp"
#include "attention/random_case.hpp"
#include "heed/heed.hpp"
#include "support/allocation_counter.hpp"

namespace {

using heed::AttentionShape;
using heed::Index;
using heed::Tensor;

template <class T>
struct Call {
    AttentionShape s;
    support::Random random;
    attend::Inputs<T> in{random, s};
    attend::RandomMasks masks{random, s};
    Tensor<T, 4> out{{s.batch, s.heads, s.q_len, s.value_dim}};
    Tensor<T, 4> weights{{s.batch, s.heads, s.q_len, s.kv_len}};
    Tensor<heed::ComputeType<T>, 3> lse{{s.batch, s.heads, s.q_len}};

    explicit Call(const AttentionShape& shape) : s(shape) {}

    template <class Mask>
    void run(const Mask& mask, std::span<std::byte> workspace, bool rich) {
        heed::AttentionOptions<T> options{.lse = lse, .workspace = workspace};
        if (rich) options.weights = weights;
        heed::scaled_dot_product_attention(in.q, in.k, in.v, out, mask, options);
    }
};

template <class T>
void expect_no_allocation() {
    Call<T> call({2, 4, 2, 150, 170, 24, 40});
    const auto mask = call.masks.masks_and_cap();
    for (const bool rich : {false, true}) {
        std::vector<std::byte> workspace(heed::attention_workspace_bytes<T>(call.s, rich));
        call.run(mask, workspace, rich);  // whatever is set up once in a process
        const support::AllocationCounter with;
        call.run(mask, workspace, rich);
        call.run(heed::NoMask{}, workspace, rich);
        call.run(heed::Causal::bottom_right() & heed::SlidingWindow{.left = 9}, workspace, rich);
        EXPECT_EQ(with.count(), 0u) << "weights asked for: " << rich;
        // The counter-check: the counter does see the workspace that heed makes by itself.
        const support::AllocationCounter without;
        call.run(mask, {}, rich);
        EXPECT_GE(without.count(), 1u);
        EXPECT_GE(without.bytes(), workspace.size());
    }
}

TEST(Workspace, OfTheCallerIsAllTheMemoryThatIsUsed) {
    expect_no_allocation<float>();
    expect_no_allocation<double>();
    expect_no_allocation<heed::half>();
}

/// Data for one part of each kind, for 4 heads and 144 queries and keys, a window of 12 x 12.
struct EveryPart {
    static constexpr AttentionShape shape{2, 4, 2, 144, 144, 12, 9};
    support::Random random;
    std::vector<Index> lengths{100, 144}, documents{0, 50, 50, 144}, offsets{3, -3};
    Tensor<bool, 4> flags = attend::flags(random, heed::Shape<4>(2, 1, 144, 144), 0.8);
    Tensor<bool, 2> keys = attend::flags(random, heed::Shape<2>(2, 144), 0.8);
    Tensor<float, 4> bias = attend::normals<float, 4>(random, {1, 4, 144, 144});
    Tensor<heed::half, 2> narrow_bias = attend::normals<heed::half, 2>(random, {144, 144});
    Tensor<float, 1> slopes = attend::normals<float, 1>(random, {4});
    Tensor<float, 2> t5 = attend::normals<float, 2>(random, {32, 4});
    Tensor<float, 2> swin = attend::normals<float, 2>(random, {23 * 23, 4});
    Tensor<float, 1> sinks = attend::normals<float, 1>(random, {4});

    /// Calls visit(name, make), where make() returns the part anew, as a caller would write it.
    template <class Visit>
    void for_each(const Visit& visit) const {
        visit("nothing", [] { return heed::NoMask{}; });
        visit("Causal", [] { return heed::Causal::bottom_right(); });
        visit("Causal of offsets", [this] { return heed::Causal::offsets(offsets); });
        visit("SlidingWindow", [] { return heed::SlidingWindow{.left = 9, .right = 70}; });
        visit("KeyLengths", [this] { return heed::KeyLengths{lengths}; });
        visit("Documents", [this] { return heed::Documents{documents}; });
        visit("AttendWhere", [this] { return heed::AttendWhere{flags}; });
        visit("BlockWhere", [this] { return heed::BlockWhere{flags}; });
        visit("attend_keys", [this] { return heed::attend_keys(keys); });
        visit("block_keys", [this] { return heed::block_keys(keys); });
        visit("AdditiveBias", [this] { return heed::AdditiveBias{bias}; });
        visit("AdditiveBias of half", [this] { return heed::AdditiveBias{narrow_bias}; });
        visit("Alibi", [this] { return heed::Alibi{slopes}; });
        visit("T5Bias", [this] { return heed::T5Bias{t5}; });
        visit("SwinBias", [this] { return heed::SwinBias{swin, 12}; });
        visit("Sinks", [this] { return heed::Sinks{sinks}; });
        visit("SoftCap", [] { return heed::SoftCap{3}; });
        visit("a function", [] { return attend::Tilt{0.25}; });
        visit("most of them", [this] {
            return heed::Documents{documents} & heed::Causal::bottom_right() &
                   heed::SlidingWindow{.left = 30} & heed::AttendWhere{flags} &
                   heed::AdditiveBias{bias} & heed::Alibi{slopes} & heed::T5Bias{t5} &
                   heed::SwinBias{swin, 12} & heed::Sinks{sinks} & heed::SoftCap{3} &
                   attend::Tilt{0.25};
        });
    }
};

/// The second call of each part, on both paths, with dropout and without, must not allocate.
template <class T>
void expect_no_part_allocates(heed::ExecutorRef executor, bool strided) {
    const EveryPart parts;
    const AttentionShape& s = parts.shape;
    support::Random random;
    const attend::Inputs<T> in(random, s);
    // Keys by feature: their rows are gathered.
    const Tensor<T, 4> by_feature({s.batch, s.kv_heads, s.head_dim, s.kv_len});
    const auto k = strided ? by_feature.view().transpose(2, 3) : in.k.view();
    Tensor<T, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
    Tensor<T, 4> weights({s.batch, s.heads, s.q_len, s.kv_len});
    Tensor<heed::ComputeType<T>, 3> lse({s.batch, s.heads, s.q_len});
    std::vector<std::byte> workspace(
        heed::attention_workspace_bytes<T>(s, true, executor.concurrency()));
    parts.for_each([&](const char* name, const auto& make) {
        for (const double dropout : {0.0, 0.3})
            for (const bool rich : {false, true}) {
                const auto run = [&] {
                    heed::AttentionOptions<T> options{
                        .dropout = {.probability = dropout, .seed = 1},
                        .lse = lse,
                        .executor = executor,
                        .workspace = workspace};
                    if (rich) options.weights = weights;
                    heed::scaled_dot_product_attention(in.q, k, in.v, out, make(), options);
                };
                run();
                const support::AllocationCounter counter;
                run();
                EXPECT_EQ(counter.count(), 0u)
                    << name << ", dropout " << dropout << ", weights asked for: " << rich;
            }
    });
}

TEST(Workspace, NoPartAllocatesOnTheCallersThread) {
    expect_no_part_allocates<float>(heed::serial, false);
    expect_no_part_allocates<float>(heed::serial, true);
    expect_no_part_allocates<double>(heed::serial, false);
    expect_no_part_allocates<heed::bfloat16>(heed::serial, false);
}

TEST(Workspace, NoPartAllocatesInAThreadPool) {
    heed::ThreadPool pool(3);
    ASSERT_EQ(heed::explain<float>(EveryPart::shape, heed::NoMask{}, {.executor = pool}).workers,
              3);
    expect_no_part_allocates<float>(pool, false);
    expect_no_part_allocates<double>(pool, true);
    expect_no_part_allocates<heed::half>(pool, false);
}

// At every address within a cache line; exactly as large as asked for, behind it a guard.
template <class T>
void expect_any_alignment() {
    Call<T> call({2, 2, 1, 50, 131, 9, 5});
    const auto mask = call.masks.masks();
    for (const bool rich : {false, true}) {
        call.run(mask, {}, rich);
        const Tensor<T, 4> expected = call.out;
        const std::size_t needed = heed::attention_workspace_bytes<T>(call.s, rich);
        std::vector<std::byte> memory(needed + 64 + 16);
        for (std::size_t shift = 0; shift < 64; ++shift) {
            std::fill(memory.begin(), memory.end(), std::byte{0xA5});
            heed::fill(call.out.view(), static_cast<T>(attend::not_a_number));
            call.run(mask, std::span(memory).subspan(shift, needed), rich);
            EXPECT_TRUE(attend::same_bits(call.out, expected)) << "shift " << shift;
            const auto is_guard = [](std::byte b) { return b == std::byte{0xA5}; };
            const auto begin = memory.begin() + static_cast<std::ptrdiff_t>(shift);
            const auto end = begin + static_cast<std::ptrdiff_t>(needed);
            EXPECT_TRUE(std::all_of(memory.begin(), begin, is_guard)) << "shift " << shift;
            EXPECT_TRUE(std::all_of(end, memory.end(), is_guard)) << "shift " << shift;
        }
    }
}

TEST(Workspace, MayBeginAtAnyAddress) {
    expect_any_alignment<float>();
    expect_any_alignment<double>();
    expect_any_alignment<heed::bfloat16>();
}

// Used before, or full of NaN: what is not written is not read.
TEST(Workspace, ItsContentsDoNotMatter) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (int n = 0; n < 60; ++n) {
        Call<float> call(attend::random_sizes(random));
        SCOPED_TRACE(attend::to_string(call.s));
        const auto mask = call.masks.masks_and_cap();
        for (const bool rich : {false, true}) {
            call.run(mask, {}, rich);
            const Tensor<float, 4> expected = call.out;
            std::vector<std::byte> memory(heed::attention_workspace_bytes<float>(call.s, rich));
            for (const int pattern : {0x00, 0xFF, 0x7F}) {  // 0, NaN, 3.4e38
                std::memset(memory.data(), pattern, memory.size());
                heed::fill(call.out.view(), attend::not_a_number);
                call.run(mask, memory, rich);
                EXPECT_TRUE(attend::same_bits(call.out, expected)) << "pattern " << pattern;
            }
            call.run(mask, memory, rich);  // as the call before left it
            EXPECT_TRUE(attend::same_bits(call.out, expected));
        }
    }
}

TEST(Workspace, OneOfTheLargestServesSmallerCalls) {
    Call<float> large({2, 4, 2, 40, 60, 32, 48}), small({1, 2, 2, 3, 7, 5, 4});
    std::vector<std::byte> memory(heed::attention_workspace_bytes<float>(large.s));
    ASSERT_GE(memory.size(), heed::attention_workspace_bytes<float>(small.s));
    small.run(heed::NoMask{}, {}, false);
    const Tensor<float, 4> expected = small.out;
    large.run(heed::NoMask{}, memory, false);
    small.run(heed::NoMask{}, memory, false);
    EXPECT_TRUE(attend::same_bits(small.out, expected));
}

// The number of bytes is a function of the sizes, and for the path without weights not of lengths.
TEST(Workspace, NeedsNoMoreForLongerSequencesUnlessWeightsAreAskedFor) {
    const AttentionShape small{1, 1, 1, 8, 8, 16, 16}, large{1, 1, 1, 1 << 20, 1 << 20, 16, 16};
    EXPECT_EQ(heed::attention_workspace_bytes<float>(small, false, 1),
              heed::attention_workspace_bytes<float>(large, false, 1));
    EXPECT_LT(heed::attention_workspace_bytes<float>(small, true, 1),
              heed::attention_workspace_bytes<float>(large, true, 1));
}

TEST(Workspace, OfSizesWithoutElementsIsEnoughToo) {
    for (const AttentionShape& s :
         {AttentionShape{1, 1, 1, 2, 0, 3, 4}, AttentionShape{1, 1, 1, 2, 3, 0, 4},
          AttentionShape{1, 1, 1, 2, 3, 4, 0}, AttentionShape{0, 1, 1, 2, 3, 4, 5}}) {
        Call<float> call(s);
        for (const bool rich : {false, true}) {
            std::vector<std::byte> memory(heed::attention_workspace_bytes<float>(s, rich));
            EXPECT_NO_THROW(call.run(heed::NoMask{}, memory, rich));
        }
    }
}

}  // namespace
