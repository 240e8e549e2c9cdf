"""A layer of multi-head attention (kinds/layer.py)."""

import ctypes

import numpy
import torch

from contenders import Contender, Exact, formula, heed_module, largest
from contenders.heed import integers, named
from contenders.onnx_runtime import Graph, contender
from contenders.pytorch import took
from contest import HEED, TRAINING
from kinds.layer import tolerance


class Problem:
    """Normal random x and d_out [B, L, E], weights by their names in torch.nn.MultiheadAttention,
    and exact results for a part: all heads of the last batch element, the first and the last head
    of all."""

    def __init__(self, case, setting):
        torch.manual_seed(setting.seed)
        torch.set_num_threads(case.threads)
        self.case, self.setting = case, setting
        self.training = case.pass_name == TRAINING
        self.x, self.d_out = (torch.randn(case.batch, case.length, case.embed_dim)
                              for _ in range(2))
        module = torch.nn.MultiheadAttention(case.embed_dim, case.heads)
        self.weights = {name: tensor.detach() for name, tensor in module.named_parameters()}
        for name, tensor in self.weights.items():
            if name.endswith("bias"):  # they are 0 at first: an error would not show
                tensor.normal_(std=0.1)

    def field(self):
        # The fast path and com.microsoft.Attention keep the scores of all heads, and copies.
        keeps_scores = 2 * self.case.score_bytes
        field = {HEED: heed(self)}
        if self.training:
            return field | {"PyTorch": pytorch(self)}
        if self.setting.fits(self.case, "PyTorch", keeps_scores):
            field["PyTorch"] = pytorch(self)
        field["PyTorch, SDPA"] = pytorch(self, fast_path=False)
        if self.setting.fits(self.case, "ORT Attention", keeps_scores):
            field["ORT Attention"] = onnx_runtime(self, _fused_model(self))
        field["ORT MHA"] = onnx_runtime(self, _separate_model(self))
        return field

    def exact(self):
        return self._exact_gradients() if self.training else {"out": self._exact_out()}

    # --- By the formula, in double ---

    def _head(self, head):
        """Where a head lies in the query, key and value projections and in the output's input."""
        width = self.case.head_dim
        return slice(head * width, (head + 1) * width)

    def _heads(self, batch, head):
        """q, k, v of a head [L, D]."""
        weights = self.weights["in_proj_weight"].double().chunk(3)
        biases = self.weights["in_proj_bias"].double().chunk(3)
        x, rows = self.x[batch].double(), self._head(head)
        return (x @ weight[rows].mT + bias[rows] for weight, bias in zip(weights, biases))

    def _exact_out(self):
        """The last batch element."""
        heads, squares = [], []
        for head in range(self.case.heads):
            q, k, v = self._heads(-1, head)
            scores = formula.scores(q, k)
            squares.append(scores.square().mean().item())
            heads.append(scores.softmax(-1) @ v)
        out = (torch.cat(heads, -1) @ self.weights["out_proj.weight"].double().mT +
               self.weights["out_proj.bias"].double())
        return self._part(self.x.shape, lambda result: result[-1], out, squares)

    def _part(self, shape, part_of, expected, squared_scores):
        typical_score = max(squared_scores)**0.5
        allowed = tolerance(self.case, typical_score, largest(expected))
        return Exact(shape, part_of, expected, allowed)

    def _head_gradients(self, batch, head):
        """Of a head's q, k and v side by side [L, 3, D], its output [L, D], and the mean square of
        its scores."""
        q, k, v = self._heads(batch, head)
        d_context = (self.d_out[batch].double() @
                     self.weights["out_proj.weight"][:, self._head(head)].double())
        *gradients, _ = formula.head_gradients(q, k, v, d_context)
        scores = formula.scores(q, k)
        return (torch.stack(gradients, 1), scores.softmax(-1) @ v,
                scores.square().mean().item())

    def _exact_gradients(self):
        """Of the last batch element's x, and of the weights of the first and the last head."""
        heads = sorted({0, self.case.heads - 1})
        exact, squares = {}, []
        dx = torch.zeros_like(self.x[-1], dtype=torch.double)
        for head in range(self.case.heads):
            gradient, _, square = self._head_gradients(-1, head)
            dx += torch.einsum("lpd,pde->le", gradient, self._in_weight(head))
            squares.append(square)
        exact["dx"] = self._part(self.x.shape, lambda result: result[-1], dx, squares)
        of_heads = [self._weight_gradients(head) for head in heads]
        rows = torch.cat([torch.arange(self.case.embed_dim)[self._head(head)] for head in heads])
        for what, (shape, part_of) in self._weight_parts(rows).items():
            expected = torch.cat([gradients[what] for gradients in of_heads])
            exact[what] = self._part(shape, part_of, expected, squares)
        d_bias = self.d_out.double().sum((0, 1))
        exact["out_proj.bias"] = self._part(d_bias.shape, lambda result: result, d_bias, squares)
        return exact

    def _in_weight(self, head):
        """[3, D, E]"""
        return torch.stack([part[self._head(head)].double()
                            for part in self.weights["in_proj_weight"].chunk(3)])

    def _weight_gradients(self, head):
        """Of one head's rows in each weight, by result."""
        sums = {}
        for batch in range(self.case.batch):
            gradient, context, _ = self._head_gradients(batch, head)
            of_batch = dict(zip(("query", "key", "value"),
                                torch.einsum("lpd,le->pde", gradient, self.x[batch].double())))
            # The keys' part is 0 but for rounding: a bias that all keys share changes no weight.
            of_batch["in_proj_bias"] = gradient.sum(0).mT
            of_batch["out_proj.weight"] = context.mT @ self.d_out[batch].double()
            for what, value in of_batch.items():
                sums[what] = sums.get(what, 0) + value
        return sums

    def _weight_parts(self, rows):
        """Shape of each result, and what _weight_gradients says of the heads in these rows."""
        width = self.case.embed_dim
        square = torch.Size([width, width])
        parts = {what: (square, lambda result: result[rows]) for what in ("query", "key", "value")}
        parts["in_proj_bias"] = (torch.Size([3 * width]),
                                 lambda result: result.view(3, width)[:, rows].mT)
        parts["out_proj.weight"] = (square, lambda result: result[:, rows].mT)
        return parts


