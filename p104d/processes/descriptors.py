"""How many files the daemon may have open: as many as it may take, and its jobs as many as it was given.

The soft limit is low (1024 on most hosts) for the sake of programs that use select(2), which jobs may be and the daemon
is not. Each p104ctl that waits, each running job and each read of a folder takes a descriptor.
"""

from __future__ import annotations

import contextlib
import resource

#: More is of no use, and some programs close every descriptor up to the limit, one by one.
_MOST = 65536
#: As this process was started.
_GIVEN = resource.getrlimit(resource.RLIMIT_NOFILE)


def take_all() -> None:
    """Raise the soft limit to the hard one, where it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def as_given(pid: int) -> None:
    """Give the child ``pid`` the limits that this process was started with."""
    if resource.getrlimit(resource.RLIMIT_NOFILE) != _GIVEN:
        with contextlib.suppress(OSError, ValueError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _GIVEN)
