"""Weights of all-MiniLM-L6-v2, or random ones of their sizes, by Hugging Face's names."""

import torch

from kinds.encoder import BERT


def shapes():
    """Of each weight, by name; the pooler, which no sentence embedding uses, is left out."""
    width, inner = BERT["hidden_size"], BERT["intermediate_size"]
    found = {}

    def table(name, rows):
        found[f"embeddings.{name}_embeddings.weight"] = (rows, width)

    def linear(name, inputs, outputs):
        found.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    def norm(name):
        found.update({f"{name}.LayerNorm.weight": (width,), f"{name}.LayerNorm.bias": (width,)})

    table("word", BERT["vocab_size"])
    table("position", BERT["max_position_embeddings"])
    table("token_type", BERT["type_vocab_size"])
    norm("embeddings")
    for number in range(BERT["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        norm(f"{layer}.attention.output")
        linear(f"{layer}.intermediate.dense", width, inner)
        linear(f"{layer}.output.dense", inner, width)
        norm(f"{layer}.output")
    return found


def drawn(seed):
    """As BERT begins, but with biases and norms that are not 0 and 1, whose errors would not
    show."""
    random = torch.Generator().manual_seed(seed)
    return {name: (1.0 if name.endswith("LayerNorm.weight") else 0.0) +
                  0.02 * torch.randn(shape, generator=random) for name, shape in shapes().items()}


def weights(folder, seed):
    """From model.safetensors in this folder, or drawn where there is none."""
    if folder is None:
        return drawn(seed)
    from safetensors.torch import load_file  # late, because random weights need no such package

    found = load_file(folder / "model.safetensors")
    return {name: found[name].float().contiguous() for name in shapes()}
