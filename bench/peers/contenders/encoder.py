"""A sentence encoder (kinds/encoder.py)."""

import ctypes
import functools
import itertools
import warnings

import numpy
import torch
from torch.nn import functional

from contenders import Contender, Exact, bert_weights, formula, largest
from contenders.heed import integers, named, pointers
from contenders.onnx_runtime import Graph, bound, session_of
from contenders.pytorch import took
from contest import HEED
from kinds.encoder import BERT, HEAD_DIM, tolerance

WIDTH, HEADS, EPSILON = (BERT[name] for name in
                         ("hidden_size", "num_attention_heads", "layer_norm_eps"))
FIRST, LAST = 101, 102  # the tokens that begin and end a sentence


class Problem:
    """Sentences of random tokens, weights by Hugging Face's names, and exact embeddings of some."""

    def __init__(self, case, setting):
        random = torch.Generator().manual_seed(setting.seed)
        torch.set_num_threads(case.threads)
        self.case, self.setting = case, setting
        self.weights = bert_weights.weights(setting.minilm, setting.seed)
        self.batches = [[self._sentence(length, random) for length in lengths]
                        for lengths in case.batches]

    @staticmethod
    def _sentence(length, random):
        ids = torch.randint(1000, BERT["vocab_size"], (length,), generator=random)
        ids[0], ids[-1] = FIRST, LAST
        return ids

    def field(self):
        padded = [Padded(batch) for batch in self.batches]
        return {HEED: heed(self),
                "PyTorch": pytorch(self, padded, _module_encoder(self),
                                   "aten::_transformer_encoder_layer_fwd"),
                "PyTorch, SDPA": pytorch(self, padded, _encoder_by_hand(self)),
                "ONNX Runtime": onnx_runtime(self, padded)}

    @property
    def shape(self):
        """Of all embeddings."""
        return torch.Size([len(self.case.lengths), WIDTH])

    def exact(self):
        """The embeddings of the longest and the shortest sentence, and of the first and last."""
        lengths = self.case.lengths
        some = sorted({0, len(lengths) - 1, lengths.index(max(lengths)),
                       lengths.index(min(lengths))})
        sentences = list(itertools.chain(*self.batches))
        weights = {name: weight.double() for name, weight in self.weights.items()}
        embeddings, squares = zip(*(_exact_embedding(sentences[i], weights) for i in some))
        expected = torch.stack(embeddings)
        allowed = tolerance(self.case, max(squares)**0.5, largest(expected))
        return {"embeddings": Exact(self.shape, lambda result: result[some], expected, allowed)}


class Layer:
    """Weights of one layer, by the ends of their names, and those of its queries, keys and values
    together, one after another."""

    def __init__(self, weights, number):
        prefix = f"encoder.layer.{number}."
        self.weights = {name.removeprefix(prefix): weight for name, weight in weights.items()
                        if name.startswith(prefix)}
        self.in_weight, self.in_bias = (
            torch.cat([self.weights[f"attention.self.{part}.{what}"]
                       for part in ("query", "key", "value")]) for what in ("weight", "bias"))


def _layers(weights):
    return [Layer(weights, number) for number in range(BERT["num_hidden_layers"])]


def _linear(x, weights, name):
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _norm(x, weights, name):
    return functional.layer_norm(x, (WIDTH,), weights[f"{name}.LayerNorm.weight"],
                                 weights[f"{name}.LayerNorm.bias"], EPSILON)


def _embedded(ids, weights):
    """Of ids [.., length]."""
    words, places, types = (weights[f"embeddings.{name}_embeddings.weight"]
                            for name in ("word", "position", "token_type"))
    x = functional.embedding(ids, words) + places[:ids.shape[-1]] + types[0]
    return _norm(x, weights, "embeddings")


