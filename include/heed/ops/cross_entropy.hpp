#pragma once
// How far are scores of classes from the classes that are right?
// Reads logits and targets, writes the gradient if it is wanted; checks every target before that.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <span>
#include <utility>

#include "heed/simd/layer_dispatch.hpp"
#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

struct CrossEntropyOptions {
    std::int64_t ignore_index = -100;  ///< a row with this target counts for nothing (padding)
};

namespace detail {

template <class T, std::integral Id>
void check_cross_entropy(TensorView<const T, 2> logits, TensorView<const Id, 1> targets,
                         std::int64_t ignore_index, TensorView<T, 2> dlogits) {
    constexpr std::string_view where = "cross_entropy";
    require_shape(where, "the targets", targets.shape(), Shape<1>(logits.extent(0)));
    require_memory(where, "the logits", logits);
    require_memory(where, "the targets", targets);
    require_optional_output(where, "dlogits", dlogits, logits.shape(), targets);
    require_same_or_apart(where, logits, dlogits);
    require_contiguous_rows(where, "the logits", logits);
    require_contiguous_rows(where, "dlogits", dlogits);
    const Index classes = logits.extent(1);
    for (Index i = 0; i < targets.extent(0); ++i) {
        const Id target = targets(i);
        const bool is_class = std::cmp_greater_equal(target, 0) && std::cmp_less(target, classes);
        if (!is_class && !std::cmp_equal(target, ignore_index))
            fail<ArgumentError>(where, "a target must be in [0, ", classes, ") or ", ignore_index,
                                "; found ", target, " at position ", i);
    }
}

/// The loss of one row; its gradient, times `factor`, if it is wanted.
template <class T>
T cross_entropy_row(TensorView<const T, 1> logits, Index target, T factor,
                    TensorView<T, 1> dlogits) {
    const LayerKernels<T>& kernels = layer_kernels<T>();
    const Index classes = logits.extent(0);
    const T largest = kernels.largest(logits.data(), classes), at_target = logits(target);
    const T sum = kernels.exponentials(logits.data(), classes, largest, dlogits.data());
    // The largest logit goes first: log-sum-exp less target would cancel where logits are large.
    const T loss = std::log(sum) + (largest - at_target);
    if (!is_wanted(dlogits)) return loss;
    kernels.scale(factor / sum, classes, dlogits.data());
    dlogits(target) -= factor;
    return loss;
}

}  // namespace detail

/// The mean of -log softmax(logits_i)[targets_i] over the rows i whose target is not ignored:
///
///     loss = 1/n sum_i (log(sum_c exp(logits_ic)) - logits_i,target),
///     dlogits_ic = 1/n (softmax(logits_i)_c - [c = target_i]),    0 in ignored rows
///
/// logits are [rows, classes] with a contiguous last dimension, targets `rows` integers of any type
/// (a std::vector, a std::span, ..). dlogits, if wanted, is overwritten; its last dimension is
/// contiguous, too, and it may be the view of the logits, but not overlap them otherwise. The rows'
/// losses are summed in double, in their order.
///
/// Where every row is ignored, loss and gradients are 0; PyTorch answers NaN. A class with a logit
/// of minus infinity has probability 0: the loss is infinite where it is the target.
///
/// Throws ArgumentError for a target that is neither in [0, classes) nor ignored, or null;
/// ShapeError for sizes that do not fit or overlap; both before anything is written. Cost: an
/// exponential for each logit.
template <TensorLike Logits, std::ranges::contiguous_range Targets>
requires(ComputeScalar<ElementOf<Logits>>&& std::integral<std::ranges::range_value_t<
             Targets>>) double cross_entropy(const Logits& logits, const Targets& targets,
                                             const CrossEntropyOptions& options = {},
                                             TensorView<ElementOf<Logits>, 2> dlogits = {}) {
    using T = ElementOf<Logits>;
    const TensorView<const T, 2> x = logits;
    const std::span ids(std::ranges::data(targets), std::ranges::size(targets));
    detail::check_cross_entropy(x, TensorView(ids.data(), Shape<1>(ids.size())),
                                options.ignore_index, dlogits);
    const auto is_ignored = [&](Index i) {
        return std::cmp_equal(ids[static_cast<std::size_t>(i)], options.ignore_index);
    };
    Index count = 0;
    for (Index i = 0; i < x.extent(0); ++i) count += is_ignored(i) ? 0 : 1;
    const double share = 1.0 / static_cast<double>(std::max<Index>(count, 1));
    double loss = 0;
    for (Index i = 0; i < x.extent(0); ++i) {
        const auto gradient =
            detail::is_wanted(dlogits) ? dlogits.select(0, i) : TensorView<T, 1>();
        if (is_ignored(i)) {
            fill(gradient, T(0));
            continue;
        }
        const auto target = static_cast<Index>(ids[static_cast<std::size_t>(i)]);
        loss += share * static_cast<double>(detail::cross_entropy_row<T>(
                            x.select(0, i), target, static_cast<T>(share), gradient));
    }
    return loss;
}

}  // namespace heed::inline v0
