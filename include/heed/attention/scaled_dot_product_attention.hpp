#pragma once
// softmax(scale * q k^T) v: how does a caller get it?
// The public functions: checks first, then computes into the caller's memory.

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "heed/attention/compose.hpp"
#include "heed/attention/fused.hpp"
#include "heed/attention/options.hpp"
#include "heed/attention/plan.hpp"
#include "heed/attention/relative_bias.hpp"
#include "heed/attention/score.hpp"
#include "heed/attention/textbook.hpp"
#include "heed/base/scratch.hpp"
#include "heed/base/stages.hpp"
#include "heed/tensor/tensor.hpp"

namespace heed::inline v0 {

namespace detail {

/// Bytes of scratch memory for so many workers.
template <class C>
[[nodiscard]] std::size_t attention_scratch_bytes(const AttentionShape& shape, bool row_by_row,
                                                  int workers) {
    auto elements = FusedScratch<C>::element_count(shape) * static_cast<std::uint64_t>(workers);
    // Weights of no elements cannot be told from absent ones, so their callers need both.
    if (row_by_row)
        elements = std::max(elements, TextbookScratch<C>::element_count(shape),
                            [](const auto& a, const auto& b) { return a.index() < b.index(); });
    return (elements * sizeof(C) + scratch_alignment).bytes();
}

}  // namespace detail

/// Bytes of scratch memory that an attention of these sizes uses for tensors of T with an executor
/// of this concurrency, whatever the alignment of that memory. It does not grow with the lengths,
/// unless weights or scores are asked for: those are made row by row from whole heads, by one
/// worker. What is enough with them is enough without. Throws ShapeError when the bytes do not fit
/// into 63 bits.
template <StorageScalar T>
[[nodiscard]] std::size_t attention_workspace_bytes(
    const AttentionShape& shape, bool wants_weights_or_scores = false,
    int concurrency = detail::ProcessExecutor::get().executor.concurrency()) {
    return detail::attention_scratch_bytes<ComputeType<T>>(
        shape, wants_weights_or_scores,
        detail::useful_workers(detail::multiply_adds(shape), concurrency));
}

namespace detail {

/// Who computes an attention, on which path and in how much memory.
template <class T>
struct Execution : Workers {
    bool row_by_row;  ///< by the definition, because weights or scores are asked for
    std::size_t scratch_bytes;

    Execution(const AttentionShape& shape, const AttentionOptions<T>& options)
        : Workers(multiply_adds(shape), options.executor),
          row_by_row(options.row_by_row()),
          scratch_bytes(attention_workspace_bytes<T>(shape, row_by_row, executor.concurrency())) {
        require_workspace(sdpa_name, options.workspace, scratch_bytes);
    }
};

/// An attention that is ready to run, in pieces that different workers may take: in one piece by
/// the definition, or tile by tile.
template <class Plan>
class AttentionRun {
  public:
    using C = decltype(Plan::scale);

    /// `memory` has attention_scratch_bytes for so many workers.
    AttentionRun(Plan plan, int workers, C* memory)
        : plan_(std::move(plan)), memory_(memory), fused_(plan_, workers, memory) {}
    /// The parts refer to each other.
    AttentionRun(const AttentionRun&) = delete;
    AttentionRun& operator=(const AttentionRun&) = delete;
    ~AttentionRun() = default;

    [[nodiscard]] Index count() const { return plan_.options.row_by_row() ? 1 : fused_.count(); }

    void operator()(Index piece, int worker) const {
        if (plan_.options.row_by_row())
            textbook_attention(plan_, memory_);
        else
            fused_(piece, worker);
    }

    /// All pieces. A worker stays with its own heads, whose keys are near then; where there are
    /// fewer heads than workers, the pieces of one, which may be longer than others, are shared out
    /// one by one.
    void run_on(const ExecutorRef& executor) const {
        if (fused_.heads() < executor.concurrency())
            executor.parallel_for(count(), *this);
        else
            run_in_shares(*this, executor);
    }

