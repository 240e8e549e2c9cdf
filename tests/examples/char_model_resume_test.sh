#!/usr/bin/env bash
# char_model_resume_test.sh PROGRAM TEXT: examples/05_train_char_model as a command. It refuses what
# would spoil a training, and one that stopped goes on to the same checkpoint, byte by byte.
set -euo pipefail
program=$1
text=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
train() { "$program" --quick --text "$text" --sample 0 "$@" >log 2>&1; }
refuses() { # SENTENCE ARGUMENT...: exits with 1 and says so
    local status=0
    "$program" --quick "${@:2}" >log 2>&1 || status=$?
    ((status == 1)) || fail "status $status of: ${*:2}"
    grep -q -- "$1" log || fail "no '$1' of: ${*:2}"
}

# --stop-after, then --resume: 6 steps = 3 + 3.
train --steps 6 --checkpoint whole
train --steps 6 --checkpoint halves --stop-after 3
if cmp -s whole halves; then fail "three steps make the checkpoint of six"; fi
train --steps 6 --checkpoint halves --resume
cmp whole halves || fail "stopped and gone on is not the same as never stopped"
train --steps 6 --checkpoint halves --resume # a complete one only writes
cmp whole halves || fail "a complete training was changed"

# Ctrl-C, then --resume. The signal comes when the first line of progress is there.
train --steps 40 --checkpoint whole40
"$program" --quick --text "$text" --steps 40 --checkpoint stopped --sample 0 >out 2>progress &
child=$!
until grep -q step progress; do
    kill -0 $child || fail "it ended before it told anything"
    sleep 0.05
done
kill -INT $child
status=0
wait $child || status=$?
((status == 130)) || fail "status $status after Ctrl-C"
grep -q -- "with --resume goes on" out || fail "it does not say how to go on"
train --steps 40 --checkpoint stopped --resume
cmp whole40 stopped || fail "interrupted and gone on is not the same as never stopped"

refuses "There is no text at none" --text none
text=(--text "$text")
refuses "There is a checkpoint at whole already" "${text[@]}" --checkpoint whole
refuses "found none at 'none'" "${text[@]}" --checkpoint none --resume
refuses "found settings.seed 1 in the file, 2 here" "${text[@]}" --checkpoint whole --resume \
    --steps 6 --seed 2
refuses "no way to write 'none/new'" "${text[@]}" --checkpoint none/new
refuses "a letter must occur in the text" "${text[@]}" --checkpoint new --prompt "#"
refuses "must end in .svg or .png" "${text[@]}" --checkpoint new --plot loss.jpg
[[ ! -e new ]] || fail "it trained before it refused"
echo "all as promised"
