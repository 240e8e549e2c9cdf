#pragma once
// How do gradients go back through an attention without ever holding all weights?
// Recomputes tiles of weights from the saved log-sum-exp (FlashAttention 2, arXiv 2307.08691,
// section 3.1.2); memory grows with the lengths, not with their product. Reads what the forward
// pass read and wrote, and the gradient of its output; writes the gradients that are wanted.
//
// For scores s = scale * q k^T (changed by rules), weights p = exp(s - lse), dp = do v^T and
// delta_i = sum_c do_ic out_ic:
//
//     dv = p^T do,    ds = p * (dp - delta) * (slopes of the rules),
//     dq = scale * ds k,    dk = scale * ds^T q
//
// With dropout, p is dropped in dv, and dp like p. Nothing is computed twice for a pair of tiles.

#include "heed/attention/backward_keys.hpp"
#include "heed/attention/plan.hpp"
#include "heed/base/stages.hpp"
#include "heed/simd/dispatch.hpp"

namespace heed::inline v0::detail {

/// The gradients of one attention, in pieces that are independent of each other, as long as heads
/// of a slot are taken in order.
template <class Plan, class C>
class BackwardAttention {
  public:
    using OfRules = RuleGradients<decltype(Plan::rules), C>;

    BackwardAttention(const Plan& plan, const TileKernels<C>& kernels,
                      const OfRules& rule_gradients)
        : plan_(plan),
          kernels_(kernels),
          rule_gradients_(rule_gradients),
          tiling_(plan.shape.q_len, kernels.lanes),
          chunks_(plan.shape.kv_len),
          heads_(plan.shape.heads / plan.shape.kv_heads) {}

    /// Query tiles of the heads of a group.
    [[nodiscard]] Index tiles() const { return heads_ * tiling_.count(); }

    void load(Index kv_head, Index tile, const GroupScratch<C>& group) const {
        query_side(kv_head, tile, group).load();
    }

    /// dk and dv of a chunk of keys, and its share of dq and of the gradients of rules.
    void add_keys(Index kv_head, const typename OfRules::Share& share, const GroupScratch<C>& group,
                  C* dq, const BackwardScratch<C>& scratch) const {
        if (is_wanted(plan_.dq)) std::fill_n(dq, group.dq_elements(), C(0));
        rule_gradients_.clear_sums(kv_head, share.chunk);
        if (share.chunk == 0) add_sinks(kv_head, group);
        for_each_key_tile(chunks_[share.chunk], 0, [&](const KeyRange& range) {
            KeySide<Plan, C> side(plan_, kernels_, scratch, rule_gradients_, share, kv_head, range);
            for (Index head = 0; head < heads_; ++head)
                for (Index t = 0; t < tiling_.count(); ++t) {
                    // Asked first, for behind a window most tiles see none of the keys.
                    if (group.ranges(head, t).some().intersect(range).is_empty()) continue;
                    const Index n = head * tiling_.count() + t;
                    side.add_queries(first_query(kv_head, n), width(n), queries(n, group), dq);
                }
            side.store();
        });
    }

    /// dq of a tile, from its first `sums` sums.
    void store_dq(Index kv_head, Index tile, Index sums, const GroupScratch<C>& group,
                  const BackwardScratch<C>& scratch) const {
        if (!is_wanted(plan_.dq)) return;
        const Index first = queries(tile, group).first_dq;
        const Index count = width(tile) * kernels_.lanes * plan_.shape.head_dim;
        for (Index sum = 1; sum < sums; ++sum)
            add(group.dq(sum) + first, count, group.dq(0) + first);
        query_side(kv_head, tile, group).store_dq(group.dq(0) + first, scratch.rows);
    }

    /// All of one kv head, chunk after chunk.
    void run_head(Index kv_head, Index part, const GroupScratch<C>& group,
                  const BackwardScratch<C>& scratch) const {
        for (Index n = 0; n < tiles(); ++n) load(kv_head, n, group);
        // Without keys, too, dq is a sum.
        add_keys(kv_head, {0, part}, group, group.dq(0), scratch);
        for (Index chunk = 1; chunk < chunks_.count(); ++chunk) {
            add_keys(kv_head, {chunk, part}, group, group.dq(1), scratch);
            if (is_wanted(plan_.dq)) add(group.dq(1), group.dq_elements(), group.dq(0));
        }
        for (Index n = 0; n < tiles(); ++n) store_dq(kv_head, n, 1, group, scratch);
    }

  private:
    static void add(const C* from, Index count, C* to) {
        for (Index n = 0; n < count; ++n) to[n] += from[n];
    }

    void add_sinks(Index kv_head, const GroupScratch<C>& group) const {
        for (Index n = 0; n < tiles(); ++n) {
            const BackwardQueries<C> tile = queries(n, group);
            ScoreIndex at = first_query(kv_head, n);
            const Index end = std::min(at.q + width(n) * kernels_.lanes, plan_.shape.q_len);
            for (Index i = 0; at.q < end; ++i, ++at.q)
                rule_gradients_.add_sinks(at, tile.lse[i], tile.delta[i]);
        }
    }

