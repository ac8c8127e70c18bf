#!/bin/sh
# Make or complete a virtual environment: tools/venv.sh FOLDER demo|test|check|ptx|bench. Quiet unless something fails.
set -eu
cd "$(dirname "$0")/.."
. tools/python.sh

venv=$1
want=$2
pip="$venv/bin/python -m pip --quiet --disable-pip-version-check"

case $want in
demo) extras=llama ;;
test | check | ptx | bench) extras=$want ;;
*) fail "tools/venv.sh: no set of packages named $want" ;;
esac

# A folder whose Python went away (an upgraded host, a moved checkout) is made anew.
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    check_python
    echo "p104d: making $venv" >&2
    rm -rf "$venv"
    "$PYTHON" -m venv "$venv"
fi

echo "p104d: installing what $want needs into $venv" >&2
if ! $pip install --editable ".[$extras]"; then
    [ "$want" = demo ] || fail "pip could not install .[$extras]; see above"
    # No wheel of llama.cpp for this processor or Python: everything else works without.
    echo "p104d: the llama.cpp package cannot be installed here; going on without" >&2
    $pip install --editable . || fail "pip could not install p104d; see above"
fi
touch "$venv/.stamp-$want"
