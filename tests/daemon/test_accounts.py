"""Whose a process is, read from the kernel's own words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from p104d.daemon.accounts import limits_of

NAMED = """
import ctypes, sys
assert ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0) == 0  # PR_SET_NAME
print("named", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["\v", "\f", "\r", "\n", "\x1c", "\x85"])
def test_the_name_of_a_process_says_nothing_of_whose_it_is(end: str) -> None:
    """The kernel writes it above the line with the uids, and escapes of all that ends a line the newline alone."""
    claimed = 1 if os.getuid() != 1 else 2
    name = f"{end}Uid:" + f" {claimed}" * 4
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", NAMED, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"named\n"
        assert limits_of(process.pid, claimed) is None
        assert limits_of(process.pid, os.getuid()) is not None
        process.stdin.close()
