#pragma once
// What memory do workers need on the way back, and how is the work cut for them?
// Lays scratch out in memory that somebody else owns; index arithmetic, nothing else.

#include <algorithm>
#include <cstdint>

#include "heed/attention/tiling.hpp"
#include "heed/base/pieces.hpp"
#include "heed/base/scratch.hpp"
#include "heed/ops/tile_rows.hpp"

namespace heed::inline v0::detail {

/// The keys of a head in parts that different workers may take. Each part has a sum of dq of its
/// own, and these are added in the order of the keys: the parts must depend on kv_len alone, or the
/// bits of dq would depend on the workers.
class KeyChunks {
  public:
    explicit KeyChunks(Index kv_len)
        : kv_len_(kv_len),
          keys_(key_tile * std::max(least_tiles, pieces(pieces(kv_len, key_tile), most))),
          count_(pieces(kv_len, keys_)) {}

    [[nodiscard]] Index count() const { return count_; }
    [[nodiscard]] KeyRange operator[](Index chunk) const {
        return {chunk * keys_, std::min((chunk + 1) * keys_, kv_len_)};
    }

  private:
    static constexpr Index most = 8, least_tiles = 2;

    Index kv_len_;
    Index keys_;
    Index count_;
};

/// Rows of features are padded to whole registers of any width.
template <class C>
[[nodiscard]] constexpr Index padded(Index count) {
    return pieces(count, most_lanes<C>) * most_lanes<C>;
}

/// A tile of queries of one head with the gradient of its output, ready for the kernels.
template <class C>
struct BackwardQueries {
    C* queries;     ///< [head_dim][lane], times the scale
    C* d_out;       ///< [value_dim][lane]
    C* query_rows;  ///< [query][padded head_dim], zeros in place of NaN and infinity
    C* d_out_rows;  ///< [query][padded value_dim], likewise
    C* lse;         ///< per query, as delta; 0 in lanes without a query
    C* delta;
    KeyRange* range;     ///< per query
    TileRanges* ranges;  ///< one
    bool* d_out_poison;  ///< one: whether d_out_rows has zeros in place of poison
    Index first_dq = 0;  ///< where its [head_dim][lane] begins in a sum of dq
};

/// All query tiles of the heads that share a kv head, and their sums of dq.
template <class C>
class GroupScratch {
  public:
    /// `sums` is the number of sums of dq.
    GroupScratch(const AttentionShape& s, Index sums, LineAllocator<C>& memory)
        : heads_(s.heads / s.kv_heads),
          rows_(padded<C>(s.q_len)),
          head_dim_(s.head_dim),
          value_dim_(s.value_dim),
          tiles_(LaneTiling(s.q_len, least_lanes).count()) {
        all_ = {memory.take({heads_, rows_, head_dim_}),
                memory.take({heads_, rows_, value_dim_}),
                memory.take({heads_, rows_, padded<C>(head_dim_)}),
                memory.take({heads_, rows_, padded<C>(value_dim_)}),
                memory.take({heads_, rows_}),
                memory.take({heads_, rows_}),
                memory.template take<KeyRange>({heads_, rows_}),
                memory.template take<TileRanges>({heads_, tiles_}),
                memory.template take<bool>({heads_, tiles_})};
        dq_ = memory.take({sums, heads_, rows_, head_dim_});
    }

    /// The place of a tile of a head of the group, which begins at `first`.
    [[nodiscard]] BackwardQueries<C> tile(Index head, Index tile, Index first) const {
        const Index row = head * rows_ + first, n = head * tiles_ + tile;
        return {all_.queries + row * head_dim_,
                all_.d_out + row * value_dim_,
                all_.query_rows + row * padded<C>(head_dim_),
                all_.d_out_rows + row * padded<C>(value_dim_),
                all_.lse + row,
                all_.delta + row,
                all_.range + row,
                all_.ranges + n,
                all_.d_out_poison + n,
                row * head_dim_};
    }

    [[nodiscard]] const TileRanges& ranges(Index head, Index tile) const {
        return all_.ranges[head * tiles_ + tile];
    }

    [[nodiscard]] Index dq_elements() const { return heads_ * rows_ * head_dim_; }
    [[nodiscard]] C* dq(Index sum) const { return dq_ + sum * dq_elements(); }

  private:
    /// Of the narrowest register, which makes most tiles.
    static constexpr int least_lanes = 16 / static_cast<int>(sizeof(C));

