#pragma once
// Which change of q, k and v would change a loss how much? How does a caller get it?
// The public functions of the backward pass: checks first, then computes into the caller's memory.

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "heed/attention/fused_backward.hpp"
#include "heed/attention/scaled_dot_product_attention.hpp"

namespace heed::inline v0 {

/// Options of scaled_dot_product_attention_backward: those of the forward pass that it must share,
/// and who computes it in which memory.
struct AttentionBackwardOptions {
    /// As in the forward pass; see AttentionOptions.
    std::optional<double> scale = std::nullopt;

    /// As in the forward pass: the same seed and call drop the same weights.
    Dropout dropout = {};

    /// Who runs the tiles; see AttentionOptions. The result has the same bits for every executor.
    std::optional<ExecutorRef> executor = std::nullopt;

    /// Scratch memory of at least attention_backward_workspace_bytes; when empty, it is allocated.
    std::span<std::byte> workspace = {};
};

/// Where the gradients of a loss go; an empty view means "not wanted". Each has the shape of what
/// it is the gradient of.
template <class Q, class K = Q, class V = K>
struct AttentionGradients {
    TensorView<Q, 4> dq = {};
    TensorView<K, 4> dk = {};
    TensorView<V, 4> dv = {};
};

namespace detail {

/// For so many workers.
template <class C, class Rules>
[[nodiscard]] std::size_t backward_scratch_bytes(const Rules& rules, const AttentionShape& shape,
                                                 int workers) {
    const BackwardMemory<Rules, C> plot(rules, shape, workers, nullptr);
    return (plot.element_count() * sizeof(C) + scratch_alignment).bytes();
}

}  // namespace detail

/// Bytes of scratch memory that a backward pass of these sizes with this mask uses for tensors of T
/// with an executor of this concurrency, whatever the alignment of that memory and whichever of dq,
/// dk and dv are wanted. It grows with q_len, and does so for each of the workers; where heads are
/// too few for the workers, for each of at most eight parts of the keys of each head. A wanted
/// gradient of a bias with a row for each query and a column for each key takes at most eight times
/// its own size (nothing, in most cases); any other, at most eight times its own size for each head
/// of the batch. Throws ShapeError when the bytes do not fit into 63 bits, and what the mask throws
/// when it does not fit the sizes.
template <StorageScalar T, ScorePart Mask>
[[nodiscard]] std::size_t attention_backward_workspace_bytes(
    const AttentionShape& shape, const Mask& mask,
    int concurrency = detail::ProcessExecutor::get().executor.concurrency()) {
    const auto rules = detail::from_parts(detail::parts_of(mask)).bind(shape);
    return detail::backward_scratch_bytes<ComputeType<T>>(
        rules, shape, detail::useful_workers(detail::multiply_adds(shape), concurrency));
}

/// The same for any mask that wants no gradient.
template <StorageScalar T>
[[nodiscard]] std::size_t attention_backward_workspace_bytes(
    const AttentionShape& shape,
    int concurrency = detail::ProcessExecutor::get().executor.concurrency()) {
    return attention_backward_workspace_bytes<T>(shape, NoMask{}, concurrency);
}

namespace detail {

inline constexpr std::string_view backward_name = "scaled_dot_product_attention_backward";

/// A checked backward pass: views that fit each other, defaults resolved, rules bound.
template <class Q, class K, class V, class Rules>
struct BackwardPlan {
    AttentionShape shape;
    TensorView<const Q, 4> q;
    TensorView<const K, 4> k;
    TensorView<const V, 4> v;
    TensorView<const Q, 4> out;
    TensorView<const ComputeType<Q>, 3> lse;
    TensorView<const Q, 4> d_out;
    TensorView<Q, 4> dq;
    TensorView<K, 4> dk;
    TensorView<V, 4> dv;
    Rules rules;
    ComputeType<Q> scale;
    DropoutRule dropout;

