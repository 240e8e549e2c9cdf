"""One step of training (kinds/training_step.py)."""

import ctypes
import itertools
import math
import random
import string

import torch
from torch.nn import functional

from contenders import Contender, Exact, formula, largest
from contenders.heed import pointers
from contest import HEED, Disagreement
from kinds.training_step import CHECKED_STEPS, MODEL, drift_tolerance, loss_tolerance

ALPHABET = (string.ascii_letters + string.digits + " ")[:MODEL["letters"]]
TEXT_LETTERS = 1 << 20
GIVEN_STEPS = 64  # batches that PyTorch goes through again and again


class Problem:
    """The model and settings of the example as it begins, on random letters, and the exact losses
    of the first steps."""

    def __init__(self, case, setting):
        torch.set_num_threads(case.threads)
        self.case, self.setting = case, setting
        letters = random.Random(setting.seed).choices(ALPHABET, k=TEXT_LETTERS)
        self.text = "".join(letters).encode()
        trainer = self.open_trainer()
        self.settings = Settings(setting.heed, trainer)
        self.parameters = setting.heed.shown("heed_peer_trainer_parameters", trainer)
        self.batches = [self._batch(trainer, step) for step in range(GIVEN_STEPS)]

    def open_trainer(self):
        """heed's, at its first step."""
        return self.setting.heed.opened("heed_peer_trainer", ctypes.c_int32(self.case.threads),
                                        self.text, ctypes.c_int64(len(self.text)))

    def _batch(self, trainer, step):
        """Ids that are read, and those that are to be foretold."""
        ids = torch.empty((2, MODEL["batch"], MODEL["context"]), dtype=torch.int32)
        self.setting.heed.bound("heed_peer_trainer_batch", trainer.pointer, ctypes.c_int64(step),
                                *pointers(*ids))()
        return ids.long()

    def field(self):
        return {HEED: heed(self), "PyTorch": pytorch(self)}

    def exact(self):
        """The losses before each of the first steps, by the formula."""
        training = ExactTraining(self)
        losses, allowed, drift = [], [], 0.0
        for step in range(CHECKED_STEPS):
            losses.append(training.step(step))
            allowed.append(drift + loss_tolerance(self.case, training.typical_score,
                                                  training.largest_logit))
            drift += drift_tolerance(self.case, training.typical_score, self.settings.rate(step),
                                     training.largest_gradients)
        return {"losses": Exact(torch.Size([CHECKED_STEPS]), lambda result: result,
                                torch.stack(losses), max(allowed))}


class Settings:
    """Those of the example that a step depends on."""

    def __init__(self, library, trainer):
        def setting(name):
            return library.number("heed_peer_trainer_setting", trainer.pointer, name.encode())

        found = {name: setting(name) for name in MODEL}
        if found != MODEL:
            raise Disagreement(f"the example's model is {found}, not {MODEL}, for which the work "
                               "of a step was counted: see kinds/training_step.py")
        self._steps, self._warmup = setting("steps"), setting("warmup_steps")
        self._peak, self._floor = setting("peak_rate"), setting("floor_rate")
        self.weight_decay = setting("weight_decay")
        self.max_gradient_norm = setting("max_gradient_norm")

    def rate(self, step):
        """The learning rate: a warm-up, then half a cosine."""
        if step < self._warmup:
            return self._peak * (step + 1) / (self._warmup + 1)
        progress = min(1.0, (step - self._warmup) / (self._steps - self._warmup))
        return self._floor + (self._peak - self._floor) * (1 + math.cos(math.pi * progress)) / 2

    @staticmethod
    def decays(name):
        """Products alone."""
        return (name.startswith(("layers.", "head.")) and name.endswith("weight") and
                ".norm" not in name)


def _linear(x, parameters, name):
    return functional.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])


def _norm(x, parameters, name):
    return functional.layer_norm(x, (MODEL["dim"],), parameters[f"{name}.weight"],
                                 parameters[f"{name}.bias"])


