#pragma once
// How is each row brought to unit scale?
// Reads and writes rows of the last dimension; knows rows, not heads; allocates nothing.

#include <array>
#include <cmath>

#include "heed/base/pieces.hpp"
#include "heed/base/stages.hpp"
#include "heed/ops/row_parts.hpp"
#include "heed/simd/layer_dispatch.hpp"
#include "heed/tensor/checks.hpp"
#include "heed/tensor/row_list.hpp"

namespace heed::inline v0 {

namespace detail {

/// layer: (x - mean) / sqrt(variance + epsilon); rms: x / sqrt(mean of squares + epsilon).
enum class NormKind { layer, rms };

/// A norm of rows with its parameters; an absent weight is 1, an absent bias 0.
template <class T>
struct NormRule {
    NormKind kind;
    double epsilon;
    TensorView<const T, 1> weight = {}, bias = {};
};

/// sum_c f(part of the row): part by part.
template <class C, class T, class F>
[[nodiscard]] C sum_of_parts(TensorView<const T, 1> row, const F& f) {
    RowParts<C, const T> parts(row);
    C sum = 0;
    for_each_part(row.extent(0),
                  [&](Index first, Index count) { sum += f(parts.read(first, count), count); });
    return sum;
}

/// What the norm does to a row: x becomes (x - shift) * factor.
template <class C, class T>
[[nodiscard]] RowScale<C> scale_of(const NormRule<T>& norm, TensorView<const T, 1> row) {
    const LayerKernels<C>& kernels = layer_kernels<C>();
    const auto n = static_cast<C>(row.extent(0));
    const C mean = norm.kind == NormKind::rms ? C(0) : sum_of_parts<C>(row, kernels.sum) / n;
    // Two passes: the one-pass form E[x^2] - E[x]^2 cancels for large means.
    const C squares = sum_of_parts<C>(
        row, [&](const C* part, Index count) { return kernels.squares(part, count, mean); });
    return {mean, 1 / std::sqrt(squares / n + static_cast<C>(norm.epsilon))};
}

/// y = norm(x) row by row, in pieces of some rows that different workers may take.
template <StorageScalar T>
class NormRows {
  public:
    NormRows(const NormRule<T>& norm, RowList<const T> x, RowList<T> y)
        : norm_(norm), x_(x), y_(y), blocks_(CommonRows(x, y), rows_of_piece) {}

    [[nodiscard]] Index count() const { return blocks_.count(); }

    void operator()(Index piece, int /*worker*/) const {
        const Index first = blocks_.begin(piece);
        for (Index i = first; i < first + blocks_.size(piece); ++i) normalise(x_[i], y_[i]);
    }

  private:
    using C = ComputeType<T>;
    static constexpr Index rows_of_piece = 16;

    void normalise(TensorView<const T, 1> x, TensorView<T, 1> y) const {
        const RowScale<C> by = scale_of<C>(norm_, x);
        RowParts<C, const T> from(x), weight(norm_.weight), bias(norm_.bias);
        RowParts<C, T> to(y);
        for_each_part(x.extent(0), [&](Index first, Index count) {
            layer_kernels<C>().scale_row(from.read(first, count), count, by,
                                         weight.read(first, count), bias.read(first, count),
                                         to.place(first));
            to.store(first, count);
        });
    }

    NormRule<T> norm_;
    RowList<const T> x_;
    RowList<T> y_;
    RowBlocks blocks_;
};

/// The gradients of NormRows, in three steps, each of which needs the one before: the scales of all
/// rows, computed again from x; the gradients of the parameters, some features to a piece; dx, some
/// rows to a piece, which may lie where x or dy lies.
template <ComputeScalar T>
class NormGradientRows {
  public:
    struct Gradients {
        RowList<T> dx = {};                         ///< overwritten
        TensorView<T, 1> dweight = {}, dbias = {};  ///< added to
        RowList<const T> residual = {};             ///< added to dx
    };

