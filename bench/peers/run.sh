#!/usr/bin/env bash
# run.sh BUILD_DIR [ARGUMENT...]: peers.py with these arguments. Makes BUILD_DIR/venv with what
# requirements.txt lists, unless PYTHON in the environment names an interpreter that has it.
set -euo pipefail
build=$1
shift
here=$(dirname "$0")

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$build/venv/bin/python
    installed=$build/venv/installed.txt
    if ! cmp -s "$here/requirements.txt" "$installed"; then
        echo "peers: installing PyTorch and ONNX Runtime into $build/venv, a few hundred MB." >&2
        echo "peers: PYTHON=INTERPRETER uses those that you have." >&2
        python3 -m venv "$build/venv"
        "$PYTHON" -m pip install --quiet -r "$here/requirements.txt"
        cp "$here/requirements.txt" "$installed"
    fi
fi
exec "$PYTHON" "$here/peers.py" --output "$build" "$@"
