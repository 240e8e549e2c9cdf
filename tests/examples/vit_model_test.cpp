// The vision transformer of examples/04_vit against timm's own, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "04_vit/image.hpp"
#include "04_vit/preprocess.hpp"
#include "04_vit/pytorch_answers.hpp"
#include "04_vit/rollout.hpp"
#include "04_vit/seeded_weights.hpp"
#include "04_vit/vision_transformer.hpp"
#include "heed/io/safetensors.hpp"
#include "support/golden.hpp"
#include "support/random.hpp"
#include "support/temporary_folder.hpp"
#include "support/tolerance.hpp"
#include "tensor/errors.hpp"

namespace vit {
namespace {

using heed::AnyTensor;
using heed::NamedTensors;
using heed::Tensor;
using support::GoldenCase;
using support::GoldenFile;
using testing::AllOf;
using testing::HasSubstr;

const GoldenFile& golden_file() {
    static const GoldenFile file("vit");
    return file;
}

Choices choices_of(const GoldenCase& golden) {
    const bool average = golden.argument("global_pool") == "avg";
    return {.heads = golden.integer("num_heads"), .pool = average ? Pool::average : Pool::token};
}

/// Between an image and the logits of these small models lie some 250 roundings (sums over 48, 8,
/// 4, 11, 8, 8 and 16 terms and two norms in each of two blocks), each by at most half a unit of
/// the largest number on the way. They are as good as random, so that about the root of their
/// number is left of them; twice that.
template <class T>
double rounding(double largest) {
    return 2.0 * std::sqrt(250.0) * static_cast<double>(std::numeric_limits<T>::epsilon()) / 2.0 *
           largest;
}

/// What heed computes beside what timm did, part by part: the first that differs, or the last.
template <class T>
support::Verdict compare(const GoldenCase& golden, VisionTransformer<T>& model) {
    const Tensor<T, 4> images = golden.input("images").template to<T, 4>();
    const auto states = golden.output("states").view<double, 4>();
    const auto attention = golden.output("attention").view<double, 4>();
    const Tensor<double, 2> logits = golden.output("logits").to<double, 2>();
    const double largest = std::max(support::max_magnitude(Tensor<double, 4>(states).values()),
                                    support::max_magnitude(logits.values()));
    support::Verdict first;
    const auto judge = [&](const std::string& what, const auto& found, const auto& expected,
                           double magnitude) {
        if (!first) return;
        first = support::compare_within(found.values(), expected.values(), rounding<T>(magnitude));
        first.message = what + ": " + first.message;
    };

    Tensor<T, 3> x = model.embed(images);
    Tensor<T, 3> weights({x.extent(0), x.extent(1), x.extent(1)});
    judge("embedding", x, Tensor<double, 3>(states.select(0, 0)), largest);
    for (Index i = 0; i < model.architecture().depth; ++i) {
        model.run_block(i, x, weights);
        const std::string block = "block " + std::to_string(i);
        judge("attention of " + block, weights, Tensor<double, 3>(attention.select(0, i)), 1.0);
        judge(block, x, Tensor<double, 3>(states.select(0, i + 1)), largest);
    }
    judge("logits", model.classify(x), logits, largest);
    return first;
}

template <class T>
VisionTransformer<T> model_of(const GoldenCase& golden, const NamedTensors& parameters) {
    VisionTransformer<T> model(parameters, choices_of(golden));
    model.set_image_size(golden.integer("image_size"));
    return model;
}

template <class T>
class VitGolden : public testing::Test {};
using Scalars = testing::Types<float, double>;
TYPED_TEST_SUITE(VitGolden, Scalars);

TYPED_TEST(VitGolden, EveryModelOfTimm) {
    using T = TypeParam;
    ASSERT_GE(golden_file().cases().size(), 13u);
    for (const std::string& name : golden_file().cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(golden_file(), name);
        VisionTransformer<T> model = model_of<T>(golden, golden.parameters());
        const support::Verdict verdict = compare(golden, model);
        EXPECT_TRUE(verdict) << verdict.message;
    }
}

// forward is its parts, one after another; a batch is its images, each by itself.
TYPED_TEST(VitGolden, ForwardIsItsPartsAndABatchItsImages) {
    using T = TypeParam;
    const GoldenCase golden(golden_file(), "token");
    VisionTransformer<T> model = model_of<T>(golden, golden.parameters());
    const Architecture& a = model.architecture();
    const Tensor<T, 4> images = golden.input("images").template to<T, 4>();
    const Index batch = images.extent(0);
    Tensor<T, 4> attention({a.depth, batch, a.tokens(), a.tokens()});
    const Tensor<T, 2> logits = model.forward(images, attention);

    Tensor<T, 3> x = model.embed(images);
    Tensor<T, 3> weights({batch, a.tokens(), a.tokens()});
    for (Index i = 0; i < a.depth; ++i) {
        model.run_block(i, x, weights);
        const Tensor<T, 3> block(attention.view().select(0, i));
        EXPECT_TRUE(support::compare_bits(block.values(), weights.values()));
    }
    EXPECT_TRUE(support::compare_bits(logits.values(), model.classify(x).values()));

    const double bound = rounding<T>(support::max_magnitude(logits.values()));
    // Without the weights attention takes another path.
    const auto unseen = model.forward(images);
    EXPECT_TRUE(support::compare_within(unseen.values(), logits.values(), bound));
    for (Index i = 0; i < batch; ++i) {
        const auto alone = model.forward(images.view().slice(0, i, 1));
        const Tensor<T, 2> row(logits.view().slice(0, i, 1));
        EXPECT_TRUE(support::compare_within(alone.values(), row.values(), bound));
    }
}

TYPED_TEST(VitGolden, RolloutIsThatOfWholeMatrices) {
    using T = TypeParam;
    for (const std::string& name : golden_file().cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(golden_file(), name);
        const VisionTransformer<T> model = model_of<T>(golden, golden.parameters());
        const Tensor<T, 4> attention = golden.output("attention").template to<T, 4>();
        const Tensor<double, 2> expected = golden.output("rollout").to<double, 2>();
        for (Index i = 0; i < expected.extent(0); ++i) {
            const auto found =
                attention_rollout<T>(attention.view().select(1, i), model.pool_weights().view());
            const Tensor<double, 1> row(expected.view().select(0, i));
            // Of the weights, rounded to T; sums of numbers below 1 in double add nothing to that.
            const support::Verdict verdict = support::compare_within(
                found.values(), row.values(), 2.0 * std::numeric_limits<T>::epsilon());
            EXPECT_TRUE(verdict) << verdict.message;
        }
    }
}

// --- Does the comparison see mistakes?

void replace(NamedTensors& weights, const std::string& name,
             const std::function<AnyTensor(const AnyTensor&)>& f) {
    NamedTensors changed;
    for (const auto& [key, tensor] : weights) changed.add(key, key == name ? f(tensor) : tensor);
    weights = std::move(changed);
}

void exchange(NamedTensors& weights, const std::string& a, const std::string& b) {
    const AnyTensor first = weights.at(a), second = weights.at(b);
    replace(weights, a, [&](const AnyTensor&) { return second; });
    replace(weights, b, [&](const AnyTensor&) { return first; });
}

TEST(VitGoldenNotices, MistakesInTheModel) {
    const auto differs = [](const std::string& name, const std::string& part,
                            const std::function<void(NamedTensors&, Choices&)>& spoil) {
        SCOPED_TRACE(name + ", " + part);
        const GoldenCase golden(golden_file(), name);
        NamedTensors weights = golden.parameters();
        Choices choices = choices_of(golden);
        spoil(weights, choices);
        VisionTransformer<double> model(weights, choices);
        const support::Verdict verdict = compare(golden, model);
        EXPECT_GT(verdict.error, 1e9 * verdict.bound);
        EXPECT_THAT(verdict.message, testing::StartsWith(part + ":"));
    };
    differs("token", "embedding", [](NamedTensors& w, Choices&) {
        replace(w, "patch_embed.proj.weight", [](const AnyTensor& tensor) {
            return AnyTensor(tensor.view<float, 4>().transpose(2, 3));
        });
    });
    differs("token", "embedding", [](NamedTensors& w, Choices&) {
        replace(w, "patch_embed.proj.weight", [](const AnyTensor& tensor) {
            Tensor<float, 4> swapped(tensor.view<float, 4>());
            heed::copy(tensor.view<float, 4>().slice(1, 0, 1), swapped.view().slice(1, 2, 1));
            heed::copy(tensor.view<float, 4>().slice(1, 2, 1), swapped.view().slice(1, 0, 1));
            return AnyTensor(swapped);
        });
    });
    differs("token", "attention of block 0", [](NamedTensors& w, Choices&) {
        exchange(w, "blocks.0.norm1.weight", "blocks.0.norm2.weight");
    });
    differs("token", "attention of block 0", [](NamedTensors&, Choices& c) { c.heads = 4; });
    differs("token", "block 1", [](NamedTensors& w, Choices&) {
        exchange(w, "blocks.1.attn.proj.bias", "blocks.1.mlp.fc2.bias");
        exchange(w, "blocks.1.norm2.weight", "blocks.1.norm2.bias");
    });
    differs("layer_scale", "block 0", [](NamedTensors& w, Choices&) {
        exchange(w, "blocks.0.ls1.gamma", "blocks.0.ls2.gamma");
    });
    differs("average_norm_first", "logits",
            [](NamedTensors&, Choices& c) { c.pool = Pool::token; });
    differs("average", "logits", [](NamedTensors&, Choices& c) { c.pool = Pool::token; });
}

// --- The model that the example draws

NamedTensors seeded_weights() {
    VisionTransformer<float> model(Architecture::tiny(100));
    fill_seeded(model);
    NamedTensors weights;
    model.save(weights);
    return weights;
}

/// The seeded model and the landscape, as the example runs them.
template <class T>
struct Drawn {
    VisionTransformer<T> model{seeded_weights()};
    Tensor<T, 4> attention{{12, 1, 197, 197}};
    Tensor<T, 2> logits;

