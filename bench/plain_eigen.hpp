#pragma once
// What would a C++ user write with Eigen?
// Head by head two matrix products and a softmax between them; for gradients four products, with
// the weights that the forward pass kept. Includes nothing of heed.

#include <Eigen/Core>
#include <cmath>
#include <limits>

#include "attention_problem.hpp"

namespace bench {

/// One head of q, k and v, and the weights that its queries give to its keys.
template <class T>
class PlainEigenHead {
  public:
    using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using Input = Eigen::Map<const Matrix>;
    using Output = Eigen::Map<Matrix>;

    PlainEigenHead(const Problem& p, Size head, const T* q, const T* k, const T* v)
        : queries(of_queries<Input>(p, head, q)),
          keys(of_keys<Input>(p, head, k)),
          values(of_keys<Input>(p, head, v)),
          problem_(p) {}

    /// The rows of one head of a tensor like q, out or their gradients.
    template <class Map, class Pointer>
    [[nodiscard]] static Map of_queries(const Problem& p, Size head, Pointer tensor) {
        return Map(tensor + head * p.Lq * p.D, p.Lq, p.D);
    }
    /// The rows of one head of a tensor like k, v or their gradients.
    template <class Map, class Pointer>
    [[nodiscard]] static Map of_keys(const Problem& p, Size head, Pointer tensor) {
        return Map(tensor + head * p.Lk * p.D, p.Lk, p.D);
    }

    [[nodiscard]] T scale() const { return 1 / std::sqrt(static_cast<T>(problem_.D)); }

    /// weights = scale * q k^T; a bias is added by the caller.
    template <class Weights>
    void scores(Weights& weights) const {
        weights.noalias() = (scale() * queries) * keys.transpose();
    }
    /// From scores to weights.
    template <class Weights>
    void softmax(Weights& weights) const {
        if (problem_.causal) hide_keys(weights);
        for (Size i = 0; i < problem_.Lq; ++i) {
            auto row = weights.row(i).array();
            row = (row - row.maxCoeff()).exp();
            row /= row.sum();
        }
    }

    Input queries, keys, values;

  private:
    template <class Weights>
    void hide_keys(Weights& weights) const {
        const T hidden = -std::numeric_limits<T>::infinity();
        for (Size i = 0; i < problem_.Lq; ++i) {
            weights.row(i).head(problem_.first_key(i)).setConstant(hidden);
            weights.row(i).tail(problem_.Lk - problem_.end_key(i)).setConstant(hidden);
        }
    }

    Problem problem_;
};

/// With a matrix for the scores that is reused from head to head.
template <class T>
class PlainEigen final : public Attention<T> {
  public:
    explicit PlainEigen(const Problem& problem)
        : problem_(problem), scores_(Head::Matrix::Zero(problem.Lq, problem.Lk)) {}

    void run(const T* q, const T* k, const T* v, T* out) override {
        for (Size h = 0; h < problem_.B * problem_.H; ++h) {
            const Head head(problem_, h, q, k, v);
            head.scores(scores_);
            head.softmax(scores_);
            auto result = Head::template of_queries<typename Head::Output>(problem_, h, out);
            result.noalias() = scores_ * head.values;
        }
    }

    [[nodiscard]] std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(scores_.size()) * sizeof(T);
    }

  private:
    using Head = PlainEigenHead<T>;

    Problem problem_;
    typename Head::Matrix scores_;
};

/// With the weights of all heads, as the forward pass has left them, and a matrix for the gradients
/// of the scores that is reused from head to head. A bias is Bias::full or none.
template <class T>
class PlainEigenBackward final : public BackwardPass {
  public:
    PlainEigenBackward(const Problem& problem, const BackwardTensors<T>& tensors)
        : problem_(problem),
          tensors_(tensors),
          weights_(problem.B * problem.H * problem.Lq, problem.Lk),
          d_scores_(Matrix::Zero(problem.Lq, problem.Lk)) {
        for (Size h = 0; h < problem.B * problem.H; ++h) {
            const Head head = head_at(h);
            auto weights = weights_at(h);
            head.scores(weights);
            if (tensors.bias.kind == Bias::full)
                weights += Input(tensors.bias.values + bias_at(h), problem.Lq, problem.Lk);
            head.softmax(weights);
        }
    }

    void run() override {
        for (Size h = 0; h < problem_.B * problem_.H; ++h) {
            const Head head = head_at(h);
            const auto weights = weights_at(h);
            const auto d_out = Head::template of_queries<Input>(problem_, h, tensors_.d_out);
            auto dq = Head::template of_queries<Output>(problem_, h, tensors_.dq);
            auto dk = Head::template of_keys<Output>(problem_, h, tensors_.dk);
            auto dv = Head::template of_keys<Output>(problem_, h, tensors_.dv);
            dv.noalias() = weights.transpose() * d_out;
            d_scores_.noalias() = d_out * head.values.transpose();
            softmax_backward(weights);
            if (tensors_.bias.gradient != nullptr) add_bias_gradient(h);
            dq.noalias() = head.scale() * d_scores_ * head.keys;
            dk.noalias() = head.scale() * d_scores_.transpose() * head.queries;
        }
    }

    [[nodiscard]] std::size_t scratch_bytes() const override {
        return static_cast<std::size_t>(weights_.size() + d_scores_.size()) * sizeof(T);
    }

  private:
    using Head = PlainEigenHead<T>;
    using Matrix = typename Head::Matrix;
    using Input = typename Head::Input;
    using Output = typename Head::Output;

    [[nodiscard]] Head head_at(Size h) const {
        return {problem_, h, tensors_.q, tensors_.k, tensors_.v};
    }
    [[nodiscard]] auto weights_at(Size h) {
        return weights_.middleRows(h * problem_.Lq, problem_.Lq);
    }
    /// Where the bias of a head begins; all of the batch share it.
    [[nodiscard]] Size bias_at(Size h) const { return h % problem_.H * problem_.Lq * problem_.Lk; }

    /// From the gradients of the weights to those of the scores.
    template <class Weights>
    void softmax_backward(const Weights& weights) {
        for (Size i = 0; i < problem_.Lq; ++i) {
            auto row = d_scores_.row(i).array();
            const auto weight = weights.row(i).array();
            row = weight * (row - (weight * row).sum());
        }
    }

    void add_bias_gradient(Size h) {
        Output gradient(tensors_.bias.gradient + bias_at(h), problem_.Lq, problem_.Lk);
        if (h < problem_.H)
            gradient = d_scores_;
        else
            gradient += d_scores_;
    }

    Problem problem_;
    BackwardTensors<T> tensors_;
    Matrix weights_;
    Matrix d_scores_;
};

}  // namespace bench
