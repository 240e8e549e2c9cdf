#pragma once
// Is this attention possible, and with which resolved numbers?
// Checks every rule once, before anything is written; below the plan nothing is optional any more.

#include <cmath>
#include <limits>
#include <string_view>

#include "heed/attention/compose.hpp"
#include "heed/attention/options.hpp"
#include "heed/tensor/checks.hpp"

namespace heed::inline v0 {
namespace detail {

inline constexpr std::string_view sdpa_name = "scaled_dot_product_attention";

/// A checked attention: views that fit each other, defaults resolved, rules bound.
template <class Q, class K, class V, class Rules>
struct AttentionPlan {
    AttentionShape shape;
    TensorView<const Q, 4> q;
    TensorView<const K, 4> k;
    TensorView<const V, 4> v;
    TensorView<Q, 4> out;
    Rules rules;
    ComputeType<Q> scale;
    DropoutRule dropout;
    AttentionOptions<Q> options;
};

/// The sizes of q, k and v. Throws ShapeError when they do not fit each other.
template <class Q, class K, class V>
[[nodiscard]] AttentionShape attention_shape(TensorView<const Q, 4> q, TensorView<const K, 4> k,
                                             TensorView<const V, 4> v,
                                             std::string_view where = sdpa_name) {
    if (k.extent(0) != q.extent(0) || v.extent(0) != q.extent(0))
        fail<ShapeError>(where, "q, k and v must have the same batch; found q ", q.shape(), ", k ",
                         k.shape(), ", v ", v.shape());
    if (k.extent(3) != q.extent(3))
        fail<ShapeError>(where, "q and k must have the same head_dim; found q ", q.shape(), ", k ",
                         k.shape());
    if (v.extent(1) != k.extent(1) || v.extent(2) != k.extent(2))
        fail<ShapeError>(where, "k and v must have the same kv_heads and kv_len; found k ",
                         k.shape(), ", v ", v.shape());
    if (q.extent(1) == 0 || k.extent(1) == 0 || q.extent(1) % k.extent(1) != 0)
        fail<ShapeError>(where, "kv_heads must divide heads, and neither may be 0; found heads ",
                         q.extent(1), ", kv_heads ", k.extent(1));
    return {.batch = q.extent(0),
            .heads = q.extent(1),
            .kv_heads = k.extent(1),
            .q_len = q.extent(2),
            .kv_len = k.extent(2),
            .head_dim = q.extent(3),
            .value_dim = v.extent(3)};
}

/// The output must have its shape and a place of its own.
template <class Q, class K, class V, class Rules>
void check_output(const AttentionPlan<Q, K, V, Rules>& p) {
    const AttentionShape& s = p.shape;
    require_output(sdpa_name, "out", p.out, {s.batch, s.heads, s.q_len, s.value_dim}, p.q, p.k,
                   p.v);
}

/// Checks the further outputs that are wanted: shapes, strides, overlap with inputs and with each
/// other.
template <class Q, class K, class V, class Rules>
void check_wanted_outputs(const AttentionPlan<Q, K, V, Rules>& p) {
    const AttentionShape& s = p.shape;
    const auto& [out, lse, weights, scores] =
        std::tie(p.out, p.options.lse, p.options.weights, p.options.scores);
    if (is_wanted(weights))
        require_output(sdpa_name, "weights", weights, score_shape(s), p.q, p.k, p.v, out);
    if (is_wanted(scores))
        require_output(sdpa_name, "scores", scores, score_shape(s), p.q, p.k, p.v, out, weights);
    if (is_wanted(lse))
        require_output(sdpa_name, "lse", lse, {s.batch, s.heads, s.q_len}, p.q, p.k, p.v, out,
                       weights, scores);
}

/// The tensors that masks and biases read must exist and must not be written.
template <class Q, class K, class V, class Rules>
void check_mask_tensors(const AttentionPlan<Q, K, V, Rules>& p) {
    const bool reads_null = p.rules.any_tensor(
        [](const auto& tensor) { return tensor.data() == nullptr && !tensor.empty(); });
    if (reads_null)
        fail<ArgumentError>(sdpa_name, "masks and biases must point at memory; found null");
    const bool reads_output = p.rules.any_tensor([&p](const auto& tensor) {
        return overlaps(p.out, tensor) || overlaps(p.options.weights, tensor) ||
               overlaps(p.options.scores, tensor) || overlaps(p.options.lse, tensor);
    });
    if (reads_output)
        fail<ShapeError>(sdpa_name, "masks and biases must not overlap an output; ",
                         "found overlapping memory");
}

/// The workspace is written while everything else is read or written.
template <class Q, class K, class V, class Rules>
void check_workspace(const AttentionPlan<Q, K, V, Rules>& p) {
    const std::span<std::byte> bytes = p.options.workspace;
    const TensorView<std::byte, 1> workspace(bytes, Shape<1>(bytes.size()));
    const auto in_use = [&](const auto&... views) { return (overlaps(workspace, views) || ...); };
    if (in_use(p.q, p.k, p.v, p.out, p.options.weights, p.options.scores, p.options.lse) ||
        p.rules.any_tensor(in_use))
        fail<ShapeError>(sdpa_name, "the workspace must not overlap an input, a mask or an output;",
                         " found overlapping memory");
}

/// 1 / sqrt(head_dim) unless given; an empty sum of products (head_dim 0) needs no scale.
template <class C>
[[nodiscard]] C resolve_scale(std::optional<double> scale, Index head_dim,
                              std::string_view where = sdpa_name) {
    if (!scale) return head_dim == 0 ? C(1) : C(1) / std::sqrt(static_cast<C>(head_dim));
    const C converted = convert<C>(*scale);
    if (!std::isfinite(converted))
        fail<ArgumentError>(where, "the scale must be finite in the compute type; found ", *scale);
    return converted;
}

/// Everything the options name must fit: outputs, the tensors of the masks, the workspace.
template <class Q, class K, class V, class Rules>
void check_options(const AttentionPlan<Q, K, V, Rules>& p) {
    check_wanted_outputs(p);
    check_mask_tensors(p);
    check_workspace(p);
}

/// The sizes of inputs that fit each other and exist. Throws ShapeError or ArgumentError.
template <class Q, class K, class V>
[[nodiscard]] AttentionShape checked_inputs(TensorView<const Q, 4> q, TensorView<const K, 4> k,
                                            TensorView<const V, 4> v,
                                            std::string_view where = sdpa_name) {
    const AttentionShape shape = attention_shape(q, k, v, where);
    require_memory(where, "q", q);
    require_memory(where, "k", k);
    require_memory(where, "v", v);
    return shape;
}

/// Binds the masks and resolves every default; views are not checked yet. Throws ShapeError or
/// ArgumentError.
template <class Q, class K, class V, ScorePart Mask>
[[nodiscard]] auto bind_plan(const AttentionShape& shape, TensorView<const Q, 4> q,
                             TensorView<const K, 4> k, TensorView<const V, 4> v,
                             TensorView<Q, 4> out, const Mask& mask,
                             const AttentionOptions<Q>& options,
                             std::string_view where = sdpa_name) {
    auto rules = from_parts(parts_of(mask)).bind(shape);
    AttentionPlan<Q, K, V, decltype(rules)> plan{
        shape,
        q,
        k,
        v,
        out,
        std::move(rules),
        resolve_scale<ComputeType<Q>>(options.scale, shape.head_dim, where),
        DropoutRule(where, options.dropout),
        options};
    // Dropout's counter has 32 bits for the query and for batch * heads, 34 for the key.
    constexpr Index longest = std::numeric_limits<std::uint32_t>::max();
    if (plan.dropout.active() &&
        (shape.q_len > longest || shape.kv_len > longest || shape.batch > longest / shape.heads))
        fail<ShapeError>(where, "dropout needs q_len, kv_len and batch * heads below 2^32; ",
                         "found ", score_shape(shape));
    return plan;
}

/// Checks everything and resolves every default. Throws ShapeError or ArgumentError.
template <class Q, class K, class V, ScorePart Mask>
[[nodiscard]] auto make_plan(TensorView<const Q, 4> q, TensorView<const K, 4> k,
                             TensorView<const V, 4> v, TensorView<Q, 4> out, const Mask& mask,
                             const AttentionOptions<Q>& options) {
    auto plan = bind_plan(checked_inputs(q, k, v), q, k, v, out, mask, options);
    check_output(plan);
    check_options(plan);
    return plan;
}

}  // namespace detail
}  // namespace heed::inline v0
