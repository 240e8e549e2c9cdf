#pragma once
// How is attention computed without ever holding all weights?
// Shares tiles of queries out among workers, who pass over the keys with an online softmax
// (FlashAttention 2, arXiv 2307.08691); memory grows with the tile, not with the sequence. Reads q,
// k, v and masks, writes out and lse.

#include <algorithm>
#include <array>
#include <optional>
#include <span>

#include "heed/attention/query_tile.hpp"
#include "heed/base/stages.hpp"
#include "heed/simd/dispatch.hpp"

namespace heed::inline v0::detail {

/// Keys and values of a head up to this size stay in the second-level cache from one tile of
/// queries to the next.
inline constexpr Index near_cache_bytes = Index{256} << 10;

/// How many query tiles pass over the keys together: one where the keys are near and read in place,
/// else as many as the scratch holds, unless workers would be left without a group.
template <class Plan>
[[nodiscard]] Index tiles_of_group(const Plan& plan, const QueryTiling& tiling, int lanes,
                                   int workers) {
    using C = decltype(plan.scale);
    const AttentionShape& s = plan.shape;
    const bool in_place = TileRows<C>::is_in_place(plan.k) && TileRows<C>::is_in_place(plan.v);
    const double bytes = static_cast<double>(tiling.most_keys(s.kv_len)) *
                         static_cast<double>(s.head_dim + s.value_dim) * sizeof(C);
    if (in_place && bytes <= near_cache_bytes) return 1;
    Index group = group_queries<C> / (max_tile_width * lanes);
    const auto items = [&] { return s.batch * s.heads * pieces(tiling.all_tiles(), group); };
    while (workers > 1 && group > 1 && items() < 4 * workers) group /= 2;
    return group;
}

/// What one worker does at a time: query tiles [begin, end) of one sequence of one head; none of a
/// sequence that is shorter than others.
struct WorkItem {
    Index b;
    Index h;
    Index sequence;
    Index begin;
    Index end;
    [[nodiscard]] bool is_empty() const { return begin >= end; }
    [[nodiscard]] std::size_t size() const { return static_cast<std::size_t>(end - begin); }
};

/// What a worker likely does after an item; empty items where there is nothing to do.
struct Later {
    WorkItem next = {};
    /// The next of another sequence, if its keys are asked for in parts, one with each item of this
    /// sequence.
    WorkItem elsewhere = {};
    Index part = 0, parts = 1;
    bool is_unprepared = false;  ///< nobody has asked for the keys of this item

    [[nodiscard]] bool asks_for_tiles() const { return elsewhere.is_empty() || is_unprepared; }
};

/// The items of an attention in the order in which they are begun.
class Schedule {
  public:
    template <class Plan>
    Schedule(const Plan& plan, const QueryTiling& tiling, int lanes, int workers)
        : batch_(plan.shape.batch),
          heads_(plan.shape.heads),
          tiling_(tiling),
          group_(tiles_of_group(plan, tiling, lanes, workers)),
          groups_(pieces(tiling.most_tiles(), group_)) {}

    [[nodiscard]] Index heads() const { return batch_ * heads_ * tiling_.sequences(); }
    [[nodiscard]] Index count() const { return heads() * groups_; }
    /// Of an item that is not the last of its head.
    [[nodiscard]] Index tiles_per_item() const { return std::min(group_, tiling_.most_tiles()); }

    [[nodiscard]] WorkItem operator[](Index index) const {
        // Last tiles first: under a causal mask they are the longest.
        const Index first = (groups_ - 1 - index % groups_) * group_;
        const Index of_head = index / groups_, sequence = of_head % tiling_.sequences();
        const Index head = of_head / tiling_.sequences();
        return {head / heads_, head % heads_, sequence, first,
                std::min(first + group_, tiling_.tiles_of(sequence).count())};
    }

