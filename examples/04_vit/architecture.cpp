#include "architecture.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

namespace vit {

namespace {

using heed::NamedTensors;
using Extents = std::vector<Index>;

constexpr Index any = -1;

std::string text_of(const Extents& pattern) {
    std::string text;
    for (const Index extent : pattern)
        text += (text.empty() ? "" : ", ") + (extent == any ? "any" : std::to_string(extent));
    return "[" + text + "]";
}

/// The extents of a weight that must be there, in a shape like this.
Extents require(const NamedTensors& weights, const std::string& name, const Extents& pattern) {
    const heed::AnyTensor& tensor = weights.at(name);
    const Extents& shape = tensor.shape();
    const auto fits = [](Index extent, Index wanted) {
        return extent == wanted || (wanted == any && extent > 0);
    };
    if (!std::equal(shape.begin(), shape.end(), pattern.begin(), pattern.end(), fits))
        throw heed::FormatError("[architecture_of] " + name + " must have the shape " +
                                text_of(pattern) + "; found " + to_string(tensor));
    return shape;
}

std::string block(Index i) {
    return "blocks." + std::to_string(i) + ".";
}

/// The number of blocks. Their large weights must have the sizes of the first, so that a small file
/// cannot ask for a large model.
Index count_blocks(const NamedTensors& weights, const Architecture& found) {
    const auto begins = [&](Index i) {
        return weights.find(block(i) + "norm1.weight") != nullptr ||
               weights.find(block(i) + "attn.qkv.weight") != nullptr;
    };
    Index depth = 0;
    for (; begins(depth); ++depth) {
        require(weights, block(depth) + "attn.qkv.weight", {3 * found.width, found.width});
        require(weights, block(depth) + "mlp.fc1.weight", {found.hidden_dim, found.width});
    }
    return depth;
}

/// The side of a square of so many positions; 0 where there is none.
Index side_of(Index count) {
    const auto side = static_cast<Index>(std::llround(std::sqrt(static_cast<double>(count))));
    return count > 0 && side * side == count ? side : 0;
}

/// The number of positions tells the size of the image, and whether the prefix has some, too.
void read_positions(const NamedTensors& weights, Architecture& found) {
    const Index count = require(weights, "pos_embed", {1, any, found.width})[1];
    const Index with_prefix = side_of(count - found.prefix()), without = side_of(count);
    if (with_prefix == 0 && without == 0)
        throw heed::FormatError(
            "[architecture_of] pos_embed must have the positions of a square of patches, with or "
            "without those of " +
            std::to_string(found.prefix()) + " tokens before them; found " + std::to_string(count) +
            " positions");
    found.prefix_positions = without == 0;
    found.image_size = found.patch_size * (without == 0 ? with_prefix : without);
}

/// timm's models have heads of 64 features, those of these widths 16 heads.
Index usual_heads(Index width) {
    constexpr std::array<Index, 4> wide_heads{1152, 1280, 1408, 1664};
    if (std::find(wide_heads.begin(), wide_heads.end(), width) != wide_heads.end()) return 16;
    return width % 64 == 0 ? width / 64 : 0;
}

Index checked_heads(Index width, Index chosen) {
    const Index heads = chosen != 0 ? chosen : usual_heads(width);
    if (heads < 1 || width % heads != 0)
        throw heed::ArgumentError(
            chosen != 0 ? "[architecture_of] heads must divide the width, " +
                              std::to_string(width) + "; found " + std::to_string(chosen)
                        : "[architecture_of] the number of heads must be given where the width is "
                          "no multiple of 64; found width " +
                              std::to_string(width));
    return heads;
}

Pool checked_pool(const Architecture& found, std::optional<Pool> chosen) {
    if (chosen == Pool::token && !found.class_token)
        throw heed::ArgumentError(
            "[architecture_of] without a class token the pool must be the average; found token");
    const bool usually_token = found.class_token && !found.norm_after_pool;
    return chosen.value_or(usually_token ? Pool::token : Pool::average);
}

}  // namespace

Architecture architecture_of(const NamedTensors& weights, const Choices& choices) {
    Architecture found;
    const Extents patch = require(weights, "patch_embed.proj.weight", {any, 3, any, any});
    found.width = patch[0];
    found.patch_size = patch[2];
    if (patch[2] != patch[3])
        throw heed::FormatError("[architecture_of] patches must be square; found " +
                                std::to_string(patch[2]) + " x " + std::to_string(patch[3]));
    found.hidden_dim = require(weights, block(0) + "mlp.fc1.weight", {any, found.width})[0];
    found.depth = count_blocks(weights, found);
    found.heads = checked_heads(found.width, choices.heads);
    found.class_token = weights.find("cls_token") != nullptr;
    if (weights.find("reg_token") != nullptr)
        found.registers = require(weights, "reg_token", {1, any, found.width})[1];
    read_positions(weights, found);
    if (weights.find("head.weight") != nullptr)
        found.classes = require(weights, "head.weight", {any, found.width})[0];
    found.layer_scale = weights.find(block(0) + "ls1.gamma") != nullptr;
    found.norm_after_pool = weights.find("fc_norm.weight") != nullptr;
    found.pool = checked_pool(found, choices.pool);
    return found;
}

}  // namespace vit
