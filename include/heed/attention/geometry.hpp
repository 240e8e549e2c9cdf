#pragma once
// Which sizes does an attention have, and where among the keys does a query stand?
// Pure index arithmetic, testable without any tensor.

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "heed/base/checked_size.hpp"
#include "heed/base/contract.hpp"

namespace heed::inline v0 {

/// All sizes of one attention: q is [batch, heads, q_len, head_dim], k is
/// [batch, kv_heads, kv_len, head_dim], v is [batch, kv_heads, kv_len, value_dim].
struct AttentionShape {
    Index batch = 0;
    Index heads = 0;
    Index kv_heads = 0;
    Index q_len = 0;
    Index kv_len = 0;
    Index head_dim = 0;
    Index value_dim = 0;

    friend bool operator==(const AttentionShape&, const AttentionShape&) = default;
};

namespace detail {

/// Of both products, masks apart.
[[nodiscard]] inline double multiply_adds(const AttentionShape& s) {
    return static_cast<double>(s.batch) * static_cast<double>(s.heads) *
           static_cast<double>(s.q_len) * static_cast<double>(s.kv_len) *
           (static_cast<double>(s.head_dim) + static_cast<double>(s.value_dim));
}

}  // namespace detail

/// The place of one score: batch element, query head, query and key.
struct ScoreIndex {
    Index b;
    Index h;
    Index q;
    Index k;
};

namespace detail {

/// Consecutive keys [begin, end).
struct KeyRange {
    Index begin = 0;
    Index end = 0;

    [[nodiscard]] bool is_empty() const { return begin >= end; }
    [[nodiscard]] bool contains(Index key) const { return begin <= key && key < end; }
    [[nodiscard]] KeyRange intersect(const KeyRange& other) const {
        return {std::max(begin, other.begin), std::min(end, other.end)};
    }
    /// From `first` of `all` equal shares to `last`, which is not part of it.
    [[nodiscard]] KeyRange shares(Index first, Index last, Index all) const {
        return {begin + (end - begin) * first / all, begin + (end - begin) * last / all};
    }
    /// The smallest interval that holds both; an empty one adds nothing.
    [[nodiscard]] KeyRange hull(const KeyRange& other) const {
        if (other.is_empty()) return *this;
        if (is_empty()) return other;
        return {std::min(begin, other.begin), std::max(end, other.end)};
    }
};

/// Positions and windows beyond this are refused or cut, so that sums of two never overflow.
inline constexpr Index farthest_position = Index{1} << 61;

/// Documents packed one behind the other: document d has the queries [queries[d], queries[d + 1])
/// and the keys [keys[d], keys[d + 1]).
struct DocumentBounds {
    std::span<const Index> queries;
    std::span<const Index> keys;

    [[nodiscard]] bool exist() const { return !queries.empty(); }

    /// Every document has as many queries as keys.
    [[nodiscard]] bool are_equal() const { return std::ranges::equal(queries, keys); }

    /// The document of a query in [0, q_len), by bisection.
    [[nodiscard]] std::size_t document_of(Index query) const {
        return static_cast<std::size_t>(std::ranges::upper_bound(queries, query) -
                                        queries.begin()) -
               1;
    }

    /// Throws ShapeError when queries and keys are not of equally many documents, ArgumentError
    /// when boundaries do not lead from 0 to the length without a step back.
    void require_fit(const AttentionShape& shape) const {
        if (queries.size() != keys.size() || queries.empty())
            fail<ShapeError>(name, "there must be equally many boundaries of queries and of keys, ",
                             "one more than documents; found ", queries.size(), " of queries, ",
                             keys.size(), " of keys");
        require_steps("q_len", queries, shape.q_len);
        require_steps("kv_len", keys, shape.kv_len);
    }

  private:
    static constexpr std::string_view name = "Documents";

    static void require_steps(std::string_view length_name, std::span<const Index> bounds,
                              Index length) {
        if (bounds.front() != 0)
            fail<ArgumentError>(name, "the boundaries must begin with 0; found ", bounds.front());
        for (std::size_t d = 1; d < bounds.size(); ++d)
            if (bounds[d] < bounds[d - 1])
                fail<ArgumentError>(name, "the boundaries must ascend; found ", bounds[d - 1],
                                    " before ", bounds[d], " at ", d);
        if (bounds.back() != length)
            fail<ArgumentError>(name, "the boundaries must end with ", length_name, "; found ",
                                bounds.back(), ", ", length_name, " ", length);
    }
};

/// The resolved position of query i of batch element b on the key axis: i + offset.
class QueryPosition {
  public:
    explicit QueryPosition(Index offset) : offset_(offset) {}
    explicit QueryPosition(std::span<const Index> offsets) : offsets_(offsets) {}

    /// The same, counted from where the queries of each document begin or end (edge 0 or 1) to
    /// where its keys do.
    [[nodiscard]] QueryPosition within(const DocumentBounds& documents, std::size_t edge) const {
        QueryPosition result = *this;
        result.documents_ = documents;
        result.edge_ = edge;
        return result;
    }

    [[nodiscard]] Index operator()(const ScoreIndex& at) const {
        const Index position =
            at.q + (offsets_.empty() ? offset_ : offsets_[static_cast<std::size_t>(at.b)]);
        if (!documents_.exist()) return position;
        const std::size_t bound = documents_.document_of(at.q) + edge_;
        return position + documents_.keys[bound] - documents_.queries[bound];
    }

    /// Within a batch element, neighbouring queries are at neighbouring positions.
    [[nodiscard]] bool is_consecutive() const { return !documents_.exist(); }

