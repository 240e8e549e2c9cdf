#!/usr/bin/env bash
# fetch_text.sh [FILE]: writes the King James Version of the Bible, a verse a line, to the file;
# where none is named, to where the example looks for it. The book is that of the Debian package
# bible-kjv; its copyright has expired.
# Exit status: 0 done, 1 there is no bible-kjv, or it gave no book.
set -euo pipefail

if [[ ${1:-} == -h || ${1:-} == --help ]]; then
    echo "usage: examples/05_train_char_model/fetch_text.sh [FILE]"
    exit
fi
file=${1:-${XDG_CACHE_HOME:-${HOME:-.}/.cache}/heed/kjv.txt}

if ! command -v bible >/dev/null; then
    echo "fetch_text: there is no program 'bible' here. On Debian or Ubuntu, as root:" >&2
    echo "  apt-get install bible-kjv" >&2
    exit 1
fi
mkdir -p "$(dirname "$file")"
part=$(mktemp "$file.XXXXXX")
trap 'rm -f "$part"' EXIT
# -f: a verse a line, each behind its reference (Ge1:1), which is cut off.
bible -f 'gen1:1-rev22:21' | sed 's/^[^ ]* //' >"$part"
verses=$(wc -l <"$part")
if ((verses != 31102)); then
    echo "fetch_text: 'bible' must print 31102 verses; found $verses" >&2
    exit 1
fi
chmod 644 "$part"
mv "$part" "$file"
echo "wrote $file ($(wc -c <"$file") bytes)"
