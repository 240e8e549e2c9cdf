#pragma once
// Which keys may a query see?
// Each mask is a small value; bind() checks it once against the sizes and returns a rule. A rule
// whose visible keys are an interval answers range(query), so that whole tiles can be skipped or
// left alone; any other answers visible(b, h, q, k). Reads mask tensors, writes nothing.

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <span>

#include "heed/attention/score_tile.hpp"
#include "heed/tensor/broadcast.hpp"
#include "heed/tensor/elementwise.hpp"

namespace heed::inline v0 {

namespace detail {

struct CausalRule {
    QueryPosition position;
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const { return {0, position(query) + 1}; }
};

struct WindowRule {
    QueryPosition position;
    Index left;
    Index right;
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const {
        const Index p = position(query);
        return {p - left, p + right + 1};
    }
};

struct KeyLengthRule {
    std::span<const Index> lengths;
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const {
        return {0, lengths[static_cast<std::size_t>(query.b)]};
    }
};

struct DocumentRule {
    DocumentBounds documents;
    [[nodiscard]] KeyRange range(const ScoreIndex& query) const {
        const std::size_t d = documents.document_of(query.q);
        return {documents.keys[d], documents.keys[d + 1]};
    }
};

template <class Flag, bool visible_value>
struct FlagRule {
    TensorView<const Flag, 4> tensor;
    [[nodiscard]] bool visible(const ScoreIndex& at) const {
        return static_cast<bool>(tensor(at.b, at.h, at.q, at.k)) == visible_value;
    }
    template <class C>
    [[nodiscard]] Coverage coverage(const ScoreTile<C>& tile) const {
        return coverage_of(tile.part_of(bytes()), visible_value);
    }
    template <class C>
    void hide_tile(const ScoreTile<C>& tile) const {
        const TensorView<const std::uint8_t, 2> flags = tile.part_of(bytes());
        if (flags.has_contiguous_rows())
            tile.kernels.hide_flagged(tile.scores, tile.row, flags.data(), flags.stride(0),
                                      tile.queries, tile.keys, visible_value);
        else
            hide_each(*this, tile);
    }

  private:
    /// A bool is a byte of value 0 or 1.
    [[nodiscard]] TensorView<const std::uint8_t, 4> bytes() const {
        static_assert(sizeof(Flag) == 1);
        return {reinterpret_cast<const std::uint8_t*>(tensor.data()), tensor.shape(),
                tensor.strides()};
    }
};

[[nodiscard]] inline Shape<4> score_shape(const AttentionShape& s) {
    return {s.batch, s.heads, s.q_len, s.kv_len};
}

/// The same view with leading dimensions of extent 1 up to rank 4.
template <class T, int Rank>
[[nodiscard]] TensorView<T, 4> to_rank_4(TensorView<T, Rank> view) {
    static_assert(Rank <= 4, "a mask or bias has at most the dimensions batch, head, query, key");
    if constexpr (Rank == 4)
        return view;
    else
        return to_rank_4(view.unsqueeze());
}

/// Some elements of the batch of a tensor that is the same for all, or has each.
template <class T>
[[nodiscard]] TensorView<T, 4> part_of_batch(TensorView<T, 4> view, Index first, Index count) {
    return view.extent(0) == 1 ? view : view.slice(0, first, count);
}

/// [batch, kv_len] as [batch, 1, 1, kv_len].
template <class T>
[[nodiscard]] TensorView<T, 4> per_key(TensorView<T, 2> view) {
    return {view.data(),
            {view.extent(0), 1, 1, view.extent(1)},
            {view.stride(0), 0, 0, view.stride(1)}};
}

}  // namespace detail

/// Query i sees key j when j <= i + offset; the alignment names the offset.
/// Where that leaves a query without keys, its output is 0.
struct Causal {
    Alignment alignment{};

    static Causal top_left() { return {Alignment::top_left()}; }
    static Causal bottom_right() { return {Alignment::bottom_right()}; }
    static Causal offset(Index keys_before) { return {Alignment::offset(keys_before)}; }
    static Causal offsets(std::span<const Index> keys_before) {
        return {Alignment::offsets(keys_before)};
    }

    [[nodiscard]] detail::CausalRule bind(const AttentionShape& shape, Alignment common) const {
        return {alignment.or_else(common).resolve("Causal", shape)};
    }
    [[nodiscard]] Causal part_of_batch(Index first, Index count) const {
        return {alignment.part_of_batch(first, count)};
    }
};

/// Query i at position p = i + offset sees key j when p - left <= j <= p + right, both inclusive.
/// -1 means unbounded on that side; any other negative width is an ArgumentError. A width of 0 on
/// both sides leaves the diagonal. Source: Beltagy et al., arXiv 2004.05150.
struct SlidingWindow {
    Index left = -1;
    Index right = -1;
    Alignment alignment{};

    [[nodiscard]] detail::WindowRule bind(const AttentionShape& shape, Alignment common) const {
        return {alignment.or_else(common).resolve("SlidingWindow", shape), width("left", left),
                width("right", right)};
    }
    [[nodiscard]] SlidingWindow part_of_batch(Index first, Index count) const {
        return {left, right, alignment.part_of_batch(first, count)};
    }

