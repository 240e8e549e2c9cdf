#pragma once
// How does a vision transformer turn pictures into classes?
// timm's VisionTransformer put together from heed's modules: patches, blocks, a norm, a head. Gives
// the attention of every block to whoever asks.
//
// Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929; names and order of
// operations of github.com/huggingface/pytorch-image-models.

#include <string>
#include <string_view>
#include <vector>

#include "architecture.hpp"
#include "heed/nn/layers.hpp"
#include "heed/nn/transformer.hpp"
#include "heed/tensor/broadcast.hpp"
#include "resample.hpp"

namespace vit {

template <heed::ComputeScalar T>
class VisionTransformer : public heed::Module<VisionTransformer<T>> {
  public:
    static constexpr double epsilon = 1e-6;  ///< of every LayerNorm

    /// Weights are zero (scales one) until loaded. Throws heed::ArgumentError for sizes below 1, or
    /// heads that do not divide the width.
    explicit VisionTransformer(const Architecture& a)
        : architecture_(a),
          patch_weight_({a.width, Index{3}, a.patch_size, a.patch_size}),
          patch_bias_(a.width),
          positions_({Index{1}, a.positions(), a.width}),
          norm_({a.width, epsilon}) {
        if (a.class_token) class_token_ = heed::Tensor<T, 3>({Index{1}, Index{1}, a.width});
        if (a.registers > 0) registers_ = heed::Tensor<T, 3>({Index{1}, a.registers, a.width});
        if (a.classes > 0) head_ = heed::Linear<T>({a.width, a.classes});
        for (Index i = 0; i < a.depth; ++i) blocks_.emplace_back(a);
    }

    /// The model of these weights, all of them. Throws heed::FormatError for weights that do not
    /// fit, and as architecture_of does.
    explicit VisionTransformer(const heed::NamedTensors& weights, const Choices& choices = {})
        : VisionTransformer(architecture_of(weights, choices)) {
        this->load(weights);
        for (Block& block : blocks_) block.fold_scales();
    }

    [[nodiscard]] const Architecture& architecture() const { return architecture_; }

    /// Makes it read squares of another size: position embeddings are resized, as timm does.
    /// Throws heed::ArgumentError unless the patches fill the square.
    void set_image_size(Index size) {
        Architecture& a = architecture_;
        if (size < a.patch_size || size % a.patch_size != 0)
            throw heed::ArgumentError(
                "[set_image_size] the size must be a multiple of that of a "
                "patch, " +
                std::to_string(a.patch_size) + "; found " + std::to_string(size));
        if (size == a.image_size) return;
        const heed::Tensor<T, 3> old = std::move(positions_);
        const Index kept = a.positions() - a.patches(), grid = a.grid();
        a.image_size = size;
        positions_ = heed::Tensor<T, 3>({Index{1}, a.positions(), a.width});
        const auto part = [](auto view, Index begin) {
            return view.slice(1, begin, view.extent(1) - begin);
        };
        heed::copy(old.view().slice(1, 0, kept), positions_.view().slice(1, 0, kept));
        const heed::Tensor<T, 3> resized =
            resize<T>(part(old.view(), kept).split(1, grid).select(0, 0), a.grid(), a.grid());
        heed::copy(resized.view().merge(0).unsqueeze(), part(positions_.view(), kept));
    }

    /// Logits [batch, classes], or without a head the features [batch, width], of normalised images
    /// [batch, 3, image_size, image_size]. `attention`, [depth, batch, tokens, tokens], receives
    /// the mean over heads of the weights of each block; an empty view means "not wanted", and is
    /// faster. Throws heed::ShapeError.
    [[nodiscard]] heed::Tensor<T, 2> forward(heed::TensorView<const T, 4> images,
                                             heed::TensorView<T, 4> attention = {}) {
        heed::Tensor<T, 3> x = embed(images);
        for (Index i = 0; i < architecture_.depth; ++i)
            run_block(i, x, attention.empty() ? heed::TensorView<T, 3>() : attention.select(0, i));
        return classify(x);
    }

    // The parts of forward, one after another; tokens are [batch, tokens, width].

    [[nodiscard]] heed::Tensor<T, 3> embed(heed::TensorView<const T, 4> images) const {
        const Architecture& a = architecture_;
        const Index batch = images.extent(0), values = 3 * a.patch_size * a.patch_size;
        const heed::Shape<4> expected(batch, Index{3}, a.image_size, a.image_size);
        if (images.shape() != expected)
            throw heed::ShapeError("[VisionTransformer] the images must have shape " +
                                   to_string(expected) + "; found " + to_string(images.shape()));
        // [batch, 3, grid * patch, grid * patch] as [batch, grid, grid, 3, patch, patch].
        const heed::Tensor<T, 6> patches(
            images.split(2, a.grid()).split(4, a.grid()).permute({0, 2, 4, 1, 3, 5}));
        heed::Tensor<T, 3> x({batch, a.tokens(), a.width});
        heed::linear(patches.view().reshape(heed::Shape<3>(batch, a.patches(), values)),
                     patch_weight_.view().reshape(heed::Shape<2>(a.width, values)), patch_bias_,
                     x.view().slice(1, a.prefix(), a.patches()));
        put_prefix(x);
        const heed::TensorView<T, 3> placed =
            x.view().slice(1, a.tokens() - a.positions(), a.positions());
        heed::add(heed::broadcast_to(positions_.view(), placed.shape()), placed);
        return x;
    }

