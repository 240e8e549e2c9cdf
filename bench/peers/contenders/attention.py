"""Attention alone (kinds/attention.py)."""

import ctypes

import numpy
import torch

from contenders import Contender, Exact, formula, largest
from contenders.heed import addresses
from contenders.onnx_runtime import Graph, contender
from contest import HEED, TRAINING
from kinds.attention import gradient_tolerance, tolerance


class Problem:
    """Normal random q, k, v and d_out [1, H, L, D], contiguous, and exact results for a part."""

    def __init__(self, case, setting):
        random = torch.Generator().manual_seed(setting.seed)
        shape = (1, case.heads, case.length, case.head_dim)
        self.case, self.setting = case, setting
        self.training = case.pass_name == TRAINING
        self.q, self.k, self.v, self.d_out = (torch.randn(shape, generator=random)
                                              for _ in range(4))
        more = torch.randint(case.length, (64 // case.heads,), generator=random)
        # The first and the last row, where masks go wrong, and others: some 64 of all heads.
        self.rows = torch.cat([torch.tensor([0, case.length - 1]), more]).unique()

    def field(self):
        field = {HEED: heed(self), "PyTorch": pytorch(self)}
        # Under a causal mask, ONNX Runtime keeps all scores, and some copies of the inputs.
        needed = 1.3 * self.case.score_bytes if self.case.causal else 0
        if not self.training and self.setting.fits(self.case, "ONNX Runtime", needed):
            field["ONNX Runtime"] = onnx_runtime(self)
        return field

    def exact(self):
        return self._exact_gradients() if self.training else {"out": self._exact_rows()}

    def _exact_rows(self):
        """Some rows of the output of all heads, by the formula."""
        scores = formula.scores(self.q[:, :, self.rows].double(), self.k.double(),
                                self.case.causal, self.rows)
        allowed = tolerance(self.case, largest(scores), largest(self.v))
        return Exact(self.q.shape, lambda out: out[:, :, self.rows],
                     scores.softmax(-1) @ self.v.double(), allowed)

    def _exact_gradients(self):
        """All gradients of the first and the last head, by the formula."""
        heads = sorted({0, self.case.heads - 1})
        inputs = (self.q, self.k, self.v, self.d_out)
        *gradients, largest_scores = zip(*(
            formula.head_gradients(*(x[0, head].double() for x in inputs), self.case.causal)
            for head in heads))
        exact = {}
        for name, of_heads in zip(("dq", "dk", "dv"), gradients):
            expected = torch.stack(of_heads)
            allowed = gradient_tolerance(self.case, max(largest_scores), largest(expected))
            exact[name] = Exact(self.q.shape, lambda gradient: gradient[0, heads], expected,
                                allowed)
        return exact


class _Problem(ctypes.Structure):
    """HeedPeerProblem of heed_peer.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out")]
    _fields_ += [(name, ctypes.c_int64) for name in ("B", "H", "L", "D")]
    _fields_ += [("causal", ctypes.c_int32)]


class _Gradients(ctypes.Structure):
    """HeedPeerGradients of heed_peer.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("d_out", "dq", "dk", "dv")]


def heed(problem):
    case, out, library = problem.case, torch.empty_like(problem.q), problem.setting.heed
    given = _Problem(*addresses(problem.q, problem.k, problem.v, out), 1, case.heads, case.length,
                     case.head_dim, case.causal)
    arguments = [library.peer(case.threads).pointer, ctypes.byref(given)]
    if problem.training:
        results = {name: torch.empty_like(problem.q) for name in ("dq", "dk", "dv")}
        gradients = _Gradients(*addresses(problem.d_out, *results.values()))
        call = library.bound("heed_peer_training", *arguments, ctypes.byref(gradients))
    else:
        results = {"out": out}
        call = library.bound("heed_peer_attention", *arguments)
    given.memory = problem, out, results  # must live as long as their addresses are in use

    def fresh_results():
        for result in results.values():
            result.fill_(torch.nan)
        call()
        return results

    return Contender(call, fresh_results)


def pytorch(problem):
    """It has no way to take an output tensor, so it allocates one for each call, in training for
    each gradient too."""
    case, attend = problem.case, torch.nn.functional.scaled_dot_product_attention
    torch.set_num_threads(case.threads)
    q, k, v = (x.detach().requires_grad_(problem.training)
               for x in (problem.q, problem.k, problem.v))

    def forward():
        return attend(q, k, v, is_causal=case.causal)

    def training():
        q.grad = k.grad = v.grad = None  # else gradients are added to those of the last call
        forward().backward(problem.d_out)

    def gradients():
        training()
        return {"dq": q.grad, "dk": k.grad, "dv": v.grad}

    if problem.training:
        return Contender(training, gradients)
    return Contender(forward, lambda: {"out": forward()})


def _attention_model(case):
    """One MultiHeadAttention on [batch, length, H * D]."""
    graph, shape = Graph(), ["batch", "length", case.heads * case.head_dim]
    inputs = [graph.input(name, numpy.float32, shape) for name in "qkv"]
    graph.fused("MultiHeadAttention", inputs, "out", num_heads=case.heads,
                unidirectional=int(case.causal))
    graph.output("out", shape)
    return graph.model()


def onnx_runtime(problem):
    case = problem.case
    shape = (1, case.length, case.heads * case.head_dim)

    def by_head(out):
        by_position = out.view(1, case.length, case.heads, case.head_dim)
        return by_position.transpose(1, 2).contiguous()

    inputs = {name: getattr(problem, name).transpose(1, 2).reshape(shape).contiguous()
              for name in "qkv"}
    return contender(problem, _attention_model(case), inputs, "out", shape, by_head)