    /// True when the predicate holds for something that is read.
    template <class Predicate>
    [[nodiscard]] bool any_input(const Predicate& predicate) const {
        return predicate(q) || predicate(k) || predicate(v) || predicate(out) || predicate(lse) ||
               predicate(d_out) || rules.any_tensor(predicate);
    }
};

/// What the forward pass wrote, and the gradient of its output, must fit q, k and v.
template <class Plan>
void check_forward_results(const Plan& p) {
    const AttentionShape& s = p.shape;
    const Shape<4> out(s.batch, s.heads, s.q_len, s.value_dim);
    require_shape(backward_name, "out", p.out.shape(), out);
    require_shape(backward_name, "lse", p.lse.shape(), Shape<3>(s.batch, s.heads, s.q_len));
    require_shape(backward_name, "d_out", p.d_out.shape(), out);
    require_memory(backward_name, "out", p.out);
    require_memory(backward_name, "lse", p.lse);
    require_memory(backward_name, "d_out", p.d_out);
    if (p.rules.any_tensor(
            [](const auto& tensor) { return tensor.data() == nullptr && !tensor.empty(); }))
        fail<ArgumentError>(backward_name, "masks and biases must point at memory; found null");
}

/// A wanted gradient must have its shape and a place of its own.
template <class Plan, class T, class... Others>
void check_gradient(const Plan& p, std::string_view what, TensorView<T, 4> gradient,
                    const Shape<4>& expected, const Others&... others) {
    if (!is_wanted(gradient)) return;
    require_output(backward_name, what, gradient, expected, others...);
    if (p.any_input([&](const auto& input) { return overlaps(gradient, input); }))
        fail<ShapeError>(backward_name, what, " must not overlap an input or a mask; ",
                         "found overlapping memory");
}

/// So must the gradients that rules want; their shapes were checked when they were given.
template <class Plan>
void check_rule_gradients(const Plan& p) {
    constexpr std::string_view what = "the gradient of a bias, slope, table or sink";
    p.rules.for_each_gradient([&](std::size_t index, const auto& rule) {
        const auto& gradient = rule.gradient;
        check_gradient(p, what, gradient, gradient.shape(), p.dq, p.dk, p.dv);
        p.rules.for_each_gradient([&](std::size_t other, const auto& earlier) {
            if (other < index && overlaps(gradient, earlier.gradient))
                fail<ShapeError>(backward_name, what, " must not overlap another output; ",
                                 "found overlapping memory");
        });
    });
}

template <class Plan>
void check_backward(const Plan& p, std::span<std::byte> bytes) {
    check_forward_results(p);
    check_gradient(p, "dq", p.dq, p.q.shape());
    check_gradient(p, "dk", p.dk, p.k.shape(), p.dq);
    check_gradient(p, "dv", p.dv, p.v.shape(), p.dq, p.dk);
    check_rule_gradients(p);
    const TensorView<std::byte, 1> workspace(bytes, Shape<1>(bytes.size()));
    const auto in_use = [&](const auto& view) { return overlaps(workspace, view); };
    bool rules_use = false;
    p.rules.for_each_gradient(
        [&](std::size_t, const auto& rule) { rules_use = rules_use || in_use(rule.gradient); });
    if (p.any_input(in_use) || in_use(p.dq) || in_use(p.dk) || in_use(p.dv) || rules_use)
        fail<ShapeError>(backward_name, "the workspace must not overlap an input, a mask or a ",
                         "gradient; found overlapping memory");
}

/// Binds the masks, resolves every default and checks everything. Throws ShapeError or
/// ArgumentError.
template <class Q, class K, class V, ScorePart Mask>
[[nodiscard]] auto make_backward_plan(TensorView<const Q, 4> q, TensorView<const K, 4> k,
                                      TensorView<const V, 4> v, TensorView<const Q, 4> out,
                                      TensorView<const ComputeType<Q>, 3> lse,
                                      TensorView<const Q, 4> d_out,
                                      const AttentionGradients<Q, K, V>& gradients,
                                      const Mask& mask, const AttentionBackwardOptions& options) {
    auto forward = bind_plan(
        checked_inputs(q, k, v, backward_name), q, k, v, TensorView<Q, 4>(), mask,
        AttentionOptions<Q>{.scale = options.scale, .dropout = options.dropout}, backward_name);
    BackwardPlan<Q, K, V, decltype(forward.rules)> plan{forward.shape,
                                                        q,
                                                        k,
                                                        v,
                                                        out,
                                                        lse,
                                                        d_out,
                                                        gradients.dq,
                                                        gradients.dk,
                                                        gradients.dv,
                                                        std::move(forward.rules),
                                                        forward.scale,
                                                        forward.dropout};
    check_backward(plan, options.workspace);
    return plan;
}

/// A backward pass that is ready to run as stages.
template <class Plan>
class AttentionBackwardRun {
  public:
    using C = decltype(Plan::scale);

