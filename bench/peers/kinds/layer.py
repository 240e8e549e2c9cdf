"""A whole layer of multi-head attention: projections, attention, projection back."""

import dataclasses
import itertools
import math

from contest import FORWARD, TRAINING, UNIT_ROUNDOFF, Case, cheapest_first

NAME = "layer"
PASSES = [FORWARD, TRAINING]
GRID = {
    "embed_dims": [256, 384, 768, 1024],
    "heads": [4, 8, 12, 16],
    "lengths": [16, 32, 128, 197, 512, 2048],
    "batches": [1, 8],
    "threads": [1, 2],
}
QUICK_GRID = {**GRID, "embed_dims": [256, 768], "heads": [4, 12], "lengths": [16, 128],
              "batches": [1]}
NOTES = {
    "work": "self-attention of x [B,L,E] in float, with biases and without mask: 8 B L E^2 of the "
            "projections and 4 B L^2 E of the attention; training is forward and backward, with "
            "the gradients of x, weights and biases: 3 and 3.5 times that",
    "grid": "numbers of heads that do not divide E are left out",
    "heed": "MultiHeadAttention, its gradients set to 0 in each step and added to",
    "PyTorch": "torch.nn.MultiheadAttention, need_weights=False; forward: eval() in inference "
               "mode, where its fast path (_native_multi_head_attention) was seen to run in "
               "each row; training: train() without dropout, .grad = None before each step",
    "PyTorch, SDPA": "the same module with its fast path switched off, "
                     "torch.backends.mha.set_fastpath_enabled(False): it then attends by "
                     "scaled_dot_product_attention",
    "ORT Attention": "ONNX Runtime, com.microsoft.Attention (all projections in one product) "
                     "before MatMul and Add; weights are initializers, which it packs once, and "
                     "all graph optimisations are on",
    "ORT MHA": "ONNX Runtime, three MatMuls and com.microsoft.MultiHeadAttention with their bias, "
               "before MatMul and Add; the same",
}
PLOT = {"title": "a layer of multi-head attention", "panel": "E", "colours": ["B = 1", "B > 1"]}


@dataclasses.dataclass(frozen=True)
class LayerCase(Case):
    """Self-attention of x [batch, length, embed_dim]. In training, the forward pass and the way
    back, with the gradients of x and of all parameters."""

    embed_dim: int
    heads: int
    length: int
    batch: int
    threads: int
    pass_name: str = FORWARD

    kind = NAME

    @property
    def cells(self):
        return {"E": self.embed_dim, "H": self.heads, "L": self.length, "B": self.batch,
                "threads": self.threads}

    @property
    def head_dim(self):
        return self.embed_dim // self.heads

    @property
    def flops(self):
        """Each product has two more on the way back; the attention's scores are computed anew."""
        projections = 2 * self.batch * self.length * 4 * self.embed_dim**2
        attention = 4 * self.batch * self.length**2 * self.embed_dim
        if self.pass_name == FORWARD:
            return projections + attention
        return 3 * projections + 7 * attention // 2

    @property
    def score_bytes(self):
        """Of the matrices of scores, for those who keep them."""
        return 4 * self.batch * self.heads * self.length**2

    @property
    def plot_place(self):
        """Panel, colour and symbol."""
        return self.embed_dim, int(self.batch > 1), self.heads


def cases(axes, passes):
    """All combinations where the heads divide the width, the cheapest first."""
    names = ("embed_dims", "heads", "lengths", "batches", "threads")
    grid = (LayerCase(*values) for values in
            itertools.product(*(axes[name] for name in names), passes))
    return cheapest_first(case for case in grid if case.embed_dim % case.heads == 0)


# --- What may rounding do? ----------------------------------------------------------------------
# A sum of n terms that are random, each with the relative error r, has about the error r relative
# to its own size, and sqrt(n) roundings of its own. Errors below are in units of the roundoff, and
# relative to the largest element of what they are errors of.


def weight_error(head_dim, projected, typical_score):
    """Of a weight of the attention: that of its score, not relative. `projected`: errors of queries
    and keys."""
    return typical_score * (math.sqrt(head_dim) + 2 * projected)


def output_error(case, typical_score):
    """Projection, weights, the sum over keys, the values, projection."""
    projected = math.sqrt(case.embed_dim)
    return (weight_error(case.head_dim, projected, typical_score) + math.sqrt(case.length) +
            2 * projected)


def gradient_error(case, typical_score):
    """Of the gradients of x and of all parameters. The gradient of a score is a weight times a
    difference of two sums, hence twice; then come sums over keys or queries, and at last over the
    outputs of three projections, or over all tokens."""
    projected = math.sqrt(case.embed_dim)
    score = 2 * (weight_error(case.head_dim, projected, typical_score) +
                 math.sqrt(case.head_dim) + 2 * projected)
    last = math.sqrt(max(3 * case.embed_dim, case.batch * case.length))
    return score + math.sqrt(case.length) + projected + last


def tolerance(case, typical_score, largest):
    """How far the layer's result may be from the exact one; `largest`: of its elements."""
    error = output_error if case.pass_name == FORWARD else gradient_error
    return UNIT_ROUNDOFF * error(case, typical_score) * largest
