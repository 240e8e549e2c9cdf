#!/usr/bin/env bash
# build_and_run.sh BINARY_DIR COMMAND...: builds a consumer from nothing with the command, runs its
# app, and compares what it prints.
set -euo pipefail
binary=$1
shift
rm -rf "$binary"
mkdir -p "$binary"
"$@"
diff "$(dirname "$0")/app/expected_output.txt" <("$binary/app")
