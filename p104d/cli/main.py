"""The entry point of p104ctl: whatever happens ends in an exit code and at most one line, never a traceback."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

#: As a shell reports a program that SIGINT, or SIGPIPE, ended.
INTERRUPTED = 130
PIPE_CLOSED = 141
#: EX_IOERR of sysexits(3). What was asked for is done, so it must not look like a job that failed, or a refusal.
NOT_WRITTEN = 74


class Interrupted(Exception):
    """Ctrl-C where something goes on without p104ctl; the message says what."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run p104ctl with ``arguments`` and return its exit code; without them, as the process itself, and end it.

    0 done, 1 the job did not succeed, 2 usage, 3 no daemon, 4 refused, 5 no such job or card, 74 the output cannot
    be written, 130 interrupted.
    """
    if arguments is not None:
        return _run(list(arguments))
    # A tenth of the call's time is the collector looking at freshly loaded modules, another tenth taking them down
    # again: this process holds next to nothing and is about to end. (Output that found no taker is left behind too,
    # which an orderly end would complain about.)
    gc.disable()
    code = _run(sys.argv[1:])
    os._exit(code)


def _run(arguments: list[str]) -> int:
    # Inside the try: Ctrl-C in the first 50 ms, while click loads, is no reason for a traceback either.
    try:
        from p104d.cli.root import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    main()
