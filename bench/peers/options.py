"""What was asked for? The options of peers.py, and the cases that they name.

Standard library only.
"""

import argparse
from pathlib import Path

import contest
from kinds import KINDS, encoder, linear

BUILD = Path(__file__).resolve().parents[2] / "build"


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


def features(text):
    parts = text.split(",")
    for part in parts:
        sizes = linear.sizes(part)
        if len(sizes) != 2 or min(sizes) < 1:
            raise argparse.ArgumentTypeError(f"each is INPUTSxOUTPUTS, as 768x3072, not {part}")
    return parts


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
    "rows": (numbers, "N,N", "of a product"),
    "features": (features, "KxN,KxN", "inputs and outputs of a product"),
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


def parser_of_options(description):
    parser = argparse.ArgumentParser(description=description,
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


def parsed(arguments, description=None):
    """The options, with their cases."""
    parser = parser_of_options(description)
    options = parser.parse_args(arguments)
    if not options.library.exists():
        parser.error(f"there is no {options.library}; `make peers` builds it")
    if options.minilm and not (options.minilm / "model.safetensors").exists():
        parser.error(f"there is no model.safetensors in {options.minilm}")
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
