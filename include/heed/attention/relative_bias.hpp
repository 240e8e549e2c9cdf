#pragma once
// Which number of a learned table does the distance of a query and a key add to their score?
// The tables of T5 and Swin: bind() checks shapes, the place in the table is arithmetic for each
// score. Reads the caller's table, writes nothing.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "heed/attention/score.hpp"

namespace heed::inline v0 {
namespace detail {

/// Row of T5's table for the distance of a key from a query: the first half of the rows of one
/// direction for a distance each, the second half for ever larger ranges of them. A bidirectional
/// table has rows for the keys up to the query first, then for those after it.
class T5Buckets {
  public:
    T5Buckets(Index buckets, bool bidirectional, Index max_distance)
        : bidirectional_(bidirectional),
          one_way_(bidirectional ? buckets / 2 : buckets),
          exact_(one_way_ / 2),
          max_distance_(max_distance) {
        if (exact_ < 1)
            fail<ShapeError>("T5Bias", "the table must have at least ", bidirectional ? 4 : 2,
                             " buckets; found ", buckets);
        if (max_distance <= exact_)
            fail<ArgumentError>("T5Bias", "max_distance must be larger than the ", exact_,
                                " distances with a bucket of their own; found ", max_distance);
        buckets_per_log_ =
            static_cast<double>(one_way_ - exact_) /
            std::log(static_cast<double>(max_distance) / static_cast<double>(exact_));
    }

    /// `ahead` is key position - query position.
    [[nodiscard]] Index operator()(Index ahead) const {
        if (!bidirectional_) return of_distance(std::max<Index>(-ahead, 0));
        return of_distance(std::abs(ahead)) + (ahead > 0 ? one_way_ : 0);
    }

  private:
    [[nodiscard]] Index of_distance(Index distance) const {
        if (distance < exact_) return distance;
        if (distance >= max_distance_) return one_way_ - 1;
        const double larger = static_cast<double>(distance) / static_cast<double>(exact_);
        // Where a range begins at a whole distance, the logarithm must not fall short of it.
        constexpr double rounding = 1e-9;
        const auto range = static_cast<Index>(std::log(larger) * buckets_per_log_ + rounding);
        return std::min(exact_ + range, one_way_ - 1);
    }

    bool bidirectional_;
    Index one_way_;  ///< buckets of one direction
    Index exact_;    ///< of them, those of a single distance
    Index max_distance_;
    double buckets_per_log_ = 0;
};

template <class T>
struct T5Rule {
    TensorView<const T, 2> tensor;
    T5Buckets bucket;
    QueryPosition position;
    TensorView<T, 4> gradient;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        return add_bias(score, tensor(bucket(at.k - position(at)), at.h));
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        tile.add_by_distance(position, [&](Index distance) {
            return convert<C>(tensor(bucket(-distance), tile.first.h));
        });
    }
    template <class C>
    void add_gradient(const ScoreTile<C>& tile, C* sums) const {
        tile.for_each_distance_sum(position,
                                   [&](Index distance, C sum) { sums[bucket(-distance)] += sum; });
    }
};

/// The tokens of a window in rows of `width`. The row of the table for two tokens is the difference
/// of two numbers, one for each token, from that of the middle, where both are the same.
template <class T>
struct SwinRule {
    TensorView<const T, 2> tensor;
    Index width;
    TensorView<T, 4> gradient;
    template <class C>
    [[nodiscard]] C modify(C score, const ScoreIndex& at) const {
        return add_bias(score, tensor(row_of(at), at.h));
    }
    template <class C>
    void modify_tile(const ScoreTile<C>& tile) const {
        ScoreIndex at = tile.first;
        for (Index i = 0; i < tile.queries; ++i, ++at.q) {
            C* const biases = tile.scratch + i * tile.keys;
            Index row = row_of(at);
            Index column = at.k % width;
            for (Index j = 0; j < tile.keys; ++j, --row, ++column) {
                if (column == width) {  // the next key begins a row of the window
                    column = 0;
                    row -= width - 1;
                }
                biases[j] = convert<C>(tensor(row, at.h));
            }
        }
        tile.add(TensorView<const C, 2>(tile.scratch, {tile.queries, tile.keys}));
    }
    template <class C>
    void add_gradient(const ScoreTile<C>& tile, C* sums) const {
        tile.for_each([&](C score, const ScoreIndex& at) { sums[row_of(at)] += score; });
    }

  private:
    [[nodiscard]] Index row_of(const ScoreIndex& at) const {
        return tensor.extent(0) / 2 + place(at.q) - place(at.k);
    }
    /// row * (2 width - 1) + column
    [[nodiscard]] Index place(Index token) const { return token + token / width * (width - 1); }
};

}  // namespace detail

/// Which distances T5Bias tells apart.
struct T5Distances {
    /// True in an encoder; false in a decoder, where keys after the query are masked (and would
    /// share the bucket of distance 0).
    bool bidirectional = true;
    /// All distances from here on share a bucket.
    Index max_distance = 128;
};

