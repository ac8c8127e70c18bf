#!/bin/sh
# Build the wheel into a folder: tools/wheel.sh FOLDER. Nothing else of the checkout is written.
set -eu
cd "$(dirname "$0")/.."
. tools/python.sh
check_python

out=$1
mkdir -p "$out"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
"$PYTHON" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --quiet --disable-pip-version-check wheel --no-deps --wheel-dir "$scratch/dist" . ||
    fail "the wheel could not be built; see above"
cp "$scratch"/dist/p104d-*.whl "$out/"
(cd "$scratch/dist" && for wheel in p104d-*.whl; do echo "p104d: $out/$wheel" >&2; done)
