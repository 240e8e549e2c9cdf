#!/usr/bin/env python3
"""Make the fixtures of examples/04_vit: what timm, PyTorch and Pillow answer, for heed to answer.

Run by hand, only when a case is added; the tests and the example need none of this:

    python3 -m venv venv && venv/bin/pip install torch==2.13.0 torchvision==0.28.0 timm==1.0.31 \
        pillow==13.0.0 numpy safetensors
    venv/bin/python tests/golden/make_vit_golden.py

Writes vit.safetensors and vit_images.safetensors beside this script (README.md describes them), and
examples/04_vit/pytorch_answers.hpp: what timm's vit_tiny_patch16_224 makes of a picture that the
example draws, with weights that it draws, too. Both are drawn here once more, by the same rules.
(`make format` afterwards lays that header out.)
"""

import copy
import io
from typing import Any, Dict, List, Tuple
from unittest import mock

import numpy as np
import timm
import torch
import torch.nn.functional as F
import torchvision
from make_golden import FOLDER, Draw, Golden, Tensors, filled
from PIL import Image, ImageDraw
from timm.data import create_transform
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

EXAMPLE = FOLDER.parents[1] / "examples/04_vit"
INCEPTION = dict(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


# --- The model ---------------------------------------------------------------------------------


def trace(model: VisionTransformer, images: Tensor) -> Tensors:
    """Logits (or features), the tokens before, between and behind the blocks, the weights of each
    block averaged over heads, and their rollout from what the classes are read from."""
    weights: List[Tensor] = []
    states: List[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda _, __, out: weights.append(out.mean(1)))
        block.register_forward_pre_hook(lambda _, given: states.append(given[0]))
        block.register_forward_hook(lambda _, __, out: states.append(out))
    logits = model(images)
    attention = torch.stack(weights)
    return {
        "logits": logits,
        "states": torch.stack([states[0]] + states[1::2]),
        "attention": attention,
        "rollout": rollout(attention, model),
    }


def rollout(attention: Tensor, model: VisionTransformer) -> Tensor:
    """As defined in arXiv 2005.00928, by whole matrices."""
    batch, tokens = attention.shape[1:3]
    product = torch.eye(tokens, dtype=attention.dtype).expand(batch, -1, -1)
    for weights in attention:
        mixed = 0.5 * weights + 0.5 * torch.eye(tokens, dtype=attention.dtype)
        product = mixed / mixed.sum(-1, keepdim=True) @ product
    if model.global_pool == "token":
        return product[:, 0]
    return product[:, model.num_prefix_tokens :].mean(1)


def make_models() -> None:
    golden = Golden("vit")
    cases: Dict[str, Dict[str, Any]] = {
        "token": dict(batch=2),
        "one_head": dict(num_heads=1, depth=1),
        "no_head": dict(num_classes=0),
        "average": dict(global_pool="avg"),
        "average_norm_first": dict(global_pool="avg", fc_norm=False),
        "no_class_token": dict(class_token=False, global_pool="avg", fc_norm=False),
        "no_embed_class": dict(no_embed_class=True),
        "registers": dict(reg_tokens=2),
        "registers_no_embed_class": dict(reg_tokens=2, no_embed_class=True),
        "layer_scale": dict(init_values=1.0),
        "larger_image": dict(resized_to=20),
        "smaller_image": dict(resized_to=8),
        "larger_image_registers": dict(resized_to=16, reg_tokens=2),
    }
    for case, chosen in cases.items():
        arguments = {
            "img_size": 12, "patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2,
            "mlp_ratio": 2, "num_classes": 5, "global_pool": "token", **chosen,
        }  # fmt: skip
        size = arguments.pop("resized_to", arguments["img_size"])
        batch = arguments.pop("batch", 1)
        draw = Draw(f"vit {case}")

        def compute(parameters: Tensors, given: Tensors) -> Tensors:
            model = filled(VisionTransformer(**arguments), parameters)
            outputs = {}
            if size != arguments["img_size"]:
                outputs["pos_embed"] = resized_positions(model, size)
            outputs.update(trace(model, given["images"]))
            return outputs

        settings = {"num_heads": arguments["num_heads"], "global_pool": arguments["global_pool"],
                    "image_size": size}  # fmt: skip
        parameters = draw.parameters(VisionTransformer(**arguments))
        images = draw.normal(batch, 3, size, size)
        golden.add(case, settings, parameters, {"images": images}, compute, torch.float64)
    golden.write(f"timm {timm.__version__}, PyTorch {torch.__version__}")


def resized_positions(model: VisionTransformer, size: int) -> Tensor:
    """timm resizes in float32 whatever the model's type; the model gets those of its own type,
    after a check that they are timm's but for rounding."""
    before = model.pos_embed.detach()
    model.set_input_size(size)
    kept = model.num_prefix_tokens
    grid = int((before.shape[1] - kept) ** 0.5)
    patches = before[:, kept:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, model.patch_embed.grid_size, mode="bicubic", antialias=True)
    positions = torch.cat([before[:, :kept], patches.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(model.pos_embed.detach(), positions, rtol=0, atol=1e-6)
    model.pos_embed = nn.Parameter(positions)
    return positions


# --- Pictures ----------------------------------------------------------------------------------


def as_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


def bytes_of(image: Image.Image, **arguments: Any) -> Tensor:
    file = io.BytesIO()
    image.save(file, **arguments)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


def make_images() -> None:
    golden = Golden("vit_images")
    add_resized_squares(golden)
    add_files(golden)
    golden.write(f"Pillow {Image.__version__}, torchvision {torchvision.__version__}, "
                 f"timm {timm.__version__}")  # fmt: skip


def add_resized_squares(golden: Golden) -> None:
    """What timm's transform makes of noise, the hardest picture for a filter, and of contrasts
    that bicubic weights carry beyond black and white."""
    cases: Dict[str, Tuple[int, int, int, float]] = {  # width, height, size, crop_pct
        "landscape": (40, 30, 16, 0.9),
        "portrait": (30, 41, 16, 0.9),
        "larger": (9, 7, 16, 0.9),
        "as_it_is": (16, 16, 16, 1.0),
        "cut_only": (17, 16, 16, 1.0),
        "half_to_even_down": (21, 16, 16, 1.0),
        "half_to_even_up": (23, 16, 16, 1.0),
        "one_pixel": (1, 1, 16, 0.9),
        "one_row": (300, 1, 8, 0.875),
        "one_column": (1, 300, 8, 0.875),
        "much_smaller": (61, 75, 8, 0.95),
        "black_and_white": (50, 60, 16, 0.9),
    }
    for case, (width, height, size, crop_pct) in cases.items():
        draw = Draw(f"picture {case}")
        noise = draw.normal(height, width, 3).mul(80).add(128).clamp(0, 255).to(torch.uint8)
        if case == "black_and_white":
            noise = torch.where(noise > 128, 255, 0).to(torch.uint8)
        normalisation = IMAGENET if case == "portrait" else INCEPTION
        transform = create_transform(
            size, interpolation="bicubic", crop_pct=crop_pct, **normalisation
        )
        picture = Image.fromarray(noise.numpy())
        square = as_tensor(torchvision.transforms.Compose(transform.transforms[:2])(picture))
        settings = {"size": size, "crop_pct": crop_pct,
                    "imagenet": normalisation is IMAGENET}  # fmt: skip
        golden.keep(case, settings, {"picture": noise},
                    {"square": square, "normalised": transform(picture)})  # fmt: skip


def add_files(golden: Golden) -> None:
    """Small files of every kind, and what Pillow reads from them as RGB."""
    width, height = 21, 13
    colour = Image.new("RGB", (width, height))
    across, down = np.meshgrid(np.arange(width), np.arange(height))
    colour = Image.fromarray(
        np.stack([across * 12, down * 19, (across + down) * 7], -1).astype(np.uint8)
    )
    pen = ImageDraw.Draw(colour)
    pen.ellipse((4, 2, 14, 11), fill=(250, 40, 60))
    pen.line((0, 12, 20, 0), fill=(10, 200, 250))
    grey = colour.convert("L")
    alpha = colour.copy()
    alpha.putalpha(grey)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    palette = colour.quantize(7)
    palette_with_hole = colour.quantize(7)
    files = {
        "png": bytes_of(colour, format="PNG"),
        "png_grey": bytes_of(grey, format="PNG"),
        "png_grey_alpha": bytes_of(alpha.convert("LA"), format="PNG"),
        "png_alpha": bytes_of(alpha, format="PNG"),
        "png_palette": bytes_of(palette, format="PNG"),
        "png_palette_hole": bytes_of(palette_with_hole, format="PNG", transparency=2),
        "png_one_bit": bytes_of(colour.convert("1"), format="PNG"),
        "png_grey_16": bytes_of(deep, format="PNG"),
        "jpeg": bytes_of(colour, format="JPEG", quality=92, subsampling=0),
        "jpeg_subsampled": bytes_of(colour, format="JPEG", quality=92, subsampling=2),
        "jpeg_progressive": bytes_of(colour, format="JPEG", quality=92, subsampling=0,
                                     progressive=True),
        "jpeg_grey": bytes_of(grey, format="JPEG", quality=92),
        "jpeg_cmyk": bytes_of(colour.convert("CMYK"), format="JPEG", quality=92),
    }  # fmt: skip
    for case, file in files.items():
        # Pillow cuts grey of 16 bits at 255; that of 257 times the grey of 8 bits is the latter.
        picture = grey if case == "png_grey_16" else Image.open(io.BytesIO(file.numpy().tobytes()))
        golden.keep(case, {}, {"file": file}, {"picture": as_tensor(picture.convert("RGB"))})


# --- The example's model and picture, drawn once more ------------------------------------------


def philox(n: np.ndarray, seed: int) -> np.ndarray:
    """The first word of Philox4x32-10 for the counters n."""
    mask = np.uint64(0xFFFFFFFF)
    low, high = np.uint64(32), mask
    counter = [n & mask, n >> low, np.zeros_like(n), np.zeros_like(n)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        product0 = np.uint64(0xD2511F53) * counter[0]
        product1 = np.uint64(0xCD9E8D57) * counter[2]
        counter = [
            (product1 >> low) ^ counter[1] ^ np.uint64(key[0]),
            product1 & high,
            (product0 >> low) ^ counter[3] ^ np.uint64(key[1]),
            product0 & high,
        ]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter[0]


def seed_of(name: bytes) -> int:
    """FNV-1a of 64 bits."""
    value = 0xCBF29CE484222325
    for byte in name:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def seeded(name: str, like: Tensor) -> Tensor:
    """As fill_seeded of examples/04_vit/seeded_weights.hpp."""
    is_weight = name.endswith(".weight")
    if is_weight and like.dim() > 1:
        bound = np.sqrt(3.0 / (like.numel() // like.shape[0]))
        low, high = -bound, bound
    else:
        centre = 1.0 if is_weight or name.endswith(".gamma") else 0.0
        low, high = centre - 0.5, centre + 0.5
    uniform = philox(np.arange(like.numel(), dtype=np.uint64), seed_of(name.encode())) * 2.0**-32
    values = (low + (high - low) * uniform).astype(np.float32)
    return torch.from_numpy(values.reshape(like.shape))


def landscape() -> np.ndarray:
    """As drawn_landscape of examples/04_vit/image.cpp."""
    y, x = np.mgrid[0:240, 0:320]
    image = np.zeros((240, 320, 3), dtype=np.uint8)

    def rows(begin: int, end: int, first: List[int], last: List[int]) -> None:
        for row in range(begin, end):
            image[row] = [
                (a * (end - row) + b * (row - begin)) // (end - begin)
                for a, b in zip(first, last)
            ]

    def disc(cx: int, cy: int, radius: int) -> np.ndarray:
        return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2

    def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return (left <= x) & (x < right) & (top <= y) & (y < bottom)

    def gable(peak_x: int, peak_y: int, base_y: int, half_base: int) -> np.ndarray:
        inside = abs(x - peak_x) * (base_y - peak_y) <= (y - peak_y) * half_base
        return (peak_y <= y) & (y < base_y) & inside

    rows(0, 150, [70, 130, 200], [205, 225, 240])
    rows(150, 240, [120, 165, 80], [50, 105, 45])
    image[disc(230, 50, 24)] = [255, 220, 90]
    image[gable(185, 70, 150, 95)] = [95, 110, 130]
    image[gable(115, 35, 150, 110)] = [115, 125, 140]
    image[gable(115, 35, 65, 29)] = [240, 245, 250]
    image[box(190, 140, 250, 185)] = [205, 190, 165]
    image[gable(220, 112, 141, 38)] = [150, 60, 45]
    image[box(213, 160, 227, 185)] = [90, 60, 40]
    image[box(87, 160, 97, 205)] = [85, 60, 40]
    image[disc(92, 138, 28)] = [45, 90, 40]
    return image


def reorder_hidden(model: VisionTransformer, seed: int) -> None:
    """Another order of the hidden features: the same function, whose sums round otherwise."""
    for i, block in enumerate(model.blocks):
        generator = torch.Generator().manual_seed(1000 * seed + i)
        order = torch.randperm(block.mlp.fc1.out_features, generator=generator)
        for parameter in (block.mlp.fc1.weight, block.mlp.fc1.bias, block.mlp.fc2.weight):
            dim = 1 if parameter is block.mlp.fc2.weight else 0
            parameter.data = parameter.data.index_select(dim, order)


def plain_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Each sum one product after another, as the definition is written down."""
    y = torch.zeros(*x.shape[:-1], layer.out_features, dtype=x.dtype)
    for column, weights in zip(x.unbind(-1), layer.weight.unbind(1)):
        y += column[..., None] * weights
    return y + layer.bias


def trace_plainly(model: VisionTransformer, images: Tensor) -> Tensors:
    with mock.patch.object(nn.Linear, "forward", plain_linear):
        return trace(copy.deepcopy(model), images)


def answer_text(name: str, exact: Tensor, in_float32: List[Tensor]) -> str:
    numbers = [f"{value:.9e}" for value in exact.flatten().tolist()]
    lines = ["    " + ", ".join(numbers[i : i + 5]) for i in range(0, len(numbers), 5)]
    errors = [(sample.double() - exact).abs().max().item() for sample in in_float32]
    print(f"{name}: errors of float32 from {min(errors):.2e} to {max(errors):.2e}")
    return (
        f"inline constexpr Answer<{len(numbers)}> {name}{{\n    {{{{\n"
        + ",\n".join(lines)
        + f"\n    }}}},\n    {max(errors):.2e}}};\n"
    )


def make_answers() -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=100).eval()
    model.load_state_dict({name: seeded(name, t) for name, t in model.state_dict().items()})
    picture = landscape()
    transform = create_transform(224, interpolation="bicubic", crop_pct=0.9, **INCEPTION)
    images = transform(Image.fromarray(picture))[None]
    in_float32 = []
    with torch.no_grad():
        exact = trace(copy.deepcopy(model).double(), images.double())
        for seed in range(4):
            in_float32.append(trace_plainly(model, images))
            reorder_hidden(model, seed)
    answers = [
        answer_text(name, exact[name], [sample[name] for sample in in_float32])
        for name in ("logits", "rollout")
    ]
    versions = f"timm {timm.__version__}, PyTorch {torch.__version__}"
    header = HEADER.format(versions=versions, picture=seed_of(picture.tobytes()))
    path = EXAMPLE / "pytorch_answers.hpp"
    path.write_text(header + "\n".join(answers) + "\n}  // namespace vit::pytorch_answers\n")


HEADER = """\
#pragma once
// What does PyTorch compute of the seeded model and the drawn landscape?
// Constants only, made by tests/golden/make_vit_golden.py: {versions}.

#include <array>
#include <cstddef>
#include <cstdint>

namespace vit::pytorch_answers {{

/// Numbers computed in float64 from float32 weights and image, rounded to ten digits.
template <std::size_t count>
struct Answer {{
    std::array<double, count> values;
    double plain_error;  ///< the largest of plain float32, in four orders of summation

    /// How far float32 may be from the values: twice as far as plain sums are, because another
    /// order of summation is another sample of the same errors.
    [[nodiscard]] constexpr double tolerance() const {{ return 2.0 * plain_error; }}
}};

/// FNV-1a of the bytes of the landscape.
inline constexpr std::uint64_t landscape = {picture:#x};

"""


def main() -> None:
    torch.set_num_threads(1)
    make_models()
    make_images()
    make_answers()


if __name__ == "__main__":
    main()