    /// In place; `averaged_weights` as a layer of `attention` in forward.
    void run_block(Index i, heed::TensorView<T, 3> x, heed::TensorView<T, 3> averaged_weights) {
        blocks_[static_cast<std::size_t>(i)].layer.forward(x, x, heed::NoMask{},
                                                           {.averaged_weights = averaged_weights});
    }

    [[nodiscard]] heed::Tensor<T, 2> classify(heed::TensorView<const T, 3> x) const {
        heed::Tensor<T, 2> features({x.extent(0), architecture_.width});
        if (architecture_.norm_after_pool) {
            pool(x, features);
            norm_.forward(features, features.view());
        } else {
            pool(norm_(x), features);
        }
        return architecture_.classes > 0 ? head_(features) : std::move(features);
    }

    /// The share of each token in what the classes are read from.
    [[nodiscard]] heed::Tensor<double, 1> pool_weights() const {
        const Architecture& a = architecture_;
        heed::Tensor<double, 1> weights(a.tokens());
        if (a.pool == Pool::token)
            weights(0) = 1.0;
        else
            heed::fill(weights.view().slice(0, a.prefix(), a.patches()),
                       1.0 / static_cast<double>(a.patches()));
        return weights;
    }

    template <class Self, class Visitor>
    static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
        const auto present = [&](std::string_view name, auto view) {
            if (!view.empty()) visit(prefix + std::string(name), view);
        };
        present("cls_token", self.class_token_.view());
        present("reg_token", self.registers_.view());
        present("pos_embed", self.positions_.view());
        present("patch_embed.proj.weight", self.patch_weight_.view());
        present("patch_embed.proj.bias", self.patch_bias_.view());
        for (std::size_t i = 0; i < self.blocks_.size(); ++i)
            Block::visit_parameters(self.blocks_[i], visit,
                                    prefix + "blocks." + std::to_string(i) + ".");
        heed::LayerNorm<T>::visit_parameters(
            self.norm_, visit,
            prefix + (self.architecture_.norm_after_pool ? "fc_norm." : "norm."));
        if (self.architecture_.classes > 0)
            heed::Linear<T>::visit_parameters(self.head_, visit, prefix + "head.");
    }

  private:
    struct Block {
        explicit Block(const Architecture& a)
            : layer({.d_model = a.width,
                     .nhead = a.heads,
                     .dim_feedforward = a.hidden_dim,
                     .dropout = 0.0,
                     .activation = heed::Activation::gelu,
                     .layer_norm_eps = epsilon,
                     .norm_first = true,
                     .names = heed::EncoderLayerNames::timm()}) {
            if (!a.layer_scale) return;
            for (heed::Tensor<T, 1>* scale : {&attention_scale, &mlp_scale}) {
                *scale = heed::Tensor<T, 1>(a.width);
                heed::fill(scale->view(), T(1));
            }
        }

        /// Scaling what a branch adds is scaling the last linear layer of the branch, which costs
        /// nothing afterwards.
        void fold_scales() {
            if (attention_scale.empty()) return;
            layer.for_each_parameter([this](const std::string& name, auto parameter) {
                if (name.starts_with("attn.proj.")) scale_rows(attention_scale, parameter);
                if (name.starts_with("mlp.fc2.")) scale_rows(mlp_scale, parameter);
            });
            for (heed::Tensor<T, 1>* scale : {&attention_scale, &mlp_scale})
                heed::fill(scale->view(), T(1));
        }

        template <class Self, class Visitor>
        static void visit_parameters(Self& self, Visitor&& visit, const std::string& prefix) {
            heed::TransformerEncoderLayer<T>::visit_parameters(self.layer, visit, prefix);
            if (self.attention_scale.empty()) return;
            visit(prefix + "ls1.gamma", self.attention_scale.view());
            visit(prefix + "ls2.gamma", self.mlp_scale.view());
        }

        heed::TransformerEncoderLayer<T> layer;
        heed::Tensor<T, 1> attention_scale, mlp_scale;

      private:
        template <int Rank>
        static void scale_rows(const heed::Tensor<T, 1>& scale,
                               heed::TensorView<T, Rank> parameter) {
            const Index per_row = parameter.element_count() / parameter.extent(0);
            for (Index i = 0; i < parameter.element_count(); ++i)
                parameter.data()[i] *= scale(i / per_row);
        }
    };

    void put_prefix(heed::Tensor<T, 3>& x) const {
        Index place = 0;
        for (const heed::Tensor<T, 3>* tokens : {&class_token_, &registers_}) {
            const auto target = x.view().slice(1, place, tokens->extent(1));
            if (!tokens->empty())
                heed::copy(heed::broadcast_to(tokens->view(), target.shape()), target);
            place += tokens->extent(1);
        }
    }

    void pool(heed::TensorView<const T, 3> x, heed::TensorView<T, 2> features) const {
        const Architecture& a = architecture_;
        if (a.pool == Pool::token) return heed::copy(x.select(1, 0), features);
        for (Index i = 0; i < x.extent(0); ++i)
            features.matrix().row(i) =
                x.slice(1, a.prefix(), a.patches()).matrix(i).colwise().mean();
    }

    Architecture architecture_;
    heed::Tensor<T, 3> class_token_, registers_;
    heed::Tensor<T, 4> patch_weight_;
    heed::Tensor<T, 1> patch_bias_;
    heed::Tensor<T, 3> positions_;
    std::vector<Block> blocks_;
    heed::LayerNorm<T> norm_;
    heed::Linear<T> head_;
};

}  // namespace vit