  private:
    Index offset_ = 0;
    std::span<const Index> offsets_;
    DocumentBounds documents_;
    std::size_t edge_ = 0;
};

/// Of numbers of which each element of a batch has one.
[[nodiscard]] inline std::span<const Index> part_of_batch(std::span<const Index> numbers,
                                                          Index first, Index count) {
    return numbers.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
}

}  // namespace detail

/// Where the queries stand on the key axis: query i is at position i + offset. Causal masks,
/// windows, ALiBi and T5's bias are relative to it.
///
/// Frameworks disagree when q_len differs from kv_len, so heed has no silent default: an unnamed
/// alignment takes the one named elsewhere in the same composition, is 0 when the lengths are
/// equal, and is an ArgumentError otherwise. Beside Documents, all of this holds for each document
/// by itself: its own lengths, and corners and offsets that count from where it begins or ends.
class Alignment {
  public:
    /// Unnamed.
    Alignment() = default;

    /// offset = 0: the first query sees the first key (PyTorch, JAX, ONNX without a cache).
    static Alignment top_left() { return Alignment(Kind::top_left); }

    /// offset = kv_len - q_len: the last query sees the last key (FlashAttention, MLX, caches).
    static Alignment bottom_right() { return Alignment(Kind::bottom_right); }

    /// The given offset, for instance the number of keys that were cached before the first query.
    static Alignment offset(Index keys_before) {
        Alignment result(Kind::offset);
        result.offset_ = keys_before;
        return result;
    }

    /// One offset for each batch element. The span must outlive the call it is used in.
    static Alignment offsets(std::span<const Index> keys_before) {
        Alignment result(Kind::offsets);
        result.offsets_ = keys_before;
        return result;
    }

    /// Unnamed, within each of these documents (see Documents).
    static Alignment documents(std::span<const Index> cu_seqlens_q,
                               std::span<const Index> cu_seqlens_k) {
        Alignment result;
        result.documents_ = {cu_seqlens_q, cu_seqlens_k};
        return result;
    }

    /// The same for some elements of a batch.
    [[nodiscard]] Alignment part_of_batch(Index first, Index count) const {
        Alignment part = *this;
        if (kind_ == Kind::offsets) part.offsets_ = detail::part_of_batch(offsets_, first, count);
        return part;
    }

    [[nodiscard]] bool is_named() const { return kind_ != Kind::unnamed; }

    /// This alignment; what it leaves open (its name, the documents) is as in the other one.
    [[nodiscard]] Alignment or_else(const Alignment& other) const {
        Alignment result = is_named() ? *this : other;
        result.documents_ = documents_.exist() ? documents_ : other.documents_;
        return result;
    }

    /// The alignment with every default resolved. Throws ArgumentError when it is unnamed and the
    /// lengths differ or when an offset exceeds 2^61, ShapeError when the number of offsets is not
    /// the batch size; and what Documents throw.
    [[nodiscard]] detail::QueryPosition resolve(std::string_view where,
                                                const AttentionShape& shape) const {
        if (!documents_.exist()) return resolve(where, shape, shape.q_len, shape.kv_len);
        documents_.require_fit(shape);
        if (documents_.are_equal()) return resolve(where, shape, shape.q_len, shape.q_len);
        for (std::size_t d = 1; d < documents_.queries.size() && !is_named(); ++d)
            (void)resolve(where, shape, documents_.queries[d] - documents_.queries[d - 1],
                          documents_.keys[d] - documents_.keys[d - 1]);
        const bool at_end = kind_ == Kind::bottom_right;
        return resolve(where, shape, 0, 0).within(documents_, at_end ? 1 : 0);
    }

  private:
    enum class Kind { unnamed, top_left, bottom_right, offset, offsets };

    explicit Alignment(Kind kind) : kind_(kind) {}

    /// The same where so many queries, of all or of one document, stand before so many keys.
    [[nodiscard]] detail::QueryPosition resolve(std::string_view where, const AttentionShape& shape,
                                                Index queries, Index keys) const {
        switch (kind_) {
            case Kind::top_left:
                return detail::QueryPosition(0);
            case Kind::bottom_right:
                return detail::QueryPosition(keys - queries);
            case Kind::offset:
                require_near(where, offset_);
                return detail::QueryPosition(offset_);
            case Kind::offsets:
                break;
            case Kind::unnamed:
                if (queries != keys)
                    detail::fail<ArgumentError>(
                        where,
                        "the alignment must be named (top_left, bottom_right or an offset), here "
                        "or in a part joined with &, when q_len differs from kv_len; found q_len ",
                        queries, ", kv_len ", keys, documents_.exist() ? " in a document" : "");
                return detail::QueryPosition(0);
        }
        if (std::ssize(offsets_) != shape.batch)
            detail::fail<ShapeError>(where, "there must be one offset for each batch element; ",
                                     "found offsets ", offsets_.size(), ", batch ", shape.batch);
        for (Index offset : offsets_) require_near(where, offset);
        return offsets_.empty() ? detail::QueryPosition(0) : detail::QueryPosition(offsets_);
    }

    static void require_near(std::string_view where, Index offset) {
        if (offset > detail::farthest_position || offset < -detail::farthest_position)
            detail::fail<ArgumentError>(where, "an offset must be within 2^61; found ", offset);
    }

    Kind kind_ = Kind::unnamed;
    Index offset_ = 0;
    std::span<const Index> offsets_;
    detail::DocumentBounds documents_;
};

}  // namespace heed::inline v0
