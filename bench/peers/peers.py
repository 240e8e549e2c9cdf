#!/usr/bin/env python3
"""Is heed faster than PyTorch and ONNX Runtime? Runs all three in turn, in one process: the forward
pass, and forward and backward together (ONNX Runtime has no backward).

Checks that the results agree, then writes peers.md, peers.json and, if gnuplot is installed,
peers.png and peers_training.png. `make peers` builds what it needs and runs it.
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

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
GRID = {
    "lengths": [32, 128, 197, 512, 1024, 2048, 4096, 8192],
    "heads": [1, 8, 12, 32],
    "head_dims": [64, 128],
    "causal": [False, True],
    "threads": [1, 2],
}
PASSES = {contest.FORWARD: [False], contest.TRAINING: [True], "both": [False, True]}
QUICK_GRID = {**GRID, "lengths": [32, 128, 197, 512], "heads": [1, 12]}
NOTES = {
    "work": "B=1, float; only visible pairs count as work, under a causal mask too; training is "
            "forward and backward, with the gradients of q, k and v: seven products beside two",
    "layout": "heed and PyTorch are given contiguous [B,H,L,D], ONNX Runtime [B,L,H*D], the layout "
              "of its operator; PyTorch allocates its output and gradients, the others fill those "
              "that they are given",
    "time": "median of rounds, calls from Python included; CPU time of the process for one thread, "
            "wall clock for several; each runs when the threads of the others sleep",
}


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


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small grid, with short timings")
    for name in ("lengths", "heads", "head_dims", "threads"):
        parser.add_argument("--" + name.replace("_", "-"), type=numbers, metavar="N,N",
                            help=f"default: {','.join(map(str, GRID[name]))}")
    parser.add_argument("--causal", type=masks, metavar="no,yes", help="default: no,yes")
    parser.add_argument("--pass", dest="passes", choices=PASSES, default="both",
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
    parser.add_argument("--seed", type=int, default=1, help="of the inputs (default: 1)")
    parser.add_argument("--library", type=Path, default=BUILD / "bench/bench/libheed_peer.so",
                        help="heed's shared object (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=BUILD / "peers",
                        help="folder of the results (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not options.library.exists():
        parser.error(f"there is no {options.library}; `make peers` builds it")
    defaults = {**(QUICK_GRID if options.quick else GRID),
                "row_seconds": 1 if options.quick else 10,
                "timing_ms": 3 if options.quick else 10}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


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
        self.rows, self.notes = [], []
        self.about = {"machine": f"{processor_name()}; heed runs its {self.heed.instruction_set} "
                                 "kernels",
                      **contenders.versions(), **NOTES}
        if options.no_spinning:
            self.about["ONNX Runtime"] += ", its threads not spinning"

    def field(self, inputs):
        """All that can run this case, by name."""
        contenders, case = self.contenders, inputs.case
        field = {contest.HEED: self.heed.contender(inputs), "PyTorch": contenders.pytorch(inputs)}
        if case.training:
            return field
        # Under a causal mask, ONNX Runtime keeps all scores, and some copies of the inputs.
        if case.causal and 1.3 * case.score_bytes > available_bytes():
            self.notes.append(f"ONNX Runtime at {case}: too little memory for its scores")
        else:
            field["ONNX Runtime"] = contenders.onnx_runtime(inputs, not self.options.no_spinning)
        return field

    def measured(self, case):
        with self.contenders.torch.inference_mode(not case.training):
            inputs = self.contenders.Inputs(case, self.options.seed)
            field = self.field(inputs)
            differences, allowed = self.contenders.check(field, inputs)
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
    """A picture of each pass, if that is possible; returns what was drawn."""
    if not shutil.which("gnuplot"):
        print("peers: no plot, because gnuplot is not installed", file=sys.stderr)
        return []
    pictures = {contest.FORWARD: "peers.png", contest.TRAINING: "peers_training.png"}
    drawn = []
    for name, picture in pictures.items():
        if of_pass := [row for row in rows if row.case.pass_name == name]:
            draw_pass(name, of_pass, folder, picture)
            drawn.append(picture)
    return drawn


def draw_pass(name, rows, folder, picture):
    def words(field):
        return " ".join(map(str, sorted({getattr(row.case, field) for row in rows})))

    values = {"pass": name, "series": folder / "peers.dat", "picture": folder / picture,
              "head_dims": words("head_dim"), "threads": words("threads"), "heads": words("heads")}
    settings = "; ".join(f"{key}='{value}'" for key, value in values.items())
    subprocess.run(["gnuplot", "-e", settings, HERE / "plot.gp"], check=True)


def main(arguments=None):
    options = parsed(arguments)
    comparison = Comparison(options)
    cases = contest.grid(options.lengths, options.heads, options.head_dims, options.causal,
                         options.threads, PASSES[options.passes])
    gc.disable()
    try:
        comparison.run(cases)
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