def _gradients_by_result(dx, weights):
    """Results from gradients of weights by their names in torch.nn.MultiheadAttention."""
    query, key, value = weights["in_proj_weight"].chunk(3)
    return {"dx": dx, "query": query, "key": key, "value": value,
            **{name: weights[name] for name in ("in_proj_bias", "out_proj.weight",
                                                "out_proj.bias")}}


def heed(problem):
    case, library = problem.case, problem.setting.heed
    layer = library.opened("heed_peer_layer", ctypes.c_int32(case.threads),
                           *integers(case.embed_dim, case.heads), *named(problem.weights),
                           ctypes.c_int32(problem.training))
    return heed_module.contender(problem, "heed_peer_layer", layer, problem.d_out,
                                 [case.batch, case.length], "out", _gradients_by_result)


def pytorch(problem, fast_path=True):
    """Its fast path is for inference alone."""
    case = problem.case
    module = torch.nn.MultiheadAttention(case.embed_dim, case.heads, batch_first=True)
    module.load_state_dict(problem.weights)
    module.train(problem.training)
    x = problem.x.detach().requires_grad_(problem.training)

    def forward():
        torch.backends.mha.set_fastpath_enabled(fast_path)
        return module(x, x, x, need_weights=False)[0]

    def training():
        x.grad = None
        module.zero_grad(set_to_none=True)
        forward().backward(problem.d_out)

    def gradients():
        training()
        return _gradients_by_result(x.grad, {name: parameter.grad for name, parameter in
                                             module.named_parameters()})

    def out():
        return {"out": took("aten::_native_multi_head_attention", forward)
                if fast_path else forward()}

    return Contender(training, gradients) if problem.training else Contender(forward, out)


def _fused_model(problem):
    """All projections in one operator with the attention."""
    graph, weights = _graph(problem)
    attended = graph.fused("Attention", ["x", graph.weight("in", weights["in_proj_weight"].mT),
                                         graph.weight("in_bias", weights["in_proj_bias"])],
                           "attended", num_heads=problem.case.heads)
    return _projected_back(graph, weights, attended)


def _separate_model(problem):
    """A product for each projection, whose bias the attention adds."""
    graph, weights = _graph(problem)
    heads = [graph.node("MatMul", ["x", graph.weight(f"{name}_weight", weight.mT)], name)
             for name, weight in zip("qkv", weights["in_proj_weight"].chunk(3))]
    attended = graph.fused("MultiHeadAttention",
                           [*heads, graph.weight("in_bias", weights["in_proj_bias"])],
                           "attended", num_heads=problem.case.heads)
    return _projected_back(graph, weights, attended)


def _graph(problem):
    graph, shape = Graph(), ["batch", "length", problem.case.embed_dim]
    graph.input("x", numpy.float32, shape)
    graph.output("out", shape)
    return graph, problem.weights


def _projected_back(graph, weights, attended):
    product = graph.node("MatMul", [attended, graph.weight("back", weights["out_proj.weight"].mT)],
                         "product")
    graph.node("Add", [product, graph.weight("back_bias", weights["out_proj.bias"])], "out")
    return graph.model()


def onnx_runtime(problem, model):
    return contender(problem, model, {"x": problem.x}, "out", problem.x.shape)
