#pragma once
// How do the gradients of a MultiHeadAttention come about?
// The members of the class that go back: from the output by way of the heads to the inputs. They
// read what forward left in the module's buffers and add to the parameters of another module.

#include "heed/nn/multi_head_attention.hpp"

namespace heed::inline v0 {

template <ComputeScalar T>
void MultiHeadAttention<T>::check_gradients(TensorView<const T, 3> query,
                                            TensorView<const T, 3> key,
                                            TensorView<const T, 3> value,
                                            TensorView<const T, 3> d_out, const Gradients& inputs,
                                            const MultiHeadAttention& gradients) const {
    constexpr std::string_view where = "MultiHeadAttention";
    const auto& [dquery, dkey, dvalue] = inputs;
    detail::require_shape(where, "d_out", d_out.shape(), query.shape().with(2, output_dim()));
    detail::require_memory(where, "d_out", d_out);
    if (options_.out_projection) detail::require_contiguous_rows(where, "d_out", d_out);
    detail::require_gradient(where, "dquery", dquery, query.shape(), query, key, value, d_out);
    detail::require_gradient(where, "dkey", dkey, key.shape(), query, key, value, d_out, dquery);
    detail::require_gradient(where, "dvalue", dvalue, value.shape(), query, key, value, d_out,
                             dquery, dkey);
    detail::require_gradients(where, *this, gradients);
}

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::check_backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                           TensorView<const T, 3> value,
                                           TensorView<const T, 3> d_out, const Gradients& inputs,
                                           const MultiHeadAttention& gradients,
                                           const Mask& mask) const {
    constexpr std::string_view where = "MultiHeadAttention";
    const Call& call = last_.sizes(where);
    const Shape<3> queries(call.batch, call.q_len, options_.embed_dim);
    detail::require_shape(where, "the query", query.shape(), queries);
    detail::require_shape(where, "the key", key.shape(), {call.batch, call.kv_len, options_.kdim});
    check_inputs(query, key, value);
    check_gradients(query, key, value, d_out, inputs, gradients);
    (void)detail::WithExtraKeys<Mask>{mask, extra_keys()}.bind(
        {.batch = call.batch,
         .heads = options_.num_heads,
         .kv_heads = options_.num_kv_heads,
         .q_len = call.q_len,
         .kv_len = call.kv_len + extra_keys(),
         .head_dim = options_.head_dim,
         .value_dim = options_.value_head_dim},
        {});
}

/// The gradients of the projected heads, in the layout of forward; those of the parameters behind
/// the projections are added on the way. The attention, which is the last to refuse anything, comes
/// before all that the caller can see.
template <ComputeScalar T>
template <ScorePart Mask>
detail::Heads<T> MultiHeadAttention<T>::backward_to_heads(TensorView<const T, 3> d_out,
                                                          MultiHeadAttention& gradients,
                                                          const Mask& mask) {
    const Call& call = last_.sizes("MultiHeadAttention");
    const Shape<3> shape = d_out.shape().with(2, value_width(options_.num_heads));
    const TensorView<const T, 3> context = context_.view(shape);
    const TensorView<const T, 3> d_product = out_dropout_.backward(d_out, d_out_);
    TensorView<const T, 3> d_context = d_product;
    if (options_.out_projection) {
        const TensorView<T, 3> to = d_context_.view(shape);
        linear_backward(context, out_weight_, d_product, {.dx = to});
        d_context = to;
    }
    const Heads heads = heads_in(projected_, call), d = heads_in(d_heads_, call);
    attend_.backward_with(heads.q, heads.k, heads.v, context.split_heads(options_.num_heads),
                          d_context.split_heads(options_.num_heads), {d.q, d.k, d.v},
                          detail::WithExtraKeys<Mask>{mask, extra_keys()});
    if (options_.out_projection)
        linear_backward(context, out_weight_, d_product,
                        {.dweight = gradients.out_weight_, .dbias = gradients.out_bias_});
    backward_extra_keys(d, call, gradients);
    backward_norms(d, call, gradients);
    return d;
}

