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
    output: Callable  # the result of a call, a float tensor [1, H, L, D]


class Inputs:
    """Normal random q, k and v [1, H, L, D], contiguous, and exact results for some rows."""

    def __init__(self, case, seed):
        random = torch.Generator().manual_seed(seed)
        shape = (1, case.heads, case.length, case.head_dim)
        self.case = case
        self.q, self.k, self.v = (torch.randn(shape, generator=random) for _ in range(3))
        more = torch.randint(case.length, (64 // case.heads,), generator=random)
        # The first and the last row, where masks go wrong, and others: some 64 of all heads.
        self.rows = torch.cat([torch.tensor([0, case.length - 1]), more]).unique()

    def exact_rows(self):
        """The output at self.rows in double, by the formula, and the tolerance for float."""
        scores = self.q[:, :, self.rows].double() @ self.k.double().mT / self.case.head_dim**0.5
        if self.case.causal:
            hidden = torch.arange(self.case.length) > self.rows[:, None]
            scores.masked_fill_(hidden, -torch.inf)
        output = scores.softmax(-1) @ self.v.double()
        largest_score = scores[scores.isfinite()].abs().max().item()
        return output, contest.tolerance(self.case, largest_score, self.v.abs().max().item())


def check(contenders, inputs):
    """The largest difference of each contender from the exact result, and the tolerance. All
    elements are compared with the first contender's, some rows with exact ones. Throws
    Disagreement."""
    exact, allowed = inputs.exact_rows()
    expected = exact.flatten().tolist()
    differences, first = {}, None
    for name, contender in contenders.items():
        output = contender.output()
        if output.shape != inputs.q.shape:
            raise contest.Disagreement(f"{inputs.case}: {name} returns {tuple(output.shape)}")
        rows = output[:, :, inputs.rows].flatten().tolist()
        differences[name] = contest.largest_difference(rows, expected)
        first = output if first is None else first
        # Both may be wrong by what is allowed.
        contest.require_agreement(inputs.case, {name: (output - first).abs().max().item()},
                                  2 * allowed)
    contest.require_agreement(inputs.case, differences, allowed)
    return differences, allowed


# --- heed ---------------------------------------------------------------------------------------


class _Problem(ctypes.Structure):
    """HeedPeerProblem of heed_peer.cpp."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "v", "out")]
    _fields_ += [(name, ctypes.c_int64) for name in ("B", "H", "L", "D")]
    _fields_ += [("causal", ctypes.c_int32)]


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
        problem = _Problem(inputs.q.data_ptr(), inputs.k.data_ptr(), inputs.v.data_ptr(),
                           out.data_ptr(), 1, case.heads, case.length, case.head_dim, case.causal)
        problem.memory = inputs, out  # must live as long as their addresses are in use
        peer, attend = ctypes.c_void_p(self._peer(case.threads)), self._library.heed_peer_attention
        reference = ctypes.byref(problem)

        def call():
            if attend(peer, reference):
                self._fail()

        def output():
            out.fill_(torch.nan)
            call()
            return out

        return Contender(call, output)


# --- The peers ----------------------------------------------------------------------------------


def pytorch(inputs):
    """It has no way to take an output tensor, so it allocates one for each call."""
    q, k, v, causal = inputs.q, inputs.k, inputs.v, inputs.case.causal
    torch.set_num_threads(inputs.case.threads)
    attend = torch.nn.functional.scaled_dot_product_attention

    def call():
        return attend(q, k, v, is_causal=causal)

    return Contender(call, call)


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

    def output():
        out.fill(numpy.nan)
        call()
        by_position = torch.from_numpy(out).view(1, case.length, case.heads, case.head_dim)
        return by_position.transpose(1, 2).contiguous()

    return Contender(call, output)


def versions():
    return {"PyTorch": torch.__version__, "ONNX Runtime": onnxruntime.__version__}