  private:
    Plan plan_;
    C* memory_;
    FusedAttention<Plan, C> fused_;
};

template <class Q, class K, class V>
constexpr void check_types() {
    static_assert(
        StorageScalar<ElementOf<Q>> && StorageScalar<ElementOf<K>> && StorageScalar<ElementOf<V>>,
        "q, k and v must hold float, double, heed::half or heed::bfloat16");
    static_assert(std::same_as<ComputeType<ElementOf<Q>>, ComputeType<ElementOf<K>>> &&
                      std::same_as<ComputeType<ElementOf<Q>>, ComputeType<ElementOf<V>>>,
                  "q, k and v must share a compute type: all double, or none");
    static_assert(std::remove_cvref_t<Q>::rank() == 4 && std::remove_cvref_t<K>::rank() == 4 &&
                      std::remove_cvref_t<V>::rank() == 4,
                  "q, k and v must have four dimensions: batch, head, position, feature");
}

}  // namespace detail

/// Scaled dot-product attention into the caller's memory:
///
///     out[b,h,i,:] = sum_j softmax_j(scale * q[b,h,i,:] . k[b,g,j,:]) * v[b,g,j,:],
///     g = h / (heads / kv_heads)
///
/// with soft-cap, biases and masks applied to the scores before the softmax, and dropout to the
/// weights after it.
///
/// q is [batch, heads, q_len, head_dim], k [batch, kv_heads, kv_len, head_dim], v [batch, kv_heads,
/// kv_len, value_dim], out [batch, heads, q_len, value_dim]; any strides; kv_heads divides heads.
/// float and double compute in themselves, half and bfloat16 in float, rounded once at the end.
///
/// A masked key or value has no effect whatever it holds, NaN included. A query without a visible
/// key gets output 0 and log-sum-exp minus infinity (the sink, with Sinks).
///
/// `mask` is a mask, a score modification, a score function of the user, or several joined by `&`.
/// Throws ShapeError or ArgumentError before anything is written. Source: Vaswani et al.,
/// arXiv 1706.03762.
template <TensorLike Q, TensorLike K, TensorLike V, TensorLike Out, ScorePart Mask = NoMask>
void scaled_dot_product_attention(const Q& q, const K& k, const V& v, Out&& out,
                                  const Mask& mask = {},
                                  const AttentionOptions<ElementOf<Q>>& options = {}) {
    using T = ElementOf<Q>;
    detail::check_types<Q, K, V>();
    static_assert(std::is_convertible_v<Out&&, TensorView<T, 4>>,
                  "the output must be writable and hold q's type; a mask is passed as "
                  "AttendWhere{mask}, BlockWhere{mask} or AdditiveBias{mask}");
    const auto plan = detail::make_plan(read(q), read(k), read(v),
                                        TensorView<T, 4>(std::forward<Out>(out)), mask, options);
    const detail::Execution<T> execution(plan.shape, options);
    const detail::Scratch scratch(execution.scratch_bytes, options.workspace);
    const detail::AttentionRun run(plan, execution.executor.concurrency(),
                                   scratch.as<ComputeType<T>>());
    run.run_on(execution.executor);
}

/// The same, returning a new tensor [batch, heads, q_len, value_dim].
template <TensorLike Q, TensorLike K, TensorLike V, ScorePart Mask = NoMask>
requires(!TensorLike<Mask>) [[nodiscard]] Tensor<ElementOf<Q>, 4> scaled_dot_product_attention(
    const Q& q, const K& k, const V& v, const Mask& mask = {},
    const AttentionOptions<ElementOf<Q>>& options = {}) {
    detail::check_types<Q, K, V>();
    const AttentionShape s = detail::attention_shape(read(q), read(k), read(v));
    Tensor<ElementOf<Q>, 4> out({s.batch, s.heads, s.q_len, s.value_dim});
    scaled_dot_product_attention(q, k, v, out, mask, options);
    return out;
}

}  // namespace heed::inline v0