  private:
    static Index width(std::string_view side, Index keys) {
        if (keys < -1)
            detail::fail<ArgumentError>("SlidingWindow", side, " must be -1 (unbounded) or more; ",
                                        "found ", keys);
        return keys == -1 ? 2 * detail::farthest_position - 1
                          : std::min(keys, 2 * detail::farthest_position - 1);
    }
};

/// In batch element b only the keys j < lengths[b] exist; the others are padding.
/// The span holds one length for each batch element, each in [0, kv_len], and must outlive the
/// call.
struct KeyLengths {
    std::span<const Index> lengths;

    [[nodiscard]] detail::KeyLengthRule bind(const AttentionShape& shape, const Alignment&) const {
        if (std::ssize(lengths) != shape.batch)
            detail::fail<ShapeError>("KeyLengths", "there must be one length for each batch ",
                                     "element; found lengths ", lengths.size(), ", batch ",
                                     shape.batch);
        for (Index length : lengths)
            if (length < 0 || length > shape.kv_len)
                detail::fail<ArgumentError>("KeyLengths", "a length must be in [0, kv_len]; found ",
                                            length, ", kv_len ", shape.kv_len);
        return {lengths};
    }
    [[nodiscard]] KeyLengths part_of_batch(Index first, Index count) const {
        return {detail::part_of_batch(lengths, first, count)};
    }
};

/// Packed sequences: documents lie one behind the other, and a query sees the keys of its own only.
/// Boundaries as cu_seqlens of FlashAttention: document d is [bounds[d], bounds[d + 1]); the first
/// is 0, they ascend (a document may be empty), the last is the length. One span where queries and
/// keys are the same sequence, two where they are not. They hold for every batch element and must
/// outlive the call. A document has the bits that it has by itself, or padded with KeyLengths.
///
/// Causal masks, windows, ALiBi and T5's bias joined by `&` refer to the document: bottom_right,
/// for instance, is where the last query of each document sees its last key (flash_attn_varlen).
/// Finding a query's document is a bisection; where lengths differ, ALiBi and T5's bias pay it for
/// each score. Of several Documents in one composition, these parts refer to the first.
class Documents {
  public:
    explicit Documents(std::span<const Index> cu_seqlens) : Documents(cu_seqlens, cu_seqlens) {}
    Documents(std::span<const Index> cu_seqlens_q, std::span<const Index> cu_seqlens_k)
        : alignment(Alignment::documents(cu_seqlens_q, cu_seqlens_k)),
          bounds_{cu_seqlens_q, cu_seqlens_k} {}

    [[nodiscard]] detail::DocumentRule bind(const AttentionShape& shape, const Alignment&) const {
        bounds_.require_fit(shape);
        return {bounds_};
    }

    Alignment alignment;

  private:
    detail::DocumentBounds bounds_;
};

/// Flags that a mask tensor may hold: bool, or bytes in which any value but 0 is true.
template <class Flag>
concept MaskFlag = std::same_as<Flag, bool> || std::same_as<Flag, std::uint8_t>;

/// A boolean mask in which TRUE MEANS ATTEND (scaled_dot_product_attention of PyTorch, ONNX, JAX,
/// Keras). Any rank up to 4, broadcast to [batch, heads, q_len, kv_len] by NumPy's rule.
template <MaskFlag Flag>
class AttendWhere {
  public:
    template <TensorLike M>
    explicit AttendWhere(const M& mask) : mask_(detail::to_rank_4(read(mask))) {}

    [[nodiscard]] detail::FlagRule<Flag, true> bind(const AttentionShape& shape,
                                                    const Alignment&) const {
        return {broadcast_to(mask_, detail::score_shape(shape), "AttendWhere", "the mask")};
    }
    [[nodiscard]] AttendWhere part_of_batch(Index first, Index count) const {
        return AttendWhere(detail::part_of_batch(mask_, first, count));
    }

  private:
    TensorView<const Flag, 4> mask_;
};

/// A boolean mask in which TRUE MEANS BLOCKED (nn.MultiheadAttention of PyTorch). Otherwise as
/// AttendWhere.
template <MaskFlag Flag>
class BlockWhere {
  public:
    template <TensorLike M>
    explicit BlockWhere(const M& mask) : mask_(detail::to_rank_4(read(mask))) {}

    [[nodiscard]] detail::FlagRule<Flag, false> bind(const AttentionShape& shape,
                                                     const Alignment&) const {
        return {broadcast_to(mask_, detail::score_shape(shape), "BlockWhere", "the mask")};
    }
    [[nodiscard]] BlockWhere part_of_batch(Index first, Index count) const {
        return BlockWhere(detail::part_of_batch(mask_, first, count));
    }

  private:
    TensorView<const Flag, 4> mask_;
};

template <TensorLike M>
AttendWhere(const M&) -> AttendWhere<ElementOf<M>>;
template <TensorLike M>
BlockWhere(const M&) -> BlockWhere<ElementOf<M>>;

/// A key padding mask [batch, kv_len] in which true means attend (Hugging Face's attention_mask).
template <TensorLike M>
[[nodiscard]] AttendWhere<ElementOf<M>> attend_keys(const M& mask) {
    return AttendWhere<ElementOf<M>>(detail::per_key(read(mask)));
}

/// A key padding mask [batch, kv_len] in which true means blocked (PyTorch's key_padding_mask).
template <TensorLike M>
[[nodiscard]] BlockWhere<ElementOf<M>> block_keys(const M& mask) {
    return BlockWhere<ElementOf<M>>(detail::per_key(read(mask)));
}

}  // namespace heed::inline v0
