"""How the shim of an attempt is told to stop or to kill it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from p104d.processes import identity
from p104d.processes.attempt import Key
from p104d.processes.watched import Watched


class Commands:
    """Tells the shims of ``watched``; ``adopt`` finds one that is not known yet."""

    def __init__(self, watched: Mapping[Key, Watched], adopt: Callable[[Key], bool]) -> None:
        self._watched, self._adopt = watched, adopt

    def stop(self, key: Key) -> bool:
        """SIGTERM to the whole of it, SIGKILL after its grace. False when no shim is there to do it. Raises OSError."""
        return self._give(key, b"stop", signal.SIGTERM)

    def kill(self, key: Key) -> bool:
        """SIGKILL to the whole of it, now. False when no shim is there to do it. Raises OSError."""
        return self._give(key, b"kill", signal.SIGUSR1)

    def _give(self, key: Key, command: bytes, number: signal.Signals) -> bool:
        watched = self._watched.get(key)
        if watched is not None and watched.shim is not None:
            return watched.shim.send(command)  # in order with the attempts: it cannot reach a later one
        if watched is None or watched.pidfd is None:
            self._adopt(key)
            watched = self._watched.get(key)
        return watched is not None and watched.pidfd is not None and identity.send_signal(watched.pidfd, number)
