"""A shim's whole process tree: counted, signalled, ended. Standard library only: shims import this.

The shim is a subreaper, so every descendant is below it for as long as it lives, however often it forked or called
setsid; ``waitpid`` saying ECHILD proves that none is left. A cgroup, where there is one, makes the kill a single write.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from p104d.processes import cgroup, identity

#: Processes in uninterruptible sleep (a hung driver) cannot be killed by anybody; after this long they are reported.
UNKILLABLE_SECONDS = 30.0


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):  # gone by now, or a set-uid program that is not ours to signal
        os.kill(pid, number)


class Tree:
    """Everything that descends from this process. ``group`` is the cgroup the job is in, if any.

    ``user_seconds``, ``system_seconds`` and ``max_rss_bytes`` count what was reaped, with all that it had reaped.
    """

    def __init__(self, group: str | None) -> None:
        self.group = group
        self.user_seconds = 0.0
        self.system_seconds = 0.0
        self.max_rss_bytes = 0

    def terminate(self) -> None:
        """SIGTERM to all of it; SIGCONT too, or a stopped process would not hear it."""
        found = set(identity.descendants(os.getpid()))
        if self.group:
            found.update(cgroup.processes(self.group))
        for pid in found:
            _send(pid, signal.SIGTERM)
            _send(pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of it that exists now. Who forks meanwhile is caught by the next call."""
        if self.group:
            cgroup.kill(self.group)
        self._stop()
        for pid in identity.descendants(os.getpid()):
            _send(pid, signal.SIGKILL)

    def _stop(self) -> None:
        """Stop parents before their children are listed: what is stopped neither forks nor reaps, so a fork bomb
        runs out of parents and no pid below a stopped parent is reused while it is about to be signalled."""
        stopped: set[int] = set()
        for _ in range(100):  # a backstop: each round only finds what was forked during the one before
            fresh = [pid for pid in self._walk_stopping(stopped) if pid not in stopped]
            if not fresh:
                return
            stopped.update(fresh)

    def _walk_stopping(self, stopped: set[int]) -> list[int]:
        found: list[int] = []
        queue, seen = [os.getpid()], {os.getpid()}
        while queue:
            for child in identity.children(queue.pop()):
                if child in seen:
                    continue
                if child not in stopped:
                    _send(child, signal.SIGSTOP)
                seen.add(child)
                found.append(child)
                queue.append(child)
        return found

    def reap(self) -> tuple[dict[int, int], bool]:
        """Wait for all that ended, without blocking: ({pid: wait status}, whether anything is left)."""
        ended: dict[int, int] = {}
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return ended, False
            if pid == 0:
                return ended, True
            ended[pid] = status
            self.user_seconds += usage.ru_utime
            self.system_seconds += usage.ru_stime
            self.max_rss_bytes = max(self.max_rss_bytes, usage.ru_maxrss * 1024)

    def end(self, signals: int, within_seconds: float = UNKILLABLE_SECONDS) -> int:
        """Kill and reap until nothing is left; returns how many could not be killed in time.

        ``signals`` is a descriptor that becomes readable with SIGCHLD.
        """
        deadline = time.monotonic() + within_seconds
        while self.reap()[1]:
            if time.monotonic() > deadline:
                return len(identity.descendants(os.getpid()))
            self.kill()
            select.select([signals], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                os.read(signals, 4096)
        return 0
