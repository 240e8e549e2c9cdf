#pragma once
// Do two views share a byte of memory?
// Reads shapes and strides only, never elements.

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "heed/base/pieces.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0 {
namespace detail {

/// One dimension of the search: a byte distance that may be taken 0 to `most` times.
struct Stride {
    Index bytes;
    Index most;
};

/// Can `distance` be written as a sum of strides, each taken at most its number of times?
/// Strides come largest first, so that for views without inner overlap only one or two counts per
/// dimension survive the bound. `budget` limits the work; when it runs out the answer is "yes".
inline bool reachable(std::span<const Stride> strides, Index distance, int& budget) {
    if (distance < 0) return false;
    if (strides.empty()) return distance == 0;
    if (--budget <= 0) return true;
    Index rest = 0;
    for (const Stride& s : strides.subspan(1)) rest += s.bytes * s.most;
    const auto [bytes, most] = strides.front();
    const Index highest = std::min(most, distance / bytes);
    const Index lowest = distance > rest ? pieces(distance - rest, bytes) : 0;
    for (Index count = highest; count >= lowest; --count)
        if (reachable(strides.subspan(1), distance - count * bytes, budget)) return true;
    return false;
}

/// The strides that a sum can use, largest first. Those that both views have in common become one
/// that may be taken more often: left apart, every way to share a count between the two would be
/// searched. Reuses the memory of its argument.
inline std::span<const Stride> in_search_order(std::span<Stride> strides) {
    std::sort(strides.begin(), strides.end(),
              [](const Stride& a, const Stride& b) { return a.bytes > b.bytes; });
    std::size_t used = 0;
    for (const Stride s : strides) {
        if (s.bytes == 0 || s.most == 0) continue;
        if (used > 0 && strides[used - 1].bytes == s.bytes)
            strides[used - 1].most += s.most;
        else
            strides[used++] = s;
    }
    return strides.first(used);
}

/// Lowest byte address of a view, with all its strides made positive and appended to `strides`.
template <class T, int Rank>
std::intptr_t lowest_address(TensorView<T, Rank> view, std::span<Stride> strides) {
    auto address = reinterpret_cast<std::intptr_t>(view.data());
    for (int d = 0; d < Rank; ++d) {
        const Index most = view.extent(d) - 1;
        // Nothing is stepped over where there is one position: its stride may hold any number.
        const Index bytes = most == 0 ? 0 : view.stride(d) * static_cast<Index>(sizeof(T));
        if (bytes < 0) address += bytes * most;
        strides[static_cast<std::size_t>(d)] = {bytes < 0 ? -bytes : bytes, most};
    }
    strides[Rank] = {1, static_cast<Index>(sizeof(T)) - 1};
    return address;
}

/// True when both views show the same elements at the same positions. Strides that are never taken
/// may differ.
template <class A, class B, int Rank>
[[nodiscard]] bool same_view(TensorView<A, Rank> first, TensorView<B, Rank> second) {
    if (first.data() != second.data() || first.shape() != second.shape()) return false;
    for (int d = 0; d < Rank; ++d)
        if (first.extent(d) > 1 && first.stride(d) != second.stride(d)) return false;
    return true;
}

/// True when some byte belongs to both views. Interleaved views that share a range but no byte
/// (the parts of a packed query-key-value buffer) do not overlap. Exact, except for views whose
/// strides make the search long (over 10,000 steps); those count as overlapping.
///
/// Shared byte: a + x = b + y, where x and y are sums of strides. Mirroring the second view
/// (y' = reach(b) - y) makes it one sum of non-negative terms: x + y' = b - a + reach(b).
template <class A, int RankA, class B, int RankB>
[[nodiscard]] bool overlaps(TensorView<A, RankA> first, TensorView<B, RankB> second) {
    if (first.empty() || second.empty()) return false;
    std::array<Stride, RankA + RankB + 2> strides{};
    const std::span<Stride> all(strides);
    const std::intptr_t address_a = lowest_address(first, all.first(RankA + 1));
    const std::intptr_t address_b = lowest_address(second, all.last(RankB + 1));
    Index distance = address_b - address_a;
    for (const Stride& s : all.last(RankB + 1)) distance += s.bytes * s.most;
    const std::span<const Stride> used = in_search_order(strides);
    int budget = 10'000;
    return reachable(used, distance, budget);
}

/// True when two elements of the view share a byte. Exact within the limits of overlaps.
template <class T, int Rank>
[[nodiscard]] bool overlaps_itself(TensorView<T, Rank> view) {
    if (view.empty() || view.is_contiguous()) return false;
    for (int d = 0; d < Rank; ++d) {
        // Any two elements that differ first in dimension d; the first may be taken at 0.
        const auto first = view.slice(d, 0, 1);
        if (overlaps(first, view.slice(d, 1, view.extent(d) - 1))) return true;
        view = first;
    }
    return false;
}

}  // namespace detail
}  // namespace heed::inline v0
