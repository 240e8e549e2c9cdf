"""heed's modules from x to one output, forward and back: what layer.py and linear.py share."""

import torch

from contenders import Contender
from contenders.heed import integers, pointers


def contender(problem, what, module, d_out, sizes, output, gradients):
    """Calls `what`_forward, or in training `what`_training, of a Handle on the module, with
    problem.x and d_out, which is as large as the output. `output`: its name; `gradients`: results
    by name from that of x and those of the weights."""
    library, x = problem.setting.heed, problem.x
    out, dx = torch.empty_like(d_out), torch.empty_like(x)
    if problem.training:
        name, arrays = f"{what}_training", (x, out, d_out, dx)
    else:
        name, arrays = f"{what}_forward", (x, out)
    call = library.bound(name, module.pointer, *pointers(*arrays), *integers(*sizes))
    call.memory = module, arrays  # must live as long as their addresses are in use

    def results():
        out.fill_(torch.nan)
        dx.fill_(torch.nan)
        call()
        if not problem.training:
            return {output: out}
        return gradients(dx, library.shown(f"{what}_gradients", module))

    return Contender(call, results)