def _by_hand(x, layers, attend):
    """All layers on x [.., length, width]; attend(q, k, v) is of heads [.., length, HEAD_DIM]."""
    for layer in layers:
        heads = functional.linear(x, layer.in_weight, layer.in_bias)
        q, k, v = heads.unflatten(-1, (3, HEADS, HEAD_DIM)).transpose(-4, -2).unbind(-3)
        context = attend(q, k, v).transpose(-3, -2).flatten(-2)
        branch = _linear(context, layer.weights, "attention.output.dense")
        x = _norm(x + branch, layer.weights, "attention.output")
        inner = functional.gelu(_linear(x, layer.weights, "intermediate.dense"))
        x = _norm(x + _linear(inner, layer.weights, "output.dense"), layer.weights, "output")
    return x


def _exact_embedding(ids, weights):
    """Of a sentence, and the largest mean square of the scores of a layer."""
    squares = []

    def attend(q, k, v):
        scores = formula.scores(q, k)
        squares.append(scores.square().mean().item())
        return scores.softmax(-1) @ v

    hidden = _by_hand(_embedded(ids, weights), _layers(weights), attend)
    return functional.normalize(hidden.mean(0), dim=-1), max(squares)


class Padded:
    """A batch as a matrix of ids, and which of them are tokens."""

    def __init__(self, sentences):
        self.ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True)
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        self.tokens = torch.arange(self.ids.shape[1]) < lengths[:, None]
        self.has_padding = not self.tokens.all().item()


def heed(problem):
    library, case = problem.setting.heed, problem.case
    encoder = library.opened("heed_peer_encoder", ctypes.c_int32(case.threads),
                             ctypes.byref(_Bert(**BERT)), *named(problem.weights))
    embeddings = torch.empty(problem.shape)
    calls, memory = [], [encoder]
    for batch, out in zip(problem.batches, embeddings.split(case.batch)):
        ids = torch.cat(batch).int()
        ends = torch.tensor([0, *itertools.accumulate(len(sentence) for sentence in batch)])
        calls.append(library.bound("heed_peer_encoder_encode", encoder.pointer,
                                   *pointers(ids, ends), *integers(len(batch)), *pointers(out)))
        memory.append((ids, ends))  # must live as long as their addresses are in use

    def call():
        for encode in calls:
            encode()

    call.memory = memory

    def results():
        embeddings.fill_(torch.nan)
        call()
        return {"embeddings": embeddings}

    return Contender(call, results)


class _Bert(ctypes.Structure):
    """HeedPeerBert of heed_encoder_peer.cpp."""

    _fields_ = [(name, ctypes.c_double if isinstance(value, float) else ctypes.c_int64)
                for name, value in BERT.items()]


def pytorch(problem, padded, encode, fast_path=None):
    """`encode` goes from embedded tokens and a batch to hidden states. `fast_path`: the operator
    that must run."""
    weights = problem.weights

    def embeddings_of(batch):
        hidden = encode(_embedded(batch.ids, weights), batch)
        if batch.has_padding:
            hidden = hidden * batch.tokens.unsqueeze(-1)
        return functional.normalize(hidden.sum(1), dim=-1)  # the mean points the same way

    def call():
        return [embeddings_of(batch) for batch in padded]

    def results():
        found = took(fast_path, call) if fast_path else call()
        return {"embeddings": torch.cat(found)}

    return Contender(call, results)


def _module_encoder(problem):
    """torch.nn.TransformerEncoder, as BERT has it."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, BERT["intermediate_size"], activation="gelu", layer_norm_eps=EPSILON,
        batch_first=True)
    encoder = torch.nn.TransformerEncoder(layer, BERT["num_hidden_layers"]).eval()
    for module, layer in zip(encoder.layers, _layers(problem.weights)):
        module.load_state_dict(_module_weights(layer))

    def encode(x, batch):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype")
            return encoder(x, src_key_padding_mask=~batch.tokens if batch.has_padding else None)

    return encode


def _module_weights(layer):
    """A layer's weights by their names in torch.nn.TransformerEncoderLayer."""
    names = {"self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense",
             "linear2": "output.dense", "norm1": "attention.output.LayerNorm",
             "norm2": "output.LayerNorm"}
    return {"self_attn.in_proj_weight": layer.in_weight, "self_attn.in_proj_bias": layer.in_bias,
            **{f"{theirs}.{what}": layer.weights[f"{ours}.{what}"]
               for theirs, ours in names.items() for what in ("weight", "bias")}}


