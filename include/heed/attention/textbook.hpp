#pragma once
// What is attention, step by step?
// The definition, one query row at a time, written to be read and to judge faster kernels by.
// Reads q, k, v and the masks; writes out and the optional outputs; its scratch is the caller's.

#include <algorithm>
#include <limits>
#include <span>

#include "heed/attention/plan.hpp"
#include "heed/ops/softmax.hpp"

namespace heed::inline v0 {
namespace detail {

/// Scratch of one call: the keys (transposed) and values of one head in the compute type, and the
/// rows of the query at work.
template <class C>
struct TextbookScratch {
    MatrixMap<C> keys;     ///< [head_dim, kv_len]
    MatrixMap<C> values;   ///< [kv_len, value_dim]
    MatrixMap<C> scores;   ///< [1, kv_len]
    MatrixMap<C> weights;  ///< [1, kv_len]
    MatrixMap<C> result;   ///< [1, value_dim]

    /// Elements needed for the given sizes. Throws ShapeError when they do not fit into 63 bits.
    static CheckedSize<> element_count(const AttentionShape& s) {
        const auto size = [](Index n) {
            return CheckedSize<>("attention_workspace_bytes", static_cast<std::uint64_t>(n));
        };
        const auto row = (size(s.head_dim) + static_cast<std::uint64_t>(s.value_dim) + 2);
        return row * static_cast<std::uint64_t>(s.kv_len) + static_cast<std::uint64_t>(s.value_dim);
    }

    TextbookScratch(const AttentionShape& s, C* memory)
        : keys(take(memory, s.head_dim, s.kv_len)),
          values(take(memory, s.kv_len, s.value_dim)),
          scores(take(memory, 1, s.kv_len)),
          weights(take(memory, 1, s.kv_len)),
          result(take(memory, 1, s.value_dim)) {}

  private:
    static MatrixMap<C> take(C*& memory, Index rows, Index columns) {
        C* const begin = memory;
        memory += rows * columns;
        return {begin, rows, columns, Eigen::OuterStride<>(columns)};
    }
};

/// Widens the keys and values of one kv head, so that all arithmetic below is in one type and on
/// dense rows, whatever the caller's strides and storage types are.
template <class Plan, class C>
void load_head(const Plan& plan, Index b, Index kv_head, TextbookScratch<C>& scratch) {
    copy(plan.k.select(0, b).select(0, kv_head).transpose(0, 1), TensorView<C, 2>(scratch.keys));
    copy(plan.v.select(0, b).select(0, kv_head), TensorView<C, 2>(scratch.values));
}

/// Final scores of one query against all keys: scale, soft-cap, biases, masks. Shows them at the
/// stage that the caller asked for.
template <class Plan, class C>
void score_row(const Plan& plan, ScoreIndex at, TextbookScratch<C>& scratch) {
    // Feature by feature over all keys: each key's sum has one fixed order, and a NaN in one key
    // cannot reach another.
    scratch.scores.setZero();
    for (Index d = 0; d < plan.shape.head_dim; ++d)
        scratch.scores += static_cast<C>(plan.q(at.b, at.h, at.q, d)) * scratch.keys.row(d);

    const auto show = [&](ScoreStage stage, C score) {
        using T = std::remove_const_t<typename decltype(plan.options.scores)::element_type>;
        if (plan.options.scores.data() && plan.options.scores_at == stage)
            plan.options.scores(at.b, at.h, at.q, at.k) = convert<T>(score);
    };
    const KeyRange range = plan.rules.range(at, {0, plan.shape.kv_len});
    for (at.k = 0; at.k < plan.shape.kv_len; ++at.k) {
        C& score = scratch.scores(0, at.k);
        score *= plan.scale;
        show(ScoreStage::scaled, score);
        score = plan.rules.cap(score);
        show(ScoreStage::capped, score);
        // Masked means selected away: no arithmetic on the hidden score can bring it back.
        score = range.contains(at.k) && plan.rules.visible(at)
                    ? plan.rules.modify(score, at)
                    : -std::numeric_limits<C>::infinity();
        show(ScoreStage::masked, score);
    }
}

/// out_c = sum over visible keys j of weight_j * value_jc, with dropout applied to the weights.
template <class Plan, class C>
void accumulate_row(const Plan& plan, ScoreIndex at, TextbookScratch<C>& scratch) {
    const auto head = static_cast<std::uint32_t>(at.b * plan.shape.heads + at.h);
    scratch.result.setZero();
    for (at.k = 0; at.k < plan.shape.kv_len; ++at.k) {
        // The values of hidden keys are never touched: 0 * NaN would be NaN.
        if (scratch.scores(0, at.k) == -std::numeric_limits<C>::infinity()) continue;
        C weight = scratch.weights(0, at.k);
        if (plan.dropout.active()) {
            if (!plan.dropout.keeps(head, static_cast<std::uint32_t>(at.q),
                                    static_cast<std::uint64_t>(at.k)))
                continue;
            weight *= static_cast<C>(plan.dropout.scale());
        }
        scratch.result += weight * scratch.values.row(at.k);
    }
}

/// One query: scores, softmax, weighted sum of values, and whatever else is asked for.
template <class Plan, class C>
void attend_row(const Plan& plan, ScoreIndex at, TextbookScratch<C>& scratch) {
    score_row(plan, at, scratch);
    scratch.weights = scratch.scores;
    const C lse =
        softmax(std::span<C>(scratch.weights.data(), static_cast<std::size_t>(plan.shape.kv_len)),
                plan.rules.template sink<C>(at));
    accumulate_row(plan, at, scratch);

    const auto row_of = [&](auto tensor) {
        return tensor.select(0, at.b).select(0, at.h).select(0, at.q);
    };
    copy(TensorView<C, 2>(scratch.result).select(0, 0), row_of(plan.out));
    if (plan.options.weights.data())
        copy(TensorView<C, 2>(scratch.weights).select(0, 0), row_of(plan.options.weights));
    if (plan.options.lse.data()) plan.options.lse(at.b, at.h, at.q) = lse;
}

/// Attention by its definition. `memory` holds TextbookScratch::element_count elements.
/// Cost: 2 * heads * q_len * kv_len * (head_dim + value_dim) operations per batch element.
template <class Plan, class C>
void textbook_attention(const Plan& plan, C* memory) {
    const AttentionShape& s = plan.shape;
    TextbookScratch<C> scratch(s, memory);
    const Index group = s.heads / s.kv_heads;
    for (Index b = 0; b < s.batch; ++b)
        for (Index kv_head = 0; kv_head < s.kv_heads; ++kv_head) {
            load_head(plan, b, kv_head, scratch);
            for (Index h = kv_head * group; h < (kv_head + 1) * group; ++h)
                for (Index i = 0; i < s.q_len; ++i)
                    attend_row(plan, ScoreIndex{b, h, i, 0}, scratch);
        }
}

}  // namespace detail
}  // namespace heed::inline v0
