"""Who takes part? heed's shared object, PyTorch and ONNX Runtime, on the same inputs.

Each contender gets the inputs in the layout that it is made for, before the clock runs. Needs
PyTorch, ONNX Runtime, onnx and NumPy.
"""

import ctypes
import dataclasses
from typing import Callable

import numpy
import onnx
import onnxruntime
import torch

import contest


@dataclasses.dataclass
class Contender:
    call: Callable  # computes once; this is what is timed
    results: Callable  # those of a call by name, float tensors [1, H, L, D]


@dataclasses.dataclass
class Exact:
    """A part of a result in double."""

    part_of: Callable  # of a tensor [1, H, L, D]
    expected: torch.Tensor
    tolerance: float


class Inputs:
    """Normal random q, k, v and d_out [1, H, L, D], contiguous, and exact results for a part."""

    def __init__(self, case, seed):
        random = torch.Generator().manual_seed(seed)
        shape = (1, case.heads, case.length, case.head_dim)
        self.case = case
        self.q, self.k, self.v, self.d_out = (torch.randn(shape, generator=random)
                                              for _ in range(4))
        more = torch.randint(case.length, (64 // case.heads,), generator=random)
        # The first and the last row, where masks go wrong, and others: some 64 of all heads.
        self.rows = torch.cat([torch.tensor([0, case.length - 1]), more]).unique()

    def exact(self):
        """Of each result, by name."""
        return self._exact_gradients() if self.case.training else {"out": self._exact_rows()}

    def _scores(self, q, k, rows):
        """Of queries at these positions, in double."""
        scores = q.double() @ k.double().mT / self.case.head_dim**0.5
        if self.case.causal:
            scores.masked_fill_(torch.arange(self.case.length) > rows[:, None], -torch.inf)
        return scores

    def _exact_rows(self):
        """Some rows of the output of all heads, by the formula."""
        scores = self._scores(self.q[:, :, self.rows], self.k, self.rows)
        allowed = contest.tolerance(self.case, _largest(scores), _largest(self.v))
        return Exact(lambda out: out[:, :, self.rows], scores.softmax(-1) @ self.v.double(),
                     allowed)

    def _exact_gradients(self):
        """All gradients of the first and the last head, by the formula."""
        heads = sorted({0, self.case.heads - 1})
        *gradients, largest_scores = zip(*(self._head_gradients(head) for head in heads))
        exact = {}
        for name, of_heads in zip(("dq", "dk", "dv"), gradients):
            expected = torch.stack(of_heads)
            allowed = contest.gradient_tolerance(self.case, max(largest_scores), _largest(expected))
            exact[name] = Exact(lambda gradient: gradient[0, heads], expected, allowed)
        return exact

    def _head_gradients(self, head):
        """dq, dk, dv and the largest score; some queries at a time, to save memory."""
        q, k, v, d_out = (x[0, head].double() for x in (self.q, self.k, self.v, self.d_out))
        scale, largest_score = self.case.head_dim**-0.5, 0.0
        dq, dk, dv = (torch.zeros_like(x) for x in (q, k, v))
        for rows in torch.arange(self.case.length).split(256):
            scores = self._scores(q[rows], k, rows)
            weights, d_weights = scores.softmax(-1), d_out[rows] @ v.mT
            d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True))
            dq[rows] = scale * d_scores @ k
            dk += scale * d_scores.mT @ q[rows]
            dv += weights.mT @ d_out[rows]
            largest_score = max(largest_score, _largest(scores))
        return dq, dk, dv, largest_score


def _largest(values):
    """The largest magnitude of those that are finite."""
    return values[values.isfinite()].abs().max().item()


def check(contenders, inputs):
    """The largest differences of each contender from the exact results, and the tolerances, by
    result. All elements are compared with the first contender's, a part with exact ones. Throws
    Disagreement."""
    case, exact = inputs.case, inputs.exact()
    differences, first = {what: {} for what in exact}, None
    for name, contender in contenders.items():
        results = contender.results()
        first = first or results
        for what, part in exact.items():
            result = results[what]
            if result.shape != inputs.q.shape:
                raise contest.Disagreement(f"{case}: {what} of {name} is {tuple(result.shape)}")
            differences[what][name] = contest.largest_difference(
                part.part_of(result).flatten().tolist(), part.expected.flatten().tolist())
            # Both may be wrong by what is allowed.
            contest.require_agreement(case, what,
                                      {name: (result - first[what]).abs().max().item()},
                                      2 * part.tolerance)
    for what, part in exact.items():
        contest.require_agreement(case, what, differences[what], part.tolerance)
    return differences, {what: part.tolerance for what, part in exact.items()}


# --- heed ---------------------------------------------------------------------------------------


class _Problem(ctypes.Structure):
    """HeedPeerProblem of heed_peer.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out")]
    _fields_ += [(name, ctypes.c_int64) for name in ("B", "H", "L", "D")]
    _fields_ += [("causal", ctypes.c_int32)]


class _Gradients(ctypes.Structure):
    """HeedPeerGradients of heed_peer.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("d_out", "dq", "dk", "dv")]


class HeedError(Exception):
    """What heed had to say."""


