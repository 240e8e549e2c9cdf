#pragma once
// Which element of the caller's memory is (i, j, k ...)?
// Reads and writes nothing by itself: pointer, shape and strides; every operation is arithmetic.

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/base/scalar.hpp"
#include "heed/tensor/shape.hpp"

namespace heed::inline v0 {

namespace detail {

/// Any type with the interface of std::mdspan (C++23, Kokkos): pointer, extents, strides.
template <class M, class T, int Rank>
concept MdspanLike = requires(const M& m) {
    requires static_cast<int>(M::rank()) == Rank;
    { m.data_handle() } -> std::convertible_to<T*>;
    { m.extent(0) } -> std::convertible_to<Index>;
    { m.stride(0) } -> std::convertible_to<Index>;
};

/// An Eigen matrix, map or block whose elements lie in memory (no unevaluated expression).
template <class E, class T>
concept EigenInMemory = requires(E& matrix) {
    { matrix.data() } -> std::convertible_to<T*>;
    { matrix.rowStride() } -> std::convertible_to<Index>;
    { matrix.colStride() } -> std::convertible_to<Index>;
    { matrix.rows() } -> std::convertible_to<Index>;
};

}  // namespace detail

/// A matrix inside a view: rows contiguous, distance between rows free. Never owns, never copies.
template <class T>
using MatrixMap = Eigen::Map<
    std::conditional_t<std::is_const_v<T>,
                       const Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic,
                                           Eigen::RowMajor>,
                       Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>,
    Eigen::Unaligned, Eigen::OuterStride<>>;

/// A window onto elements of type T that somebody else owns: pointer, shape, strides.
///
/// A cheap value: pass it by value, as a std::span. Constness belongs to the element type:
/// TensorView<const float, 4> reads, TensorView<float, 4> also writes, and converts to the former.
/// The memory must outlive the view. Element access is checked in debug builds only.
template <class T, int Rank>
class TensorView {
  public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;
    [[nodiscard]] static constexpr int rank() { return Rank; }

    /// A view of nothing: all extents 0.
    TensorView() = default;

    /// Dense, row-major memory that begins at `data`.
    TensorView(T* data, const Shape<Rank>& shape)
        : TensorView(data, shape, row_major_strides(shape)) {}

    /// Memory with free strides, counted in elements. The caller vouches that all of it exists.
    /// Throws ShapeError when the element count, or the distance of the farthest elements in bytes,
    /// does not fit into 63 bits.
    TensorView(T* data, const Shape<Rank>& shape, const Strides<Rank>& strides)
        : data_(data), shape_(shape), strides_(strides) {
        check_reach();
    }

    /// Dense, row-major elements of a std::span or std::vector.
    /// Throws ShapeError unless the shape has exactly as many elements.
    TensorView(std::span<T> elements, const Shape<Rank>& shape)
        : TensorView(elements.data(), shape) {
        if (std::cmp_not_equal(shape.element_count(), elements.size()))
            detail::fail<ShapeError>("TensorView", "shape ", shape, " needs ",
                                     shape.element_count(), " elements; found ", elements.size());
    }

    /// The read-only view of the same elements.
    template <class Mutable>
    requires(std::is_const_v<T>&& std::same_as<Mutable, value_type>)
        TensorView(const TensorView<Mutable, Rank>& other)
        : data_(other.data()), shape_(other.shape()), strides_(other.strides()) {}

    /// The elements of a std::mdspan or anything shaped like one.
    template <class M>
    requires detail::MdspanLike<M, T, Rank> TensorView(const M& m) : data_(m.data_handle()) {
        std::array<Index, Rank> extents{};
        for (int d = 0; d < Rank; ++d) {
            const auto i = static_cast<std::size_t>(d);
            extents[i] = static_cast<Index>(m.extent(i));
            strides_[i] = static_cast<Index>(m.stride(i));
        }
        shape_ = Shape<Rank>(extents);
        check_reach();
    }

    /// The rows and columns of an Eigen matrix, map or block of either storage order.
    template <class E>
    requires(Rank == 2 && detail::EigenInMemory<E, T> &&
             (std::is_lvalue_reference_v<E&&> || std::is_const_v<T>)) TensorView(E&& matrix)
        : TensorView(matrix.data(), Shape<2>(matrix.rows(), matrix.cols()),
                     Strides<2>{matrix.rowStride(), matrix.colStride()}) {}