    [[nodiscard]] int width(Index tile) const { return tiling_.width(tile % tiling_.count()); }
    [[nodiscard]] ScoreIndex first_query(Index kv_head, Index tile) const {
        const AttentionShape& s = plan_.shape;
        return {kv_head / s.kv_heads, kv_head % s.kv_heads * heads_ + tile / tiling_.count(),
                tiling_.begin(tile % tiling_.count()), 0};
    }
    [[nodiscard]] BackwardQueries<C> queries(Index tile, const GroupScratch<C>& group) const {
        const Index t = tile % tiling_.count();
        return group.tile(tile / tiling_.count(), t, tiling_.begin(t));
    }
    [[nodiscard]] QuerySide<Plan, C> query_side(Index kv_head, Index tile,
                                                const GroupScratch<C>& group) const {
        return {plan_, kernels_, first_query(kv_head, tile), width(tile), queries(tile, group)};
    }

    const Plan& plan_;
    const TileKernels<C>& kernels_;
    const OfRules& rule_gradients_;
    LaneTiling tiling_;
    KeyChunks chunks_;
    Index heads_;
};

/// The sums of the rules' gradients, and how the rest is shared out.
template <class Rules, class C>
struct BackwardMemory {
    LineAllocator<C> used;
    RuleGradients<Rules, C> rule_gradients;
    BackwardLayout<C> layout;

    BackwardMemory(const Rules& rules, const AttentionShape& s, int workers, C* memory)
        : used(memory),
          rule_gradients(rules, s, used),
          layout(s, workers, rule_gradients.slope_tiles(), rule_gradients.slots().are_shared()) {}

    [[nodiscard]] CheckedSize<> element_count() const {
        return used.used() + layout.element_count().bytes();
    }
};

/// Gradients tile by tile, in stages whose pieces different workers may take: the kv heads one by
/// one, or their chunks where these are too few for the workers; the arithmetic is the same.
/// `memory` holds BackwardMemory::element_count elements for so many workers.
/// Cost: 2 * (3 * head_dim + 2 * value_dim) operations for each pair of query and key in a tile
/// that is not empty.
template <class Plan, class C>
class FusedBackward {
  public:
    FusedBackward(const Plan& plan, int workers, C* memory)
        : plot_(plan.rules, plan.shape, workers, memory),
          backward_(plan, tile_kernels<C>(), plot_.rule_gradients),
          memory_(memory + plot_.used.used().index()),
          kv_heads_(plan.shape.batch * plan.shape.kv_heads),
          chunks_(KeyChunks(plan.shape.kv_len).count()) {}
    /// The parts refer to each other.
    FusedBackward(const FusedBackward&) = delete;
    FusedBackward& operator=(const FusedBackward&) = delete;
    ~FusedBackward() = default;

    void add_to(Stages& stages) const {
        using OfRules = typename BackwardAttention<Plan, C>::OfRules;
        const OfRules& rules = plot_.rule_gradients;
        stages.then(rules.rows_to_clear(), ParallelTask::of<&OfRules::clear_row>(rules));
        if (!plot_.layout.splits_heads()) {
            stages.then(rules.slots().count(), ParallelTask::of<&FusedBackward::run_slot>(*this));
        } else {
            const Index tiles = kv_heads_ * backward_.tiles();
            stages.then(tiles, ParallelTask::of<&FusedBackward::load_tile>(*this));
            stages.then(kv_heads_ * chunks_, ParallelTask::of<&FusedBackward::add_chunk>(*this));
            stages.then(tiles, ParallelTask::of<&FusedBackward::store_tile>(*this));
        }
        stages.then(rules.rows_to_store(), ParallelTask::of<&OfRules::store_row>(rules));
    }

  private:
    void run_slot(Index slot, int worker) const {
        const HeadSlots& slots = plot_.rule_gradients.slots();
        slots.for_each_head(slot, [&](Index head) {
            backward_.run_head(head, slots.part_of(slot), plot_.layout.group(worker, memory_),
                               plot_.layout.worker(worker, memory_));
        });
    }

    void load_tile(Index piece, int /*worker*/) const {
        const Index head = piece / backward_.tiles();
        backward_.load(head, piece % backward_.tiles(), plot_.layout.group(head, memory_));
    }
    void add_chunk(Index piece, int worker) const {
        const Index head = piece / chunks_, chunk = piece % chunks_;
        const GroupScratch<C> group = plot_.layout.group(head, memory_);
        backward_.add_keys(head, {chunk, 0}, group, group.dq(chunk),
                           plot_.layout.worker(worker, memory_));
    }
    void store_tile(Index piece, int worker) const {
        const Index head = piece / backward_.tiles();
        backward_.store_dq(head, piece % backward_.tiles(), chunks_,
                           plot_.layout.group(head, memory_), plot_.layout.worker(worker, memory_));
    }

    BackwardMemory<decltype(Plan::rules), C> plot_;
    BackwardAttention<Plan, C> backward_;
    C* memory_;
    Index kv_heads_, chunks_;
};

}  // namespace heed::inline v0::detail
