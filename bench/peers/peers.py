#!/usr/bin/env python3
"""Is heed faster than PyTorch and ONNX Runtime? Runs all of them in turn, in one process: attention
alone, a layer of multi-head attention, a sentence encoder, a step of training.

Checks that the results agree, then writes peers.md (a table for each kind, the worst row first),
peers.json and, if gnuplot is installed, pictures. `make peers` builds what it needs and runs it.
"""

import argparse
import functools
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import contest
import report
from kinds import KINDS, encoder

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
TIME = ("median of rounds, calls from Python included; CPU time of the process for one thread, "
        "wall clock for several; each runs when the threads of the others sleep")


def numbers(text):
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError("numbers must be at least 1")
    return values


def masks(text):
    names = {"no": False, "yes": True}
    if unknown := set(text.split(",")) - set(names):
        raise argparse.ArgumentTypeError(f"it is no or yes, not {', '.join(sorted(unknown))}")
    return [names[part] for part in text.split(",")]


def texts(text):
    parts = text.split(",")
    if wrong := [part for part in parts if part not in (encoder.MIXED, encoder.SORTED)
                 and not (part.isdigit() and 2 <= int(part) <= encoder.MOST_TOKENS)]:
        raise argparse.ArgumentTypeError(
            f"each is {encoder.MIXED}, {encoder.SORTED} or a length of 2 to "
            f"{encoder.MOST_TOKENS} tokens, not {', '.join(wrong)}")
    return parts


def kinds(text):
    names = list(KINDS) if text == "all" else text.split(",")
    if unknown := set(names) - set(KINDS):
        raise argparse.ArgumentTypeError(f"it is {', '.join(KINDS)} or all, not "
                                         f"{', '.join(sorted(unknown))}")
    return [KINDS[name] for name in names]


# What the axes of the grids are, and how their values are written.
AXES = {
    "lengths": (numbers, "N,N", "of sequences"),
    "heads": (numbers, "N,N", "of an attention"),
    "head_dims": (numbers, "N,N", "width of a head"),
    "embed_dims": (numbers, "N,N", "width of a layer; heads that do not divide it are left out"),
    "batches": (numbers, "N,N", "sequences or sentences that are computed together"),
    "causal": (masks, "no,yes", "with a causal mask"),
    "texts": (texts, "N,mixed,sorted", "sentences of N tokens, or of several lengths"),
    "threads": (numbers, "N,N", "of every contender"),
}


def default_text(axis):
    """The values that the kinds take when none are given."""
    def words(values):
        return ",".join(("yes" if value else "no") if isinstance(value, bool) else str(value)
                        for value in values)

    grids = {name: words(kind.GRID[axis]) for name, kind in KINDS.items() if axis in kind.GRID}
    if len(set(grids.values())) == 1:
        return f"{', '.join(grids)}: {grids.popitem()[1]}"
    return "; ".join(f"{name}: {text}" for name, text in grids.items())


def parser_of_options():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", type=kinds, default=kinds("attention"), metavar="KIND,KIND",
                        help=f"{', '.join(KINDS)} or all (default: attention)")
    parser.add_argument("--quick", action="store_true", help="a small grid, with short timings")
    for axis, (kind, values, meaning) in AXES.items():
        parser.add_argument("--" + axis.replace("_", "-"), type=kind, metavar=values,
                            help=f"{meaning} (default: {default_text(axis)})")
    parser.add_argument("--pass", dest="passes", default="both",
                        choices=[contest.FORWARD, contest.TRAINING, "both"],
                        help="training is forward and backward together (default: both)")
    parser.add_argument("--minutes", type=float, default=float("inf"),
                        help="start no row after so many minutes; rows begin with the cheapest")
    parser.add_argument("--row-seconds", type=float,
                        help="time for the rounds of one row, within "
                             f"{contest.FEWEST_ROUNDS} to {contest.MOST_ROUNDS} rounds "
                             "(default: 10; quick: 1)")
    parser.add_argument("--timing-ms", type=float,
                        help="calls are repeated until they take so long (default: 10; quick: 3)")
    parser.add_argument("--no-spinning", action="store_true",
                        help="let ONNX Runtime's threads sleep at once when they have no work")
    parser.add_argument("--minilm", type=Path, metavar="DIR",
                        help="a folder with model.safetensors of all-MiniLM-L6-v2, for the "
                             "encoder (default: random weights of the same sizes)")
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default: 1)")
    parser.add_argument("--library", type=Path, default=BUILD / "bench/bench/libheed_peer.so",
                        help="heed's shared object (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=BUILD / "peers",
                        help="folder of the results (default: %(default)s)")
    return parser


def parsed(arguments):
    parser = parser_of_options()
    options = parser.parse_args(arguments)
    if not options.library.exists():
        parser.error(f"there is no {options.library}; `make peers` builds it")
    defaults = {"row_seconds": 1 if options.quick else 10, "timing_ms": 3 if options.quick else 10}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    for axis in AXES:
        if getattr(options, axis) and not any(axis in kind.GRID for kind in options.what):
            parser.error(f"--{axis.replace('_', '-')} says nothing about "
                         f"{', '.join(kind.NAME for kind in options.what)}")
    options.cases = all_cases(options)
    if not options.cases:
        parser.error("there is nothing to measure")
    return options


def all_cases(options):
    """Of all kinds, the cheapest first."""
    passes = [contest.FORWARD, contest.TRAINING] if options.passes == "both" else [options.passes]
    found = []
    for kind in options.what:
        grid = kind.QUICK_GRID if options.quick else kind.GRID
        axes = {axis: getattr(options, axis) or values for axis, values in grid.items()}
        found += kind.cases(axes, [name for name in passes if name in kind.PASSES])
    return contest.cheapest_first(found)