    Drawn() {
        const Image seen = centre_square(drawn_landscape(), 224, resized_side(224, 0.9));
        Tensor<float, 4> image({1, 3, 224, 224});
        normalise(seen, inception, image.view().select(0, 0));
        Tensor<T, 4> images(image.shape());
        heed::copy(image.view(), images.view());
        logits = model.forward(images, attention);
    }

    [[nodiscard]] Tensor<double, 1> rollout() const {
        return attention_rollout<T>(attention.view().select(1, 0), model.pool_weights().view());
    }
};

template <std::size_t count>
void expect_answer(const auto& found, const pytorch_answers::Answer<count>& answer, double bound) {
    const support::Verdict verdict = support::compare_within(found.values(), answer.values, bound);
    EXPECT_TRUE(verdict) << verdict.message;
}

TEST(VitDrawn, FloatIsAsNearToPyTorchAsPlainSumsAre) {
    const Drawn<float> drawn;
    expect_answer(drawn.logits, pytorch_answers::logits, pytorch_answers::logits.tolerance());
    expect_answer(drawn.rollout(), pytorch_answers::rollout, pytorch_answers::rollout.tolerance());
}

// Weights, picture and every operation are the same: in double all of the ten digits agree.
TEST(VitDrawn, DoubleIsPyTorchToTheLastDigitWritten) {
    const Drawn<double> drawn;
    const auto half_a_digit = [](const auto& answer) {
        return 5e-10 * support::max_magnitude(answer.values);
    };
    expect_answer(drawn.logits, pytorch_answers::logits, half_a_digit(pytorch_answers::logits));
    expect_answer(drawn.rollout(), pytorch_answers::rollout,
                  half_a_digit(pytorch_answers::rollout));
}

TEST(VitDrawn, TheLandscapeIsTheSameByteForByte) {
    const Image image = drawn_landscape();
    const auto* const bytes = reinterpret_cast<const char*>(image.data());
    EXPECT_EQ(seed_of({bytes, image.values().size()}), pytorch_answers::landscape);
}

// --- Which model is it?

TEST(VitArchitecture, IsReadFromTheShapes) {
    const Architecture tiny = architecture_of(seeded_weights());
    EXPECT_EQ(tiny.image_size, 224);
    EXPECT_EQ(tiny.patch_size, 16);
    EXPECT_EQ(tiny.width, 192);
    EXPECT_EQ(tiny.hidden_dim, 768);
    EXPECT_EQ(tiny.depth, 12);
    EXPECT_EQ(tiny.heads, 3);
    EXPECT_EQ(tiny.classes, 100);
    EXPECT_EQ(tiny.tokens(), 197);
    EXPECT_EQ(tiny.pool, Pool::token);
    EXPECT_FALSE(tiny.layer_scale || tiny.norm_after_pool);

    const auto of = [](const std::string& name) {
        const GoldenCase golden(golden_file(), name);
        return architecture_of(golden.parameters(), {.heads = golden.integer("num_heads")});
    };
    EXPECT_EQ(of("no_head").classes, 0);
    EXPECT_TRUE(of("layer_scale").layer_scale);
    // The mean of the patches is read where something speaks for it; else it has to be asked for.
    EXPECT_EQ(of("average").pool, Pool::average);
    EXPECT_EQ(of("no_class_token").pool, Pool::average);
    EXPECT_EQ(of("average_norm_first").pool, Pool::token);
    for (const auto& [name, prefix, positions] :
         {std::tuple{"token", 1, 10}, std::tuple{"no_class_token", 0, 9},
          std::tuple{"no_embed_class", 1, 9}, std::tuple{"registers", 3, 12},
          std::tuple{"registers_no_embed_class", 3, 9}}) {
        EXPECT_EQ(of(name).image_size, 12) << name;
        EXPECT_EQ(of(name).prefix(), prefix) << name;
        EXPECT_EQ(of(name).positions(), positions) << name;
    }
}

/// Weights of that width, 0 all of them, with one block.
NamedTensors zeros(Index width, Index patch = 2) {
    NamedTensors weights;
    VisionTransformer<float>({.image_size = patch,
                              .patch_size = patch,
                              .width = width,
                              .hidden_dim = 1,
                              .depth = 1,
                              .heads = 1})
        .save(weights);
    return weights;
}

// timm's ViT-Ti, -S, -B, -L, So400m, -H and -g.
TEST(VitArchitecture, HeadsAreThoseOfTimmsModels) {
    for (const auto& [width, heads] :
         {std::pair{192, 3}, {384, 6}, {768, 12}, {1024, 16}, {1152, 16}, {1280, 16}, {1408, 16}})
        EXPECT_EQ(architecture_of(zeros(width)).heads, heads) << width;
    EXPECT_EQ(architecture_of(zeros(192), {.heads = 6}).heads, 6);
}

TEST(VitArchitecture, WeightsOfSomethingElseAreRefused) {
    const auto refused = [](const std::string& name, const AnyTensor& tensor, const auto& reason) {
        NamedTensors weights = zeros(64);
        if (weights.find(name) != nullptr)
            replace(weights, name, [&](const AnyTensor&) { return tensor; });
        else
            weights.add(name, tensor);
        const auto load = [&] { const VisionTransformer<float> model(weights); };
        EXPECT_THAT(support::error_text<heed::FormatError>(load), reason);
    };
    const auto f32 = [](std::vector<Index> shape) {
        return AnyTensor(heed::ScalarType::f32, std::move(shape));
    };
    const auto says = [](const char* a, const char* b) {
        return AllOf(HasSubstr(a), HasSubstr(b));
    };
    const std::string patch = "patch_embed.proj.weight", qkv = "blocks.0.attn.qkv.weight";
    refused(patch, f32({64, 1, 2, 2}), says("[any, 3, any, any]", "F32 [64, 1, 2, 2]"));
    refused(patch, f32({64, 12}), says("[any, 3, any, any]", "F32 [64, 12]"));
    refused(patch, f32({0, 3, 2, 2}), says("[any, 3, any, any]", "F32 [0, 3, 2, 2]"));
    refused(patch, f32({64, 3, 2, 1}), says("square", "2 x 1"));
    refused(qkv, f32({64, 64}), says(qkv.c_str(), "[192, 64]"));
    refused(qkv, AnyTensor(heed::ScalarType::i64, {192, 64}), says(qkv.c_str(), "I64"));
    refused("pos_embed", f32({1, 7, 64}), says("square", "7 positions"));
    refused("pos_embed", f32({1, 0, 64}), says("pos_embed", "F32 [1, 0, 64]"));
    refused("pos_embed", f32({2, 64}), says("pos_embed", "F32 [2, 64]"));
    refused("head.weight", f32({5, 63}), says("head.weight", "F32 [5, 63]"));
    refused("head.weight", f32({5, 64}), says("missing", "head.bias"));
    refused("cls_token", f32({64}), says("cls_token", "F32 [64]"));
    refused("reg_token", f32({1, 0, 64}), says("reg_token", "F32 [1, 0, 64]"));
    refused("blocks.0.ls1.gamma", f32({64}), says("missing", "blocks.0.ls2.gamma"));
    // Parts of other models: CLIP's norm, DeiT's distillation, normalised queries, SigLIP's pool.
    for (const char* name : {"norm_pre.weight", "dist_token", "blocks.0.attn.q_norm.weight",
                             "attn_pool.latent", "blocks.2.norm1.weight"})
        refused(name, f32({64}), says("unused", name));
    // A block that is there in part.
    refused("blocks.1.norm1.weight", f32({64}), says("blocks.1.attn.qkv.weight", "none"));
    for (const auto& [name, tensor] : zeros(64)) {
        NamedTensors weights;
        for (const auto& [key, kept] : zeros(64))
            if (key != name) weights.add(key, kept);
        if (name == "cls_token") continue;  // then it is a model without one
        const auto load = [&] { const VisionTransformer<float> model(weights); };
        EXPECT_THAT(support::error_text<heed::FormatError>(load), HasSubstr(name));
    }
    EXPECT_THROW(VisionTransformer<float>{NamedTensors()}, heed::FormatError);
}

// Any other shape of any weight, empty ones included, is refused by one of heed's errors; but for
// those that make another model whole.
TEST(VitArchitecture, AnyOtherShapeIsRefused) {
    support::Random random;
    SCOPED_TRACE(random.describe());
    for (const std::string name : {"registers", "layer_scale", "average"}) {
        const GoldenCase golden(golden_file(), name);
        const NamedTensors good = golden.parameters();
        int refused = 0, tried = 0;
        for (const auto& [key, tensor] : good)
            for (int round = 0; round < 20; ++round) {
                std::vector<Index> shape = tensor.shape();
                if (random.integer(0, 2) == 0)
                    shape.resize(static_cast<std::size_t>(random.integer(0, 5)), 1);
                for (Index& extent : shape)
                    if (random.integer(0, 1) == 0) extent = random.integer(0, 30);
                if (shape == tensor.shape()) continue;
                NamedTensors weights = good;
                replace(weights, key,
                        [&](const AnyTensor& old) { return AnyTensor(old.scalar_type(), shape); });
                ++tried;
                try {
                    const VisionTransformer<float> model(weights, choices_of(golden));
                } catch (const heed::Error&) {
                    ++refused;
                }
            }
        EXPECT_GT(tried, 300);
        // Positions of another square fit, and other registers that leave a square.
        EXPECT_GE(refused, tried - 8);
    }
}

TEST(VitArchitecture, ChoicesThatCannotBeAreRefused) {
    const auto text = [](const std::string& name, const Choices& choices) {
        const GoldenCase golden(golden_file(), name);
        return support::error_text<heed::ArgumentError>(
            [&] { (void)architecture_of(golden.parameters(), choices); });
    };
    EXPECT_THAT(text("token", {}), AllOf(HasSubstr("heads"), HasSubstr("width 8")));
    EXPECT_THAT(text("token", {.heads = 3}), AllOf(HasSubstr("divide"), HasSubstr("found 3")));
    EXPECT_THAT(text("token", {.heads = -2}), HasSubstr("found -2"));
    EXPECT_THAT(text("no_class_token", {.heads = 2, .pool = Pool::token}),
                HasSubstr("without a class token"));
}

// --- Other sizes, and what a model takes

TYPED_TEST(VitGolden, PositionsAreResizedAsByTimm) {
    using T = TypeParam;
    for (const std::string name : {"larger_image", "smaller_image", "larger_image_registers"}) {
        SCOPED_TRACE(name);
        const GoldenCase golden(golden_file(), name);
        const VisionTransformer<T> model = model_of<T>(golden, golden.parameters());
        NamedTensors weights;
        model.save(weights);
        const Tensor<T, 3> found = weights.to<T, 3>("pos_embed");
        const Tensor<double, 3> expected = golden.output("pos_embed").to<double, 3>();
        // Two passes, each a sum of at most nine terms whose weights' magnitudes sum to less
        // than 2.
        const double bound = 2 * 9 * 2.0 * std::numeric_limits<T>::epsilon() *
                             support::max_magnitude(expected.values());
        const auto verdict = support::compare_within(found.values(), expected.values(), bound);
        EXPECT_TRUE(verdict) << verdict.message;
    }
}

TEST(VitImageSize, MustBeFilledByPatches) {
    VisionTransformer<float> model(Architecture::tiny(10));
    for (const Index size : {Index{0}, Index{-16}, Index{15}, Index{225}})
        EXPECT_THAT(support::error_text<heed::ArgumentError>([&] { model.set_image_size(size); }),
                    AllOf(HasSubstr("multiple"), HasSubstr("found " + std::to_string(size))));
    EXPECT_EQ(model.architecture().image_size, 224);
    model.set_image_size(16);
    EXPECT_EQ(model.architecture().tokens(), 2);
}

TEST(VitImageSize, ImagesOfAnotherAreRefused) {
    VisionTransformer<float> model(Architecture::tiny(10));
    for (const auto& shape : {heed::Shape<4>{1, 3, 224, 208}, {1, 1, 224, 224}, {2, 3, 16, 16}})
        EXPECT_THROW((void)model.forward(Tensor<float, 4>(shape)), heed::ShapeError);
}

// What was folded into the weights is not folded again.
TYPED_TEST(VitGolden, WhatIsSavedLoadsAsTheSameModel) {
    using T = TypeParam;
    const support::TemporaryFolder folder;
    for (const std::string& name : golden_file().cases()) {
        SCOPED_TRACE(name);
        const GoldenCase golden(golden_file(), name);
        VisionTransformer<T> model = model_of<T>(golden, golden.parameters());
        NamedTensors weights;
        model.save(weights);
        heed::write_safetensors(folder / "vit.safetensors", weights);
        VisionTransformer<T> again(heed::read_safetensors(folder / "vit.safetensors"),
                                   choices_of(golden));
        const Tensor<T, 4> images = golden.input("images").template to<T, 4>();
        EXPECT_TRUE(
            support::compare_bits(again.forward(images).values(), model.forward(images).values()));
    }
}

}  // namespace
}  // namespace vit
