#!/usr/bin/env python3
"""Tests of bench/peers: agreement, timing by a clock made by hand, statistics, tables.

Standard library only: python3 tests/bench/peers_test.py
"""

import dataclasses
import json
import math
import sys
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench/peers"))
import contest  # noqa: E402
import report  # noqa: E402

CASE = contest.Case(length=3, heads=2, head_dim=5, causal=True, threads=1)
TRAINING = dataclasses.replace(CASE, training=True)


def row(heed, case=CASE, **peers):
    """A row with these seconds of each round."""
    rounds = {"heed": heed, **peers}
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


class Cases(unittest.TestCase):
    def test_only_visible_pairs_count(self):
        self.assertEqual(CASE.visible_pairs, 1 + 2 + 3)
        self.assertEqual(CASE.flops, 4 * 2 * 5 * 6)
        full = contest.Case(3, 2, 5, False, 1)
        self.assertEqual(full.flops, 4 * 2 * 5 * 9)
        self.assertEqual(full.score_bytes, 4 * 2 * 9)

    def test_the_way_back_counts_two_and_a_half_times_the_way_there(self):
        self.assertEqual(TRAINING.flops, CASE.flops + 10 * 2 * 5 * 6)
        self.assertEqual((CASE.pass_name, TRAINING.pass_name), ("forward", "training"))
        self.assertNotEqual(str(CASE), str(TRAINING))

    def test_the_grid_has_every_combination_once_and_the_cheapest_first(self):
        cases = contest.grid([64, 32, 64], [1, 12], [64, 128], [False, True], [1, 2],
                             [False, True])
        self.assertEqual(len(cases), 2 * 2 * 2 * 2 * 2 * 2)
        self.assertEqual(len(set(cases)), len(cases))
        self.assertEqual([case.flops for case in cases], sorted(case.flops for case in cases))
        self.assertEqual(cases[0], contest.Case(32, 1, 64, True, 1))


class Agreement(unittest.TestCase):
    def setUp(self):
        q, k, v = waves(0, 1, 2)
        self.right = attention(q, k, v)
        self.wrong = {"no mask": attention(q, k, v, causal=False),
                      "no scale": attention(q, k, v, scale=1),
                      "keys shifted": attention(q, k[1:] + k[:1], v),
                      "a row missing": self.right[:-5],
                      "NaN": [*self.right[:-1], math.nan]}
        self.allowed = contest.tolerance(CASE, 5.0, 1.0)

    def require(self, output):
        difference = contest.largest_difference(output, self.right)
        contest.require_agreement(CASE, "out", {"heed": 0.0, "other": difference}, self.allowed)

    def test_rounding_is_allowed(self):
        unit = 2.0**-24
        self.require([x * (1 + 2 * unit) for x in self.right])

    def test_wrong_results_are_refused_by_name(self):
        for what, output in self.wrong.items():
            with self.subTest(what), self.assertRaisesRegex(contest.Disagreement, "out .*other by"):
                self.require(output)

    def test_nan_is_seen_wherever_it_stands(self):
        for actual in ([math.nan, 0.0], [0.0, math.nan]):
            self.assertTrue(math.isnan(contest.largest_difference(actual, [0.0, 5.0])))

    def test_the_tolerance_is_far_below_a_value_and_grows_slowly(self):
        short, long = (contest.tolerance(contest.Case(length, 1, 64, False, 1), 6.0, 5.0)
                       for length in (32, 8192))
        self.assertLess(long, 1e-4)
        self.assertLess(short, long)
        self.assertLess(long, 4 * short)


class GradientAgreement(unittest.TestCase):
    def setUp(self):
        self.inputs = list(waves(0, 1, 2, 3))
        self.right, largest_score = gradients(*self.inputs)
        self.allowed = {what: contest.gradient_tolerance(TRAINING, largest_score,
                                                         max(map(abs, values)))
                        for what, values in self.right.items()}

    def difference(self, wrong, what):
        return contest.largest_difference(wrong[what], self.right[what])

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
        long = contest.Case(8192, 1, 128, True, 1, True)
        self.assertLess(contest.gradient_tolerance(long, 6.0, 1.0), 1e-4)


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
        rounds = [calls[i:i + 3] for i in range(3, len(calls), 3)]
        self.assertEqual(rounds, [["heed", "a", "b"], ["a", "b", "heed"], ["b", "heed", "a"]])

    def test_others_settle_before_each_timing(self):
        fake = FakeTime(heed=1.0, a=1.0)
        fake.measure(row_seconds=9, at_least=1e-3)
        for i, what in enumerate(fake.log):
            if what != "settle":
                self.assertEqual(fake.log[i - 1], "settle")

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


class Report(unittest.TestCase):
    def setUp(self):
        self.rows = [row([1.0] * 7, PyTorch=[2.0] * 7, other=[4.0] * 7),
                     row([3.0] * 3, PyTorch=[2.0] * 3)]

    def test_the_table_begins_with_the_worst_row_and_shows_who_is_missing(self):
        header, _, worst, best = report.table(self.rows).splitlines()
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (header, worst, best)]
        worst, best = (dict(zip(cells[0], line)) for line in cells[1:])
        self.assertEqual(worst["heed / fastest"], "1.500")
        self.assertEqual((worst["x PyTorch"], worst["x other"]), ("0.67", "-"))
        self.assertEqual((worst["rounds"], best["rounds"]), ("3", "7"))
        self.assertEqual((best["x PyTorch"], best["x other"]), ("2.00", "4.00"))

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
        header, _, worst, *_ = report.table([*self.rows, slower]).splitlines()
        worst = dict(zip(*([cell.strip() for cell in line.split("|")[1:-1]]
                           for line in (header, worst))))
        self.assertEqual((worst["pass"], worst["heed / fastest"], worst["x other"]),
                         ("training", "3.000", "-"))

    def test_json_has_every_measurement(self):
        data = json.loads(json.dumps(report.as_json(self.rows, {}, [])))
        self.assertEqual(data["rows"][0]["seconds"], {"heed": [3.0] * 3, "PyTorch": [2.0] * 3})
        self.assertEqual(data["rows"][1]["fastest_peer"], "PyTorch")

    def test_the_plot_has_a_block_for_each_line(self):
        longer = contest.Row(contest.Case(9, 2, 5, True, 1), self.rows[1].seconds, [1.0])
        full = contest.Row(contest.Case(3, 2, 5, False, 1), self.rows[1].seconds, [1.0])
        training = row([1.0], TRAINING, PyTorch=[4.0])
        self.assertEqual(report.plot_series([longer, full, self.rows[0], training]),
                         "# forward 5 1 0 2\n3 1.5000\n\n\n"
                         "# forward 5 1 1 2\n3 0.5000\n9 1.5000\n\n\n"
                         "# training 5 1 1 2\n3 0.2500\n")

    def test_seconds(self):
        self.assertEqual([report.seconds_text(s) for s in (1.5e-6, 0.0123, 2.5)],
                         ["1.5 us", "12.3 ms", "2.5 s"])


if __name__ == "__main__":
    unittest.main()
