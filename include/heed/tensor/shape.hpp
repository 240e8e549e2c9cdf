#pragma once
// How long is each dimension, and how far apart are its elements in memory?
// Pure index arithmetic on small arrays; touches no data, allocates nothing but error texts.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "heed/base/checked_size.hpp"
#include "heed/base/contract.hpp"

namespace heed::inline v0 {

namespace detail {

/// "[2, 3, 4]", for error messages and printing.
template <class Range>
std::string list_text(const Range& numbers) {
    std::string result = "[";
    for (auto number : numbers) {
        if (result.size() > 1) result += ", ";
        result += std::to_string(number);
    }
    return result + "]";
}

}  // namespace detail

/// The extents of a tensor of `Rank` dimensions, outermost first. Built from any integers:
/// `Shape<3>{batch, length, 64}`.
/// Throws ShapeError for a negative extent.
template <int Rank>
class Shape {
    static_assert(Rank >= 1, "a tensor has at least one dimension");

  public:
    Shape() = default;

    template <std::integral... Extents>
    requires(sizeof...(Extents) == Rank) Shape(Extents... extents)
        : extents_{checked(extents)...} {}

    explicit Shape(const std::array<Index, Rank>& extents) : extents_(extents) {
        for (Index extent : extents) checked(extent);
    }

    [[nodiscard]] Index operator[](int dimension) const {
        return extents_[static_cast<std::size_t>(dimension)];
    }
    [[nodiscard]] auto begin() const { return extents_.begin(); }
    [[nodiscard]] auto end() const { return extents_.end(); }

    friend bool operator==(const Shape&, const Shape&) = default;
    friend std::string to_string(const Shape& shape) { return detail::list_text(shape); }

    /// The product of the extents. Throws ShapeError when it does not fit into 63 bits.
    [[nodiscard]] Index element_count() const {
        // With a zero anywhere the count is zero, however large the other extents are.
        if (is_empty()) return 0;
        detail::CheckedSize<> count("Shape", 1);
        for (Index extent : extents_) count *= static_cast<std::uint64_t>(extent);
        return count.index();
    }

    /// True without elements: some extent is 0.
    [[nodiscard]] bool is_empty() const { return std::find(begin(), end(), Index{0}) != end(); }

    /// The same extents with one of them replaced.
    [[nodiscard]] Shape with(int dimension, Index extent) const {
        std::array<Index, Rank> changed = extents_;
        changed[static_cast<std::size_t>(dimension)] = checked(extent);
        return Shape(changed);
    }

  private:
    template <std::integral Extent>
    static Index checked(Extent extent) {
        if (!std::in_range<Index>(extent) || std::cmp_less(extent, 0))
            detail::fail<ShapeError>("Shape", "an extent must be 0 or more and fit into 63 bits; ",
                                     "found ", extent);
        return static_cast<Index>(extent);
    }

    std::array<Index, Rank> extents_{};
};

/// Distances between neighbours of each dimension, in elements; negative and zero are allowed
/// (a zero stride repeats one element along the whole dimension).
template <int Rank>
using Strides = std::array<Index, Rank>;

/// Strides of a dense tensor whose last dimension is contiguous.
/// Throws ShapeError when a stride does not fit into 63 bits.
template <int Rank>
[[nodiscard]] Strides<Rank> row_major_strides(const Shape<Rank>& shape) {
    Strides<Rank> strides{};
    detail::CheckedSize<> stride("row_major_strides", 1);
    for (int d = Rank - 1; d >= 0; --d) {
        strides[static_cast<std::size_t>(d)] = stride.index();
        // An empty dimension must not zero the strides of the others.
        stride *= static_cast<std::uint64_t>(std::max<Index>(shape[d], 1));
    }
    return strides;
}

namespace detail {

/// Throws ShapeError "[where] what must be ...; found ..." unless the two shapes are equal.
template <int Rank>
void require_shape(std::string_view where, std::string_view what, const Shape<Rank>& found,
                   const Shape<Rank>& expected) {
    if (found != expected)
        fail<ShapeError>(where, what, " must have shape ", expected, "; found ", found);
}

}  // namespace detail
}  // namespace heed::inline v0
