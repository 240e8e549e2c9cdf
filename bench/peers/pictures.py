"""How do the ratios go with the length? Pictures, drawn by gnuplot (bench/peers/plot.gp).

Standard library only; reads what bench/peers/report.py has written.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import contest
import report
from kinds import KINDS

SCRIPT = Path(__file__).resolve().parent / "plot.gp"


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
    done = subprocess.run(["gnuplot", "-e", settings, SCRIPT], check=True, text=True,
                          stderr=subprocess.PIPE)
    for line in done.stderr.splitlines():
        if line and "no valid points" not in line:  # of lines that are not in the grid
            print(line, file=sys.stderr)
