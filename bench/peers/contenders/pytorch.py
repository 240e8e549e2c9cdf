"""What contenders of PyTorch have in common."""

from torch.utils._python_dispatch import TorchDispatchMode

import contest


class _Operators(TorchDispatchMode):
    """Hears which operators run."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.seen.add(operator.name())
        return operator(*args, **(kwargs or {}))


def took(operator, call):
    """The result of a call that must run this operator. Throws Disagreement."""
    with _Operators() as operators:
        result = call()
    if operator not in operators.seen:
        raise contest.Disagreement(f"PyTorch did not take its fast path: {operator} did not run")
    return result
