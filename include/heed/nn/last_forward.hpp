#pragma once
// Does what backward is given belong to the forward before it?
// The sizes that a module remembers of a forward in training, and the checks that all backwards
// share. Reads shapes and strides, never elements.

#include <optional>
#include <string_view>

#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {
namespace detail {

/// The sizes of a module's last forward, if that was in training: backward needs what it left in
/// the module's buffers. Copies remember nothing, since buffers are not copied.
template <class Sizes>
class LastForward {
  public:
    LastForward() = default;
    LastForward(const LastForward&) {}
    LastForward(LastForward&&) noexcept = default;
    LastForward& operator=(const LastForward&) {
        forget();
        return *this;
    }
    LastForward& operator=(LastForward&&) noexcept = default;
    ~LastForward() = default;

    /// To be called before a forward writes to the buffers.
    void forget() { sizes_.reset(); }
    /// To be called when a forward in training has succeeded.
    void remember(const Sizes& sizes) { sizes_ = sizes; }

    /// Throws ArgumentError when there is nothing to go back through.
    [[nodiscard]] const Sizes& sizes(std::string_view where) const {
        if (!sizes_)
            fail<ArgumentError>(where, "backward needs a forward in training before it; found ",
                                "none");
        return *sizes_;
    }

  private:
    std::optional<Sizes> sizes_;
};

/// In training a forward must leave its input to backward. Throws ShapeError.
template <class T, int Rank>
void require_input_kept(std::string_view where, InputView<T, Rank> input,
                        TensorView<T, Rank> output) {
    if (overlaps(output, input))
        fail<ShapeError>(where, "in training the output must not overlap the input, which ",
                         "backward needs; found overlapping memory");
}

/// What a module reads, row by row. Throws ShapeError, or ArgumentError for null.
template <class T, int Rank>
void require_rows(std::string_view where, std::string_view what, TensorView<const T, Rank> input,
                  const Shape<Rank>& expected) {
    require_shape(where, what, input.shape(), expected);
    require_memory(where, what, input);
    require_contiguous_rows(where, what, input);
}

/// A gradient of an input, if it is wanted; `others` is what is read or written beside it. Throws
/// ShapeError, or ArgumentError for null.
template <class T, int Rank, class... Others>
void require_gradient(std::string_view where, std::string_view what, TensorView<T, Rank> gradient,
                      const Shape<Rank>& expected, const Others&... others) {
    require_optional_output(where, what, gradient, expected, others...);
    require_contiguous_rows(where, what, gradient);
}

}  // namespace detail
}  // namespace heed::inline v0