def available_bytes():
    """Memory that may be used without trouble; unlimited where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines
                    if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def processor_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


class Comparison:
    """Rows of all cases, as far as time and memory allow."""

    def __init__(self, options):
        # Late, because --help must work without the peers.
        import contenders

        self.contenders = contenders
        self.options = options
        self.heed = contenders.Heed(options.library)
        self.setting = contenders.Setting(self.heed, options.seed, not options.no_spinning,
                                          options.minilm, self.fits)
        self.rows, self.notes = [], []
        self.about = {"machine": f"{processor_name()}; heed runs its {self.heed.instruction_set} "
                                 "kernels",
                      **contenders.versions(), "time": TIME}
        if options.no_spinning:
            self.about["ONNX Runtime version"] += ", its threads not spinning"
        if encoder in options.what:
            self.about["encoder's weights"] = ("those of --minilm" if options.minilm else
                                               "random, of the sizes of all-MiniLM-L6-v2")

    def fits(self, case, name, needed):
        """True if a contender may take so many bytes; notes it otherwise."""
        if needed <= available_bytes():
            return True
        self.notes.append(f"{name} at {case}: too little memory for its scores")
        return False

    def measured(self, case):
        training = case.pass_name == contest.TRAINING
        with self.contenders.torch.inference_mode(not training):
            problem = self.contenders.problem(case, self.setting)
            field = problem.field()
            differences, allowed = self.contenders.check(problem, field)
            row = contest.measure(case, {name: contender.call for name, contender in field.items()},
                                  functools.partial(self.heed.fma_peak, case.threads),
                                  row_seconds=self.options.row_seconds,
                                  at_least=self.options.timing_ms / 1e3)
        row.differences, row.tolerances = differences, allowed
        return row

    def run(self, cases):
        """Measures until all is done or time is up; what there is, is saved after each row."""
        begin = time.monotonic()
        self.about["load before"] = os.getloadavg()[0]
        for number, case in enumerate(cases):
            minutes = (time.monotonic() - begin) / 60
            if minutes > self.options.minutes:
                self.notes.append(f"the {len(cases) - number} costliest rows, from {case} on: "
                                  f"{self.options.minutes:g} minutes had passed")
                break
            row = self.measured(case)
            gc.collect()  # sessions keep large scratch memory
            self.rows.append(row)
            self.save()
            print(f"[{number + 1}/{len(cases)}, {minutes:.1f} min] {case}: heed / fastest "
                  f"{row.ratio:.3f} ({row.fastest_peer})", file=sys.stderr, flush=True)

    def save(self):
        """Writes all but the picture, and returns the text of peers.md."""
        self.about["load after"] = os.getloadavg()[0]
        folder, found = self.options.output, (self.rows, self.about, self.notes)
        folder.mkdir(parents=True, exist_ok=True)
        text = report.markdown(*found)
        (folder / "peers.md").write_text(text)
        (folder / "peers.json").write_text(json.dumps(report.as_json(*found), indent=1))
        (folder / "peers.dat").write_text(report.plot_series(self.rows))
        return text


def draw(rows, folder):
    """A picture of each kind and pass, if that is possible; returns what was drawn."""
    if not shutil.which("gnuplot"):
        print("peers: no plot, because gnuplot is not installed", file=sys.stderr)
        return []
    drawn = []
    for kind in (kind for kind in KINDS.values() if kind.PLOT):
        for name in kind.PASSES:
            if of_pass := report.rows_of(rows, kind.NAME, name):
                drawn.append(picture_name(kind.NAME, name))
                draw_pass(kind, name, of_pass, folder, drawn[-1])
    return drawn


def picture_name(kind, pass_name):
    parts = [kind] * (kind != "attention") + [pass_name] * (pass_name != contest.FORWARD)
    return "_".join(["peers", *parts]) + ".png"


def draw_pass(kind, name, rows, folder, picture):
    def words(values):
        return " ".join(map(str, sorted(set(values))))

    panels, _, symbols = zip(*(row.case.plot_place for row in rows))
    lengths = [row.case.length for row in rows]
    values = {"kind": kind.NAME, "title": kind.PLOT["title"], "pass": name,
              "series": folder / "peers.dat", "picture": folder / picture,
              "panel": kind.PLOT["panel"], "panels": words(panels), "heads": words(symbols),
              "threads": words(row.case.threads for row in rows),
              "first_colour": kind.PLOT["colours"][0], "second_colour": kind.PLOT["colours"][1],
              "shortest": min(lengths), "longest": max(lengths)}
    settings = "; ".join(f"{key}='{value}'" for key, value in values.items())
    done = subprocess.run(["gnuplot", "-e", settings, HERE / "plot.gp"], check=True, text=True,
                          stderr=subprocess.PIPE)
    for line in done.stderr.splitlines():
        if line and "no valid points" not in line:  # of lines that are not in the grid
            print(line, file=sys.stderr)


def main(arguments=None):
    options = parsed(arguments)
    comparison = Comparison(options)
    gc.disable()
    try:
        comparison.run(options.cases)
    except contest.Disagreement as wrong:
        print(f"peers: {wrong}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        comparison.notes.append("all that is missing: interrupted")
    if not comparison.rows:
        print("peers: nothing was measured", file=sys.stderr)
        return 1
    print(comparison.save())
    written = ["peers.md", "peers.json", *draw(comparison.rows, options.output)]
    print(f"peers: wrote {', '.join(written)} in {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
