#pragma once
// How does a layer keep the weights of its products, and when does it pack them?
// Owns W [out, in] as a matrix, packed copies of its parts, or weights in fewer bits alone. Packs
// at the first product after a change.

#include <array>
#include <atomic>
#include <initializer_list>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "heed/ops/input_gradient.hpp"
#include "heed/ops/weight_gradient.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0::detail {

/// The weights of one or several products with the same input: parts are rows of one matrix, one
/// after another.
///
/// Products read packed weights, which are packed again after a change. Whoever takes a view that
/// may be written gives notice: heed's own writers are done before the next product (`change`), a
/// view for the caller may be written at any time (`view`). From then on products read the matrix
/// in place, until the caller says when he has written (`pack`).
///
/// Products on several threads may be the first ones.
template <ComputeScalar T>
class WeightMatrix {
  public:
    static constexpr std::size_t most_parts = 3;

    WeightMatrix() = default;
    /// `ends` are the rows behind each part; one part unless given.
    explicit WeightMatrix(const Shape<2>& shape, std::initializer_list<Index> ends = {})
        : matrix_(shape), shape_(shape) {
        if (ends.size() == 0) ends_[parts_++] = shape[0];
        for (const Index end : ends) ends_[parts_++] = end;
    }

    [[nodiscard]] const Shape<2>& shape() const { return shape_; }
    [[nodiscard]] bool empty() const { return shape_.is_empty(); }

    /// To read at once. Throws ArgumentError where there is no matrix any more.
    [[nodiscard]] TensorView<const T, 2> read() const {
        require_matrix();
        write_zeros();
        return matrix_;
    }
    /// To keep and to read at any time.
    [[nodiscard]] TensorView<const T, 2> view() const {
        packs_.is_watched = true;
        return read();
    }
    /// To keep and to write at any time.
    [[nodiscard]] TensorView<T, 2> view() {
        const TensorView<T, 2> matrix = change();
        packs_.is_watched = true;
        packs_.state = State::in_place;
        return matrix;
    }
    /// To write at once.
    [[nodiscard]] TensorView<T, 2> change() {
        will_change();
        write_zeros();
        return matrix_;
    }
    /// To add a gradient to at once.
    [[nodiscard]] GradientSum<T> sum() {
        will_change();
        return {matrix_, &packs_.cleared};
    }
    /// Sets all elements to 0. Unless the caller has a view, the zeros are written by whoever is
    /// next to read, and never where a gradient is added before.
    void clear() {
        will_change();
        packs_.cleared = true;
        if (packs_.is_watched) write_zeros();
    }

    /// Products read the weights as they are now, packed; to be called again after writing to views
    /// that were taken before.
    void pack() {
        if (has_matrix()) packs_.state = State::changed;
    }
    /// True when products read packed weights, or will after packing them.
    [[nodiscard]] bool is_packed() const { return packs_.state != State::in_place; }

    /// Keeps the weights as W alone, packed: no matrix is left to view, change or train.
    template <class W>
    void store_as() {
        require_matrix();
        if (empty()) return;
        write_zeros();
        std::array<PackedWeights<T>, most_parts> packed;
        for (std::size_t part = 0; part < parts_; ++part) {
            if constexpr (std::is_same_v<W, T>)
                packed[part].pack(rows_of(part));
            else
                packed[part].template pack_as<W>(rows_of(part));
        }
        packs_.parts = std::move(packed);
        matrix_ = Tensor<T, 2>();
        packs_.state = State::packed_alone;
    }
    [[nodiscard]] bool has_matrix() const { return packs_.state != State::packed_alone; }

    /// Throws ArgumentError where weights were stored without their matrix.
    void require_matrix() const {
        if (!has_matrix())
            fail<ArgumentError>("Module", "weights that were stored in another form can only be ",
                                "multiplied with; found an attempt to view, change, save or train ",
                                "a matrix ", shape_, " of them");
    }

    /// A part and its bias for a product. Valid until the weights change.
    [[nodiscard]] ProductWeights<T> for_product(TensorView<const T, 1> bias,
                                                std::size_t part = 0) const {
        write_zeros();
        if (!is_packed()) return {rows_of(part), bias};
        pack_changes();
        return {{}, bias, &packs_.parts[part]};
    }

    /// All parts, or one, for the gradient of their products; packed where a product has packed
    /// them. Valid until the weights change. Throws ArgumentError where there is no matrix any
    /// more.
    [[nodiscard]] BackwardWeights<T> for_gradient() const { return {read(), packed(0, parts_)}; }
    [[nodiscard]] BackwardWeights<T> for_gradient(std::size_t part) const {
        require_matrix();
        write_zeros();
        return {rows_of(part), packed(part, 1)};
    }

  private:
    enum class State { changed, packed, in_place, packed_alone };

    /// Packed weights, and whether they are those of the matrix, and whether that was set to 0
    /// without writing it. Copies pack anew, when they need to.
    struct Packs {
        std::atomic<State> state{State::changed};
        std::atomic<bool> cleared{false};
        std::atomic<bool> is_watched{false};  ///< the caller has views
        std::mutex changing;
        std::array<PackedWeights<T>, most_parts> parts;

