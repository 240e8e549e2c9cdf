// Do two views share a byte? Against the sets of their bytes, and on the layouts of attention.

#include "heed/tensor/overlap.hpp"

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "heed/tensor/broadcast.hpp"
#include "heed/tensor/tensor.hpp"
#include "support/random.hpp"
#include "tensor/strided.hpp"

namespace {

using heed::Index;
using heed::Shape;
using heed::Strides;
using heed::Tensor;
using heed::TensorView;
using heed::detail::overlaps;
using heed::detail::overlaps_itself;
using heed::detail::same_view;
using support::Random;

/// The addresses of all bytes of a view; `twice` tells whether one of them occurred twice.
template <class T, int Rank>
std::set<std::uintptr_t> bytes_of(TensorView<T, Rank> view, bool* twice = nullptr) {
    std::set<std::uintptr_t> bytes;
    support::for_each_position(view.shape(), [&](const auto& at) {
        const auto first = reinterpret_cast<std::uintptr_t>(support::address(view, at));
        for (std::size_t i = 0; i < sizeof(T); ++i)
            if (!bytes.insert(first + i).second && twice != nullptr) *twice = true;
    });
    return bytes;
}

template <class A, int RankA, class B, int RankB>
bool share_a_byte(TensorView<A, RankA> a, TensorView<B, RankB> b) {
    const auto first = bytes_of(a);
    for (std::uintptr_t byte : bytes_of(b))
        if (first.contains(byte)) return true;
    return false;
}

/// A view with small random strides, of either sign or zero, somewhere in the arena.
template <class T, int Rank>
TensorView<T, Rank> random_view(Random& random, std::byte* arena, Index bytes) {
    std::array<Index, Rank> extents{};
    Strides<Rank> strides{};
    for (std::size_t d = 0; d < Rank; ++d) {
        extents[d] = random.integer(random.chance(0.05) ? 0 : 1, 4);
        strides[d] = random.integer(-9, 9);
        if (random.chance(0.1)) strides[d] = 0;
    }
    const Index middle = bytes / static_cast<Index>(sizeof(T)) / 2;
    const Index start = middle + random.integer(-12, 12);
    return {reinterpret_cast<T*>(arena) + start, Shape<Rank>(extents), strides};
}

struct Outcomes {
    int yes = 0, no = 0;
};

template <class A, int RankA, class B, int RankB>
void compare_with_byte_sets(Random& random, Outcomes& outcomes) {
    alignas(16) static std::array<std::byte, 4096> arena{};
    const auto a = random_view<A, RankA>(random, arena.data(), 4096);
    const auto b = random_view<B, RankB>(random, arena.data(), 4096);
    const bool expected = share_a_byte(a, b);
    const auto text = [](const auto& view) {
        return to_string(view.shape()) + " strides " + heed::detail::list_text(view.strides());
    };
    ASSERT_EQ(overlaps(a, b), expected) << text(a) << " and " << text(b);
    ASSERT_EQ(overlaps(b, a), expected) << text(b) << " and " << text(a);
    ++(expected ? outcomes.yes : outcomes.no);
    bool twice = false;
    (void)bytes_of(a, &twice);
    ASSERT_EQ(overlaps_itself(a), twice) << text(a);
}

TEST(Overlap, EqualsTheIntersectionOfByteSets) {
    Random random;
    SCOPED_TRACE(random.describe());
    Outcomes outcomes;
    for (int trial = 0; trial < 1500; ++trial) {
        compare_with_byte_sets<float, 1, float, 1>(random, outcomes);
        compare_with_byte_sets<float, 2, float, 2>(random, outcomes);
        compare_with_byte_sets<float, 3, float, 2>(random, outcomes);
        compare_with_byte_sets<float, 3, float, 3>(random, outcomes);
        compare_with_byte_sets<double, 2, float, 2>(random, outcomes);
        compare_with_byte_sets<char, 3, std::int16_t, 2>(random, outcomes);
        compare_with_byte_sets<heed::half, 2, double, 1>(random, outcomes);
    }
    EXPECT_GT(outcomes.yes, 1000);
    EXPECT_GT(outcomes.no, 1000);
}

// What a check of the address ranges alone would say of the same views.
TEST(Overlap, RangesOfAddressesWouldRefuseInterleavedViews) {
    std::vector<float> memory(12);
    const TensorView<float, 1> even(memory.data(), {6}, {2}), odd(memory.data() + 1, {6}, {2});
    EXPECT_LT(odd.data(), even.data() + 10);
    EXPECT_FALSE(overlaps(even, odd));
    EXPECT_TRUE(overlaps(even, TensorView<float, 1>(memory.data() + 1, {2}, {3})));
}

TEST(Overlap, NeighboursDoNotTouch) {
    std::vector<float> memory(8);
    const TensorView<float, 1> low(memory.data(), {4}), high(memory.data() + 4, {4});
    EXPECT_FALSE(overlaps(low, high));
    EXPECT_TRUE(overlaps(low, TensorView<float, 1>(memory.data() + 3, {4})));
    // Backwards from the last element.
    EXPECT_FALSE(overlaps(low, TensorView<float, 1>(memory.data() + 7, {4}, {-1})));
    EXPECT_TRUE(overlaps(low, TensorView<float, 1>(memory.data() + 7, {5}, {-1})));
    // Half an element is enough.
    auto* const bytes = reinterpret_cast<char*>(memory.data());
    EXPECT_TRUE(overlaps(low, TensorView<char, 1>(bytes + 15, {1})));
    EXPECT_FALSE(overlaps(low, TensorView<char, 1>(bytes + 16, {1})));
}

TEST(Overlap, ViewsWithoutElementsShareNothing) {
    std::vector<float> memory(8);
    const TensorView<float, 2> view(memory, {2, 4});
    EXPECT_FALSE(overlaps(view, view.slice(0, 0, 0)));
    EXPECT_FALSE(overlaps(TensorView<float, 1>(), view));
    EXPECT_FALSE((overlaps(TensorView<float, 1>(), TensorView<float, 1>())));
    EXPECT_TRUE(overlaps(view, TensorView<const float, 2>(view)));
}

TEST(Overlap, TheStrideOfASinglePositionMayBeAnything) {
    std::vector<float> memory(8);
    constexpr Index anything = std::numeric_limits<Index>::min();
    const TensorView<float, 2> first(memory.data(), {1, 4}, {anything, 1});
    const TensorView<float, 2> second(memory.data() + 4, {4, 1}, {1, anything});
    EXPECT_FALSE(overlaps(first, second));
    EXPECT_TRUE(overlaps(first, TensorView<float, 1>(memory.data() + 3, {1}, {anything})));
    EXPECT_FALSE(overlaps_itself(second));
}

/// Runs f and expects it to end soon (it takes microseconds): searches must not explode.
template <class F>
auto quickly(const F& f) {
    const auto start = std::chrono::steady_clock::now();
    const auto result = f();
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(200));
    return result;
}