/// T5's relative position bias: s becomes s + table[bucket(j - p), h] for query position p and key
/// j. With n buckets for a direction (half of the table when bidirectional, else all of it) and
/// e = floor(n / 2) of them for one distance each, the bucket of distance d is
///
///     d                                                               for d < e
///     e + floor(log(d / e) / log(max_distance / e) * (n - e))         for e <= d < max_distance
///     n - 1                                                           from there on
///
/// and, in a bidirectional table, n more for keys after the query. The table is
/// [num_buckets, heads], the weight of `relative_attention_bias`; num_buckets must be 4 or more (2
/// when not bidirectional; ShapeError), max_distance more than e (ArgumentError). Minus infinity in
/// the table masks. T5 does not scale its scores: {.scale = 1}. A learned table brings the place
/// for its gradient, as AdditiveBias. Cost: a logarithm for each distance between e and
/// max_distance, once a tile. Source: Raffel et al., arXiv 1910.10683, section 2.1; the rounding is
/// that of Mesh TensorFlow and Hugging Face's T5Attention.
template <StorageScalar T>
class T5Bias {
  public:
    template <TensorLike B>
    explicit T5Bias(const B& table, T5Distances distances = {}, Alignment aligned = {})
        : alignment(aligned), table_(read(table)), distances_(distances) {}

    [[nodiscard]] detail::T5Rule<T> bind(const AttentionShape& shape,
                                         const Alignment& common) const {
        detail::require_shape("T5Bias", "the table", table_.shape(),
                              Shape<2>(table_.extent(0), shape.heads));
        return {table_,
                {table_.extent(0), distances_.bidirectional, distances_.max_distance},
                alignment.or_else(common).resolve("T5Bias", shape),
                detail::entries_of_heads(gradient_)};
    }

    /// The same table with a place for its gradient. Throws ShapeError unless it has its shape.
    template <TensorLike G>
    [[nodiscard]] T5Bias with_gradient(G&& gradient) const {
        T5Bias result = *this;
        result.gradient_ = detail::gradient_like("T5Bias", table_, std::forward<G>(gradient));
        return result;
    }

    Alignment alignment;

  private:
    TensorView<const T, 2> table_;
    TensorView<T, 2> gradient_;
    T5Distances distances_;
};

template <TensorLike B>
T5Bias(const B&, T5Distances = {}, Alignment = {}) -> T5Bias<ElementOf<B>>;

/// Swin's relative position bias for windows of height x width tokens, row by row: s becomes
///
///     s + table[(row_q - row_k + height - 1) * (2 width - 1) + col_q - col_k + width - 1, h]
///
/// The table is [(2 height - 1) * (2 width - 1), heads], the weight `relative_position_bias_table`;
/// q_len and kv_len are height * width (ShapeError; ArgumentError for sizes below 1). The windows
/// of an image are the batch. Minus infinity in the table masks. A learned table brings the place
/// for its gradient, as AdditiveBias. Source: Liu et al., arXiv
/// 2103.14030, equation 4.
template <StorageScalar T>
class SwinBias {
  public:
    template <TensorLike B>
    SwinBias(const B& table, Index height, Index width)
        : table_(read(table)), height_(height), width_(width) {}

    /// Square windows.
    template <TensorLike B>
    SwinBias(const B& table, Index size) : SwinBias(table, size, size) {}

    [[nodiscard]] detail::SwinRule<T> bind(const AttentionShape& shape, const Alignment&) const {
        using detail::fail;
        if (height_ < 1 || width_ < 1)
            fail<ArgumentError>(name, "a window must have a row and a column; found ", height_,
                                " x ", width_);
        const auto height = static_cast<std::uint64_t>(height_),
                   width = static_cast<std::uint64_t>(width_);
        const Index tokens = product(height, width);
        if (shape.q_len != tokens || shape.kv_len != tokens)
            fail<ShapeError>(name, "q_len and kv_len must be the tokens of a window; found q_len ",
                             shape.q_len, ", kv_len ", shape.kv_len, ", window ", height_, " x ",
                             width_);
        detail::require_shape(name, "the table", table_.shape(),
                              Shape<2>(product(2 * height - 1, 2 * width - 1), shape.heads));
        return {table_, width_, detail::entries_of_heads(gradient_)};
    }

    /// The same table with a place for its gradient. Throws ShapeError unless it has its shape.
    template <TensorLike G>
    [[nodiscard]] SwinBias with_gradient(G&& gradient) const {
        SwinBias result = *this;
        result.gradient_ = detail::gradient_like(name, table_, std::forward<G>(gradient));
        return result;
    }

  private:
    static constexpr std::string_view name = "SwinBias";

    static Index product(std::uint64_t rows, std::uint64_t columns) {
        return (detail::CheckedSize<>(name, rows) * columns).index();
    }

    TensorView<const T, 2> table_;
    TensorView<T, 2> gradient_;
    Index height_;
    Index width_;
};

template <TensorLike B>
SwinBias(const B&, Index, Index) -> SwinBias<ElementOf<B>>;
template <TensorLike B>
SwinBias(const B&, Index) -> SwinBias<ElementOf<B>>;

}  // namespace heed::inline v0