    /// The elements of an Eigen vector, or of a row or column of a matrix.
    template <class E>
    requires(Rank == 1 && detail::EigenInMemory<E, T> &&
             bool(std::remove_reference_t<E>::IsVectorAtCompileTime) &&
             (std::is_lvalue_reference_v<E&&> || std::is_const_v<T>)) TensorView(E&& vector)
        : TensorView(vector.data(), Shape<1>(vector.size()), Strides<1>{vector.innerStride()}) {}

    [[nodiscard]] T* data() const { return data_; }
    [[nodiscard]] T* data_handle() const { return data_; }
    [[nodiscard]] const Shape<Rank>& shape() const { return shape_; }
    [[nodiscard]] const Strides<Rank>& strides() const { return strides_; }
    [[nodiscard]] Index extent(int d) const { return shape_[d]; }
    [[nodiscard]] Index stride(int d) const { return strides_[static_cast<std::size_t>(d)]; }
    [[nodiscard]] Index element_count() const { return shape_.element_count(); }
    [[nodiscard]] bool empty() const { return shape_.is_empty(); }

    /// The element at the given position, e.g. `view(b, h, i, j)`.
    template <std::integral... Positions>
    requires(sizeof...(Positions) == Rank) T& operator()(Positions... positions) const {
        return data_[offset({static_cast<Index>(positions)...})];
    }

    /// True when the elements lie one after another in row-major order, without gaps.
    [[nodiscard]] bool is_contiguous() const {
        if (empty()) return true;
        const Strides<Rank> dense = row_major_strides(shape_);
        for (int d = 0; d < Rank; ++d)
            if (extent(d) > 1 && stride(d) != dense[static_cast<std::size_t>(d)]) return false;
        return true;
    }

    /// True when neighbours of the last dimension are neighbours in memory.
    [[nodiscard]] bool has_contiguous_rows() const {
        return extent(Rank - 1) <= 1 || stride(Rank - 1) == 1;
    }

    /// The positions [begin, begin + count) of one dimension.
    /// Throws ShapeError when they are not all inside.
    [[nodiscard]] TensorView slice(int dimension, Index begin, Index count) const {
        require_dimension("slice", dimension);
        const Index extent_here = extent(dimension);
        if (begin < 0 || count < 0 || begin > extent_here || count > extent_here - begin)
            detail::fail<ShapeError>("slice", "positions must lie inside dimension ", dimension,
                                     " of ", shape_, "; found begin ", begin, ", count ", count);
        // An empty slice has no first element to point at.
        const Shape<Rank> shape = shape_.with(dimension, count);
        T* const first = shape.is_empty() ? data_ : data_ + begin * stride(dimension);
        return TensorView(Part(), first, shape, strides_);
    }

    /// One position of one dimension; the result has a dimension less.
    /// Throws ShapeError when the position is outside.
    [[nodiscard]] TensorView<T, Rank - 1> select(int dimension, Index position) const
        requires(Rank > 1) {
        require_dimension("select", dimension);
        if (position < 0 || position >= extent(dimension))
            detail::fail<ShapeError>("select", "position must lie inside dimension ", dimension,
                                     " of ", shape_, "; found ", position);
        std::array<Index, Rank - 1> extents{};
        Strides<Rank - 1> strides{};
        for (int from = 0, to = 0; from < Rank; ++from) {
            if (from == dimension) continue;
            extents[static_cast<std::size_t>(to)] = extent(from);
            strides[static_cast<std::size_t>(to++)] = stride(from);
        }
        using Result = TensorView<T, Rank - 1>;
        T* const first = empty() ? data_ : data_ + position * stride(dimension);
        return Result(typename Result::Part(), first, Shape<Rank - 1>(extents), strides);
    }

    /// The same elements with dimensions in another order: dimension d of the result is dimension
    /// `order[d]` of this. Throws ShapeError unless `order` names every dimension once.
    [[nodiscard]] TensorView permute(const std::array<int, Rank>& order) const {
        std::array<Index, Rank> extents{};
        Strides<Rank> strides{};
        std::array<bool, Rank> seen{};
        for (std::size_t d = 0; d < Rank; ++d) {
            const int from = order[d];
            if (from < 0 || from >= Rank || seen[static_cast<std::size_t>(from)])
                detail::fail<ShapeError>("permute", "order must name each of the ", Rank,
                                         " dimensions once; found ", detail::list_text(order));
            seen[static_cast<std::size_t>(from)] = true;
            extents[d] = extent(from);
            strides[d] = stride(from);
        }
        return TensorView(Part(), data_, Shape<Rank>(extents), strides);
    }

