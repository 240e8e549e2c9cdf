#pragma once
// How much of a batch goes through a layer at once?
// Whole elements, and as many as leave what lies between the stages in the caches of the workers.

#include <algorithm>

#include "heed/attention/compose.hpp"
#include "heed/base/pieces.hpp"
#include "heed/tensor/view.hpp"

namespace heed::inline v0::detail {

/// How many elements of a batch, which each have so many rows, and so many bytes of queries, keys
/// and values; all parts of the batch have about as many.
[[nodiscard]] inline Index elements_at_once(Index batch, Index rows, Index bytes, int workers) {
    // The products read all weights for each part: fewer rows would not be worth it.
    constexpr Index most_bytes = Index{4} << 20, least_rows = 128;
    const Index most = std::max({Index(1), workers * most_bytes / std::max<Index>(1, bytes),
                                 pieces(workers * least_rows, std::max<Index>(1, rows))});
    return batch <= most ? batch : pieces(batch, pieces(batch, most));
}

/// Some elements of a batch.
struct BatchPart {
    Index first, count;

    /// Of a view whose first dimension is the batch.
    template <class T, int Rank>
    [[nodiscard]] TensorView<T, Rank> operator()(TensorView<T, Rank> view) const {
        return view.slice(0, first, count);
    }
};

/// Calls f(part, mask of the part) for each part of a batch, in order, of so many elements at most.
/// A mask that does not divide goes with the whole batch.
template <ScorePart Mask, class F>
void for_each_batch_part(Index batch, Index at_once, const Mask& mask, const F& f) {
    if constexpr (DividesByBatch<Mask>)
        if (at_once < batch) {
            for (Index first = 0; first < batch; first += at_once) {
                const Index count = std::min(at_once, batch - first);
                f(BatchPart{first, count}, mask.part_of_batch(first, count));
            }
            return;
        }
    f(BatchPart{0, batch}, mask);
}

}  // namespace heed::inline v0::detail
