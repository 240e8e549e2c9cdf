"""What did the comparison show? Markdown tables, JSON, and the data of the plots.

Standard library only; reads the rows of bench/peers/contest.py and decides nothing.
"""

import dataclasses
import statistics

from contest import FEWEST_ROUNDS, HEED, USUAL_ROUNDS, worst_first
from kinds import KINDS


def seconds_text(seconds):
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def aligned(table):
    """Markdown that reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths)) + " |"
             for cells in table]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def rows_of(rows, kind, pass_name=None):
    return [row for row in rows if row.case.kind == kind and
            pass_name in (None, row.case.pass_name)]


def cells_of(row, peers):
    cells = [f"{row.ratio:.3f}", f"{row.spread:.3f}", row.fastest_peer, row.case.pass_name,
             *map(str, row.case.cells.values()), seconds_text(row.median(HEED))]
    cells += [f"{row.speed_up(peer):.2f}" if peer in row.peers else "-" for peer in peers]
    cells += [f"{100 * row.of_peak(name):.1f}" for name in (HEED, row.fastest_peer)]
    return [*cells, str(row.rounds)]


def table(rows):
    """One line for each row of one kind, the worst first."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers))
    header = ["heed / fastest", "±", "fastest", "pass", *rows[0].case.cells, "heed",
              *(f"x {peer}" for peer in peers), "heed % of peak", "fastest % of peak", "rounds"]
    return aligned([header, *(cells_of(row, peers) for row in worst_first(rows))])


def summary(rows):
    """A sentence or two of one pass."""
    ratios = [row.ratio for row in rows]
    ahead = sum(ratio < 1 for ratio in ratios)
    few = sum(row.rounds < USUAL_ROUNDS for row in rows)
    text = (f"{rows[0].case.pass_name}: heed is the fastest in {ahead} of {len(rows)} rows; heed's "
            f"time over the fastest peer's: worst {max(ratios):.3f}, median "
            f"{statistics.median(ratios):.3f}, best {min(ratios):.3f}.")
    if few:
        text += (f" Rows of fewer than {USUAL_ROUNDS} rounds, but at least {FEWEST_ROUNDS}, "
                 f"because they take long: {few}, see the last column.")
    return text


def peak_text(rows, threads):
    peaks = [peak / 1e9 for row in rows if row.case.threads == threads for peak in row.peaks]
    return (f"threads={threads}: {statistics.median(peaks):.1f} GFLOP/s ({min(peaks):.1f} to "
            f"{max(peaks):.1f})")


def section(kind, rows):
    """What one kind of case has shown."""
    summaries = [summary(of_pass) for name in kind.PASSES
                 if (of_pass := rows_of(rows, kind.NAME, name))]
    notes = [f"- {name}: {value}" for name, value in kind.NOTES.items()]
    return "\n\n".join([f"## {kind.NAME}", *summaries, "\n".join(notes), table(rows)])


def markdown(rows, about, notes):
    """`about`: facts of this run by name; `notes`: what could not be measured, and why."""
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["- FMA peak, " + "; ".join(peak_text(rows, threads) for threads in
                                         sorted({row.case.threads for row in rows}))]
    lines += [f"- not measured: {note}" for note in notes]
    sections = [section(kind, of_kind) for kind in KINDS.values()
                if (of_kind := rows_of(rows, kind.NAME))]
    return "\n\n".join(["\n".join(lines), *sections, ""])


def as_json(rows, about, notes):
    """The same, for json.dump: every measurement, and what was derived from it."""
    def of(row):
        return {"kind": row.case.kind, **dataclasses.asdict(row.case), "flops": row.case.flops,
                "ratio": row.ratio, "spread": row.spread, "fastest_peer": row.fastest_peer,
                "rounds": row.rounds, "seconds": row.seconds, "fma_peak": row.peaks,
                "of_peak": {name: row.of_peak(name) for name in row.seconds},
                "differences": row.differences, "tolerances": row.tolerances}
    about = {**about, **{name: KINDS[name].NOTES for name in {row.case.kind for row in rows}}}
    return {"about": about, "not_measured": notes, "rows": [of(row) for row in worst_first(rows)]}


def plot_series(rows):
    """For bench/peers/plot.gp: lines of L and ratio below
    `# kind pass panel threads colour symbol`."""
    series = {}
    for row in rows:
        case = row.case
        if KINDS[case.kind].PLOT:
            panel, colour, symbol = case.plot_place
            key = (case.kind, case.pass_name, panel, case.threads, colour, symbol)
            series.setdefault(key, []).append((case.length, row.ratio))
    blocks = []
    for key, points in sorted(series.items()):
        lines = [f"{length} {ratio:.4f}" for length, ratio in sorted(points)]
        blocks.append("\n".join(["# " + " ".join(map(str, key)), *lines]))
    return "\n\n\n".join(blocks) + "\n"