    /// Exchanges two dimensions. Throws ShapeError for a dimension that does not exist.
    [[nodiscard]] TensorView transpose(int first, int second) const {
        require_dimension("transpose", first);
        require_dimension("transpose", second);
        std::array<int, Rank> order{};
        for (int d = 0; d < Rank; ++d) order[static_cast<std::size_t>(d)] = d;
        std::swap(order[static_cast<std::size_t>(first)], order[static_cast<std::size_t>(second)]);
        return permute(order);
    }

    /// The same elements in row-major order under another shape, without copying.
    /// Throws ShapeError when the counts differ or when the strides make it impossible.
    template <int NewRank>
    [[nodiscard]] TensorView<T, NewRank> reshape(const Shape<NewRank>& shape) const {
        if (shape.element_count() != element_count())
            detail::fail<ShapeError>("reshape", "element counts must agree; found ", shape_,
                                     " and ", shape);
        if (!is_contiguous())
            detail::fail<ShapeError>("reshape", "only row-major elements without gaps can be ",
                                     "reshaped without a copy; found shape ", shape_, ", strides ",
                                     detail::list_text(strides_));
        return TensorView<T, NewRank>(data_, shape);
    }

    /// Splits one dimension into two: [.., outer * inner, ..] becomes [.., outer, inner, ..].
    /// Possible for any strides. Throws ShapeError when `outer` does not divide the extent.
    [[nodiscard]] TensorView<T, Rank + 1> split(int dimension, Index outer) const {
        require_dimension("split", dimension);
        const Index whole = extent(dimension);
        if (outer <= 0 || whole % outer != 0)
            detail::fail<ShapeError>("split", "the number of parts must divide dimension ",
                                     dimension, " of ", shape_, "; found ", outer);
        const Index inner = whole / outer;
        std::array<Index, Rank + 1> extents{};
        Strides<Rank + 1> strides{};
        for (int d = 0; d <= Rank; ++d) {
            const int from = d <= dimension ? d : d - 1;
            extents[static_cast<std::size_t>(d)] = extent(from);
            strides[static_cast<std::size_t>(d)] = stride(from);
        }
        extents[static_cast<std::size_t>(dimension)] = outer;
        extents[static_cast<std::size_t>(dimension + 1)] = inner;
        if (outer > 1) strides[static_cast<std::size_t>(dimension)] = inner * stride(dimension);
        return {data_, Shape<Rank + 1>(extents), strides};
    }

    /// Joins a dimension with the next one: the inverse of split. Throws ShapeError when the
    /// strides do not allow it without a copy.
    [[nodiscard]] TensorView<T, Rank - 1> merge(int dimension) const requires(Rank > 1) {
        require_dimension("merge", dimension);
        require_dimension("merge", dimension + 1);
        const Index outer = extent(dimension), inner = extent(dimension + 1);
        const Index step = stride(dimension), inner_step = stride(dimension + 1);
        // Where one of the two has a single position, the other's stride alone counts. (Written
        // like this, step == inner * inner_step cannot overflow.)
        if (!empty() && outer > 1 && inner > 1 && step - inner_step != (inner - 1) * inner_step)
            detail::fail<ShapeError>("merge", "dimensions ", dimension, " and ", dimension + 1,
                                     " of ", shape_, " must follow each other in memory; ",
                                     "found strides ", detail::list_text(strides_));
        std::array<Index, Rank - 1> extents{};
        Strides<Rank - 1> strides{};
        for (int d = 0; d < Rank - 1; ++d) {
            const int from = d < dimension ? d : d + 1;
            extents[static_cast<std::size_t>(d)] = extent(from);
            strides[static_cast<std::size_t>(d)] = stride(from);
        }
        const auto count = detail::CheckedSize<>("merge", static_cast<std::uint64_t>(outer)) *
                           static_cast<std::uint64_t>(inner);
        extents[static_cast<std::size_t>(dimension)] = count.index();
        strides[static_cast<std::size_t>(dimension)] = inner == 1 ? step : inner_step;
        return {data_, Shape<Rank - 1>(extents), strides};
    }

    /// [B, L, H * D] -> [B, H, L, D]: each head becomes a stride, nothing moves.
    /// Throws ShapeError when `heads` does not divide the last dimension.
    [[nodiscard]] TensorView<T, 4> split_heads(Index heads) const requires(Rank == 3) {
        return split(2, heads).transpose(1, 2);
    }