    /// `memory` has backward_scratch_bytes for so many workers.
    AttentionBackwardRun(Plan plan, int workers, C* memory)
        : plan_(std::move(plan)), fused_(plan_, workers, memory) {}

    void add_to(Stages& stages) const { fused_.add_to(stages); }

  private:
    Plan plan_;
    FusedBackward<Plan, C> fused_;
};

/// The gradients that the types of q, k and v allow.
template <class Q, class K, class V>
using GradientsOf = AttentionGradients<ElementOf<Q>, ElementOf<K>, ElementOf<V>>;

}  // namespace detail

/// The gradients of a loss with respect to q, k and v, from its gradient with respect to the output
/// of scaled_dot_product_attention(q, k, v, out, mask, options). With the weights
/// p_ij = exp(s_ij - lse_i) of the scores s, recomputed tile by tile:
///
///     dv_j = sum_i p_ij d_out_i,             dp_ij = d_out_i . v_j,
///     ds_ij = p_ij (dp_ij - d_out_i . out_i) * (derivative of soft-cap and score functions),
///     dq_i = scale * sum_j ds_ij k_j,        dk_j = scale * sum_i ds_ij q_i
///
/// where the sums for a key also run over the query heads that read it, and dropout drops the same
/// entries of p and dp that it dropped in the forward pass.
///
/// Biases, slopes, tables and sinks are constants, unless they bring the place for their gradient
/// (with_gradient): that of a bias is the gradient of the score after it, summed in the loop over
/// all scores to which one number was added; that of a sink is -sum_i exp(sink - lse_i) (d_out_i .
/// out_i).
///
/// `out` and `lse` are what the forward pass wrote (lse by AttentionOptions::lse); mask, scale and
/// dropout must be the same. d_out is [batch, heads, q_len, value_dim], as out, in any strides.
/// Only the wanted gradients are computed, each with the same bits whichever of the others are.
/// They are overwritten, not added to, and rounded once to their type.
///
/// A masked key or value has gradient 0 and no effect, whatever it holds; so has a query without a
/// visible key, whatever its row of d_out holds. NaN in what a query sees reaches the gradients of
/// that query and of the keys to which it gives a weight other than 0.
///
/// A score function of the user needs a derivative: a member derivative(score, at), or it takes
/// and returns any number type and is run on a Dual.
///
/// Throws ShapeError or ArgumentError before anything is written. Memory: see
/// attention_backward_workspace_bytes. Cost: five products where the forward pass has two.
/// Source: Dao, FlashAttention 2, arXiv 2307.08691, section 3.1.2.
template <TensorLike Q, TensorLike K, TensorLike V, TensorLike Out, TensorLike Lse, TensorLike DOut,
          ScorePart Mask = NoMask>
void scaled_dot_product_attention_backward(const Q& q, const K& k, const V& v, const Out& out,
                                           const Lse& lse, const DOut& d_out,
                                           const detail::GradientsOf<Q, K, V>& gradients,
                                           const Mask& mask = {},
                                           const AttentionBackwardOptions& options = {}) {
    using T = ElementOf<Q>;
    using C = ComputeType<T>;
    detail::check_types<Q, K, V>();
    static_assert(std::same_as<ElementOf<Out>, T> && std::same_as<ElementOf<DOut>, T>,
                  "out and d_out must hold q's type");
    static_assert(std::same_as<ElementOf<Lse>, C>, "lse must hold q's compute type");
    const auto plan = detail::make_backward_plan(read(q), read(k), read(v), read(out), read(lse),
                                                 read(d_out), gradients, mask, options);
    const detail::Workers workers(detail::multiply_adds(plan.shape), options.executor);
    const int concurrency = workers.executor.concurrency();
    const std::size_t needed =
        detail::backward_scratch_bytes<C>(plan.rules, plan.shape, concurrency);
    detail::require_workspace(detail::backward_name, options.workspace, needed);
    const detail::Scratch scratch(needed, options.workspace);
    const detail::AttentionBackwardRun run(plan, concurrency, scratch.as<C>());
    detail::Stages stages;
    run.add_to(stages);
    stages.run(workers.executor);
}

}  // namespace heed::inline v0
