"""Attention alone: queries, keys and values in, output or gradients out."""

import dataclasses
import itertools
import math

from contest import FORWARD, TRAINING, UNIT_ROUNDOFF, Case, cheapest_first

NAME = "attention"
PASSES = [FORWARD, TRAINING]
GRID = {
    "lengths": [32, 128, 197, 512, 1024, 2048, 4096, 8192],
    "heads": [1, 8, 12, 32],
    "head_dims": [64, 128],
    "causal": [False, True],
    "threads": [1, 2],
}
QUICK_GRID = {**GRID, "lengths": [32, 128, 197, 512], "heads": [1, 12]}
NOTES = {
    "work": "B=1, float; only visible pairs count as work, under a causal mask too; training is "
            "forward and backward, with the gradients of q, k and v: seven products beside two",
    "layout": "heed and PyTorch are given contiguous [B,H,L,D], ONNX Runtime [B,L,H*D], the layout "
              "of its operator; PyTorch allocates its output and gradients, the others fill those "
              "that they are given",
}
# The axes of the picture: a row of panels for each head_dim, colours by mask, symbols by heads.
PLOT = {"title": "attention", "panel": "D", "colours": ["full", "causal"]}


@dataclasses.dataclass(frozen=True)
class AttentionCase(Case):
    """Self-attention of one batch: queries, keys and values [1, heads, length, head_dim]. In
    training, the forward pass and the way back, with the gradients of all three."""

    length: int
    heads: int
    head_dim: int
    causal: bool
    threads: int
    pass_name: str = FORWARD

    kind = NAME

    @property
    def cells(self):
        return {"L": self.length, "H": self.heads, "D": self.head_dim,
                "causal": "yes" if self.causal else "no", "threads": self.threads}

    @property
    def visible_pairs(self):
        """Of query and key, in one head."""
        n = self.length
        return n * (n + 1) // 2 if self.causal else n * n

    @property
    def flops(self):
        """Of both products, over visible pairs alone; the way back has five more."""
        products = 7 if self.pass_name == TRAINING else 2
        return 2 * products * self.heads * self.head_dim * self.visible_pairs

    @property
    def score_bytes(self):
        """Of the matrix of scores, for those who keep it."""
        return 4 * self.heads * self.length**2

    @property
    def plot_place(self):
        """Panel, colour and symbol."""
        return self.head_dim, int(self.causal), self.heads


def cases(axes, passes):
    """All combinations, the cheapest first."""
    names = ("lengths", "heads", "head_dims", "causal", "threads")
    return cheapest_first(AttentionCase(*values) for values in
                          itertools.product(*(axes[name] for name in names), passes))


def tolerance(case, largest_score, largest_value):
    """How far a float result may be from the exact one: a score is a sum of head_dim roundings, an
    output one of `length`, which are taken as random. Wrong masks or scales are far outside."""
    roundings = math.sqrt(case.head_dim) * largest_score + math.sqrt(case.length)
    return UNIT_ROUNDOFF * roundings * largest_value


def gradient_tolerance(case, largest_score, largest_gradient):
    """The same for gradients of q, k or v. Their terms are weights times a difference of two sums,
    hence twice. Inputs are random: terms cancel no more than chance has it, so that the largest
    gradient tells how large they are."""
    return tolerance(case, largest_score, 2 * largest_gradient)
