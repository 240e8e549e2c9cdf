#pragma once
// How does the output of a MultiHeadAttention come about?
// From the inputs by way of the heads: projections written where the attention reads them, the
// attention, the output projection, as stages of one parallel loop.

#include <optional>

#include "heed/base/stages.hpp"
#include "heed/nn/multi_head_attention.hpp"

namespace heed::inline v0 {

namespace detail {

/// Heads [batch, heads, length, width], each vector normalised in place, in pieces of some
/// positions; `before`, where it is given, receives what they were.
template <ComputeScalar T>
class NormOfHeads {
  public:
    NormOfHeads(const NormRule<T>& norm, TensorView<T, 4> heads, TensorView<T, 4> before)
        : norm_(norm), heads_(heads), before_(before) {}

    [[nodiscard]] Index count() const { return heads_.extent(0) * blocks(); }

    void operator()(Index piece, int /*worker*/) const {
        const TensorView<T, 3> x = part(heads_, piece);
        if (is_wanted(before_)) copy(x, part(before_, piece));
        const NormRows<T> rows(norm_, RowList<const T>(read(x)), RowList<T>(x));
        for (Index i = 0; i < rows.count(); ++i) rows(i, 0);
    }

  private:
    static constexpr Index positions = 16;

    [[nodiscard]] Index blocks() const { return pieces(heads_.extent(2), positions); }
    [[nodiscard]] TensorView<T, 3> part(TensorView<T, 4> heads, Index piece) const {
        const Index first = piece % blocks() * positions;
        const Index count = std::min(positions, heads.extent(2) - first);
        return heads.select(0, piece / blocks()).slice(1, first, count).transpose(0, 1);
    }

    NormRule<T> norm_;
    TensorView<T, 4> heads_, before_;
};

}  // namespace detail

/// One forward, checked and ready to run: out = residual + layer(query, key, value). The residual
/// may be absent, or the view of out. What it is given must live, and the module not be used
/// otherwise, until `finish`.
template <ComputeScalar T>
template <ScorePart Mask>
class MultiHeadAttention<T>::Forward {
  public:
    /// Throws whatever forward refuses.
    Forward(MultiHeadAttention& self, TensorView<const T, 3> query, TensorView<const T, 3> key,
            TensorView<const T, 3> value, TensorView<T, 3> out, const Mask& mask,
            const Outputs& outputs, detail::RowList<const T> residual, int workers)
        : self_(self),
          outputs_(outputs),
          out_(out),
          call_(self.call_of(query, key, value)),
          heads_(self.heads_in(self.projected_, call_)),
          context_(self.options_.out_projection || self.out_dropout_.active()
                       ? self.context_.view(out.shape().with(2, self.attended_width()))
                       : out),
          wanted_{self.weights_buffer(outputs, heads_), outputs.lse},
          query_(rows(query), self.template projection<0>(), rows(heads_.q), workers),
          key_(rows(key), self.template projection<1>(), rows(given(heads_.k, call_)), workers),
          value_(rows(value), self.template projection<2>(), rows(given(heads_.v, call_)), workers),
          attend_(self.attend_.prepare(
              heads_.q, heads_.k, heads_.v, context_.split_heads(self.options_.num_heads),
              detail::with_extra_keys(mask, self.extra_keys()), wanted_, workers)) {
        const bool drops = self.out_dropout_.active();
        if (self.options_.qk_norm != QkNorm::none) {
            query_norm_.emplace(self.template norm_of<0>(), heads_.q,
                                self.kept(self.q_before_norm_, heads_.q));
            const TensorView<T, 4> keys = heads_.k.slice(2, 0, call_.kv_len);
            key_norm_.emplace(self.template norm_of<1>(), keys,
                              self.kept(self.k_before_norm_, keys));
        }
        if (self.options_.out_projection)
            project_.emplace(rows(context_).to_read(), self.out_weight_.for_product(self.out_bias_),
                             rows(out), workers,
                             detail::ProductFinish<T>{.residual = drops ? detail::RowList<const T>()
                                                                        : residual});
        if (drops)
            drop_.emplace(self.out_dropout_.current(), rows(project_ ? out : context_).to_read(),
                          rows(out), residual);
    }

    void add_to(detail::Stages& stages) const {
        stages.then(query_.count(), query_);
        stages.beside(key_.count(), key_);
        stages.beside(value_.count(), value_);
        if (query_norm_) {
            stages.then(query_norm_->count(), *query_norm_);
            stages.beside(key_norm_->count(), *key_norm_);
        }
        stages.then(attend_.count(), attend_);
        if (project_) stages.then(project_->count(), *project_);
        if (drop_) stages.then(drop_->count(), *drop_);
    }

    /// Before the stages run: the keys and values that no product makes.
    void begin() const {
        if (self_.extra_keys() > 0)
            self_.append_extra_keys(heads_.k.merge_heads(), heads_.v.merge_heads(), call_.kv_len);
    }
    /// After they have run.
    void finish() const {
        self_.attend_.finish(heads_.q, heads_.k, heads_.v, wanted_);
        if (detail::is_wanted(outputs_.averaged_weights))
            average_heads(wanted_.weights, outputs_.averaged_weights);
        self_.out_dropout_.advance();
        if (!self_.training()) return;
        if (!project_ && !drop_) self_.context_.template keep<3>(out_);
        self_.last_.remember(call_);
    }

  private:
    using Heads4 = TensorView<T, 4>;
    using Attention = decltype(std::declval<ScaledDotProductAttention<T>&>().prepare(
        Heads4(), Heads4(), Heads4(), Heads4(),
        detail::with_extra_keys(std::declval<const Mask&>(), Index()), AttentionOutputs<T>(), 1));

    static detail::RowList<const T> rows(TensorView<const T, 3> view) {
        return detail::RowList<const T>(view);
    }
    static detail::RowList<T> rows(TensorView<T, 3> view) { return detail::RowList<T>(view); }
    static detail::RowList<T> rows(Heads4 heads) { return rows(heads.merge_heads()); }

    MultiHeadAttention& self_;
    Outputs outputs_;
    TensorView<T, 3> out_;
    Call call_;
    Heads heads_;
    TensorView<T, 3> context_;
    AttentionOutputs<T> wanted_;
    detail::Product<T> query_, key_, value_;
    Attention attend_;
    std::optional<detail::NormOfHeads<T>> query_norm_, key_norm_;
    std::optional<detail::Product<T>> project_;
    std::optional<detail::DropoutRows<T>> drop_;
};

template <ComputeScalar T>
template <ScorePart Mask>
void MultiHeadAttention<T>::forward(TensorView<const T, 3> query, TensorView<const T, 3> key,
                                    TensorView<const T, 3> value, TensorView<T, 3> out,
                                    const Mask& mask, const Outputs& outputs) {
    check_inputs(query, key, value);
    check_outputs(query, key, value, out, outputs);
    last_.forget();
    const detail::Workers workers(multiply_adds(query.shape(), key.shape()));
    const int concurrency = workers.executor.concurrency();
    const Index at_once = elements_at_once(query.shape(), key.shape(), mask, outputs, concurrency);
    detail::for_each_batch_part(
        query.extent(0), at_once, mask, [&](const detail::BatchPart& part, const Mask& part_mask) {
            const Forward<Mask> forward(*this, part(query), part(key), part(value), part(out),
                                        part_mask, outputs, {}, concurrency);
            detail::Stages stages;
            forward.add_to(stages);
            forward.begin();
            stages.run(workers.executor);
            forward.finish();
        });
}

}  // namespace heed::inline v0
