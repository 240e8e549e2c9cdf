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
};

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
};

/// Positions and windows beyond this are refused or cut, so that sums of two never overflow.
inline constexpr Index farthest_position = Index{1} << 61;

/// The resolved position of query i of batch element b on the key axis: i + offset.
class QueryPosition {
  public:
    explicit QueryPosition(Index offset) : offset_(offset) {}
    explicit QueryPosition(std::span<const Index> offsets) : offsets_(offsets) {}

    [[nodiscard]] Index operator()(const ScoreIndex& at) const {
        return at.q + (offsets_.empty() ? offset_ : offsets_[static_cast<std::size_t>(at.b)]);
    }

  private:
    Index offset_ = 0;
    std::span<const Index> offsets_;
};

}  // namespace detail

/// Where the queries stand on the key axis: query i is at position i + offset. Causal masks,
/// windows and ALiBi are relative to it.
///
/// Frameworks disagree when q_len differs from kv_len, so heed has no silent default: an unnamed
/// alignment takes the one named elsewhere in the same composition, is 0 when the lengths are
/// equal, and is an ArgumentError otherwise.
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

    [[nodiscard]] bool is_named() const { return kind_ != Kind::unnamed; }

    /// The alignment with every default resolved. Throws ArgumentError when it is unnamed and the
    /// lengths differ or when an offset exceeds 2^61, ShapeError when the number of offsets is not
    /// the batch size.
    [[nodiscard]] detail::QueryPosition resolve(std::string_view where,
                                                const AttentionShape& shape) const {
        switch (kind_) {
            case Kind::top_left:
                return detail::QueryPosition(0);
            case Kind::bottom_right:
                return detail::QueryPosition(shape.kv_len - shape.q_len);
            case Kind::offset:
                require_near(where, offset_);
                return detail::QueryPosition(offset_);
            case Kind::offsets:
                break;
            case Kind::unnamed:
                if (shape.q_len != shape.kv_len)
                    detail::fail<ArgumentError>(
                        where,
                        "the alignment must be named (top_left, bottom_right or an offset) "
                        "when q_len differs from kv_len; found q_len ",
                        shape.q_len, ", kv_len ", shape.kv_len);
                return detail::QueryPosition(0);
        }
        if (std::ssize(offsets_) != shape.batch)
            detail::fail<ShapeError>(where, "there must be one offset for each batch element; ",
                                     "found offsets ", offsets_.size(), ", batch ", shape.batch);
        for (Index offset : offsets_) require_near(where, offset);
        return offsets_.empty() ? detail::QueryPosition(0) : detail::QueryPosition(offsets_);
    }

  private:
    enum class Kind { unnamed, top_left, bottom_right, offset, offsets };

    explicit Alignment(Kind kind) : kind_(kind) {}

    static void require_near(std::string_view where, Index offset) {
        if (offset > detail::farthest_position || offset < -detail::farthest_position)
            detail::fail<ArgumentError>(where, "an offset must be within 2^61; found ", offset);
    }

    Kind kind_ = Kind::unnamed;
    Index offset_ = 0;
    std::span<const Index> offsets_;
};

}  // namespace heed::inline v0