def _logits(ids, parameters, attend):
    """Of the letter after each; attend(q, k, v) is causal, of heads [.., length, head_dim]."""
    x = functional.embedding(ids, parameters["letters.weight"]) + parameters["places.weight"]
    for number in range(MODEL["layers"]):
        layer = f"layers.{number}"
        heads = functional.linear(_norm(x, parameters, f"{layer}.norm1"),
                                  parameters[f"{layer}.self_attn.in_proj_weight"],
                                  parameters[f"{layer}.self_attn.in_proj_bias"])
        q, k, v = heads.unflatten(-1, (3, MODEL["heads"], -1)).transpose(-4, -2).unbind(-3)
        context = attend(q, k, v).transpose(-3, -2).flatten(-2)
        x = x + _linear(context, parameters, f"{layer}.self_attn.out_proj")
        inner = _linear(_norm(x, parameters, f"{layer}.norm2"), parameters, f"{layer}.linear1")
        x = x + _linear(functional.gelu(inner), parameters, f"{layer}.linear2")
    return _linear(_norm(x, parameters, "norm"), parameters, "head")


def _loss(logits, targets):
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


class ExactTraining:
    """Steps in double: attention, clipping and AdamW by their formulas."""

    def __init__(self, problem):
        self._problem, self._settings = problem, problem.settings
        self._parameters = {name: value.double().requires_grad_()
                            for name, value in problem.parameters.items()}
        self._means, self._squares = ({name: torch.zeros_like(value) for name, value in
                                       self._parameters.items()} for _ in range(2))
        self.typical_score = 0.0  # the largest so far, of a layer

    def _attend(self, q, k, v):
        scores = formula.scores(q, k, True, torch.arange(q.shape[-2]))
        seen = scores.detach()[scores.isfinite()]
        self.typical_score = max(self.typical_score, seen.square().mean().item()**0.5)
        return scores.softmax(-1) @ v

    def step(self, number):
        """The loss before it."""
        ids, targets = self._problem.batches[number]
        logits = _logits(ids, self._parameters, self._attend)
        loss = _loss(logits, targets)
        gradients = dict(zip(self._parameters,
                             torch.autograd.grad(loss, list(self._parameters.values()))))
        self.largest_logit = largest(logits.detach())
        norm = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients.values()))
        factor = min(1.0, self._settings.max_gradient_norm / (norm + 1e-6))
        self.largest_gradients = factor * math.sqrt(sum(
            gradient.numel() * largest(gradient)**2 for gradient in gradients.values()))
        with torch.no_grad():
            for name, gradient in gradients.items():
                self._move(name, factor * gradient, number)
        return loss.detach()

    def _move(self, name, gradient, number):
        """AdamW, arXiv 1711.05101."""
        rate, parameter = self._settings.rate(number), self._parameters[name]
        mean, square = self._means[name], self._squares[name]
        mean += 0.1 * (gradient - mean)
        square += 0.001 * (gradient.square() - square)
        if self._settings.decays(name):
            parameter *= 1 - rate * self._settings.weight_decay
        root = (square / (1 - 0.999**(number + 1))).sqrt()
        parameter -= rate * mean / (1 - 0.9**(number + 1)) / (root + 1e-8)


def heed(problem):
    library, trainer = problem.setting.heed, problem.open_trainer()
    loss = ctypes.c_double()
    call = library.bound("heed_peer_trainer_step", trainer.pointer, ctypes.byref(loss))
    call.memory = trainer  # must live as long as its address is in use

    def results():
        losses = []
        for _ in range(CHECKED_STEPS):
            call()
            losses.append(loss.value)
        return {"losses": torch.tensor(losses, dtype=torch.double)}

    return Contender(call, results)


def _optimizer(parameters, settings):
    groups = [{"params": [value for name, value in parameters.items()
                          if settings.decays(name) == decays],
               "weight_decay": settings.weight_decay if decays else 0.0}
              for decays in (True, False)]
    return torch.optim.AdamW(groups, fused=True)


def _attend(q, k, v):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def pytorch(problem):
    settings, steps = problem.settings, itertools.count()
    parameters = {name: value.clone().requires_grad_()
                  for name, value in problem.parameters.items()}
    optimizer = _optimizer(parameters, settings)

    def step():
        number = next(steps)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate(number)
        optimizer.zero_grad(set_to_none=True)
        ids, targets = problem.batches[number % len(problem.batches)]
        loss = _loss(_logits(ids, parameters, _attend), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), settings.max_gradient_norm)
        optimizer.step()
        return loss.item()

    def results():
        losses = [step() for _ in range(CHECKED_STEPS)]
        return {"losses": torch.tensor(losses, dtype=torch.double)}

    return Contender(step, results)