class Heed:
    """The functions of heed_peer.cpp, and a pool for each number of threads."""

    def __init__(self, path):
        self._library = library = ctypes.CDLL(str(path))
        library.heed_peer_last_error.restype = ctypes.c_char_p
        library.heed_peer_isa.restype = ctypes.c_char_p
        library.heed_peer_open.restype = ctypes.c_void_p
        library.heed_peer_open.argtypes = [ctypes.c_int32]
        library.heed_peer_close.argtypes = [ctypes.c_void_p]
        library.heed_peer_attention.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.heed_peer_training.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        library.heed_peer_fma_peak.argtypes = [ctypes.c_void_p, ctypes.c_double, ctypes.c_void_p]
        self._peers = {}

    def _fail(self):
        raise HeedError(self._library.heed_peer_last_error().decode())

    def _peer(self, threads):
        if threads not in self._peers:
            self._peers[threads] = self._library.heed_peer_open(threads) or self._fail()
        return self._peers[threads]

    def close(self):
        for peer in self._peers.values():
            self._library.heed_peer_close(peer)
        self._peers.clear()

    @property
    def instruction_set(self):
        return (self._library.heed_peer_isa() or self._fail()).decode()

    def fma_peak(self, threads, seconds=0.005):
        """FLOP/s of multiply-adds alone, by all threads together."""
        result = ctypes.c_double()
        if self._library.heed_peer_fma_peak(self._peer(threads), seconds, ctypes.byref(result)):
            self._fail()
        return result.value

    def contender(self, inputs):
        case, out = inputs.case, torch.empty_like(inputs.q)
        problem = _Problem(*_addresses(inputs.q, inputs.k, inputs.v, out), 1, case.heads,
                           case.length, case.head_dim, case.causal)
        peer, reference = ctypes.c_void_p(self._peer(case.threads)), ctypes.byref(problem)
        if case.training:
            results = {name: torch.empty_like(inputs.q) for name in ("dq", "dk", "dv")}
            gradients = _Gradients(*_addresses(inputs.d_out, *results.values()))
            arguments = peer, reference, ctypes.byref(gradients)
            compute = self._library.heed_peer_training
        else:
            results = {"out": out}
            arguments, compute = (peer, reference), self._library.heed_peer_attention
        problem.memory = inputs, out, results  # must live as long as their addresses are in use

        def call():
            if compute(*arguments):
                self._fail()

        def fresh_results():
            for result in results.values():
                result.fill_(torch.nan)
            call()
            return results

        return Contender(call, fresh_results)


def _addresses(*tensors):
    return [tensor.data_ptr() for tensor in tensors]


# --- The peers ----------------------------------------------------------------------------------


def pytorch(inputs):
    """It has no way to take an output tensor, so it allocates one for each call, in training for
    each gradient too."""
    case, attend = inputs.case, torch.nn.functional.scaled_dot_product_attention
    torch.set_num_threads(case.threads)
    q, k, v = (x.detach().requires_grad_(case.training) for x in (inputs.q, inputs.k, inputs.v))

    def forward():
        return attend(q, k, v, is_causal=case.causal)

    def training():
        q.grad = k.grad = v.grad = None  # else gradients are added to those of the last call
        forward().backward(inputs.d_out)

    def gradients():
        training()
        return {"dq": q.grad, "dk": k.grad, "dv": v.grad}

    if case.training:
        return Contender(training, gradients)
    return Contender(forward, lambda: {"out": forward()})


def _attention_model(case):
    """One MultiHeadAttention on [batch, length, H * D]."""
    def tensor(name):
        shape = ["batch", "length", case.heads * case.head_dim]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    node = onnx.helper.make_node("MultiHeadAttention", ["q", "k", "v"], ["out"],
                                 domain="com.microsoft", num_heads=case.heads,
                                 unidirectional=int(case.causal))
    graph = onnx.helper.make_graph([node], "attention", [tensor(name) for name in "qkv"],
                                   [tensor("out")])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    # The newest formats of onnx may be newer than what ONNX Runtime reads.
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def onnx_runtime(inputs, spinning=True):
    """A session that is reused, with inputs and output bound to memory."""
    case = inputs.case
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    session = onnxruntime.InferenceSession(_attention_model(case), options,
                                           providers=["CPUExecutionProvider"])
    shape = (1, case.length, case.heads * case.head_dim)
    binding = session.io_binding()
    out = numpy.empty(shape, numpy.float32)
    binding.bind_output("out", "cpu", 0, numpy.float32, shape, out.ctypes.data)
    memory = [out]  # of which the binding knows addresses alone
    for name in "qkv":
        by_position = getattr(inputs, name).transpose(1, 2).reshape(shape).contiguous().numpy()
        binding.bind_input(name, "cpu", 0, numpy.float32, shape, by_position.ctypes.data)
        memory.append(by_position)
    binding.memory = memory

    def call():
        session.run_with_iobinding(binding)

    def results():
        out.fill(numpy.nan)
        call()
        by_position = torch.from_numpy(out).view(1, case.length, case.heads, case.head_dim)
        return {"out": by_position.transpose(1, 2).contiguous()}

    return Contender(call, results)


def versions():
    return {"PyTorch": torch.__version__, "ONNX Runtime": onnxruntime.__version__}
