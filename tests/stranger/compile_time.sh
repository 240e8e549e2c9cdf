#!/usr/bin/env bash
# compile_time.sh COMPILER INCLUDES(a|b): heed/heed.hpp may cost 2.5 s to include where <Eigen/Core>
# costs 0.9 s. The test is of that ratio, in processor time, each side at its best of several turns,
# so that a slow or busy machine does not decide it; it stops as soon as the budget is kept.
set -euo pipefail
compiler=$1
IFS='|' read -ra directories <<<"$2"
budget=2.78 # 2.5 / 0.9

flags=(-std=c++20 -O2)
for directory in "${directories[@]}"; do flags+=(-isystem "$directory"); done

seconds_for() { # user + system time to compile a unit that includes this header
    local TIMEFORMAT='%U %S'
    { time "$compiler" "${flags[@]}" -x c++ -c -o /dev/null - <<<"#include <$1>"; } 2>&1 |
        awk 'NF != 2 || /[^0-9. ]/ { print "cannot compile: " $0 >"/dev/stderr"; exit 1 }
             { print $1 + $2 }'
}
smaller() { awk -v a="$1" -v b="$2" 'BEGIN { print (a < b ? a : b) }'; }

eigen=999 heed=999
for turn in 1 2 3 4 5 6 7; do
    eigen=$(smaller "$eigen" "$(seconds_for Eigen/Core)")
    heed=$(smaller "$heed" "$(seconds_for heed/heed.hpp)")
    ratio=$(awk -v a="$heed" -v b="$eigen" 'BEGIN { printf "%.2f", a / b }')
    echo "turn $turn: Eigen/Core $eigen s, heed/heed.hpp $heed s, ratio $ratio, budget $budget"
    if ((turn >= 2)) && awk -v r="$ratio" -v b="$budget" 'BEGIN { exit !(r <= b) }'; then exit 0; fi
done
echo "heed/heed.hpp costs too much to include" >&2
exit 1