    /// `scales` is room for two numbers for each row.
    NormGradientRows(const NormRule<T>& norm, RowList<const T> x, RowList<const T> dy,
                     const Gradients& gradients, T* scales)
        : norm_(norm),
          x_(x),
          dy_(dy),
          gradients_(gradients),
          scales_(scales),
          blocks_(CommonRows(x, dy, gradients.dx, gradients.residual), rows_of_piece) {}

    void add_to(Stages& stages) const {
        using Self = NormGradientRows;
        stages.then(blocks_.count(), ParallelTask::of<&Self::find_scales>(*this));
        stages.then(parameter_pieces(), ParallelTask::of<&Self::add_parameters>(*this));
        // Where dx lies may lie what the parameters' gradients read.
        if (!gradients_.dx.is_absent())
            stages.then(blocks_.count(), ParallelTask::of<&Self::find_dx>(*this));
    }

  private:
    static constexpr Index rows_of_piece = 16, features_of_piece = 256;

    [[nodiscard]] Index parameter_pieces() const {
        const bool wanted = is_wanted(gradients_.dweight) || is_wanted(gradients_.dbias);
        return wanted ? pieces(x_.columns(), features_of_piece) : 0;
    }

    void find_scales(Index piece, int /*worker*/) const {
        for_each_row(piece, [&](Index i) {
            const RowScale<T> by = scale_of<T>(norm_, x_[i]);
            scales_[2 * i] = by.shift;
            scales_[2 * i + 1] = by.factor;
        });
    }

    void add_parameters(Index piece, int /*worker*/) const {
        const Index first = piece * features_of_piece;
        const Index count = std::min(features_of_piece, x_.columns() - first);
        std::array<T, static_cast<std::size_t>(features_of_piece)> dweight{}, dbias{};
        for (Index i = 0; i < x_.count(); ++i) {
            RowParts<T, const T> x(x_[i].slice(0, first, count));
            RowParts<T, const T> dy(dy_[i].slice(0, first, count));
            layer_kernels<T>().norm_parameters(x.read(0, count), dy.read(0, count), count, scale(i),
                                               dweight.data(), dbias.data());
        }
        for (Index c = 0; c < count; ++c) {
            const auto at = static_cast<std::size_t>(c);
            if (is_wanted(gradients_.dweight)) gradients_.dweight(first + c) += dweight[at];
            if (is_wanted(gradients_.dbias)) gradients_.dbias(first + c) += dbias[at];
        }
    }

    void find_dx(Index piece, int /*worker*/) const {
        for_each_row(piece, [&](Index i) {
            const bool adds = !gradients_.residual.is_absent();
            go_back(x_[i], dy_[i], scale(i), gradients_.dx[i],
                    adds ? gradients_.residual[i] : TensorView<const T, 1>());
        });
    }

    template <class F>
    void for_each_row(Index piece, const F& f) const {
        const Index first = blocks_.begin(piece);
        for (Index i = first; i < first + blocks_.size(piece); ++i) f(i);
    }
    [[nodiscard]] RowScale<T> scale(Index row) const {
        return {scales_[2 * row], scales_[2 * row + 1]};
    }

    /// With a mean, its gradient is taken off.
    void go_back(TensorView<const T, 1> x, TensorView<const T, 1> dy, RowScale<T> by,
                 TensorView<T, 1> dx, TensorView<const T, 1> residual) const {
        const LayerKernels<T>& kernels = layer_kernels<T>();
        RowParts<T, const T> from(x), slope(dy), weight(norm_.weight), more(residual);
        RowParts<T, T> to(dx);
        T sums[2] = {};
        for_each_part(x.extent(0), [&](Index first, Index count) {
            T of_part[2];
            kernels.norm_sums(from.read(first, count), slope.read(first, count),
                              weight.read(first, count), count, by, of_part);
            for (int n = 0; n < 2; ++n) sums[n] += of_part[n];
        });
        const auto n = static_cast<T>(x.extent(0));
        const T mean = norm_.kind == NormKind::layer ? sums[0] / n : T(0);
        for_each_part(x.extent(0), [&](Index first, Index count) {
            T* const place = to.place(first);
            kernels.norm_gradient(from.read(first, count), slope.read(first, count),
                                  weight.read(first, count), count, by, mean, sums[1] / n, place);
            if (const T* const added = more.read(first, count)) kernels.add(added, count, place);
            to.store(first, count);
        });
    }

