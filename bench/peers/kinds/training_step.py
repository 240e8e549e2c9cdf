"""One step of training the model of examples/05_train_char_model."""

import dataclasses
import math

from contest import TRAINING, UNIT_ROUNDOFF, Case, cheapest_first
from kinds.layer import weight_error

NAME = "training-step"
PASSES = [TRAINING]
GRID = {"threads": [1, 2]}
QUICK_GRID = GRID

# The default settings of the example, and the alphabet of its book.
MODEL = {"layers": 3, "heads": 4, "dim": 128, "hidden_dim": 512, "context": 64, "batch": 16,
         "letters": 63}
CHECKED_STEPS = 8

NOTES = {
    "work": "the model of examples/05_train_char_model with its default settings (3 pre-norm "
            "layers, width 128, 4 heads, feed-forward 512, 16 windows of 64 letters, no dropout) "
            "on a text of random letters: a whole step of forward pass, cross-entropy, way back, "
            "clipping and AdamW; only products count as work, under the causal mask those of "
            "visible pairs",
    "heed": "the example's own Trainer; it draws its windows within the step",
    "PyTorch": "the same model written by hand with scaled_dot_product_attention(is_causal=True), "
               "which was faster than nn.TransformerEncoderLayer; AdamW(fused=True), its fastest "
               "way on a CPU; it is given the windows of the same steps",
}
PLOT = None


@dataclasses.dataclass(frozen=True)
class TrainingStepCase(Case):
    threads: int
    pass_name: str = TRAINING

    kind = NAME

    @property
    def cells(self):
        return {"threads": self.threads}

    @property
    def letters(self):
        """Of a batch."""
        return MODEL["batch"] * MODEL["context"]

    @property
    def flops(self):
        """Each product has two more on the way back; the scores are computed anew."""
        width, length = MODEL["dim"], MODEL["context"]
        of_letter = 2 * (4 * width**2 + 2 * width * MODEL["hidden_dim"])
        pairs = MODEL["batch"] * length * (length + 1) // 2
        head = 2 * self.letters * width * MODEL["letters"]
        products = MODEL["layers"] * self.letters * of_letter + head
        return 3 * products + 7 * (MODEL["layers"] * 4 * pairs * width) // 2


def cases(axes, passes):
    return cheapest_first(TrainingStepCase(threads, name)
                          for threads in axes["threads"] for name in passes)


def layers_error(typical_score):
    """Of what comes out of the layers, as in kinds/layer.py."""
    width, head_dim = MODEL["dim"], MODEL["dim"] / MODEL["heads"]
    projected, inner = math.sqrt(width), math.sqrt(MODEL["hidden_dim"])
    attention = (weight_error(head_dim, projected, typical_score) + math.sqrt(MODEL["context"]) +
                 2 * projected)
    return MODEL["layers"] * (attention + projected + inner)


def loss_tolerance(case, typical_score, largest_logit):
    """How far the loss of given weights may be from the exact one: the mean of what logits err by,
    and a sum over all letters."""
    logit = layers_error(typical_score) + math.sqrt(MODEL["dim"])
    roundings = logit / math.sqrt(case.letters) + math.sqrt(case.letters)
    return UNIT_ROUNDOFF * roundings * largest_logit


def drift_tolerance(case, typical_score, rate, root_of_squares):
    """What one step at this learning rate may add to that. `root_of_squares`: of the sum over all
    parameters of the square of the largest gradient of their tensor.

    AdamW moves each parameter by about the rate, whatever its gradient g. Where g is known to an
    error e < |g|, the movement errs by rate e / |g|, which changes the loss by rate e; where it is
    not, even the direction may be wrong, which changes it by 2 rate |g|, less than 2 rate e. The
    way back doubles the errors of the way there, and ends in sums over all letters."""
    gradient = 2 * layers_error(typical_score) + math.sqrt(case.letters)
    return 2 * rate * UNIT_ROUNDOFF * gradient * root_of_squares
