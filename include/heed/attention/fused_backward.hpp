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
        for_each_key_tile(chunks_[share.chunk], [&](const KeyRange& range) {
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

/// The kv heads one by one, or their chunks where these are too few for the workers; the
/// arithmetic is the same.
template <class Plan, class C>
void run_backward(const BackwardAttention<Plan, C>& backward, const AttentionShape& s,
                  const HeadSlots& slots, const BackwardLayout<C>& layout,
                  const ExecutorRef& executor, C* memory) {
    if (!layout.splits_heads()) {
        executor.parallel_for(slots.count(), [&](Index slot, int worker) {
            slots.for_each_head(slot, [&](Index head) {
                backward.run_head(head, slots.part_of(slot), layout.group(worker, memory),
                                  layout.worker(worker, memory));
            });
        });
        return;
    }
    const Index kv_heads = s.batch * s.kv_heads, chunks = KeyChunks(s.kv_len).count();
    const Index tiles = backward.tiles();
    executor.parallel_for(kv_heads * tiles, [&](Index index, int) {
        backward.load(index / tiles, index % tiles, layout.group(index / tiles, memory));
    });
    executor.parallel_for(kv_heads * chunks, [&](Index index, int worker) {
        const Index head = index / chunks, chunk = index % chunks;
        const GroupScratch<C> group = layout.group(head, memory);
        backward.add_keys(head, {chunk, 0}, group, group.dq(chunk), layout.worker(worker, memory));
    });
    executor.parallel_for(kv_heads * tiles, [&](Index index, int worker) {
        backward.store_dq(index / tiles, index % tiles, chunks, layout.group(index / tiles, memory),
                          layout.worker(worker, memory));
    });
}

/// Gradients tile by tile, shared out among the workers. `memory` holds
/// BackwardMemory::element_count elements.
/// Cost: 2 * (3 * head_dim + 2 * value_dim) operations for each pair of query and key in a tile
/// that is not empty.
template <class Plan, class C>
void fused_attention_backward(const Plan& plan, const ExecutorRef& executor, C* memory) {
    const BackwardMemory<decltype(plan.rules), C> plot(plan.rules, plan.shape,
                                                       executor.concurrency(), memory);
    const BackwardAttention<Plan, C> backward(plan, tile_kernels<C>(), plot.rule_gradients);
    plot.rule_gradients.clear_matrices(executor);
    run_backward(backward, plan.shape, plot.rule_gradients.slots(), plot.layout, executor,
                 memory + plot.used.used().index());
    plot.rule_gradients.store(executor);
}

}  // namespace heed::inline v0::detail
