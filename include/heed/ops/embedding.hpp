#pragma once
// Which row of a table belongs to a token?
// Reads the table and the ids, writes the rows; checks every id before it writes.

#include <concepts>

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

/// y[.., :] = table[ids[..], :]: ids are [n], the table is [vocabulary, width], y is [n, width].
/// y must not overlap the others. Throws ShapeError for sizes that do not fit or overlap,
/// ArgumentError for null or an id outside the table, all before anything is written.
template <StorageScalar T, std::integral Id>
void embedding(TensorView<const Id, 1> ids, InputView<T, 2> table, TensorView<T, 2> y) {
    detail::require_memory("embedding", "the ids", ids);
    detail::require_memory("embedding", "the table", table);
    detail::require_output("embedding", "the output", y, Shape<2>(ids.extent(0), table.extent(1)),
                           ids, table);
    for (Index i = 0; i < ids.extent(0); ++i)
        if (std::cmp_less(ids(i), 0) || std::cmp_greater_equal(ids(i), table.extent(0)))
            detail::fail<ArgumentError>("embedding", "an id must be in [0, ", table.extent(0),
                                        "); found ", ids(i), " at position ", i);
    for (Index i = 0; i < ids.extent(0); ++i)
        copy(table.select(0, static_cast<Index>(ids(i))), y.select(0, i));
}

}  // namespace heed::inline v0
