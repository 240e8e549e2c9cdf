"""Graphs and sessions of ONNX Runtime."""

import numpy
import onnx
import onnxruntime
import torch
from onnx import helper

from contenders import Contender

MICROSOFT = "com.microsoft"


class Graph:
    """Nodes and weights that become a model."""

    def __init__(self):
        self._nodes, self._initializers, self._inputs, self._outputs = [], [], [], []

    def input(self, name, numbers, shape):
        """numbers: a type of NumPy; shape: sizes, or names of sizes that are free."""
        self._inputs.append(self._value(name, numbers, shape))
        return name

    def output(self, name, shape):
        self._outputs.append(self._value(name, numpy.float32, shape))

    def weight(self, name, tensor):
        """A tensor of PyTorch or an array of NumPy."""
        values = numpy.ascontiguousarray(tensor)
        self._initializers.append(onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, operator, inputs, output, *others, domain="", **attributes):
        """The name of its output; `others`: of further ones."""
        self._nodes.append(helper.make_node(operator, inputs, [output, *others], domain=domain,
                                            **attributes))
        return output

    def fused(self, operator, inputs, *outputs, **attributes):
        """An operator of ONNX Runtime's own."""
        return self.node(operator, inputs, *outputs, domain=MICROSOFT, **attributes)

    def model(self):
        graph = helper.make_graph(self._nodes, "graph", self._inputs, self._outputs,
                                  self._initializers)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
        # The newest formats of onnx may be newer than what ONNX Runtime reads.
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    @staticmethod
    def _value(name, numbers, shape):
        element = helper.np_dtype_to_tensor_dtype(numpy.dtype(numbers))
        return helper.make_tensor_value_info(name, element, shape)


def session_of(model, threads, spinning):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound(session, inputs, outputs):
    """A call of a session with its inputs and outputs, arrays by name, bound to their memory."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    for name, array in outputs.items():
        binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    binding.memory = inputs, outputs  # of which it knows addresses alone
    return lambda: session.run_with_iobinding(binding)


def contender(problem, model, inputs, output, shape, as_result=lambda out: out):
    """A session that is reused, with inputs, tensors of PyTorch by name, and one output bound to
    memory. `as_result`: the output as others have it."""
    session = session_of(model, problem.case.threads, problem.setting.spinning)
    out = numpy.empty(shape, numpy.float32)
    call = bound(session, {name: tensor.numpy() for name, tensor in inputs.items()}, {output: out})

    def results():
        out.fill(numpy.nan)
        call()
        return {output: as_result(torch.from_numpy(out))}

    return Contender(call, results)
