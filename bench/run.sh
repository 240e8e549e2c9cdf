#!/usr/bin/env bash
# run.sh BUILD_DIR: the benchmarks, from the program built there. Leaves bench.md (the tables),
# bench.json (every measurement) and bench.png (the plot) in that folder.
# QUICK=1 in the environment: fewer sizes and rounds.
set -euo pipefail
build=$1
here=$(dirname "$0")

quick=()
duration="some half an hour"
if [[ ${QUICK:-0} != 0 ]]; then
    quick=(--quick)
    duration="some quarter of an hour"
fi

echo "bench: this takes $duration; the fewer other programs run meanwhile, the better." >&2
"$build/bench/heed_bench" ${quick[@]+"${quick[@]}"} --series="$build/bench.dat" \
    --benchmark_out="$build/bench.json" --benchmark_out_format=json | tee "$build/bench.md"

drawn=
if command -v gnuplot >/dev/null; then
    gnuplot -e "series='$build/bench.dat'; picture='$build/bench.png'" "$here/plot.gp"
    drawn=", $build/bench.png"
else
    echo "bench: no plot, because gnuplot is not installed." >&2
fi
echo "bench: wrote $build/bench.md, $build/bench.json$drawn" >&2
