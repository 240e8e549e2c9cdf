"""A product of a layer: rows in, rows times the weights and a bias out."""

import dataclasses
import itertools
import math

from contest import FORWARD, TRAINING, UNIT_ROUNDOFF, Case, cheapest_first

NAME = "linear"
PASSES = [FORWARD, TRAINING]
GRID = {
    "rows": [1, 8, 32, 128, 512, 2048],
    "features": ["384x384", "384x1536", "1536x384", "768x768", "768x3072", "3072x768",
                 "1024x1024"],
    "threads": [1, 2],
}
QUICK_GRID = {**GRID, "rows": [1, 32, 128], "features": ["384x384", "768x3072"]}
NOTES = {
    "work": "y = x W^T + b in float, x [M,K], W [N,K]: 2 M K N; training is forward and backward, "
            "with the gradients of x, W and b: 3 times that",
    "heed": "Linear with packed weights; in training its gradients are set to 0 in each step and "
            "added to, and weights are packed once, as after a step of an optimizer",
    "PyTorch": "torch.nn.functional.linear, in inference mode or with .grad = None before each "
               "step",
    "MKL": "PyTorch's _mkl_linear: MKL with weights that it has packed, as torch.compile does it "
           "for a frozen model",
    "oneDNN": "PyTorch's _linear_pointwise: oneDNN with weights that it has reordered, as "
              "torch.compile does it for a frozen model",
    "ONNX Runtime": "Gemm; weights are an initializer, which it packs once",
}
PLOT = None


def sizes(features):
    """Inputs and outputs; of text that does not name them, nothing."""
    parts = features.split("x")
    return [int(part) for part in parts] if all(map(str.isdecimal, parts)) else []


@dataclasses.dataclass(frozen=True)
class LinearCase(Case):
    """x [rows, inputs], W [outputs, inputs]. In training, the product and its gradients."""

    rows: int
    inputs: int
    outputs: int
    threads: int
    pass_name: str = FORWARD

    kind = NAME

    @property
    def cells(self):
        return {"M": self.rows, "K x N": f"{self.inputs} x {self.outputs}",
                "threads": self.threads}

    @property
    def flops(self):
        products = 3 if self.pass_name == TRAINING else 1
        return 2 * products * self.rows * self.inputs * self.outputs


def cases(axes, passes):
    """All combinations, the cheapest first."""
    grid = itertools.product(*(axes[name] for name in ("rows", "features", "threads")), passes)
    return cheapest_first(LinearCase(rows, *sizes(features), threads, pass_name)
                          for rows, features, threads, pass_name in grid)


def tolerance(terms, largest):
    """How far a sum of so many random terms may be from the exact one, with a factor and a bias that
    are rounded, too; `largest`: of such sums."""
    return UNIT_ROUNDOFF * (math.sqrt(terms) + 2) * largest
