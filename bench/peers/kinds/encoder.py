"""A sentence encoder: token ids in, one normalised embedding for each sentence out."""

import dataclasses
import functools
import itertools
import math
import random

from contest import FORWARD, UNIT_ROUNDOFF, Case, cheapest_first
from kinds.layer import weight_error

NAME = "encoder"
PASSES = [FORWARD]
MIXED, SORTED = "mixed", "sorted"
GRID = {"texts": ["16", "64", "128", MIXED, SORTED], "batches": [1, 32], "threads": [1, 2]}
QUICK_GRID = {**GRID, "texts": ["16", MIXED, SORTED]}

# all-MiniLM-L6-v2, by the names of Hugging Face's BertConfig.
BERT = {"vocab_size": 30522, "hidden_size": 384, "num_hidden_layers": 6,
        "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512,
        "type_vocab_size": 2, "layer_norm_eps": 1e-12}
HEAD_DIM = BERT["hidden_size"] // BERT["num_attention_heads"]
MOST_TOKENS = BERT["max_position_embeddings"]
SENTENCES = 64  # of a mix

NOTES = {
    "work": "all-MiniLM-L6-v2 (BERT with 6 layers, width 384, 12 heads, feed-forward 1536, exact "
            "GELU) in float: token ids in, the mean over the tokens of each sentence, made 1 long, "
            "out; only tokens of sentences count as work, not padding",
    "texts": f"a number: a batch of sentences with so many tokens; {MIXED}: {SENTENCES} sentences "
             "of 4 to 128 tokens, half of them up to 20 (a log-normal distribution), in batches as "
             f"they come; {SORTED}: the same sentences, sorted by length before they are cut into "
             "batches, as sentence-transformers does it (with B=1 that is the same, and left out)",
    "layout": "heed is given the sentences of a batch packed one after another, the others padded "
              "to the longest, with a mask where that is needed; one call encodes all batches",
    "PyTorch": "torch.nn.TransformerEncoder, eval() in inference mode, where its fast path "
               "(_transformer_encoder_layer_fwd) was seen to run in each row; it turns a padded "
               "batch into a nested tensor without padding",
    "PyTorch, SDPA": "BERT written by hand with scaled_dot_product_attention",
    "ONNX Runtime": "a graph of com.microsoft's EmbedLayerNormalization, Attention, "
                    "SkipLayerNormalization and BiasGelu, pooling included; weights are "
                    "initializers, which it packs once, and all graph optimisations are on",
}
PLOT = None


@functools.cache
def mix():
    """Numbers of tokens, with those that begin and end a sentence."""
    draw = random.Random(1)
    return tuple(min(128, max(4, round(draw.lognormvariate(3, 0.6)))) for _ in range(SENTENCES))


@dataclasses.dataclass(frozen=True)
class EncoderCase(Case):
    """Batches of sentences, encoded one after another."""

    texts: str  # the length of all, MIXED or SORTED
    batch: int  # sentences of a batch
    threads: int
    pass_name: str = FORWARD

    kind = NAME

    @property
    def cells(self):
        return {"tokens": self.texts, "B": self.batch, "threads": self.threads}

    @property
    def lengths(self):
        """Of the sentences, in the order in which they are encoded."""
        if self.texts == MIXED:
            return mix()
        if self.texts == SORTED:
            return tuple(sorted(mix()))
        return (int(self.texts),) * self.batch

    @property
    def batches(self):
        """Lengths of the sentences of each batch."""
        lengths = self.lengths
        return [lengths[begin:begin + self.batch] for begin in range(0, len(lengths), self.batch)]

    @property
    def flops(self):
        """Of the products, over tokens of sentences alone."""
        width, inner = BERT["hidden_size"], BERT["intermediate_size"]
        of_token = 2 * (4 * width**2 + 2 * width * inner)
        of_layer = sum(of_token * n + 4 * width * n**2 for n in self.lengths)
        return BERT["num_hidden_layers"] * of_layer


def cases(axes, passes):
    """All combinations that differ, the cheapest first."""
    names = ("texts", "batches", "threads")
    grid = (EncoderCase(*values) for values in
            itertools.product(*(axes[name] for name in names), passes))
    return cheapest_first(case for case in grid if (case.texts, case.batch) != (SORTED, 1))


def tolerance(case, typical_score, largest):
    """How far an embedding may be from the exact one; `largest`: of its elements. As in
    kinds/layer.py; each layer adds an attention and two sums to what is passed on, and norms keep
    relative errors."""
    projected, inner = math.sqrt(BERT["hidden_size"]), math.sqrt(BERT["intermediate_size"])
    length = math.sqrt(max(case.lengths))
    attention = weight_error(HEAD_DIM, projected, typical_score) + length + 2 * projected
    of_layer = attention + projected + inner
    return UNIT_ROUNDOFF * (BERT["num_hidden_layers"] * of_layer + length) * largest
