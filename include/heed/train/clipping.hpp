#pragma once
// How long is the gradient of a whole model, and how is it kept short?
// Reads and scales the parameters of a gradients module; allocates nothing but names.

#include <cmath>
#include <string>

#include "heed/nn/module.hpp"
#include "heed/ops/row_parts.hpp"
#include "heed/simd/layer_dispatch.hpp"

namespace heed::inline v0 {

/// Scales all gradients so that their Euclidean norm, taken over all parameters together, is at
/// most max_norm, and returns the norm from before. As torch.nn.utils.clip_grad_norm_, it
/// multiplies by max_norm / (norm + 1e-6) where that is below 1, and else changes no bit. A norm
/// that is infinite makes finite gradients 0, and one that is NaN makes all of them NaN: look at
/// the result. With an infinite max_norm, it only measures.
///
/// The squares are summed in double, in the order of the parameters. Throws ArgumentError for a
/// max_norm that is negative or NaN. Source: Pascanu, Mikolov, Bengio, arXiv 1211.5063.
template <class Model>
double clip_gradient_norm(Module<Model>& gradients, double max_norm) {
    if (!(max_norm >= 0.0))
        detail::fail<ArgumentError>("clip_gradient_norm", "max_norm must be 0 or more; found ",
                                    max_norm);
    double squares = 0;
    const auto add_squares = [&](auto row) {
        using T = typename decltype(row)::value_type;
        detail::RowParts<T, const T> parts{TensorView<const T, 1>(row)};
        detail::for_each_part(row.extent(0), [&](Index first, Index count) {
            squares += detail::layer_kernels<T>().wide_squares(parts.read(first, count), count);
        });
    };
    gradients.for_each_parameter(detail::AtOnce{
        [&](const std::string&, auto view) { detail::for_each_long_row(add_squares, view); }});
    const double norm = std::sqrt(squares);
    const double factor = max_norm / (norm + 1e-6);
    if (factor >= 1.0 || std::isinf(max_norm)) return norm;
    const auto shorten = [&](auto row) {
        using T = typename decltype(row)::value_type;
        detail::RowParts<T, T> parts(row);
        detail::for_each_part(row.extent(0), [&](Index first, Index count) {
            detail::layer_kernels<T>().scale(static_cast<T>(factor), count,
                                             parts.edit(first, count));
            parts.store(first, count);
        });
    };
    gradients.for_each_parameter(detail::AtOnce{
        [&](const std::string&, auto view) { detail::for_each_long_row(shorten, view); }});
    return norm;
}

}  // namespace heed::inline v0