/// bias_k and bias_v are the same in every sequence; the zero key and value have no parameter.
template <ComputeScalar T>
void MultiHeadAttention<T>::backward_extra_keys(const Heads& d, const Call& call,
                                                MultiHeadAttention& gradients) const {
    if (!options_.add_bias_kv) return;
    const auto add_rows = [&](TensorView<T, 4> heads, Tensor<T, 3>& bias) {
        const TensorView<T, 2> rows = heads.merge_heads().select(1, call.kv_len);
        for (Index b = 0; b < call.batch; ++b)
            add<T, 1>(rows.select(0, b), bias.view().select(0, 0).select(0, 0));
    };
    add_rows(d.k, gradients.bias_k_);
    add_rows(d.v, gradients.bias_v_);
}

/// In place: the gradients of normalised heads become those of the heads before.
template <ComputeScalar T>
void MultiHeadAttention<T>::backward_norms(const Heads& d, const Call& call,
                                           MultiHeadAttention& gradients) {
    if (options_.qk_norm == QkNorm::none) return;
    const auto go_back = [&](detail::ReusableBuffer<T>& before, TensorView<T, 4> dy,
                             const Tensor<T, 1>& weight, Tensor<T, 1>& dweight,
                             Tensor<T, 1>& dbias) {
        const TensorView<T, 4> x = before.view(dy.shape());
        if (options_.qk_norm == QkNorm::layer_norm)
            layer_norm_backward(x, weight, options_.qk_norm_epsilon, dy, {dy, dweight, dbias});
        else
            rms_norm_backward(x, weight, options_.qk_norm_epsilon, dy, {dy, dweight});
    };
    go_back(q_before_norm_, d.q, q_norm_weight_, gradients.q_norm_weight_, gradients.q_norm_bias_);
    go_back(k_before_norm_, d.k.slice(2, 0, call.kv_len), k_norm_weight_, gradients.k_norm_weight_,
            gradients.k_norm_bias_);
}

/// Where the gradients of the query (0), key (1) or value (2) projection go.
template <ComputeScalar T>
template <int part>
LinearGradients<T, 3> MultiHeadAttention<T>::projection_gradients(
    TensorView<T, 3> dx, MultiHeadAttention& gradients) const {
    return {dx, weight_of<part>(gradients), bias_of<part>(gradients)};
}

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                     TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                                     const Gradients& inputs, MultiHeadAttention& gradients,
                                     const Mask& mask) {
    check_backward(query, key, value, d_out, inputs, gradients, mask);
    const Heads d = backward_to_heads(d_out, gradients, mask);
    const Call& call = last_.sizes("MultiHeadAttention");
    linear_backward(query, weight_of<0>(*this), d.q.merge_heads(),
                    projection_gradients<0>(inputs.dquery, gradients));
    linear_backward(key, weight_of<1>(*this), given(d.k, call),
                    projection_gradients<1>(inputs.dkey, gradients));
    linear_backward(value, weight_of<2>(*this), given(d.v, call),
                    projection_gradients<2>(inputs.dvalue, gradients));
}

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::backward(TensorView<const T, 3> x, TensorView<const T, 3> d_out,
                                     TensorView<T, 3> dx, MultiHeadAttention& gradients,
                                     const Mask& mask) {
    check_backward(x, x, x, d_out, {.dquery = dx}, gradients, mask);
    const Heads d = backward_to_heads(d_out, gradients, mask);
    const Call& call = last_.sizes("MultiHeadAttention");
    if (call.packed) {
        linear_backward(x, in_weight_, packed_in(d_heads_, call),
                        {dx, gradients.in_weight_, gradients.in_bias_});
        return;
    }
    linear_backward(x, weight_of<0>(*this), d.q.merge_heads(),
                    projection_gradients<0>(dx, gradients));
    detail::add_linear_backward<T>(x, weight_of<1>(*this), given(d.k, call),
                                   projection_gradients<1>(dx, gradients), d_part_);
    detail::add_linear_backward<T>(x, weight_of<2>(*this), given(d.v, call),
                                   projection_gradients<2>(dx, gradients), d_part_);
}

}  // namespace heed::inline v0