    /// [B, H, L, D] -> [B, L, H * D], the inverse of split_heads.
    /// Throws ShapeError when the heads of a position do not lie side by side.
    [[nodiscard]] TensorView<T, 3> merge_heads() const requires(Rank == 4) {
        return transpose(1, 2).merge(2);
    }

    /// The same elements under a new leading dimension of extent 1.
    [[nodiscard]] TensorView<T, Rank + 1> unsqueeze() const {
        std::array<Index, Rank + 1> extents{1};
        Strides<Rank + 1> strides{};
        std::copy(shape_.begin(), shape_.end(), extents.begin() + 1);
        std::copy(strides_.begin(), strides_.end(), strides.begin() + 1);
        return {data_, Shape<Rank + 1>(extents), strides};
    }

    /// The last two dimensions at the given outer position as an Eigen::Map; never copies.
    /// Throws ShapeError when neighbours within a row are not neighbours in memory.
    template <std::integral... Outer>
    requires(sizeof...(Outer) == Rank - 2) [[nodiscard]] MatrixMap<T> matrix(Outer... outer) const {
        if (!has_contiguous_rows())
            detail::fail<ShapeError>("matrix", "the last dimension must be contiguous; found ",
                                     "shape ", shape_, ", strides ", detail::list_text(strides_));
        // Eigen wants a row stride even where there is at most one row to step over.
        const Index step = extent(Rank - 2) > 1 ? stride(Rank - 2) : extent(Rank - 1);
        return MatrixMap<T>(first_of(outer...), extent(Rank - 2), extent(Rank - 1),
                            Eigen::OuterStride<>(step));
    }

    /// One row of the last dimension at the given position, as a pointer to its first element.
    template <std::integral... Outer>
    requires(sizeof...(Outer) == Rank - 1) [[nodiscard]] T* row(Outer... outer) const {
        const Index start = offset({static_cast<Index>(outer)..., Index{0}}, Rank - 1);
        // A tensor without elements has rows too, but nothing to point at.
        return data_ == nullptr ? nullptr : data_ + start;
    }

  private:
    template <class, int>
    friend class TensorView;

    /// A part of a view that was checked reaches no farther, and is not checked again.
    struct Part {};
    TensorView(Part, T* data, const Shape<Rank>& shape, const Strides<Rank>& strides)
        : data_(data), shape_(shape), strides_(strides) {}

    template <class... Outer>
    T* first_of(Outer... outer) const {
        return empty() ? data_ : data_ + offset({static_cast<Index>(outer)..., Index{0}, Index{0}});
    }

    [[nodiscard]] Index offset(const std::array<Index, Rank>& position, int checked = Rank) const {
        Index result = 0;
        for (int d = 0; d < Rank; ++d) {
            const Index i = position[static_cast<std::size_t>(d)];
            HEED_ASSERT(d >= checked || (i >= 0 && i < extent(d)));
            (void)checked;
            result += i * stride(d);
        }
        return result;
    }

    static void require_dimension(std::string_view where, int dimension) {
        if (dimension < 0 || dimension >= Rank)
            detail::fail<ShapeError>(where, "a dimension must be in [0, ", Rank, "); found ",
                                     dimension);
    }

    /// The element count, and every distance in memory that extents and strides can form, must fit
    /// into Index. Empty views are no exception: their strides are multiplied like any other.
    void check_reach() const {
        (void)element_count();
        detail::CheckedSize<> reach("TensorView", 0);
        for (int d = 0; d < Rank; ++d) {
            if (extent(d) <= 1) continue;
            const auto magnitude = stride(d) < 0 ? 0 - static_cast<std::uint64_t>(stride(d))
                                                 : static_cast<std::uint64_t>(stride(d));
            reach += (detail::CheckedSize<>("TensorView", magnitude) *
                      static_cast<std::uint64_t>(extent(d) - 1))
                         .bytes();
        }
        reach *= sizeof(T);
    }

    T* data_ = nullptr;
    Shape<Rank> shape_;
    Strides<Rank> strides_{};
};

/// A read-only view as a function parameter: T and Rank come from the output view, so that tensors
/// and views of mutable elements convert to it.
template <class T, int Rank>
using InputView = std::type_identity_t<TensorView<const T, Rank>>;

template <class T, int Rank>
TensorView(T*, Shape<Rank>) -> TensorView<T, Rank>;

template <class T, int Rank>
TensorView(T*, Shape<Rank>, std::type_identity_t<Strides<Rank>>) -> TensorView<T, Rank>;

}  // namespace heed::inline v0
