#pragma once
// Which row of a table belongs to a token?
// Reads the table and the ids, writes the rows; checks every id before it writes.

#include <concepts>

#include "heed/tensor/checks.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

namespace detail {

/// Every id must be the number of a row. Throws ArgumentError.
template <std::integral Id>
void require_ids(std::string_view where, TensorView<const Id, 1> ids, Index rows) {
    for (Index i = 0; i < ids.extent(0); ++i)
        if (std::cmp_less(ids(i), 0) || std::cmp_greater_equal(ids(i), rows))
            fail<ArgumentError>(where, "an id must be in [0, ", rows, "); found ", ids(i),
                                " at position ", i);
}

}  // namespace detail

/// y[.., :] = table[ids[..], :]: ids are [n], the table is [vocabulary, width], y is [n, width].
/// y must not overlap the others. Throws ShapeError for sizes that do not fit or overlap,
/// ArgumentError for null or an id outside the table, all before anything is written.
template <StorageScalar T, std::integral Id>
void embedding(TensorView<const Id, 1> ids, InputView<T, 2> table, TensorView<T, 2> y) {
    detail::require_memory("embedding", "the ids", ids);
    detail::require_memory("embedding", "the table", table);
    detail::require_output("embedding", "the output", y, Shape<2>(ids.extent(0), table.extent(1)),
                           ids, table);
    detail::require_ids("embedding", ids, table.extent(0));
    for (Index i = 0; i < ids.extent(0); ++i)
        copy(table.select(0, static_cast<Index>(ids(i))), y.select(0, i));
}

/// The gradient with respect to the table: dtable[ids[i], :] += dy[i, :], in the order of i. ids
/// are [n], dy is [n, width], dtable is [vocabulary, width]; rows that no id names are left alone.
/// dtable must not overlap the others. Throws ShapeError for sizes that do not fit or overlap,
/// ArgumentError for null or an id outside the table, all before anything is written.
template <ComputeScalar T, std::integral Id>
void embedding_backward(TensorView<const Id, 1> ids, InputView<T, 2> dy, TensorView<T, 2> dtable) {
    constexpr std::string_view where = "embedding_backward";
    detail::require_memory(where, "the ids", ids);
    detail::require_memory(where, "dy", dy);
    detail::require_shape(where, "dy", dy.shape(), Shape<2>(ids.extent(0), dtable.extent(1)));
    detail::require_output(where, "dtable", dtable, dtable.shape(), ids, dy);
    detail::require_ids(where, ids, dtable.extent(0));
    for (Index i = 0; i < ids.extent(0); ++i)
        add(dy.select(0, i), dtable.select(0, static_cast<Index>(ids(i))));
}

}  // namespace heed::inline v0
