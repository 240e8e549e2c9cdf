#!/usr/bin/env python3
"""Tests of bench/peers: cases, agreement, timing by a clock made by hand, statistics, tables.

Standard library only: python3 tests/bench/peers_test.py
"""

import contextlib
import dataclasses
import io
import json
import math
import statistics
import struct
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench/peers"))
import contest  # noqa: E402
import options  # noqa: E402
import pictures  # noqa: E402
import report  # noqa: E402
from kinds import attention as attention_kind  # noqa: E402
from kinds import KINDS, encoder, layer, linear, training_step  # noqa: E402
from kinds.attention import AttentionCase  # noqa: E402
from kinds.encoder import EncoderCase  # noqa: E402
from kinds.layer import LayerCase  # noqa: E402
from kinds.linear import LinearCase  # noqa: E402
from kinds.training_step import TrainingStepCase  # noqa: E402

CASE = AttentionCase(length=3, heads=2, head_dim=5, causal=True, threads=1)
TRAINING = dataclasses.replace(CASE, pass_name="training")
LAYER = LayerCase(embed_dim=6, heads=2, length=4, batch=2, threads=1)


def row(heed, case=CASE, **others):
    """A row with these seconds of each round."""
    rounds = {"heed": heed, **others}
    return contest.Row(case, rounds, [1e9] * len(heed))


def attention(q, k, v, *, causal=True, scale=None):
    """One head, by the formula; lists of rows."""
    scale = 1 / math.sqrt(len(q[0])) if scale is None else scale
    output = []
    for i, query in enumerate(q):
        seen = range(i + 1) if causal else range(len(k))
        weights = [math.exp(scale * sum(a * b for a, b in zip(query, k[j]))) for j in seen]
        output += [sum(w * v[j][c] for w, j in zip(weights, seen)) / sum(weights)
                   for c in range(len(v[0]))]
    return output


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def gradients(q, k, v, d_out, *, causal=True, without_delta=False):
    """One head, by the formula: dq, dk and dv as flat lists, and the largest score. Without the sum
    of weight * d_weight they are wrong."""
    length, dim = len(q), len(q[0])
    scale = 1 / math.sqrt(dim)
    dq, dk, dv = ([[0.0] * dim for _ in range(length)] for _ in range(3))
    largest_score = 0.0
    for i in range(length):
        seen = range(i + 1) if causal else range(length)
        of_row = [scale * dot(q[i], k[j]) for j in seen]
        total = sum(map(math.exp, of_row))
        weights = [math.exp(score) / total for score in of_row]
        d_row = [dot(d_out[i], v[j]) for j in seen]
        delta = 0.0 if without_delta else dot(weights, d_row)
        for j, weight, d_weight in zip(seen, weights, d_row):
            d_score = scale * weight * (d_weight - delta)
            for c in range(dim):
                dq[i][c] += d_score * k[j][c]
                dk[j][c] += d_score * q[i][c]
                dv[j][c] += weight * d_out[i][c]
        largest_score = max(largest_score, *map(abs, of_row))
    return {"dq": sum(dq, []), "dk": sum(dk, []), "dv": sum(dv, [])}, largest_score


def waves(*shifts):
    return ([[math.sin(7 * i + 3 * c + shift) for c in range(5)] for i in range(3)]
            for shift in shifts)


