#!/usr/bin/env bash
# run.sh BUILD_DIR: what compilers and their flags make of heed. Two tables: speed by compiler and
# flags, in turn, and the seconds that units of a program take to compile. Leaves compilers.md there.
set -euo pipefail
build=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
rounds=${ROUNDS:-5}
mkdir -p "$build"
eigen=$(for place in /usr/include/eigen3 /usr/local/include/eigen3 ${CPATH:-}; do
    [[ -e $place/Eigen/Core ]] && echo "$place" && break
done)
includes=(-std=c++20 -I"$root/include" -I"$root/bench" ${eigen:+-isystem "$eigen"})

median() { sort -g | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

variants=()
for compiler in g++ clang++; do
    command -v "$compiler" >/dev/null || continue
    for flags in "-O2" "-O2 -march=native"; do
        variants+=("$compiler $flags")
        # shellcheck disable=SC2086 # several flags
        $compiler $flags "${includes[@]}" "$here/main.cpp" "$root/bench/fma_peak.cpp" \
            -o "$build/variant${#variants[@]}" -pthread
    done
done

for ((round = 0; round < rounds; ++round)); do
    for i in "${!variants[@]}"; do
        "$build/variant$((i + 1))" >>"$build/parts.$i.$round"
    done
done

{
    echo "Part of the FMA peak, one thread, H=4, D=64 unless named; medians of $rounds rounds in turn."
    echo
    printf '| case |'
    printf ' %s |' "${variants[@]}"
    echo
    printf '|---|'
    for _ in "${variants[@]}"; do printf -- '---:|'; done
    echo
    cut -f 1 "$build/parts.0.0" | while read -r name; do
        printf '| %s |' "$name"
        for i in "${!variants[@]}"; do
            awk -F '\t' -v name="$name" '$1 == name { print $2 }' "$build/parts.$i".* | median |
                awk '{ printf " %.1f %% |", 100 * $1 }'
        done
        echo
    done
} | tee "$build/compilers.md"
rm -f "$build"/parts.*

seconds_of() { # of the processor, for a command
    local TIMEFORMAT=%U
    { time "$@" >/dev/null; } 2>&1 | tail -n 1
}
compile() { g++ -O2 "${includes[@]}" "$@" -c -o /dev/null; }
printf '#include <Eigen/Dense>\nEigen::MatrixXf f(const Eigen::MatrixXf& a) { return a * a; }\n' \
    >"$build/eigen.cpp"
{
    echo
    echo "Seconds of one processor for a unit, g++ -O2, medians of $rounds in turn."
    echo
    echo "| a unit that | seconds |"
    echo "|---|---:|"
    for ((round = 0; round < rounds; ++round)); do
        seconds_of compile "$build/eigen.cpp" >>"$build/times.0"
        seconds_of compile "$here/unit.cpp" >>"$build/times.1"
        seconds_of compile -DHEED_COMPILED "$here/unit.cpp" >>"$build/times.2"
    done
    what=("multiplies two matrices of Eigen" "calls an attention"
        "calls an attention, with HEED_COMPILED")
    for i in 0 1 2; do echo "| ${what[$i]} | $(median <"$build/times.$i") |"; done
} | tee -a "$build/compilers.md"
rm -f "$build"/times.*
