#pragma once
// How does the gradient of an encoder layer go back?
// From the last norm to the input, as stages of one parallel loop. Reads what forward left in the
// layer's buffers and adds to the parameters of another layer.

#include "heed/nn/transformer.hpp"

namespace heed::inline v0 {

/// One backward, checked and ready to run. x is that of the last forward; dx may be absent.
template <ComputeScalar T>
template <ScorePart Mask>
class TransformerEncoderLayer<T>::Backward {
  public:
    using Rows = detail::RowList<T>;
    using ConstRows = detail::RowList<const T>;

    Backward(TransformerEncoderLayer& self, TensorView<const T, 3> x, TensorView<const T, 3> dy,
             TensorView<T, 3> dx, TransformerEncoderLayer& gradients, const Mask& mask, int workers)
        : norm_first_(self.norm_first_),
          way_(self, x, dy, dx),
          feed_forward_(self.feed_forward_, way_.expanded, way_.d_dropped, Rows(way_.d_branch),
                        way_.around_feed_forward, gradients.feed_forward_, workers),
          norm2_(self.norm2_.rule(), way_.before_norm2, way_.d_norm2,
                 gradients.norm2_.gradients(Rows(way_.d_sum), way_.around_norm2), way_.scales),
          attention_(self.attention_, way_.attended, way_.attended, way_.attended, way_.d_sum,
                     {.dquery = way_.d_attended}, gradients.attention_, mask, true,
                     way_.around_attention, workers),
          norm1_(self.norm1_.rule(), way_.before_norm1, Rows(way_.d_branch).to_read(),
                 gradients.norm1_.gradients(way_.d_before_norm1, way_.around_norm1), way_.scales) {
        if (self.branch_dropout_.last().probability > 0.0)
            drop_.emplace(self.branch_dropout_.last(), way_.d_last_sum,
                          Rows(self.d_dropped_.view(x.shape())));
    }

    void add_to(detail::Stages& stages) const {
        if (!norm_first_) norm2_.add_to(stages);
        if (drop_) stages.then(drop_->count(), *drop_);
        feed_forward_.add_to(stages);
        if (norm_first_) {
            norm2_.add_to(stages);
            attention_.add_to(stages);
            norm1_.add_to(stages);
        } else {
            norm1_.add_to(stages);
            attention_.add_to(stages);
        }
    }

  private:
    /// Where everything lies. "Around" is what a residual carries past a part.
    struct Way {
        TensorView<const T, 3> attended;
        TensorView<T, 3> d_sum, d_branch, d_attended;
        Rows d_before_norm1;
        ConstRows expanded, d_last_sum, d_dropped, d_norm2, before_norm1, before_norm2;
        ConstRows around_feed_forward, around_norm2, around_attention, around_norm1;
        T* scales;

        Way(TransformerEncoderLayer& self, TensorView<const T, 3> x, TensorView<const T, 3> dy,
            TensorView<T, 3> dx)
            : d_sum(self.d_sum_.view(x.shape())), d_branch(self.d_branch_.view(x.shape())) {
            const auto in = [&](detail::ReusableBuffer<T>& buffer) {
                return ConstRows(read(buffer.view(x.shape())));
            };
            const ConstRows of_sum(read(d_sum)), of_branch(read(d_branch));
            expanded = in(self.normed_);
            if (self.norm_first_) {
                attended = self.attention_input_.view(x.shape());
                before_norm1 = ConstRows(x);
                before_norm2 = in(self.sum_);
                d_last_sum = around_norm2 = ConstRows(dy);
                d_norm2 = of_branch;
                d_attended = d_branch;
                d_before_norm1 = Rows(dx);
                around_norm1 = of_sum;
            } else {
                attended = x;
                before_norm1 = in(self.sum_);
                before_norm2 = in(self.last_sum_);
                d_norm2 = ConstRows(dy);
                d_last_sum = around_feed_forward = of_sum;
                d_before_norm1 = Rows(d_sum);
                d_attended = dx;
                around_attention = of_sum;
            }
            d_dropped =
                self.branch_dropout_.last().probability > 0.0 ? in(self.d_dropped_) : d_last_sum;
            scales = self.scales_.view(Shape<1>(2 * before_norm1.count())).data();
        }
    };

    bool norm_first_;
    Way way_;
    typename FeedForward<T>::Backward feed_forward_;
    detail::NormGradientRows<T> norm2_;
    typename MultiHeadAttention<T>::template Backward<Mask> attention_;
    detail::NormGradientRows<T> norm1_;
    std::optional<detail::DropoutRows<T>> drop_;
};

}  // namespace heed::inline v0