// Layouts that share a range but no byte must not be refused, at sizes as they occur.
TEST(Overlap, LayoutsOfAttention) {
    constexpr Index B = 4, L = 1024, H = 12, D = 64;
    std::vector<float> memory(static_cast<std::size_t>(B * L * 3 * H * D));
    const TensorView<float, 3> packed(memory, {B, L, 3 * H * D});
    std::array<TensorView<float, 4>, 3> parts;
    for (Index i = 0; i < 3; ++i)
        parts[static_cast<std::size_t>(i)] = packed.slice(2, i * H * D, H * D).split_heads(H);
    for (std::size_t i = 0; i < 3; ++i)
        for (std::size_t j = 0; j < 3; ++j)
            EXPECT_EQ(quickly([&] { return overlaps(parts[i], parts[j]); }), i == j);
    // The heads of one tensor among each other, in both layouts.
    const TensorView<float, 4> blhd = parts[0].transpose(1, 2);
    EXPECT_FALSE(
        quickly([&] { return overlaps(parts[0].slice(1, 0, 5), parts[0].slice(1, 5, 7)); }));
    EXPECT_TRUE(
        quickly([&] { return overlaps(parts[0].slice(1, 0, 6), parts[0].slice(1, 5, 7)); }));
    EXPECT_FALSE(quickly([&] { return overlaps(blhd.slice(1, 0, 7), parts[0].slice(2, 7, 900)); }));
    EXPECT_TRUE(quickly([&] { return overlaps(blhd.slice(1, 0, 8), parts[0].slice(2, 7, 900)); }));
    // Every second position, and interleaved pairs of a head.
    const auto halves = parts[1].split(3, D / 2);
    EXPECT_FALSE(quickly([&] { return overlaps(halves.select(4, 0), halves.select(4, 1)); }));
    // Grouped queries: 4 heads repeated for 12 overlap with themselves.
    const auto repeated =
        heed::broadcast_to(parts[2].slice(1, 0, 4).split(1, 4), Shape<5>(B, 4, 3, L, D));
    EXPECT_TRUE(quickly([&] { return overlaps_itself(repeated); }));
    EXPECT_FALSE(quickly([&] { return overlaps_itself(parts[2]); }));
    EXPECT_FALSE(quickly([&] { return overlaps_itself(parts[2].transpose(2, 3)); }));
}

// A search that could take forever is given up, and then the answer is the safe one.
TEST(Overlap, GivesUpOnTheSafeSide) {
    // All strides even and close to each other, the distance odd: no sum reaches it, but that takes
    // all combinations to find out.
    std::vector<char> memory(16'000'000);
    const Shape<6> shape(20, 20, 20, 20, 20, 20);
    const Strides<6> strides{100002, 100006, 100018, 100022, 100034, 100058};
    const TensorView<char, 6> even(memory.data(), shape, strides);
    const TensorView<char, 6> odd(memory.data() + 3'000'001, shape, strides);
    EXPECT_TRUE(quickly([&] { return overlaps(even, odd); }));
}

TEST(SameView, SamePointerShapeAndStrides) {
    Tensor<float, 2> tensor({2, 2});
    const TensorView<float, 2> view = tensor;
    EXPECT_TRUE(same_view(view, TensorView<const float, 2>(view)));
    EXPECT_FALSE(same_view(view, view.transpose(0, 1)));
    EXPECT_FALSE(same_view(view, view.slice(0, 0, 1)));
    EXPECT_FALSE(same_view(view.slice(0, 0, 1), view.slice(0, 1, 1)));
    // The stride of a single position does not count.
    EXPECT_TRUE(same_view(view.unsqueeze(), TensorView<float, 3>(tensor.data(), {1, 2, 2})));
    EXPECT_TRUE(
        same_view(view.unsqueeze(), TensorView<float, 3>(tensor.data(), {1, 2, 2}, {-99, 2, 1})));
}

}  // namespace