def largest_difference(actual, expected):
    """NaN if there is one, and infinite when the sequences differ in length."""
    if len(actual) != len(expected):
        return math.inf
    differences = [abs(a - b) for a, b in zip(actual, expected)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


class AttentionCases(unittest.TestCase):
    def test_only_visible_pairs_count(self):
        self.assertEqual(CASE.visible_pairs, 1 + 2 + 3)
        self.assertEqual(CASE.flops, 4 * 2 * 5 * 6)
        full = AttentionCase(3, 2, 5, False, 1)
        self.assertEqual(full.flops, 4 * 2 * 5 * 9)
        self.assertEqual(full.score_bytes, 4 * 2 * 9)

    def test_the_way_back_counts_two_and_a_half_times_the_way_there(self):
        self.assertEqual(TRAINING.flops, CASE.flops + 10 * 2 * 5 * 6)
        self.assertNotEqual(str(CASE), str(TRAINING))

    def test_the_grid_has_every_combination_once_and_the_cheapest_first(self):
        axes = {"lengths": [64, 32, 64], "heads": [1, 12], "head_dims": [64, 128],
                "causal": [False, True], "threads": [1, 2]}
        cases = attention_kind.cases(axes, ["forward", "training"])
        self.assertEqual(len(cases), 2 * 2 * 2 * 2 * 2 * 2)
        self.assertEqual(len(set(cases)), len(cases))
        self.assertEqual([case.flops for case in cases], sorted(case.flops for case in cases))
        self.assertEqual(cases[0], AttentionCase(32, 1, 64, True, 1))


class LinearCases(unittest.TestCase):
    def test_the_way_back_has_two_more_products(self):
        case = LinearCase(rows=3, inputs=4, outputs=5, threads=1)
        self.assertEqual(case.flops, 2 * 3 * 4 * 5)
        training = dataclasses.replace(case, pass_name="training")
        self.assertEqual(training.flops, 3 * case.flops)
        self.assertEqual(case.cells["K x N"], "4 x 5")

    def test_the_grid_has_every_combination(self):
        cases = linear.cases(linear.GRID, linear.PASSES)
        self.assertEqual(len(cases), 6 * 7 * 2 * 2)
        self.assertIn(LinearCase(32, 768, 3072, 2, "training"), cases)
        self.assertNotIn(LinearCase(32, 384, 3072, 2), cases)


class LayerCases(unittest.TestCase):
    def test_projections_and_attention_count(self):
        tokens, pairs = 2 * 4, 2 * 4 * 4
        self.assertEqual(LAYER.flops, 2 * tokens * 4 * 6 * 6 + 4 * pairs * 6)
        training = dataclasses.replace(LAYER, pass_name="training")
        self.assertEqual(training.flops, 3 * 2 * tokens * 4 * 6 * 6 + 3.5 * 4 * pairs * 6)
        self.assertEqual(LAYER.score_bytes, 4 * 2 * pairs)

    def test_heads_that_do_not_divide_the_width_are_left_out(self):
        cases = layer.cases(layer.GRID, layer.PASSES)
        pairs = {(case.embed_dim, case.heads) for case in cases}
        self.assertEqual(len(pairs), 4 * 4 - 2)
        self.assertFalse(pairs & {(256, 12), (1024, 12)})
        self.assertEqual(len(cases), len(pairs) * 6 * 2 * 2 * 2)


class EncoderCases(unittest.TestCase):
    def test_only_tokens_of_sentences_count(self):
        def flops(*lengths):
            return sum(6 * (2 * n * (4 * 384**2 + 2 * 384 * 1536) + 4 * 384 * n**2)
                       for n in lengths)

        self.assertEqual(EncoderCase("16", 3, 1).flops, flops(16, 16, 16))
        self.assertEqual(EncoderCase("mixed", 32, 1).flops, flops(*encoder.mix()))

    def test_batches_are_cut_from_all_sentences(self):
        self.assertEqual(EncoderCase("16", 3, 1).batches, [(16, 16, 16)])
        mixed, in_order = (EncoderCase(texts, 32, 1) for texts in ("mixed", "sorted"))
        self.assertEqual(list(map(len, mixed.batches)), [32, 32])
        self.assertNotEqual(mixed.lengths, in_order.lengths)
        self.assertEqual(sorted(mixed.lengths), list(in_order.lengths))
        self.assertEqual(in_order.batches[0][-1], sorted(mixed.lengths)[31])

    def test_the_mix_is_what_the_report_says(self):
        lengths = sorted(encoder.mix())
        self.assertEqual(len(lengths), encoder.SENTENCES)
        self.assertTrue(4 <= lengths[0] < lengths[-1] <= 128)
        self.assertAlmostEqual(lengths[len(lengths) // 2], 20, delta=4)

    def test_sentences_one_by_one_need_no_order(self):
        cases = encoder.cases(encoder.GRID, ["forward"])
        self.assertEqual(len(cases), 2 * (5 + 4))
        self.assertNotIn(("sorted", 1), {(case.texts, case.batch) for case in cases})


class TrainingStepCases(unittest.TestCase):
    def test_products_count(self):
        letters, pairs = 16 * 64, 16 * 64 * 65 // 2
        layers = 3 * letters * 2 * (4 * 128 * 128 + 2 * 128 * 512)
        head = letters * 2 * 128 * 63
        self.assertEqual(TrainingStepCase(1).flops,
                         3 * (layers + head) + 3.5 * 3 * 4 * pairs * 128)

    def test_there_is_no_step_without_the_way_back(self):
        self.assertEqual([str(case) for case in training_step.cases({"threads": [2, 1]},
                                                                    training_step.PASSES)],
                         ["training-step training threads=1", "training-step training threads=2"])


class Options(unittest.TestCase):
    def cases(self, *arguments):
        return options.parsed(["--library", __file__, *arguments]).cases

    def refused(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as text, self.assertRaises(SystemExit):
            self.cases(*arguments)
        return text.getvalue()

    def test_attention_is_compared_unless_another_kind_is_named(self):
        self.assertEqual(self.cases(), attention_kind.cases(attention_kind.GRID,
                                                            attention_kind.PASSES))

    def test_all_kinds_run_in_one_order_of_cost(self):
        cases = self.cases("--what", "all", "--quick")
        self.assertEqual({case.kind for case in cases}, set(KINDS))
        self.assertEqual([case.flops for case in cases], sorted(case.flops for case in cases))

    def test_a_part_of_the_grid(self):
        cases = self.cases("--what", "layer,encoder", "--embed-dims", "256", "--heads", "4,12",
                           "--lengths", "16", "--batches", "1", "--texts", "16,mixed",
                           "--threads", "2", "--pass", "forward")
        self.assertEqual(set(cases), {LayerCase(256, 4, 16, 1, 2), EncoderCase("16", 1, 2),
                                      EncoderCase("mixed", 1, 2)})
        products = self.cases("--what", "linear", "--rows", "3", "--features", "4x5,5x4",
                              "--threads", "1", "--pass", "training")
        self.assertEqual(set(products), {LinearCase(3, 4, 5, 1, "training"),
                                         LinearCase(3, 5, 4, 1, "training")})

    def test_what_cannot_be_meant_is_refused(self):
        self.assertIn("--head-dims says nothing about layer",
                      self.refused("--what", "layer", "--head-dims", "64"))
        self.assertIn("nothing to measure",
                      self.refused("--what", "layer", "--embed-dims", "256", "--heads", "12"))
        self.assertIn("nothing to measure",
                      self.refused("--what", "encoder", "--pass", "training"))
        self.assertIn("not layers", self.refused("--what", "layers"))
        self.assertIn("not 513", self.refused("--what", "encoder", "--texts", "16,513"))
        for wrong in ("4", "4x", "4x5x6", "0x4", "-4x4", "axb"):
            with self.subTest(wrong):
                self.assertIn(f"not {wrong}",
                              self.refused("--what", "linear", f"--features=4x5,{wrong}"))


class Agreement(unittest.TestCase):
    def setUp(self):
        q, k, v = waves(0, 1, 2)
        self.right = attention(q, k, v)
        self.wrong = {"no mask": attention(q, k, v, causal=False),
                      "no scale": attention(q, k, v, scale=1),
                      "keys shifted": attention(q, k[1:] + k[:1], v),
                      "a row missing": self.right[:-5],
                      "NaN": [*self.right[:-1], math.nan]}
        self.allowed = attention_kind.tolerance(CASE, 5.0, 1.0)

    def require(self, output):
        difference = largest_difference(output, self.right)
        contest.require_agreement(CASE, "out", {"heed": 0.0, "other": difference}, self.allowed)

    def test_rounding_is_allowed(self):
        unit = 2.0**-24
        self.require([x * (1 + 2 * unit) for x in self.right])

    def test_wrong_results_are_refused_by_name(self):
        for what, output in self.wrong.items():
            with self.subTest(what), self.assertRaisesRegex(contest.Disagreement, "out .*other by"):
                self.require(output)

    def test_the_tolerance_is_far_below_a_value_and_grows_slowly(self):
        short, long = (attention_kind.tolerance(AttentionCase(length, 1, 64, False, 1), 6.0, 5.0)
                       for length in (32, 8192))
        self.assertLess(long, 1e-4)
        self.assertLess(short, long)
        self.assertLess(long, 4 * short)


class LinearAgreement(unittest.TestCase):
    """A product of rows and weights that are waves."""

    rows, terms, outputs = 3, 64, 5

    def product(self, rounded=float, *, bias=True, shift=0):
        def wave(n):
            return as_float(math.sin(7 * n * n + n))

        result = []
        for i in range(self.rows):
            for o in range(self.outputs):
                total = 0.0
                for k in range(self.terms):
                    weight = wave(1000 + o * self.terms + k + shift)
                    total = rounded(total + rounded(wave(i * self.terms + k) * weight))
                result.append(rounded(total + bias * wave(2000 + o)))
        return result

    def setUp(self):
        self.right = self.product()
        self.allowed = linear.tolerance(self.terms, max(map(abs, self.right)))

    def difference(self, *rounded, **wrong):
        return largest_difference(self.product(*rounded, **wrong), self.right)

    def test_float_is_allowed(self):
        self.assertLess(self.difference(as_float), self.allowed)
        self.assertGreater(self.difference(as_float), self.allowed / 100)

    def test_wrong_products_are_refused(self):
        for wrong in ({"bias": False}, {"shift": 1}):
            with self.subTest(**wrong):
                self.assertGreater(self.difference(**wrong), 1e3 * self.allowed)


class GradientAgreement(unittest.TestCase):
    def setUp(self):
        self.inputs = list(waves(0, 1, 2, 3))
        self.right, largest_score = gradients(*self.inputs)
        self.allowed = {what: attention_kind.gradient_tolerance(TRAINING, largest_score,
                                                         max(map(abs, values)))
                        for what, values in self.right.items()}

    def difference(self, wrong, what):
        return largest_difference(wrong[what], self.right[what])

    def test_the_formula_has_the_slopes_of_the_output(self):
        def loss():
            q, k, v, d_out = self.inputs
            return dot(attention(q, k, v), sum(d_out, []))

        step = 1e-5
        for name, x in zip(self.right, self.inputs):
            for n, slope in enumerate(self.right[name]):
                i, c = divmod(n, 5)
                before = x[i][c]
                x[i][c] = before + step
                above = loss()
                x[i][c] = before - step
                self.assertAlmostEqual((above - loss()) / (2 * step), slope, delta=1e-8)
                x[i][c] = before

    def test_rounding_is_allowed(self):
        unit = 2.0**-24
        for what, values in self.right.items():
            rounded = {what: [x * (1 + 2 * unit) for x in values]}
            self.assertLess(self.difference(rounded, what), self.allowed[what])

    def test_wrong_gradients_are_refused(self):
        no_mask, _ = gradients(*self.inputs, causal=False)
        no_delta, _ = gradients(*self.inputs, without_delta=True)
        q, k, v, d_out = self.inputs
        swapped, _ = gradients(q, k, v, d_out[1:] + d_out[:1])
        for what in ("dq", "dk", "dv"):
            self.assertGreater(self.difference(no_mask, what), 1e3 * self.allowed[what])
            self.assertGreater(self.difference(swapped, what), 1e3 * self.allowed[what])
        for what in ("dq", "dk"):
            self.assertGreater(self.difference(no_delta, what), 1e3 * self.allowed[what])

    def test_the_tolerance_is_far_below_a_gradient(self):
        long = AttentionCase(8192, 1, 128, True, 1, "training")
        self.assertLess(attention_kind.gradient_tolerance(long, 6.0, 1.0), 1e-4)


class Layer:
    """A layer of multi-head attention by the formula, on lists; `rounded` says how."""

    def __init__(self, rounded=float, *, causal=False, scale=None, bias=True, heads=LAYER.heads):
        self.rounded, self.causal, self.bias, self.heads = rounded, causal, bias, heads
        self.scale = scale or 1 / math.sqrt(LAYER.embed_dim // heads)
        self.squared_scores = []

    def dot(self, a, b):
        total = 0.0
        for x, y in zip(a, b):
            total = self.rounded(total + self.rounded(x * y))
        return total

    def linear(self, x, number):
        """The projection of that number: weights and biases are waves."""
        width = LAYER.embed_dim
        return [[self.rounded(self.dot(row, [self.rounded(math.sin(5 * o + 2 * i + number) / 2)
                                             for i in range(width)]) +
                              self.bias * self.rounded(math.cos(o + number)))
                 for o in range(width)] for row in x]

    def attend(self, q, k, v):
        """One head."""
        out = []
        for i, query in enumerate(q):
            seen = range(i + 1) if self.causal else range(len(k))
            scores = [self.rounded(self.scale * self.dot(query, k[j])) for j in seen]
            self.squared_scores += [score**2 for score in scores]
            weights = [self.rounded(math.exp(score)) for score in scores]
            total = self.dot(weights, [1.0] * len(weights))
            out.append([self.rounded(self.dot(weights, [v[j][c] for j in seen]) / total)
                        for c in range(len(v[0]))])
        return out

    def __call__(self, x):
        """The output of one batch element, as a flat list."""
        q, k, v = (self.linear(x, number) for number in range(3))
        width = LAYER.embed_dim // self.heads
        heads = [self.attend(*([row[begin:begin + width] for row in part] for part in (q, k, v)))
                 for begin in range(0, LAYER.embed_dim, width)]
        return sum(self.linear([sum(rows, []) for rows in zip(*heads)], 3), [])


def as_float(value):
    """Rounded to 24 bits."""
    return struct.unpack("f", struct.pack("f", value))[0]


class LayerAgreement(unittest.TestCase):
    def setUp(self):
        self.x = [[as_float(math.sin(7 * i + 3 * c)) for c in range(LAYER.embed_dim)]
                  for i in range(LAYER.length)]
        formula = Layer()
        self.right = formula(self.x)
        self.largest = max(map(abs, self.right))
        self.typical_score = statistics.mean(formula.squared_scores)**0.5
        self.allowed = layer.tolerance(LAYER, self.typical_score, self.largest)

    def difference(self, **wrong):
        return largest_difference(Layer(**wrong)(self.x), self.right)

    def test_float_is_allowed(self):
        self.assertLess(self.difference(rounded=as_float), self.allowed)
        self.assertGreater(self.difference(rounded=as_float), self.allowed / 100)

    def test_wrong_layers_are_far_outside(self):
        for wrong in ({"causal": True}, {"scale": 1.0}, {"bias": False}, {"heads": 3}):
            with self.subTest(wrong):
                self.assertGreater(self.difference(**wrong), 1e3 * self.allowed)

    def test_the_tolerance_is_far_below_a_value_and_grows_slowly(self):
        for pass_name in layer.PASSES:
            small, large = (LayerCase(width, 4, length, 1, 1, pass_name)
                            for width, length in ((256, 16), (1024, 2048)))
            small, large = (layer.tolerance(case, 1.0, 1.0) for case in (small, large))
            self.assertLess(large, 1e-4)
            self.assertLess(small, large)
            self.assertLess(large, 10 * small)


class OtherTolerances(unittest.TestCase):
    def test_an_embedding_may_differ_in_its_fifth_digit_at_most(self):
        self.assertLess(encoder.tolerance(EncoderCase("128", 32, 1), 2.0, 0.2), 5e-5)

    def test_a_loss_may_differ_by_less_than_a_step_changes_it(self):
        case = TrainingStepCase(1)
        drift = training_step.drift_tolerance(case, 0.3, 2e-5, 10.0)
        self.assertLess(training_step.loss_tolerance(case, 0.3, 5.0) + 10 * drift, 2e-5)


class FakeTime:
    """A clock that only calls and pauses move, and a protocol of what happened."""

    def __init__(self, **cost):
        self.now, self.log, self.cost = 0.0, [], cost
        self.calls = {name: lambda name=name: self.spend(name) for name in cost}

    def spend(self, name):
        self.now += self.cost[name]
        self.log.append(name)

    def measure(self, **options):
        return contest.measure(CASE, self.calls, lambda: 2e9, clock=lambda: self.now,
                               settle=lambda: self.log.append("settle"), **options)


class Timing(unittest.TestCase):
    def test_each_contender_has_its_own_time(self):
        measured = FakeTime(heed=1e-4, a=3e-4, b=2e-4).measure(row_seconds=1, at_least=1e-3)
        for name, seconds in {"heed": 1e-4, "a": 3e-4, "b": 2e-4}.items():
            self.assertAlmostEqual(measured.median(name), seconds)
            self.assertEqual(len(measured.seconds[name]), measured.rounds)
        self.assertEqual(measured.fastest_peer, "b")
        self.assertAlmostEqual(measured.ratio, 0.5)

    def test_the_first_one_changes_from_round_to_round(self):
        fake = FakeTime(heed=1.0, a=1.0, b=1.0)
        fake.measure(row_seconds=9, at_least=1e-3)
        calls = [name for name in fake.log if name != "settle"]
        rounds = [calls[i:i + 3] for i in range(6, len(calls), 3)]  # after two calls of each
        self.assertEqual(rounds, [["heed", "a", "b"], ["a", "b", "heed"], ["b", "heed", "a"]])

    def test_others_settle_before_each_timing(self):
        fake = FakeTime(heed=1.0, a=1.0)
        fake.measure(row_seconds=9, at_least=1e-3)
        for i, what in enumerate(fake.log):
            if what != "settle":
                self.assertIn(fake.log[i - 1], ("settle", what))

    def test_all_but_long_calls_are_made_once_before_each_timing(self):
        for seconds, calls in ((0.01, 2), (1.0, 1)):
            fake = FakeTime(heed=seconds)
            measured = fake.measure(row_seconds=9, at_least=1e-3)
            self.assertEqual(fake.log.count("heed"), 2 + calls * measured.rounds)

    def test_fast_rows_have_many_rounds_and_slow_ones_still_a_few(self):
        for seconds, rounds in ((1e-4, contest.MOST_ROUNDS), (1.0, 10), (60.0, 3)):
            measured = FakeTime(heed=seconds, a=seconds).measure(row_seconds=20, at_least=1e-3)
            self.assertEqual(measured.rounds, rounds)
        self.assertGreaterEqual(contest.rounds_for(20 / contest.USUAL_ROUNDS, 20),
                                contest.USUAL_ROUNDS)

    def test_a_timing_takes_long_enough(self):
        for seconds in (1e-6, 3e-4, 0.7):
            fake = FakeTime(a=seconds)
            repetitions, per_call = contest.repetitions_for(fake.calls["a"], lambda: fake.now, 0.01)
            self.assertGreaterEqual(repetitions * seconds, 0.0099)
            self.assertLess((repetitions - 1) * seconds, 0.02)
            self.assertAlmostEqual(per_call, seconds)

    def test_a_coarse_clock_is_waited_for(self):
        fake = FakeTime(a=1e-5)
        repetitions, _ = contest.repetitions_for(fake.calls["a"],
                                                 lambda: math.floor(fake.now / 0.004) * 0.004, 0.01)
        self.assertGreaterEqual(repetitions, 600)

    def test_the_first_call_is_not_taken_for_the_others(self):
        fake = FakeTime(a=1e-4)

        def call():
            if not fake.log:
                fake.now += 1  # as a call that packs weights
            fake.calls["a"]()

        repetitions, seconds = contest.repetitions_for(call, lambda: fake.now, 0.01)
        self.assertGreaterEqual(repetitions, 99)
        self.assertAlmostEqual(seconds, 1e-4)

    def test_rotation(self):
        self.assertEqual(contest.rotated("abc", 4), ["b", "c", "a"])
        self.assertEqual(contest.rotated([], 1), [])


class Statistics(unittest.TestCase):
    def test_one_disturbed_round_changes_no_median(self):
        disturbed = row([1.0, 1.0, 50.0], a=[2.0, 2.0, 2.0], b=[4.0, 0.1, 4.0])
        self.assertEqual(disturbed.median("heed"), 1.0)
        self.assertEqual(disturbed.fastest_peer, "a")
        self.assertEqual(disturbed.ratio, 0.5)
        self.assertEqual(disturbed.speed_up("b"), 4.0)

    def test_spread_is_taken_round_by_round(self):
        self.assertEqual(row([1.0, 2.0, 3.0], a=[2.0, 4.0, 6.0]).spread, 0.0)
        self.assertEqual(row([1.0, 2.0, 3.0], a=[1.0, 1.0, 1.0]).spread, 0.5)

    def test_share_of_the_peak(self):
        self.assertAlmostEqual(row([CASE.flops / 0.8e9], a=[1.0]).of_peak("heed"), 0.8)

    def test_the_worst_row_comes_first(self):
        rows = [row([1.0], a=[2.0]), row([3.0], a=[2.0], b=[9.0]), row([1.0], a=[1.0])]
        self.assertEqual([r.ratio for r in contest.worst_first(rows)], [1.5, 1.0, 0.5])


def cells_of(table):
    """Its lines, as dictionaries by header."""
    header, _, *lines = ([cell.strip() for cell in line.split("|")[1:-1]]
                         for line in table.splitlines())
    return [dict(zip(header, line)) for line in lines]


class Report(unittest.TestCase):
    def setUp(self):
        self.rows = [row([1.0] * 7, PyTorch=[2.0] * 7, other=[4.0] * 7),
                     row([3.0] * 3, PyTorch=[2.0] * 3)]

    def test_the_table_begins_with_the_worst_row_and_shows_who_is_missing(self):
        worst, best = cells_of(report.table(self.rows))
        self.assertEqual(next(iter(worst)), "heed / fastest")
        self.assertEqual((worst["heed / fastest"], worst["fastest"]), ("1.500", "PyTorch"))
        self.assertEqual((worst["x PyTorch"], worst["x other"]), ("0.67", "-"))
        self.assertEqual((worst["rounds"], best["rounds"]), ("3", "7"))
        self.assertEqual((best["x PyTorch"], best["x other"]), ("2.00", "4.00"))

    def test_shares_of_the_peak_are_those_of_heed_and_of_the_fastest(self):
        seconds = CASE.flops / 1e9
        shares = row([seconds / 0.8], PyTorch=[seconds / 0.5], other=[seconds / 0.6])
        cells, = cells_of(report.table([shares]))
        self.assertEqual((cells["heed % of peak"], cells["fastest % of peak"]), ("80.0", "60.0"))

    def test_the_summary_hides_no_loss(self):
        text = report.markdown(self.rows, {"machine": "fake"}, ["a row: no time"])
        self.assertIn("forward: heed is the fastest in 1 of 2 rows", text)
        self.assertIn("worst 1.500", text)
        self.assertIn("fewer than 7 rounds, but at least 3, because they take long: 1", text)
        self.assertIn("- not measured: a row: no time", text)

    def test_each_pass_has_its_own_summary_and_all_share_a_table(self):
        slower = row([9.0], TRAINING, PyTorch=[3.0])
        text = report.markdown([*self.rows, slower], {}, [])
        self.assertIn("forward: heed is the fastest in 1 of 2 rows; heed's time over the fastest "
                      "peer's: worst 1.500", text)
        self.assertIn("training: heed is the fastest in 0 of 1 rows", text)
        worst, *_ = cells_of(report.table([*self.rows, slower]))
        self.assertEqual((worst["pass"], worst["heed / fastest"], worst["x other"]),
                         ("training", "3.000", "-"))

    def test_each_kind_has_its_own_table_and_notes(self):
        text = report.markdown([*self.rows, row([1.0], LAYER, other=[4.0])], {}, [])
        before, of_layer = text.split("## layer\n")
        self.assertIn("## attention\n", before)
        self.assertIn("numbers of heads that do not divide E are left out", of_layer)
        cells, = cells_of(of_layer[of_layer.index("| heed"):].strip())
        self.assertEqual([cells[name] for name in ("E", "H", "L", "B", "threads", "x other")],
                         ["6", "2", "4", "2", "1", "4.00"])
        self.assertNotIn("x PyTorch", cells)
        self.assertNotIn("## encoder", text)

    def test_json_has_every_measurement(self):
        data = json.loads(json.dumps(report.as_json(self.rows, {}, [])))
        self.assertEqual(data["rows"][0]["seconds"], {"heed": [3.0] * 3, "PyTorch": [2.0] * 3})
        self.assertEqual(data["rows"][1]["fastest_peer"], "PyTorch")
        self.assertEqual((data["rows"][0]["kind"], data["rows"][0]["length"]), ("attention", 3))

    def test_the_plot_has_a_block_for_each_line(self):
        longer = contest.Row(AttentionCase(9, 2, 5, True, 1), self.rows[1].seconds, [1.0])
        full = contest.Row(AttentionCase(3, 2, 5, False, 1), self.rows[1].seconds, [1.0])
        training = row([1.0], TRAINING, PyTorch=[4.0])
        of_layer = row([1.0], LAYER, PyTorch=[2.0])
        no_lines = row([1.0], TrainingStepCase(1), PyTorch=[2.0])
        self.assertEqual(report.plot_series([longer, full, self.rows[0], training, of_layer,
                                             no_lines]),
                         "# attention forward 5 1 0 2\n3 1.5000\n\n\n"
                         "# attention forward 5 1 1 2\n3 0.5000\n9 1.5000\n\n\n"
                         "# attention training 5 1 1 2\n3 0.2500\n\n\n"
                         "# layer forward 6 1 1 2\n4 0.5000\n")

    def test_each_picture_has_a_name_of_its_own(self):
        self.assertEqual([pictures.picture_name(kind, name) for kind in ("attention", "layer")
                          for name in ("forward", "training")],
                         ["peers.png", "peers_training.png", "peers_layer.png",
                          "peers_layer_training.png"])

    def test_seconds(self):
        self.assertEqual([report.seconds_text(s) for s in (1.5e-6, 0.0123, 2.5)],
                         ["1.5 us", "12.3 ms", "2.5 s"])


if __name__ == "__main__":
    unittest.main()
