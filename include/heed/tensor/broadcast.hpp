#pragma once
// How is a small tensor seen as a larger one?
// Index arithmetic only: a repeated dimension gets stride 0; no element is read or copied.

#include "heed/tensor/view.hpp"

namespace heed::inline v0 {

/// The view seen under a larger shape by NumPy's rule: shapes are aligned at the last dimension,
/// missing leading dimensions and dimensions of extent 1 are repeated.
/// Throws ShapeError "[where] what must broadcast to ..." when a dimension fits neither way.
template <int NewRank, class T, int Rank>
[[nodiscard]] TensorView<T, NewRank> broadcast_to(TensorView<T, Rank> view,
                                                  const Shape<NewRank>& shape,
                                                  std::string_view where = "broadcast_to",
                                                  std::string_view what = "the tensor") {
    static_assert(Rank <= NewRank, "broadcasting adds dimensions, it never removes one");
    Strides<NewRank> strides{};
    for (int d = 0; d < Rank; ++d) {
        const int target = d + NewRank - Rank;
        if (view.extent(d) != 1 && view.extent(d) != shape[target])
            detail::fail<ShapeError>(where, what, " must broadcast to ", shape, "; found ",
                                     view.shape());
        strides[static_cast<std::size_t>(target)] = view.extent(d) == 1 ? 0 : view.stride(d);
    }
    return TensorView<T, NewRank>(view.data(), shape, strides);
}

}  // namespace heed::inline v0
