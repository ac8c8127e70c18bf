"""Runs ``main()`` of one of our modules as a user of the host: for a look at files with that user's rights.

Started by ``launchers.boot_argv``. It becomes the user itself, after everything is imported: so it also works where
that user may not read this Python, and what has changed its uid without an exec can be neither traced nor altered by
that user. Standard library only, and so must the module be.
"""

from __future__ import annotations

import importlib
import os
import resource
import sys
from collections.abc import Sequence

from p104d.processes import native

#: As sh(1) has it for what cannot be executed.
_CANNOT = 126
#: What it may print, where that goes to a file (of memory); writing more fails.
MOST_OUTPUT_BYTES = 8 * 1024 * 1024


def arguments(module: str, user: str | None, uid: int, gid: int, *rest: str) -> tuple[str, ...]:
    """What ``main`` takes; ``user`` None: stay who we are."""
    return (module, user or "", str(uid), str(gid), *rest)


def main(given: Sequence[str]) -> None:
    """``given``: the module, the user (empty: stay), uid, gid, and the module's own arguments."""
    module, user, uid, gid, *rest = given
    found = importlib.import_module(module)
    if user:
        _become(user, int(uid), int(gid))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MOST_OUTPUT_BYTES, MOST_OUTPUT_BYTES))
    native.die_with_parent()  # after the change of uid, which clears it
    sys.argv[1:] = rest
    found.main()


def _become(user: str, uid: int, gid: int) -> None:
    native.leave_session_keyring()
    try:
        os.initgroups(user, gid)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        print(f"cannot become user {user}: {error.strerror}", file=sys.stderr, flush=True)
        sys.exit(_CANNOT)
