"""Who takes part? heed's shared object, PyTorch and ONNX Runtime, on the same inputs.

Each contender gets the inputs in the layout that it is made for, before the clock runs. Needs
PyTorch, ONNX Runtime, onnx and NumPy. A module for each kind of case (bench/peers/kinds) has a
class Problem: the inputs of a case and exact results for a part, with

    case        what is computed
    exact()     of each result by name, an Exact
    field()     all that can compute it, a Contender by name
"""

import dataclasses
import importlib
from pathlib import Path
from typing import Callable, Optional

import onnxruntime
import torch

import contest
from contenders.heed import Heed


@dataclasses.dataclass
class Setting:
    """What the problems of a run share."""

    heed: Heed
    seed: int = 1
    spinning: bool = True  # of ONNX Runtime's threads
    minilm: Optional[Path] = None  # a folder with weights for the encoder
    fits: Callable = lambda case, name, needed: True  # is there so much memory?


@dataclasses.dataclass
class Contender:
    call: Callable  # computes once; this is what is timed
    results: Callable  # those of a call by name, float tensors


@dataclasses.dataclass
class Exact:
    """A part of a result in double."""

    shape: tuple  # of the whole result
    part_of: Callable  # of a result
    expected: torch.Tensor
    tolerance: float


def problem(case, setting):
    """Of the module that is called like the kind."""
    module = importlib.import_module(f"contenders.{case.kind.replace('-', '_')}")
    return module.Problem(case, setting)


def largest(values):
    """The largest magnitude of those that are finite."""
    return values[values.isfinite()].abs().max().item()


def largest_difference(actual, expected):
    """NaN if there is one."""
    return (actual - expected).abs().max().item()


def check(problem, field):
    """The largest differences of each contender from the exact results, and the tolerances, by
    result. All elements are compared with the first contender's, a part with exact ones. Throws
    Disagreement."""
    case, exact = problem.case, problem.exact()
    differences, first = {what: {} for what in exact}, None
    for name, contender in field.items():
        results = contender.results()
        first = first or results
        for what, part in exact.items():
            result = results[what]
            if result.shape != part.shape:
                raise contest.Disagreement(f"{case}: {what} of {name} is {tuple(result.shape)}")
            differences[what][name] = largest_difference(part.part_of(result), part.expected)
            # Both may be wrong by what is allowed.
            contest.require_agreement(case, what, {name: largest_difference(result, first[what])},
                                      2 * part.tolerance)
    for what, part in exact.items():
        contest.require_agreement(case, what, differences[what], part.tolerance)
    return differences, {what: part.tolerance for what, part in exact.items()}


def versions():
    return {"PyTorch version": torch.__version__, "ONNX Runtime version": onnxruntime.__version__}
