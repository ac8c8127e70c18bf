"""How the shim of an attempt is told to stop or to kill it, and what becomes of one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping

from p104d.processes import attempt, identity
from p104d.processes.attempt import Key, LookKind
from p104d.processes.tree import UNKILLABLE_SECONDS
from p104d.processes.watched import Watched

#: A shim that has killed its job reports what nobody can kill after UNKILLABLE_SECONDS. One that is not over by then,
#: and some, is stopped or stuck itself.
_DEAF_SECONDS = UNKILLABLE_SECONDS + 10.0
#: For one whose launch.json cannot be read.
_GRACE_SECONDS = 10.0
_AGAIN_SECONDS = 1.0


class Commands:
    """Tells the shims of ``watched``; ``adopt`` finds one that is not known yet."""

    def __init__(self, watched: Mapping[Key, Watched], adopt: Callable[[Key], bool]) -> None:
        self._watched, self._adopt = watched, adopt

    def stop(self, key: Key) -> bool:
        """SIGTERM to the whole of it, SIGKILL after its grace. False when no shim is there to do it. Raises OSError."""
        return self._give(key, b"stop", signal.SIGTERM, at_once=False)

    def kill(self, key: Key) -> bool:
        """SIGKILL to the whole of it, now. False when no shim is there to do it. Raises OSError."""
        return self._give(key, b"kill", signal.SIGUSR1, at_once=True)

    def _give(self, key: Key, command: bytes, number: signal.Signals, *, at_once: bool) -> bool:
        watched = self._watched.get(key)
        if watched is None or (watched.shim is None and watched.pidfd is None):
            self._adopt(key)
            watched = self._watched.get(key)
        if watched is None or not watched.known:
            return False
        self._expect_end(watched, at_once)
        if watched.shim is not None:
            told = watched.shim.send(command)  # in order with the attempts: it cannot reach a later one
        else:
            told = identity.send_signal(watched.pidfd, number) if watched.pidfd is not None else False
        _wake(watched)
        return told

    def _expect_end(self, watched: Watched, at_once: bool) -> None:
        launch = attempt.read_launch(watched.folder)
        grace = 0.0 if at_once else launch.grace_seconds if launch is not None else _GRACE_SECONDS
        asyncio.get_running_loop().call_later(grace + _DEAF_SECONDS, self._overdue, watched)

    def _overdue(self, watched: Watched) -> None:
        """Its shim has had all the time it needs: without it, what it ran is swept as a dead one's."""
        if self._watched.get(watched.key) is not watched:
            return
        try:
            found = attempt.look(watched.folder)
            runs = found.kind is LookKind.RUNNING and found.pid is not None and found.start is not None
            pidfd = identity.open_pidfd(found.pid or 0, found.start or 0) if runs else None
        except OSError:
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._overdue, watched)
            return
        if pidfd is not None:
            with contextlib.suppress(PermissionError):
                identity.send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _wake(watched: Watched) -> None:
    """A shim that somebody has stopped (SIGSTOP, a debugger) hears nothing until it goes on."""
    with contextlib.suppress(OSError):
        if watched.pidfd is not None:
            identity.send_signal(watched.pidfd, signal.SIGCONT)
        elif watched.shim is not None:
            os.kill(watched.shim.pid, signal.SIGCONT)