    Index heads_;
    Index rows_;
    Index head_dim_;
    Index value_dim_;
    Index tiles_;
    BackwardQueries<C> all_{};
    C* dq_ = nullptr;
};

/// What one worker uses for one pair of tiles after another.
template <class C>
struct BackwardScratch {
    static constexpr Index row = most_tile_lanes<C>;

    C* scores;       ///< [key][lane], then the weights
    C* dropped;      ///< [key][lane], the weights after dropout; before, scratch of the rules
    C* gradients;    ///< [key][lane], of the weights, then of the scores
    C* slopes;       ///< tiles [key][lane]
    C* keys;         ///< [key][head_dim], when keys cannot be read in place
    C* finite_keys;  ///< [key][head_dim], when some key is NaN or infinite
    C* values;       ///< [key][value_dim], when values cannot be read in place
    C* dk;           ///< [key][padded head_dim]
    C* dv;           ///< [key][padded value_dim]
    C* rows;         ///< [lane][head_dim], when dq cannot be written in place
    C* tile_max;     ///< per query of a tile, as all that follow
    C* first_key;
    C* end_key;

    /// `slope_tiles` is the number of tiles of slopes.
    BackwardScratch(const AttentionShape& s, int slope_tiles, LineAllocator<C>& memory)
        : scores(memory.take({key_tile, row})),
          dropped(memory.take({key_tile, row})),
          gradients(memory.take({key_tile, row})),
          slopes(memory.take({slope_tiles, key_tile, row})),
          keys(memory.take({key_tile, s.head_dim})),
          finite_keys(memory.take({key_tile, s.head_dim})),
          values(memory.take({key_tile, s.value_dim})),
          dk(memory.take({key_tile, padded<C>(s.head_dim)})),
          dv(memory.take({key_tile, padded<C>(s.value_dim)})),
          rows(memory.take({row, s.head_dim})),
          tile_max(memory.take({row})),
          first_key(memory.take({row})),
          end_key(memory.take({row})) {}
};

/// How a backward pass is shared out, and the memory for it.
template <class C>
class BackwardLayout {
  public:
    /// `shares_matrices`: heads add to the same gradient of a bias, so no head may be split.
    BackwardLayout(const AttentionShape& s, int workers, int slope_tiles, bool shares_matrices)
        : shape_(s),
          workers_(workers),
          slope_tiles_(slope_tiles),
          chunks_(std::max<Index>(1, KeyChunks(s.kv_len).count())),
          splits_heads_(workers > 1 && chunks_ > 1 && s.batch * s.kv_heads < 2 * workers &&
                        !shares_matrices) {}

    /// False: a worker takes a whole kv head, chunk after chunk. True: it takes a chunk.
    [[nodiscard]] bool splits_heads() const { return splits_heads_; }

    /// Sums of dq that a group needs at the same time.
    [[nodiscard]] Index sums() const {
        return splits_heads_ ? chunks_ : std::min<Index>(2, chunks_);
    }

    [[nodiscard]] CheckedSize<> element_count() const {
        LineAllocator<C> all(nullptr);
        (void)all.take({workers_, worker_elements()});
        (void)all.take({groups(), group_elements()});
        return all.used();
    }

    [[nodiscard]] BackwardScratch<C> worker(int number, C* memory) const {
        LineAllocator<C> allocator(memory + number * worker_elements());
        return {shape_, slope_tiles_, allocator};
    }
    /// The scratch of a group; `number` is that of the kv head where heads are split, else that of
    /// the worker.
    [[nodiscard]] GroupScratch<C> group(Index number, C* memory) const {
        LineAllocator<C> allocator(memory + workers_ * worker_elements() +
                                   number * group_elements());
        return {shape_, sums(), allocator};
    }

  private:
    [[nodiscard]] Index groups() const {
        return splits_heads_ ? shape_.batch * shape_.kv_heads : workers_;
    }
    [[nodiscard]] Index worker_elements() const {
        LineAllocator<C> allocator(nullptr);
        (void)BackwardScratch<C>(shape_, slope_tiles_, allocator);
        return allocator.used().index();
    }
    [[nodiscard]] Index group_elements() const {
        LineAllocator<C> allocator(nullptr);
        (void)GroupScratch<C>(shape_, sums(), allocator);
        return allocator.used().index();
    }

    AttentionShape shape_;
    Index workers_;
    int slope_tiles_;
    Index chunks_;
    bool splits_heads_;
};

}  // namespace heed::inline v0::detail
