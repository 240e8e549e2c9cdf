#!/usr/bin/env bash
# vit_command_line_test.sh PROGRAM: examples/04_vit as a command. Files come back as the same
# results, pictures in batches as each alone, and what cannot be read is refused in one sentence.
set -euo pipefail
program=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
    echo "FAILED: $*" >&2
    exit 1
}
run() { "$program" --threads 1 "$@" >log 2>&1 || fail "status $? of: $* $(cat log)"; }
classes() { run --no-rollout "$@" && grep -E '^  [0-9]+ ' log; }
refuses() { # SENTENCE ARGUMENT...: exits with 1, says so, and nothing else
    local status=0
    "$program" "${@:2}" >out 2>log || status=$?
    ((status == 1)) || fail "status $status of: ${*:2}"
    grep -q -- "$1" log || fail "no '$1' of: ${*:2}; but $(cat log)"
    (($(wc -l <log) == 1)) || fail "more than a sentence of: ${*:2}"
}

# Weights that were saved are the same model.
classes --save-weights weights >first
classes --weights weights >second
cmp first second || fail "saved weights make other classes"

# Several pictures: each as alone, drawn into files of their own.
run --png picture.png
run picture.png --png alone.png
run picture.png picture.png picture.png --batch 2 --png each.png
for number in 1 2 3; do
    cmp alone.png each-$number.png || fail "picture $number of a batch is drawn otherwise"
done
if cmp -s picture.png alone.png; then fail "two pictures are drawn alike"; fi

# Names.
seq -f "thing %g" 0 99 >names
classes --labels names >named
grep -qE '^  ([0-9]+) +0\.[0-9]{4} +thing \1$' named || fail "no names: $(cat named)"
seq 99 >too_few
refuses "a line for each of 100 classes; found 99" --labels too_few
refuses "found 0 in 'none'" --labels none

# A single pixel and a single patch are a picture and a model, too.
base64 -d >pixel.png <<'END'
iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4//8/AAX+Av4N70a4
AAAAAElFTkSuQmCC
END
run pixel.png --image-size 16 --png pixel_seen.png

: >empty
echo "just a text" >text
head -c 3000 picture.png >cut.png
for file in empty text cut.png . none; do
    refuses "\[read_image\].*'$file'" $file
    refuses "\[read_image\].*'$file'" picture.png $file
    refuses "\[read_safetensors\].*'$file'" --weights $file
done
head -c 100000 weights >cut_weights
refuses "in 'cut_weights'" --weights cut_weights
refuses "heads must divide the width" --weights weights --heads 7
refuses "multiple of that of a patch, 16; found 100" --image-size 100
refuses "more than 4 GiB" --image-size 1600
refuses "no way to write 'none/picture.png'" --png none/picture.png
echo "all as promised"
