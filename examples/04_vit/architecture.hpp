#pragma once
// Which vision transformer do these weights belong to?
// Sizes and parts, read from names and shapes alone; copies no weight.

#include <optional>
#include <string>

#include "heed/tensor/any_tensor.hpp"

namespace vit {

using heed::Index;

/// Which tokens the classes are read from (timm's global_pool).
enum class Pool {
    token,    ///< the class token
    average,  ///< the mean of all patches
};

/// What distinguishes one of timm's VisionTransformers from another. Those that are read here all
/// have exact GELU, pre-norm blocks, LayerNorm with epsilon 1e-6 and biases everywhere.
struct Architecture {
    Index image_size = 224;  ///< the square that it reads, in pixels
    Index patch_size = 16;
    Index width = 0;       ///< of a token (timm's embed_dim)
    Index hidden_dim = 0;  ///< of the feed-forward networks
    Index depth = 0;       ///< number of blocks
    Index heads = 0;
    Index classes = 0;  ///< 0: no head, the features are the output
    bool class_token = true;
    Index registers = 0;           ///< further tokens that are no patches
    bool prefix_positions = true;  ///< class token and registers have positions, too
    bool layer_scale = false;      ///< each branch has a factor for each feature
    bool norm_after_pool = false;  ///< timm's fc_norm
    Pool pool = Pool::token;

    /// Patches along a side.
    [[nodiscard]] Index grid() const { return image_size / patch_size; }
    [[nodiscard]] Index patches() const { return grid() * grid(); }
    /// Tokens before the patches.
    [[nodiscard]] Index prefix() const { return (class_token ? 1 : 0) + registers; }
    [[nodiscard]] Index tokens() const { return prefix() + patches(); }
    /// Rows of the position embeddings.
    [[nodiscard]] Index positions() const { return patches() + (prefix_positions ? prefix() : 0); }

    /// timm's vit_tiny_patch16_224, with as many classes as are wanted.
    static Architecture tiny(Index classes) {
        return {.width = 192, .hidden_dim = 768, .depth = 12, .heads = 3, .classes = classes};
    }
};

/// What shapes do not tell, where the usual is not right.
struct Choices {
    Index heads = 0;  ///< 0: as timm's models of that width have (64 features each, or 16 heads)
    std::optional<Pool> pool = std::nullopt;  ///< absent: the class token, if nothing speaks for
                                              ///< the mean (fc_norm, or no class token)
};

/// Throws heed::FormatError for weights that are not those of such a model, as far as its sizes
/// depend on it; heed::ArgumentError for heads that do not divide the width, or for a class token
/// to be read where there is none.
[[nodiscard]] Architecture architecture_of(const heed::NamedTensors& weights,
                                           const Choices& choices = {});

}  // namespace vit