    /// Of so many workers each has a share of the items, one after another.
    [[nodiscard]] Later later(Index index, Index workers) const {
        const Shares shares{count(), workers};
        const Index share = shares.of(index), head = index - index % groups_;
        const Index begin = shares.begin(share), end = shares.begin(share + 1);
        const Index first = std::max(head, begin), last = std::min(head + groups_, end);
        const auto item = [&](Index i) { return i < end ? (*this)[i] : WorkItem{}; };
        return {item(index + 1), group_ == 1 ? item(last) : WorkItem{}, index - first, last - first,
                index == begin};
    }

  private:
    Index batch_;
    Index heads_;
    QueryTiling tiling_;
    Index group_;
    Index groups_;
};

/// A group has most tiles where registers hold two numbers.
inline constexpr std::size_t max_group_tiles = 16;

/// Computes the items of one attention.
template <class Plan, class C>
class GroupAttention {
  public:
    GroupAttention(const Plan& plan, const TileKernels<C>& kernels, const QueryTiling& tiling,
                   int workers)
        : plan_(plan),
          kernels_(kernels),
          tiling_(tiling),
          lies_elsewhere_(
              may_lie_elsewhere(plan.out.element_count(), sizeof(*plan.out.data()), workers)) {}

    /// The tiles of an item pass over the keys together.
    void attend(const WorkItem& item, const Later& later, const FusedScratch<C>& scratch) const {
        if (item.is_empty()) return;
        std::array<std::optional<Tile>, max_group_tiles> memory;
        const std::span<std::optional<Tile>> tiles(memory.data(), item.size());
        const LaneTiling tiling = tiling_.tiles_of(item.sequence);
        const Index end = tiling_.queries(item.sequence).end;
        KeyRange some;
        Index lane = 0;
        for (Index t = item.begin; t < item.end; ++t) {
            std::optional<Tile>& tile = tiles[static_cast<std::size_t>(t - item.begin)];
            tile.emplace(plan_, kernels_, scratch, scratch.tile(lane), first_query(item, t), end,
                         tiling.width(t));
            tile->load();
            lane += tiling.width(t) * kernels_.lanes;
            some = some.hull(tile->some());
        }
        const KeyRange soon =
            keys_seen(later.elsewhere).shares(later.part, later.part + 1, later.parts);
        const auto k = keys_of(item), v = values_of(item);
        for_each_key_tile(some, tiling_.first_key(item.sequence), [&](const KeyRange& range) {
            KeyTile<Plan, C> keys(kernels_, k, v, range, scratch);
            LinesAhead ahead = lines_after(item, range, some, later, soon);
            for (std::optional<Tile>& tile : tiles) tile->attend(keys, ahead);
        });
        for (std::optional<Tile>& tile : tiles) tile->store();
    }

  private:
    using Tile = QueryTile<Plan, C>;

    [[nodiscard]] ScoreIndex first_query(const WorkItem& item, Index tile) const {
        const Index begin = tiling_.queries(item.sequence).begin;
        return {item.b, item.h, begin + tiling_.tiles_of(item.sequence).begin(tile), 0};
    }

    /// What is wanted after a tile of keys: the next one, or at the end the rows of the output and
    /// the first rows of the next item; and of the keys wanted soon elsewhere a share.
    [[nodiscard]] LinesAhead lines_after(const WorkItem& item, const KeyRange& keys,
                                         const KeyRange& some, const Later& later,
                                         const KeyRange& soon) const {
        LinesAhead ahead;
        const bool is_last = keys.end == some.end;
        if (is_last) {
            const auto out = rows_of(plan_.out, item);
            if (lies_elsewhere_)
                ahead.add_written(out, asks_with(item, keys));
            else
                ahead.add(out);
            if (!later.next.is_empty()) ahead.add(rows_of(plan_.q, later.next));
        }
        if (later.asks_for_tiles()) {
            const WorkItem& then = is_last ? later.next : item;
            add_keys(ahead, then, tile_from(is_last ? keys_seen(then).begin : keys.end));
        }
        add_keys(
            ahead, later.elsewhere,
            soon.shares(keys.begin - some.begin, keys.end - some.begin, some.end - some.begin));
        return ahead;
    }

