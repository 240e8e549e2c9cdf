"""A product of a layer (kinds/linear.py)."""

import ctypes

import numpy
import torch

from contenders import Contender, Exact, heed_module, largest
from contenders.heed import integers, named
from contenders.onnx_runtime import Graph, contender
from contest import HEED, TRAINING
from kinds.linear import tolerance


class Problem:
    """Normal random x [M, K] and dy [M, N], weights by their names in torch.nn.Linear, and exact
    results for a part: some rows of each matrix."""

    def __init__(self, case, setting):
        random = torch.Generator().manual_seed(setting.seed)
        torch.set_num_threads(case.threads)
        self.case, self.setting = case, setting
        self.training = case.pass_name == TRAINING
        self.x = torch.randn(case.rows, case.inputs, generator=random)
        self.dy = torch.randn(case.rows, case.outputs, generator=random)
        self.weights = {"weight": torch.randn(case.outputs, case.inputs, generator=random),
                        "bias": torch.randn(case.outputs, generator=random)}
        self._random = random

    def field(self):
        field = {HEED: heed(self)}
        if self.training:
            return field | {"PyTorch": pytorch_training(self)}
        return field | {"PyTorch": pytorch(self), "MKL": mkl(self), "oneDNN": onednn(self),
                        "ONNX Runtime": onnx_runtime(self)}

    def exact(self):
        x, dy, weight, bias = (tensor.double() for tensor in
                               (self.x, self.dy, *self.weights.values()))
        if not self.training:
            return {"y": self._some_rows(x, weight, bias)}
        return {"dx": self._some_rows(dy, weight.mT),
                "weight": self._some_rows(dy.mT, x.mT),
                "bias": self._some_rows(torch.ones_like(dy[:, :1]).mT, dy.mT)}

    def _some_rows(self, left, right, bias=0):
        """Of left right^T: the first, the last and others."""
        shape = torch.Size([len(left), len(right)])
        more = torch.randint(len(left), (14,), generator=self._random)
        rows = torch.cat([torch.tensor([0, len(left) - 1]), more]).unique()
        expected = left[rows] @ right.mT + bias
        return Exact(shape, lambda result: result[rows], expected,
                     tolerance(left.shape[1], largest(expected)))


def _gradients(dx, weights):
    """Results from gradients of weights by their names in torch.nn.Linear."""
    return {"dx": dx, "weight": weights["weight"], "bias": weights["bias"][None]}


def heed(problem):
    case, library = problem.case, problem.setting.heed
    linear = library.opened("heed_peer_linear", ctypes.c_int32(case.threads),
                            *integers(case.inputs, case.outputs), *named(problem.weights))
    return heed_module.contender(problem, "heed_peer_linear", linear, problem.dy, [case.rows],
                                 "y", _gradients)


def _forward(call):
    return Contender(call, lambda: {"y": call()})


def pytorch(problem):
    x, weights = problem.x, problem.weights
    return _forward(lambda: torch.nn.functional.linear(x, **weights))


def pytorch_training(problem):
    x = problem.x.detach().requires_grad_()
    weights = {name: tensor.detach().requires_grad_() for name, tensor in problem.weights.items()}

    def training():
        for tensor in (x, *weights.values()):
            tensor.grad = None
        torch.nn.functional.linear(x, **weights).backward(problem.dy)

    def gradients():
        training()
        return _gradients(x.grad, {name: tensor.grad for name, tensor in weights.items()})

    return Contender(training, gradients)


def mkl(problem):
    x, rows, weight, bias = problem.x, problem.case.rows, *problem.weights.values()
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, rows)
    return _forward(lambda: torch.ops.mkl._mkl_linear(x, packed, weight, bias, rows))


def onednn(problem):
    x, bias = problem.x, problem.weights["bias"]
    packed = torch.ops.mkldnn._reorder_linear_weight(problem.weights["weight"], problem.case.rows)
    return _forward(lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], ""))


def onnx_runtime(problem):
    case, graph = problem.case, Graph()
    graph.input("x", numpy.float32, ["rows", case.inputs])
    graph.node("Gemm", ["x", *(graph.weight(*named) for named in problem.weights.items())], "y",
               transB=1)
    graph.output("y", ["rows", case.outputs])
    return contender(problem, graph.model(), {"x": problem.x}, "y", (case.rows, case.outputs))
