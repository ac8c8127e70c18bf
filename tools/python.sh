# Sourced by the other scripts: checks the Python that is to be used. Sets PYTHON; ends with one line when it cannot be.

PYTHON=${PYTHON:-python3}

fail() {
    echo "p104d: $*" >&2
    exit 1
}

check_python() {
    command -v "$PYTHON" >/dev/null 2>&1 ||
        fail "no $PYTHON here; on Debian: sudo apt install python3 python3-venv (or name another: PYTHON=/path/to/python3.11 make ...)"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is $("$PYTHON" -V 2>&1), p104d needs Python 3.11 or newer; name another: PYTHON=/path/to/python3.11 make ..."
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "this Python has no venv module; on Debian: sudo apt install python3-venv"
}
