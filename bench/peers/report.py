"""What did the comparison show? A Markdown table, JSON, and the data of the plot.

Standard library only; reads the rows of bench/peers/contest.py and decides nothing.
"""

import dataclasses
import statistics

from contest import FEWEST_ROUNDS, HEED, USUAL_ROUNDS, worst_first


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


def cells_of(row, peers):
    case = row.case
    cells = [case.pass_name, str(case.length), str(case.heads), str(case.head_dim),
             "yes" if case.causal else "no", str(case.threads),
             f"{row.ratio:.3f}", f"{row.spread:.3f}", seconds_text(row.median(HEED))]
    cells += [f"{row.speed_up(peer):.2f}" if peer in row.peers else "-" for peer in peers]
    cells += [f"{100 * row.of_peak(name):.1f}" if name in row.seconds else "-"
              for name in [HEED, *peers]]
    return [*cells, str(row.rounds)]


def table(rows):
    """One line for each row, the worst first."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.peers))
    header = ["pass", "L", "H", "D", "causal", "threads", "heed / fastest", "±", "heed"]
    header += [f"x {peer}" for peer in peers]
    header += [f"{name} % of peak" for name in [HEED, *peers]]
    header += ["rounds"]
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
        text += (f" Rows of fewer than {USUAL_ROUNDS} rounds, but at least {FEWEST_ROUNDS}, because "
                 f"they take long: {few}, see the last column.")
    return text


def peak_text(rows, threads):
    peaks = [peak / 1e9 for row in rows if row.case.threads == threads for peak in row.peaks]
    return (f"threads={threads}: {statistics.median(peaks):.1f} GFLOP/s ({min(peaks):.1f} to "
            f"{max(peaks):.1f})")


def markdown(rows, about, notes):
    """`about`: facts of this run by name; `notes`: what could not be measured, and why."""
    summaries = [summary([row for row in rows if row.case.pass_name == name])
                 for name in sorted({row.case.pass_name for row in rows})]
    lines = [f"- {name}: {value}" for name, value in about.items()]
    lines += ["- FMA peak, " + "; ".join(peak_text(rows, threads) for threads in
                                         sorted({row.case.threads for row in rows}))]
    lines += [f"- not measured: {note}" for note in notes]
    return "\n".join(["\n\n".join(summaries), "", *lines, "", table(rows), ""])


def as_json(rows, about, notes):
    """The same, for json.dump: every measurement, and what was derived from it."""
    def of(row):
        return {**dataclasses.asdict(row.case), "flops": row.case.flops, "ratio": row.ratio,
                "spread": row.spread, "fastest_peer": row.fastest_peer, "rounds": row.rounds,
                "seconds": row.seconds, "fma_peak": row.peaks,
                "of_peak": {name: row.of_peak(name) for name in row.seconds},
                "differences": row.differences, "tolerances": row.tolerances}
    return {"about": about, "not_measured": notes, "rows": [of(row) for row in worst_first(rows)]}


def plot_series(rows):
    """For bench/peers/plot.gp: lines of L and ratio below `# pass D threads causal H`."""
    series = {}
    for row in rows:
        case = row.case
        key = (case.pass_name, case.head_dim, case.threads, int(case.causal), case.heads)
        series.setdefault(key, []).append((case.length, row.ratio))
    blocks = []
    for key, points in sorted(series.items()):
        lines = [f"{length} {ratio:.4f}" for length, ratio in sorted(points)]
        blocks.append("\n".join(["# " + " ".join(map(str, key)), *lines]))
    return "\n\n\n".join(blocks) + "\n"
