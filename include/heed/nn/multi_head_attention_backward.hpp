#pragma once
// How do the gradients of a MultiHeadAttention come about?
// From the output by way of the heads to the inputs, as stages of one parallel loop. Reads what
// forward left in the module's buffers and adds to the parameters of another module.

#include <array>
#include <optional>
#include <utility>

#include "heed/nn/multi_head_attention.hpp"
#include "heed/ops/linear_gradients.hpp"

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
    const bool one_input =
        detail::is_self_attention(query, key, value) && dkey.empty() && dvalue.empty();
    detail::require_gradient(where, one_input ? "dx" : "dquery", dquery, query.shape(), query, key,
                             value, d_out);
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
    detail::require_shape(where, detail::query_name(query, key, value), query.shape(), queries);
    detail::require_shape(where, "the key", key.shape(), {call.batch, call.kv_len, options_.kdim});
    check_inputs(query, key, value);
    check_gradients(query, key, value, d_out, inputs, gradients);
    for (const auto* matrix : {&in_weight_, &key_weight_, &value_weight_, &out_weight_})
        matrix->require_matrix();
    (void)detail::with_extra_keys(mask, extra_keys())
        .bind({.batch = call.batch,
               .heads = options_.num_heads,
               .kv_heads = options_.num_kv_heads,
               .q_len = call.q_len,
               .kv_len = call.kv_len + extra_keys(),
               .head_dim = options_.head_dim,
               .value_dim = options_.value_head_dim},
              {});
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

namespace detail {

/// The gradients of NormOfHeads, in place: those of normalised heads become those of the heads
/// before. One batch element after another, for each is a list of rows of its own.
template <ComputeScalar T>
class NormOfHeadsGradient {
  public:
    NormOfHeadsGradient(const NormRule<T>& norm, TensorView<const T, 4> before,
                        TensorView<T, 4> d_heads, TensorView<T, 1> dweight, TensorView<T, 1> dbias)
        : norm_(norm), before_(before), d_heads_(d_heads), dweight_(dweight), dbias_(dbias) {}

    void operator()(Index /*piece*/, int /*worker*/) const {
        if (norm_.kind == NormKind::layer)
            layer_norm_backward(before_, norm_.weight, norm_.epsilon, d_heads_,
                                {d_heads_, dweight_, dbias_});
        else
            rms_norm_backward(before_, norm_.weight, norm_.epsilon, d_heads_, {d_heads_, dweight_});
    }

  private:
    NormRule<T> norm_;
    TensorView<const T, 4> before_;
    TensorView<T, 4> d_heads_;
    TensorView<T, 1> dweight_, dbias_;
};

}  // namespace detail

/// One backward, checked and ready to run. dx of the inputs may be absent; where they are one
/// input, dquery alone is wanted, and is residual + the gradient of that input.
template <ComputeScalar T>
template <ScorePart Mask>
class MultiHeadAttention<T>::Backward {
  public:
    using Rows = detail::RowList<const T>;

    Backward(MultiHeadAttention& self, TensorView<const T, 3> query, TensorView<const T, 3> key,
             TensorView<const T, 3> value, TensorView<const T, 3> d_out, const Gradients& inputs,
             MultiHeadAttention& gradients, const Mask& mask, bool one_input, Rows residual,
             int workers)
        : self_(self),
          gradients_(gradients),
          workers_(workers),
          call_(self.last_.sizes("MultiHeadAttention")),
          heads_(self.heads_in(self.projected_, call_)),
          d_(self.heads_in(self.d_heads_, call_)),
          context_(self.context_.view(d_out.shape().with(2, self.attended_width()))),
          d_product_(d_out),
          d_context_(self.options_.out_projection ? self.d_context_.view(context_.shape())
                                                  : TensorView<T, 3>()),
          attend_(prepare_attention(d_out, mask, workers)) {
        drop(d_out);
        project(d_out);
        norm_heads();
        if (one_input && call_.side_by_side)
            to_inputs_[0].emplace(Rows(query), self.in_weight_.for_gradient(),
                                  Rows(self.side_by_side_in(self.d_heads_, call_)),
                                  rows(inputs.dquery), residual, gradients.in_weight_.sum(),
                                  gradients.in_bias_, workers_);
        else if (one_input)
            go_back_to(query, query, query, {inputs.dquery, inputs.dquery, inputs.dquery}, residual,
                       true);
        else
            go_back_to(query, key, value, inputs, {}, false);
    }

    void add_to(detail::Stages& stages) const {
        if (drop_) stages.then(drop_->count(), *drop_);
        if (project_) project_->add_to(stages);
        attend_.add_to(stages);
        if (self_.options_.add_bias_kv)
            stages.then(1, ParallelTask::of<&Backward::add_extra_keys>(*this));
        if (query_norm_) {
            stages.then(1, *query_norm_);
            stages.beside(1, *key_norm_);
        }
        for (const auto& to_input : to_inputs_)
            if (to_input) to_input->add_to(stages);
    }

  private:
    static detail::RowList<T> rows(TensorView<T, 3> view) { return detail::RowList<T>(view); }
    [[nodiscard]] TensorView<const T, 3> slopes(TensorView<T, 4> heads) const {
        return heads.merge_heads();
    }

    void add_extra_keys(Index /*piece*/, int /*worker*/) const {
        self_.backward_extra_keys(d_, call_, gradients_);
    }

