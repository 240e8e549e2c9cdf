#pragma once
// May this view be read, and may it be written?
// The checks that every public function makes on its caller's memory; reads no element.

#include <string_view>

#include "heed/tensor/overlap.hpp"

namespace heed::inline v0 {
namespace detail {

/// Throws ArgumentError for elements at a null pointer.
template <class T, int Rank>
void require_memory(std::string_view where, std::string_view what, TensorView<T, Rank> view) {
    if (view.data() == nullptr && !view.empty())
        fail<ArgumentError>(where, what, " must point at memory; found null with shape ",
                            view.shape());
}

/// An output must have its shape, a place of its own for each element, and no byte that is also
/// read, or written as another output. Throws ShapeError, or ArgumentError for null.
template <class T, int Rank, class... Others>
void require_output(std::string_view where, std::string_view what, TensorView<T, Rank> output,
                    const Shape<Rank>& expected, const Others&... others) {
    require_shape(where, what, output.shape(), expected);
    require_memory(where, what, output);
    if (overlaps_itself(output))
        fail<ShapeError>(where, what, " must have a place for each element; found shape ",
                         output.shape(), ", strides ", list_text(output.strides()));
    if ((overlaps(output, others) || ...))
        fail<ShapeError>(where, what, " must not overlap an input or another output; ",
                         "found overlapping memory");
}

/// An operation that works in place must see its input's own view as the output, or memory apart
/// from it: written a step too early, the input would be lost. Throws ShapeError.
template <class In, class Out, int Rank>
void require_same_or_apart(std::string_view where, TensorView<In, Rank> input,
                           TensorView<Out, Rank> output) {
    if (overlaps(input, output) && !same_view(input, output))
        fail<ShapeError>(where, "the output must be the input's view or not overlap it; ",
                         "found partial overlap");
}

/// Eigen walks matrices whose rows lie in one piece. Throws ShapeError for others.
template <class T, int Rank>
void require_contiguous_rows(std::string_view where, std::string_view what,
                             TensorView<T, Rank> view) {
    if (!view.has_contiguous_rows())
        fail<ShapeError>(where, what, " must have a contiguous last dimension; found strides ",
                         list_text(view.strides()));
}

/// True for an optional output that the caller asks for.
template <class T, int Rank>
[[nodiscard]] bool is_wanted(TensorView<T, Rank> output) {
    return output.data() != nullptr || !output.empty();
}

/// require_output for an output that need not be wanted.
template <class T, int Rank, class... Others>
void require_optional_output(std::string_view where, std::string_view what,
                             TensorView<T, Rank> output, const Shape<Rank>& expected,
                             const Others&... others) {
    if (is_wanted(output)) require_output(where, what, output, expected, others...);
}

}  // namespace detail
}  // namespace heed::inline v0