    NormRule<T> norm_;
    RowList<const T> x_, dy_;
    Gradients gradients_;
    T* scales_;
    RowBlocks blocks_;
};

template <class T, int Rank>
void check_norm(std::string_view where, TensorView<const T, Rank> x, const NormRule<T>& norm,
                TensorView<T, Rank> y) {
    const auto& [kind, epsilon, weight, bias] = norm;
    require_memory(where, "the input", x);
    require_memory(where, "the weight", weight);
    require_memory(where, "the bias", bias);
    require_output(where, "the output", y, x.shape(), weight, bias);
    require_same_or_apart(where, x, y);
    const Shape<1> row(x.extent(Rank - 1));
    if (weight.data() != nullptr) require_shape(where, "the weight", weight.shape(), row);
    if (bias.data() != nullptr) require_shape(where, "the bias", bias.shape(), row);
}

template <class T, int Rank>
void normalise(std::string_view where, const NormRule<T>& norm, TensorView<const T, Rank> x,
               TensorView<T, Rank> y) {
    check_norm(where, x, norm, y);
    for_each_row_list(
        [&](RowList<const T> from, RowList<T> to) {
            const NormRows<T> rows(norm, from, to);
            for (Index piece = 0; piece < rows.count(); ++piece) rows(piece, 0);
        },
        x, y);
}

/// The gradients of a norm; dbias belongs to layer_norm alone.
template <class T, int Rank>
struct NormGradients {
    TensorView<T, Rank> dx;
    TensorView<T, 1> dweight, dbias;
};

template <class T, int Rank>
void check_norm_backward(std::string_view where, TensorView<const T, Rank> x,
                         TensorView<const T, 1> weight, TensorView<const T, Rank> dy,
                         const NormGradients<T, Rank>& gradients) {
    const auto& [dx, dweight, dbias] = gradients;
    const Shape<1> row(x.extent(Rank - 1));
    require_memory(where, "the input", x);
    require_memory(where, "the weight", weight);
    require_memory(where, "dy", dy);
    if (weight.data() != nullptr) require_shape(where, "the weight", weight.shape(), row);
    require_shape(where, "dy", dy.shape(), x.shape());
    require_optional_output(where, "dx", dx, x.shape(), weight);
    require_same_or_apart(where, x, dx);
    require_same_or_apart(where, dy, dx);
    require_optional_output(where, "dweight", dweight, row, x, weight, dy, dx);
    require_optional_output(where, "dbias", dbias, row, x, weight, dy, dx, dweight);
}

/// Some rows at a time, so that their scales need no memory of the caller's.
template <class T, int Rank>
void norm_backward(std::string_view where, const NormRule<T>& norm, TensorView<const T, Rank> x,
                   TensorView<const T, Rank> dy, const NormGradients<T, Rank>& gradients) {
    check_norm_backward(where, x, norm.weight, dy, gradients);
    constexpr Index most = 64;
    const auto go_back = [&](RowList<const T> from, RowList<const T> slopes, RowList<T> to) {
        const RowBlocks blocks(CommonRows(from, slopes, to), most);
        for (Index b = 0; b < blocks.count(); ++b) {
            const auto block = [&](const auto& list) {
                return list.is_absent() ? list
                                        : std::remove_cvref_t<decltype(list)>(
                                              list.block(blocks.begin(b), blocks.size(b)));
            };
            std::array<T, 2 * most> scales;
            const NormGradientRows<T> rows(norm, block(from), block(slopes),
                                           {block(to), gradients.dweight, gradients.dbias},
                                           scales.data());
            Stages stages;
            rows.add_to(stages);
            stages.run(ExecutorRef());
        }
    };
    for_each_row_list(go_back, x, dy, gradients.dx);
}

}  // namespace detail

/// LayerNorm over the last dimension: y = (x - mean) / sqrt(variance + epsilon) * weight + bias,
/// with the variance divided by n. `weight` and `bias` may be empty views (1 and 0); y may be x's
/// view, but not overlap it otherwise. Half types are computed in float. Throws ShapeError, or
/// ArgumentError for null, before anything is written. Source: Ba, Kiros, Hinton, arXiv 1607.06450.
template <StorageScalar T, int Rank>
void layer_norm(InputView<T, Rank> x, InputView<T, 1> weight, InputView<T, 1> bias, double epsilon,
                TensorView<T, Rank> y) {
    detail::normalise<T, Rank>("layer_norm", {detail::NormKind::layer, epsilon, weight, bias}, x,
                               y);
}

/// RMSNorm over the last dimension: y = x / sqrt(mean(x^2) + epsilon) * weight. `weight` may be an
/// empty view (1); y may be x's view, but not overlap it otherwise. Half types are computed in
/// float. Throws ShapeError, or ArgumentError for null, before anything is written. Source: Zhang,
/// Sennrich, arXiv 1910.07467.
template <StorageScalar T, int Rank>
void rms_norm(InputView<T, Rank> x, InputView<T, 1> weight, double epsilon, TensorView<T, Rank> y) {
    detail::normalise<T, Rank>("rms_norm", {detail::NormKind::rms, epsilon, weight}, x, y);
}

/// Where the gradients of `layer_norm` go; an empty view means "not wanted".
template <ComputeScalar T, int Rank>
struct LayerNormGradients {
    TensorView<T, Rank> dx = {};    ///< the shape of x, overwritten
    TensorView<T, 1> dweight = {};  ///< [features], added to
    TensorView<T, 1> dbias = {};    ///< [features], added to
};

/// The gradients of a loss with respect to input, weight and bias of `layer_norm`, from its
/// gradient dy with respect to the output. With n = (x - mean) r, r = 1 / sqrt(variance + epsilon)
/// and g = dy * weight, row by row:
///
///     dx = r (g - mean(g) - n mean(g n)),    dweight += dy n,    dbias += dy
///
/// dx may be the view of x or of dy, but not overlap them otherwise; the other gradients overlap
/// nothing. Rows are summed in their order, 64 at a time. The statistics are computed again from x.
/// Throws ShapeError, or ArgumentError for null, before anything is written.
template <TensorLike X>
void layer_norm_backward(const X& x, InputView<ElementOf<X>, 1> weight, double epsilon,
                         InputView<ElementOf<X>, X::rank()> dy,
                         const LayerNormGradients<ElementOf<X>, X::rank()>& gradients) {
    using T = ElementOf<X>;
    detail::norm_backward<T, X::rank()>("layer_norm_backward",
                                        {detail::NormKind::layer, epsilon, weight}, x, dy,
                                        {gradients.dx, gradients.dweight, gradients.dbias});
}

/// Where the gradients of `rms_norm` go; an empty view means "not wanted".
template <ComputeScalar T, int Rank>
struct RmsNormGradients {
    TensorView<T, Rank> dx = {};    ///< the shape of x, overwritten
    TensorView<T, 1> dweight = {};  ///< [features], added to
};

/// The gradients of a loss with respect to input and weight of `rms_norm`, as layer_norm_backward.
/// With n = x r, r = 1 / sqrt(mean(x^2) + epsilon) and g = dy * weight, row by row:
///
///     dx = r (g - n mean(g n)),    dweight += dy n
template <TensorLike X>
void rms_norm_backward(const X& x, InputView<ElementOf<X>, 1> weight, double epsilon,
                       InputView<ElementOf<X>, X::rank()> dy,
                       const RmsNormGradients<ElementOf<X>, X::rank()>& gradients) {
    using T = ElementOf<X>;
    detail::norm_backward<T, X::rank()>("rms_norm_backward",
                                        {detail::NormKind::rms, epsilon, weight}, x, dy,
                                        {gradients.dx, gradients.dweight, {}});
}

}  // namespace heed::inline v0