    /// The gradient of the context is that of the output where there is no projection.
    [[nodiscard]] auto prepare_attention(TensorView<const T, 3> d_out, const Mask& mask,
                                         int workers) {
        const Index heads = self_.options_.num_heads;
        const bool drops = self_.out_dropout_.last().probability > 0.0;
        if (drops) d_product_ = self_.d_out_.view(d_out.shape());
        const TensorView<const T, 3> d_context =
            self_.options_.out_projection ? TensorView<const T, 3>(d_context_) : d_product_;
        return self_.attend_.prepare_backward(
            heads_.q, heads_.k, heads_.v, context_.split_heads(heads), d_context.split_heads(heads),
            {d_.q, d_.k, d_.v}, detail::with_extra_keys(mask, self_.extra_keys()), workers);
    }

    void drop(TensorView<const T, 3> d_out) {
        if (self_.out_dropout_.last().probability == 0.0) return;
        drop_.emplace(self_.out_dropout_.last(), Rows(d_out),
                      rows(self_.d_out_.view(d_out.shape())));
    }
    void project(TensorView<const T, 3>) {
        if (!self_.options_.out_projection) return;
        project_.emplace(Rows(read(context_)), self_.out_weight_.for_gradient(), Rows(d_product_),
                         rows(d_context_), Rows(), gradients_.out_weight_.sum(),
                         gradients_.out_bias_, workers_);
    }
    void norm_heads() {
        if (self_.options_.qk_norm == QkNorm::none) return;
        const auto prepare = [&](auto& stage, const detail::NormRule<T>& norm,
                                 detail::ReusableBuffer<T>& before, TensorView<T, 4> d,
                                 TensorView<T, 1> dweight, TensorView<T, 1> dbias) {
            stage.emplace(norm, before.view(d.shape()), d, dweight, dbias);
        };
        prepare(query_norm_, self_.template norm_of<0>(), self_.q_before_norm_, d_.q,
                gradients_.q_norm_weight_, gradients_.q_norm_bias_);
        prepare(key_norm_, self_.template norm_of<1>(), self_.k_before_norm_,
                d_.k.slice(2, 0, call_.kv_len), gradients_.k_norm_weight_, gradients_.k_norm_bias_);
    }

    /// By way of the three projections, one after another where their gradients are added up.
    void go_back_to(TensorView<const T, 3> query, TensorView<const T, 3> key,
                    TensorView<const T, 3> value, const Gradients& inputs, Rows residual,
                    bool adds_up) {
        const auto go_back = [&]<int part>(TensorView<const T, 3> x, TensorView<T, 3> dy,
                                           TensorView<T, 3> dx) {
            const Rows before = adds_up && part > 0 ? rows(dx).to_read() : residual;
            to_inputs_[part].emplace(Rows(x), self_.template projection_backward<part>(),
                                     Rows(read(dy)), rows(dx), before,
                                     detail::GradientSum<T>{self_.template part_of<part>(
                                         gradients_.template matrix_of<part>().change())},
                                     bias_of<part>(gradients_), workers_);
        };
        go_back.template operator()<0>(query, d_.q.merge_heads(), inputs.dquery);
        go_back.template operator()<1>(key, given(d_.k, call_), inputs.dkey);
        go_back.template operator()<2>(value, given(d_.v, call_), inputs.dvalue);
    }

    MultiHeadAttention& self_;
    MultiHeadAttention& gradients_;
    int workers_;
    Call call_;
    Heads heads_, d_;
    TensorView<const T, 3> context_, d_product_;
    TensorView<T, 3> d_context_;
    std::optional<detail::DropoutRows<T>> drop_;
    std::optional<detail::LinearGradientStages<T>> project_;
    using Attention = decltype(std::declval<ScaledDotProductAttention<T>&>().prepare_backward(
        Heads().q, Heads().k, Heads().v, Heads().q, Heads().q, AttentionGradients<T>(),
        detail::with_extra_keys(std::declval<const Mask&>(), Index()), 1));
    Attention attend_;
    std::optional<detail::NormOfHeadsGradient<T>> query_norm_, key_norm_;
    std::array<std::optional<detail::LinearGradientStages<T>>, 3> to_inputs_;
};

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::run_backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                         TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                                         const Gradients& inputs, MultiHeadAttention& gradients,
                                         const Mask& mask, bool one_input) {
    check_backward(query, key, value, d_out, inputs, gradients, mask);
    const detail::Workers workers(2 * multiply_adds(query.shape(), key.shape()));
    const Backward<Mask> backward(*this, query, key, value, d_out, inputs, gradients, mask,
                                  one_input, {}, workers.executor.concurrency());
    detail::Stages stages;
    backward.add_to(stages);
    stages.run(workers.executor);
}

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::backward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                     TensorView<const T, 3> value, TensorView<const T, 3> d_out,
                                     const Gradients& inputs, MultiHeadAttention& gradients,
                                     const Mask& mask) {
    run_backward(query, key, value, d_out, inputs, gradients, mask, false);
}

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::backward(TensorView<const T, 3> x, TensorView<const T, 3> d_out,
                                     TensorView<T, 3> dx, MultiHeadAttention& gradients,
                                     const Mask& mask) {
    run_backward(x, x, x, d_out, {.dquery = dx}, gradients, mask, true);
}

}  // namespace heed::inline v0