def _encoder_by_hand(problem):
    layers = _layers(problem.weights)

    def encode(x, batch):
        mask = batch.tokens[:, None, None, :] if batch.has_padding else None
        return _by_hand(x, layers, functools.partial(functional.scaled_dot_product_attention,
                                                     attn_mask=mask))

    return encode


# --- ONNX Runtime -------------------------------------------------------------------------------


def _model(weights, masked):
    """From ids, token types and, where there is padding, a mask of tokens to embeddings."""
    graph, shape = Graph(), ["batch", "length"]

    def weight(name, transposed=False):
        return graph.weight(name, weights[name].mT if transposed else weights[name])

    ids, types = (graph.input(name, numpy.int32, shape) for name in ("ids", "types"))
    mask = [graph.input("mask", numpy.int32, shape)] if masked else []
    tables = [weight(f"embeddings.{name}_embeddings.weight")
              for name in ("word", "position", "token_type")]
    norm = [weight(f"embeddings.LayerNorm.{what}") for what in ("weight", "bias")]
    x = graph.fused("EmbedLayerNormalization", [ids, types, *tables, *norm], "embedded",
                    "mask_index", epsilon=EPSILON)
    for number, layer in enumerate(_layers(weights)):
        x = _layer_nodes(graph, weight, layer, f"encoder.layer.{number}.", x, mask)
    _pooling_nodes(graph, x, mask)
    graph.output("embeddings", ["batch", WIDTH])
    return graph.model()


def _layer_nodes(graph, weight, layer, prefix, x, mask):
    """weight(name) puts a weight of the model into the graph."""
    def product(x, name):
        return graph.node("MatMul", [x, weight(f"{prefix}{name}.dense.weight", transposed=True)],
                          f"{prefix}{name}")

    def skip_norm(branch, x, name):
        return graph.fused("SkipLayerNormalization",
                           [branch, x, *(weight(f"{prefix}{name}.{what}") for what in
                                         ("LayerNorm.weight", "LayerNorm.bias", "dense.bias"))],
                           f"{prefix}{name}.normed", epsilon=EPSILON)

    attended = graph.fused("Attention", [x, graph.weight(f"{prefix}in_weight", layer.in_weight.mT),
                                         graph.weight(f"{prefix}in_bias", layer.in_bias), *mask],
                           f"{prefix}attended", num_heads=HEADS)
    x = skip_norm(product(attended, "attention.output"), x, "attention.output")
    inner = graph.fused("BiasGelu", [product(x, "intermediate"),
                                     weight(f"{prefix}intermediate.dense.bias")],
                        f"{prefix}inner")
    return skip_norm(product(inner, "output"), x, "output")


def _pooling_nodes(graph, x, mask):
    """The sum over tokens, made 1 long: the mean points the same way."""
    def axes(name, value):
        return graph.weight(name, numpy.array([value], numpy.int64))

    if mask:
        is_token = graph.node("Cast", mask, "is_token", to=1)  # to float
        x = graph.node("Mul", [x, graph.node("Unsqueeze", [is_token, axes("features", 2)],
                                             "factors")], "tokens")
    summed = graph.node("ReduceSum", [x, axes("positions", 1)], "summed", keepdims=0)
    graph.node("LpNormalization", [summed], "embeddings", axis=1, p=2)


def onnx_runtime(problem, padded):
    masked = any(batch.has_padding for batch in padded)
    session = session_of(_model(problem.weights, masked), problem.case.threads,
                         problem.setting.spinning)
    embeddings = numpy.empty(problem.shape, numpy.float32)
    calls, begin = [], 0
    for batch in padded:
        end = begin + len(batch.ids)
        inputs = {"ids": batch.ids.int().numpy(),
                  "types": numpy.zeros(batch.ids.shape, numpy.int32)}
        if masked:
            inputs["mask"] = batch.tokens.int().numpy()
        calls.append(bound(session, inputs, {"embeddings": embeddings[begin:end]}))
        begin = end

    def call():
        for encode in calls:
            encode()

    def results():
        embeddings.fill(numpy.nan)
        call()
        return {"embeddings": torch.from_numpy(embeddings)}

    return Contender(call, results)
