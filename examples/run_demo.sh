#!/usr/bin/env bash
# run_demo.sh BUILD_DIR: the demo, from the examples built there.
# WEIGHTS names weights of your own for the second part, REACTION another reaction (SMILES).
set -euo pipefail
build=$1
here=$(dirname "$0")
weights=${WEIGHTS:-}
folder=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/heed/rxnmapper

part() { printf '\n=== %s ===\n\n' "$1"; }

part "1. Self-attention on a sentence"
"$build/examples/01_self_attention"

part "2. A real model: which atom goes where?"
if [[ -z $weights ]]; then
    weights=$folder/model.safetensors
    if [[ ! -f $weights ]] &&
        ! python3 "$here/02_atom_mapping/fetch_weights.py" --output "$folder"; then
        cat <<END

The second part needs the weights of RXNMapper (MIT licence, 3 MB). They could not be fetched,
so it is left out. It takes Python 3 with pip, and a network; or get the file by hand, as said
above. With weights at hand: make demo WEIGHTS=path/to/model.safetensors
END
        exit 0
    fi
fi
"$build/examples/02_atom_mapping" --weights "$weights" --png "$build/atom_mapping.png" \
    ${REACTION:+"$REACTION"}
