#pragma once
// Who owns the numbers?
// Tensor allocates, zero-fills and frees 64-byte aligned memory; everything else works on its
// views.

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/base/large_pages.hpp"
#include "heed/tensor/elementwise.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0 {

namespace detail {

/// Zeroed elements that begin at a cache line, or at a large page where there are so many; empty
/// after a move. heed's own, because the alignment of Eigen's allocator depends on each unit's
/// compiler flags, and mixing units would then crash; and not a std::vector, because
/// std::vector<bool> has no elements that a view could point at.
template <class T>
class AlignedArray {
    static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>,
                  "tensors hold plain numbers and flags");

  public:
    AlignedArray() = default;
    explicit AlignedArray(std::size_t count)
        : elements_(count > 0 ? allocate(count) : nullptr), size_(count) {
        // Not value-initialised: Eigen::half's default constructor sets no value on some machines.
        std::uninitialized_fill_n(elements_, count, T(0));
    }
    AlignedArray(const AlignedArray& other) : AlignedArray(other.size_) {
        std::copy_n(other.elements_, size_, elements_);
    }
    AlignedArray(AlignedArray&& other) noexcept
        : elements_(std::exchange(other.elements_, nullptr)),
          size_(std::exchange(other.size_, 0)) {}
    AlignedArray& operator=(AlignedArray other) noexcept {
        std::swap(elements_, other.elements_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~AlignedArray() { ::operator delete(elements_, alignment_of(size_ * sizeof(T))); }

    [[nodiscard]] T* data() { return elements_; }
    [[nodiscard]] const T* data() const { return elements_; }
    [[nodiscard]] std::size_t size() const { return size_; }

  private:
    static T* allocate(std::size_t count) {
        const std::size_t bytes = (CheckedSize<>("Tensor", count) * sizeof(T)).bytes();
        T* const elements = static_cast<T*>(::operator new(bytes, alignment_of(bytes)));
        if (bytes >= large_page) ask_for_large_pages(elements, bytes);
        return elements;
    }
    static std::align_val_t alignment_of(std::size_t bytes) {
        return std::align_val_t{bytes >= large_page ? large_page : 64};
    }

    T* elements_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace detail

/// A dense, row-major tensor that owns its elements, 64-byte aligned, zero at first.
///
/// Copying copies the elements; a moved-from Tensor may only be assigned to or destroyed. It
/// converts to a view wherever one is expected; a view must not outlive it.
template <class T, int Rank>
class Tensor {
  public:
    using element_type = T;
    using value_type = T;
    [[nodiscard]] static constexpr int rank() { return Rank; }

    /// No elements: all extents 0.
    Tensor() = default;

    /// Zeros: `Tensor<float, 3>({batch, length, 64})`, and `Tensor<float, 1>(n)` for one dimension.
    /// Throws ShapeError when the element count does not fit into 63 bits, std::bad_alloc when
    /// there is no such memory.
    explicit Tensor(const Shape<Rank>& shape)
        : elements_(static_cast<std::size_t>(shape.element_count())), shape_(shape) {}
    explicit Tensor(Index extent) requires(Rank == 1) : Tensor(Shape<1>(extent)) {}

    /// A copy of row-major values. Throws ShapeError unless there are exactly as many as needed.
    Tensor(const Shape<Rank>& shape, std::span<const T> values)
        : Tensor(TensorView<const T, Rank>(values, shape)) {}

    /// A copy of literal row-major values: `Tensor<float, 2>({2, 2}, {1, 2, 3, 4})`.
    Tensor(const Shape<Rank>& shape, std::initializer_list<T> values)
        : Tensor(shape, std::span<const T>(values.begin(), values.size())) {}

    /// A dense copy of whatever the view shows.
    explicit Tensor(TensorView<const T, Rank> source) : Tensor(source.shape()) {
        copy(source, view());
    }

    [[nodiscard]] TensorView<T, Rank> view() { return {data(), shape_}; }
    [[nodiscard]] TensorView<const T, Rank> view() const { return {data(), shape_}; }
    operator TensorView<T, Rank>() { return view(); }
    operator TensorView<const T, Rank>() const { return view(); }

    [[nodiscard]] T* data() { return elements_.data(); }
    [[nodiscard]] const T* data() const { return elements_.data(); }
    [[nodiscard]] std::span<T> values() { return {data(), elements_.size()}; }
    [[nodiscard]] std::span<const T> values() const { return {data(), elements_.size()}; }
    [[nodiscard]] const Shape<Rank>& shape() const { return shape_; }
    [[nodiscard]] Index extent(int d) const { return shape_[d]; }
    [[nodiscard]] Index element_count() const { return static_cast<Index>(elements_.size()); }
    [[nodiscard]] bool empty() const { return elements_.size() == 0; }

    /// The element at the given position, e.g. `tensor(b, h, i, j)`; checked in debug builds.
    template <std::integral... Positions>
    requires(sizeof...(Positions) == Rank) T& operator()(Positions... positions) {
        return view()(positions...);
    }
    template <std::integral... Positions>
    requires(sizeof...(Positions) == Rank) const T& operator()(Positions... positions) const {
        return view()(positions...);
    }

    /// The last two dimensions as an Eigen::Map; see TensorView::matrix.
    template <std::integral... Outer>
    requires(sizeof...(Outer) == Rank - 2) [[nodiscard]] MatrixMap<T> matrix(Outer... outer) {
        return view().matrix(outer...);
    }
    template <std::integral... Outer>
    requires(sizeof...(Outer) == Rank - 2)
        [[nodiscard]] MatrixMap<const T> matrix(Outer... outer) const {
        return view().matrix(outer...);
    }

  private:
    detail::AlignedArray<T> elements_;
    Shape<Rank> shape_;
};

}  // namespace heed::inline v0
