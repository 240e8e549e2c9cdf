"""How are several ways to compute the same thing compared fairly? Timing, statistics, agreement.

Standard library only; knows no contender. bench/peers/kinds says what is computed, and
bench/peers/report.py writes what comes out.
"""

import dataclasses
import math
import statistics
import time

HEED = "heed"
FORWARD, TRAINING = "forward", "training"
LONG_CALL = 0.05  # seconds
FEWEST_ROUNDS, USUAL_ROUNDS, MOST_ROUNDS = 3, 7, 15


class Case:
    """What is compared in one row: a frozen dataclass with the field `threads`, and

    kind        which table it belongs to
    pass_name   FORWARD or TRAINING
    flops       multiplications and additions that the result needs
    cells       what the table says of it, text by header
    """

    def __str__(self):
        return " ".join([self.kind, self.pass_name,
                         *(f"{name}={text}" for name, text in self.cells.items())])


def cheapest_first(cases):
    """Each once."""
    return sorted(set(cases), key=lambda case: (case.flops, str(case)))


# --- Is it right? -------------------------------------------------------------------------------


UNIT_ROUNDOFF = 2.0**-24  # of float


class Disagreement(Exception):
    """A contender computes something else."""


def require_agreement(case, what, differences, allowed):
    """`differences`: the largest one of this result of each contender, by name. Throws Disagreement
    unless all are allowed; NaN never is."""
    wrong = [f"{name} by {difference:.3g}" for name, difference in differences.items()
             if not difference <= allowed]
    if wrong:
        raise Disagreement(f"{case}: {what} differs from the exact result by more than "
                           f"{allowed:.3g}: {', '.join(wrong)}")


# --- How long does it take? ---------------------------------------------------------------------


def clock_for(threads):
    """One thread: CPU time of the process, so that other programs count less and hidden helpers
    count too. Several threads have no CPU time in common: the wall clock."""
    return time.process_time if threads == 1 else time.perf_counter


def wait_until_quiet(pause=0.002, at_most=1.0):
    """Threads of a contender wait for more work for a while without sleeping, and would take a core
    from the next one. Returns when the process has used next to no CPU time in two pauses, or after
    so many seconds."""
    quiet_in_a_row = 0
    end = time.perf_counter() + at_most
    while quiet_in_a_row < 2 and time.perf_counter() < end:
        before = time.process_time()
        time.sleep(pause)
        quiet = time.process_time() - before < pause / 10
        quiet_in_a_row = quiet_in_a_row + 1 if quiet else 0


def seconds_per_call(call, repetitions, clock):
    begin = clock()
    for _ in range(repetitions):
        call()
    return (clock() - begin) / repetitions


def repetitions_for(call, clock, at_least):
    """How often a call must be repeated to take so many seconds, and the seconds of one call."""
    call()  # the first one may take long: it packs weights, or allocates what later ones have
    repetitions = 1
    while True:
        seconds = seconds_per_call(call, repetitions, clock)
        all_seconds = seconds * repetitions
        if all_seconds >= at_least:
            return repetitions, seconds
        # The next ones are slow, too, and the clock may be coarse: approach from below.
        growth = min(10, 1.2 * at_least / all_seconds) if all_seconds > 0 else 10
        repetitions = math.ceil(growth * repetitions)


def rounds_for(round_seconds, row_seconds):
    """As many as fit into row_seconds, within FEWEST_ROUNDS and MOST_ROUNDS."""
    fit = int(row_seconds / round_seconds) if round_seconds > 0 else MOST_ROUNDS
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, fit))


def rotated(items, steps):
    items = list(items)
    steps %= max(1, len(items))
    return items[steps:] + items[:steps]


@dataclasses.dataclass
class Row:
    """What was measured for one case."""

    case: Case
    seconds: dict  # of each contender, heed included: seconds of a call, for each round
    peaks: list  # FLOP/s of multiply-adds alone, for each round
    # Of each contender from the exact results, and what was allowed, both by result.
    differences: dict = dataclasses.field(default_factory=dict)
    tolerances: dict = dataclasses.field(default_factory=dict)

    @property
    def rounds(self):
        return len(self.peaks)

    @property
    def peers(self):
        return [name for name in self.seconds if name != HEED]

    def median(self, name):
        return statistics.median(self.seconds[name])

    @property
    def fastest_peer(self):
        return min(self.peers, key=self.median)

    @property
    def ratio(self):
        """heed's time over the fastest peer's: below 1, heed is the fastest."""
        return self.median(HEED) / self.median(self.fastest_peer)

    @property
    def spread(self):
        """Half the distance between the quartiles of the ratio, taken round by round."""
        ratios = [ours / theirs for ours, theirs in zip(self.seconds[HEED],
                                                        self.seconds[self.fastest_peer])]
        if len(ratios) < 2:
            return 0.0
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return (high - low) / 2

    def speed_up(self, peer):
        """How many times faster than this peer heed is."""
        return self.median(peer) / self.median(HEED)

    def of_peak(self, name):
        return self.case.flops / self.median(name) / statistics.median(self.peaks)


def worst_first(rows):
    """The rows where heed does worst beside the fastest peer come first."""
    return sorted(rows, key=lambda row: row.ratio, reverse=True)


def measure(case, contenders, peak, *, row_seconds, at_least, settle=wait_until_quiet, clock=None):
    """Times `contenders`, calls by name, in turn, so that all meet the same disturbances: each once
    in a round, by at_least seconds of calls, the first one changing from round to round.
    `peak` measures FLOP/s once in a round. Returns a Row."""
    clock = clock or clock_for(case.threads)
    repetitions, seconds = {}, {}
    for name, call in contenders.items():
        settle()
        repetitions[name], seconds[name] = repetitions_for(call, clock, at_least)
    round_seconds = sum(repetitions[name] * seconds[name] for name in contenders)
    row = Row(case, {name: [] for name in contenders}, [])
    for number in range(rounds_for(round_seconds, row_seconds)):
        settle()
        row.peaks.append(peak())
        for name in rotated(contenders, number):
            call = contenders[name]
            settle()
            if seconds[name] < LONG_CALL:
                call()  # wakes threads and fills caches; in a long call that is lost among the rest
            row.seconds[name].append(seconds_per_call(call, repetitions[name], clock))
    return row