    /// How many lines the products of an item with a tile of keys ask for, where no corners are
    /// left out.
    [[nodiscard]] Index asks_with(const WorkItem& item, const KeyRange& keys) const {
        const Index count = keys.end - keys.begin;
        const int width = tiling_.tiles_of(item.sequence).width(item.begin);
        return (item.end - item.begin) * (kernels_.asks(width, count, plan_.shape.head_dim) +
                                          kernels_.asks(width, plan_.shape.value_dim, count));
    }

    /// By the first tile of an item.
    [[nodiscard]] KeyRange keys_seen(const WorkItem& item) const {
        if (item.is_empty()) return {};
        return plan_.rules.range(first_query(item, item.begin), {0, plan_.shape.kv_len});
    }
    [[nodiscard]] KeyRange tile_from(Index first) const {
        return {first, std::min(first + key_tile, plan_.shape.kv_len)};
    }

    void add_keys(LinesAhead& ahead, const WorkItem& item, const KeyRange& keys) const {
        if (item.is_empty() || keys.is_empty()) return;
        ahead.add(keys_of(item).slice(0, keys.begin, keys.end - keys.begin));
        ahead.add(values_of(item).slice(0, keys.begin, keys.end - keys.begin));
    }

    [[nodiscard]] auto keys_of(const WorkItem& item) const {
        return plan_.k.select(0, item.b).select(0, kv_head(item));
    }
    [[nodiscard]] auto values_of(const WorkItem& item) const {
        return plan_.v.select(0, item.b).select(0, kv_head(item));
    }
    [[nodiscard]] Index kv_head(const WorkItem& item) const {
        return item.h / (plan_.shape.heads / plan_.shape.kv_heads);
    }

    template <class T>
    [[nodiscard]] TensorView<const T, 2> rows_of(TensorView<T, 4> tensor,
                                                 const WorkItem& item) const {
        const Index begin = first_query(item, item.begin).q;
        const Index end =
            std::min(first_query(item, item.end).q, tiling_.queries(item.sequence).end);
        return tensor.select(0, item.b).select(0, item.h).slice(0, begin, end - begin);
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const QueryTiling& tiling_;
    bool lies_elsewhere_;  ///< the output may
};

/// Attention tile by tile, in pieces that different workers may take. `memory` holds
/// FusedScratch::element_count elements for each of the workers.
/// Cost: 2 * (head_dim + value_dim) operations for each pair of query and key in a tile that is
/// not empty.
template <class Plan, class C>
class FusedAttention {
  public:
    FusedAttention(const Plan& plan, int workers, C* memory)
        : plan_(plan),
          kernels_(tile_kernels<C>()),
          tiling_(plan.shape.q_len, plan.rules.documents(), kernels_.lanes),
          items_(plan, tiling_, kernels_.lanes, workers),
          workers_(workers),
          per_worker_(FusedScratch<C>::element_count(plan.shape).index()),
          memory_(memory) {}

    [[nodiscard]] Index count() const { return items_.count(); }
    /// Of all sequences of the batch.
    [[nodiscard]] Index heads() const { return items_.heads(); }

    void operator()(Index piece, int worker) const {
        const FusedScratch<C> scratch(plan_.shape, memory_ + worker * per_worker_);
        const GroupAttention<Plan, C> group(plan_, kernels_, tiling_, workers_);
        group.attend(items_[piece], items_.later(piece, workers_), scratch);
    }

  private:
    const Plan& plan_;
    const TileKernels<C>& kernels_;
    QueryTiling tiling_;
    Schedule items_;
    int workers_;
    Index per_worker_;
    C* memory_;
};

}  // namespace heed::inline v0::detail
