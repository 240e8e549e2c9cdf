#!/usr/bin/env python3
"""Is heed faster than PyTorch and ONNX Runtime? Runs all of them in turn, in one process: attention
alone, a product, a layer of multi-head attention, a sentence encoder, a step of training.

Checks that the results agree, then writes peers.md (a table for each kind, the worst row first),
peers.json and, if gnuplot is installed, pictures. `make peers` builds what it needs and runs it.
"""

import functools
import gc
import json
import os
import platform
import sys
import time
from pathlib import Path

import contest
import pictures
import report
from kinds import encoder
from options import parsed

TIME = ("median of rounds, calls from Python included; CPU time of the process for one thread, "
        "wall clock for several; each runs when the threads of the others sleep")


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


def main(arguments=None):
    options = parsed(arguments, __doc__)
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
    written = ["peers.md", "peers.json", *pictures.draw(comparison.rows, options.output)]
    print(f"peers: wrote {', '.join(written)} in {options.output}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