        Packs() = default;
        Packs(const Packs& other) { *this = other; }
        Packs(Packs&& other) noexcept { *this = std::move(other); }
        Packs& operator=(const Packs& other) {
            const bool alone = other.state == State::packed_alone;
            if (alone) parts = other.parts;
            state = alone ? State::packed_alone : State::changed;
            cleared = other.cleared.load();
            return *this;
        }
        Packs& operator=(Packs&& other) noexcept {
            parts = std::move(other.parts);
            state = other.state.load();
            cleared = other.cleared.load();
            is_watched = other.is_watched.load();
            return *this;
        }
        ~Packs() = default;
    };

    [[nodiscard]] TensorView<const T, 2> rows_of(std::size_t part) const {
        const Index begin = part == 0 ? 0 : ends_[part - 1];
        return matrix_.view().slice(0, begin, ends_[part] - begin);
    }

    void will_change() {
        require_matrix();
        if (packs_.state == State::packed) packs_.state = State::changed;
    }

    /// Parts that are packed as they are now, or none.
    [[nodiscard]] std::span<const PackedWeights<T>> packed(std::size_t first,
                                                           std::size_t count) const {
        if (packs_.state != State::packed) return {};
        return std::span(packs_.parts).subspan(first, count);
    }

    void write_zeros() const {
        if (!packs_.cleared) return;
        const std::lock_guard lock(packs_.changing);
        if (!packs_.cleared) return;
        fill(matrix_.view(), T(0));
        packs_.cleared = false;
    }

    void pack_changes() const {
        if (packs_.state != State::changed) return;
        const std::lock_guard lock(packs_.changing);
        if (packs_.state != State::changed) return;
        for (std::size_t part = 0; part < parts_; ++part) packs_.parts[part].pack(rows_of(part));
        packs_.state = State::packed;
    }

    mutable Tensor<T, 2> matrix_;
    Shape<2> shape_;
    std::array<Index, most_parts> ends_{};
    std::size_t parts_ = 0;
    mutable Packs packs_;
};

/// A visitor of parameters that keeps no view beyond the visit.
template <class F>
struct AtOnce : F {
    using F::operator();
    static constexpr bool keeps_no_views = true;
};
template <class F>
AtOnce(F) -> AtOnce<F>;

template <class Visitor>
concept KeepsNoViews = requires {
    requires std::remove_cvref_t<Visitor>::keeps_no_views;
};

/// A visitor that is called with the matrices of weights instead of their views.
template <class Visitor, class Matrix>
concept VisitsMatrices = requires(Visitor&& visitor, Matrix& matrix) {
    visitor.visit_matrix(matrix);
};

/// The view of a matrix that a visitor is shown.
template <class Visitor, class Matrix>
[[nodiscard]] auto shown_to(Matrix& matrix) {
    if constexpr (!KeepsNoViews<Visitor>)
        return matrix.view();
    else if constexpr (std::is_const_v<Matrix>)
        return matrix.read();
    else
        return matrix.change();
}

/// Shows a matrix that is a parameter to a visitor of parameters.
template <class Matrix, class Visitor>
void visit_weight(Matrix& matrix, Visitor&& visit, const std::string& name) {
    if constexpr (VisitsMatrices<Visitor, Matrix>)
        visit.visit_matrix(matrix);
    else
        visit(name, shown_to<Visitor>(matrix));
}

/// What Module::fill_parameters does.
struct FillParameters {
    static constexpr bool keeps_no_views = true;
    double value;

    template <class T, int Rank>
    void operator()(const std::string&, TensorView<T, Rank> view) const {
        fill(view, convert<T>(value));
    }
    template <class T>
    void visit_matrix(WeightMatrix<T>& matrix) const {
        if (value == 0)
            matrix.clear();
        else
            fill(matrix.change(), convert<T>(value));
    }
};

/// What Module::parameter_count does.
struct CountParameters {
    static constexpr bool keeps_no_views = true;
    Index count = 0;

    template <class View>
    void operator()(const std::string&, const View& view) {
        count += view.element_count();
    }
    template <class T>
    void visit_matrix(const WeightMatrix<T>& matrix) {
        count += matrix.shape().element_count();
    }
};

/// What Module::pack_weights and store_weights_as do to each matrix; other parameters stay.
struct PackMatrices {
    static constexpr bool keeps_no_views = true;
    template <class View>
    void operator()(const std::string&, const View&) const {}
    template <class T>
    void visit_matrix(WeightMatrix<T>& matrix) const {
        matrix.pack();
    }
};
template <class W>
struct StoreMatrices {
    static constexpr bool keeps_no_views = true;
    template <class View>
    void operator()(const std::string&, const View&) const {}
    template <class T>
    void visit_matrix(WeightMatrix<T>& matrix) const {
        static_assert(std::same_as<T, float> || std::same_as<T, W>,
                      "weights in fewer bits are computed with in float: the module must be one "
                      "of float");
        matrix.template store_as<W>();
    }
};

}  // namespace heed::inline v0::detail
