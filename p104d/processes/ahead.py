"""The child that a shim keeps forked ahead: born in a cgroup of its own, it waits for orders. Standard library only.

A fork, the birth in a cgroup and the pages that a young child copies cost 2 to 3 ms, as much as everything else between
a launch and its exec. They are paid while nobody waits. The child becomes one job and is gone; nothing of it outlives
its shim: it asked for SIGKILL then, and whoever sees the shim's end removes the group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time

from p104d.processes import cgroup, holding, identity, job, native, record

#: A child that died sooner than this is only replaced when a job needs one: something here kills them.
_SETTLED_SECONDS = 1.0


class Child:
    """A forked child that waits. ``output`` and ``report`` are the reading ends of what the job prints and of what is
    wrong with it; both belong to who takes the child. ``problem``: why ``group``, though wanted, could not be made.

    Raises OSError when no process is to be had.
    """

    def __init__(self, group: str | None, adjusted: bool) -> None:
        self.group, self.problem = group, ""
        self._make_group()
        opened: list[int] = []
        try:
            opened += os.pipe()
            opened += os.pipe()
            self.output, output, self.report, report = opened
            self._orders, orders = socket.socketpair()
            with orders:
                try:
                    self._fork(orders, report, output, adjusted)
                except BaseException:
                    self._orders.close()
                    raise
        except BaseException:
            for descriptor in opened:
                os.close(descriptor)
            self._remove_group()
            raise
        for descriptor in (output, report):
            os.close(descriptor)
        self.born = time.monotonic()

    def _fork(self, orders: socket.socket, report: int, output: int, adjusted: bool) -> None:
        shim = os.getpid()
        self.pid, joined = native.fork_into(self.group)
        if self.pid == 0:
            group = None if joined else self.group
            job.wait(shim=shim, orders=orders, report=report, output=output, group=group, adjusted=adjusted)

    def _make_group(self) -> None:
        if self.group:
            try:
                cgroup.create(self.group)
            except OSError as error:
                self.group, self.problem = None, str(error)

    def _remove_group(self) -> None:
        if self.group:
            cgroup.end(self.group, within_seconds=1.0)

    def instruct(self, launch: bytes) -> None:
        """Tell what to become; it gets ready, and executes nothing yet. Raises ConnectionError when it is dead."""
        self._orders.sendall(struct.pack("=I", len(launch)) + launch)

    def let_go(self, lock: int) -> None:
        """Let it execute, holding the attempt's ``lock`` until it does: should we die before, nobody may think that the
        attempt is over while its process is still to show who it is. Nothing happens when it is dead: its end tells."""
        with contextlib.suppress(ConnectionError):
            socket.send_fds(self._orders, [job.GO], [lock])
        self._orders.close()

    def is_dead(self) -> bool:
        """Whether it ended; then it was waited for, and :meth:`discard` is all that may follow."""
        if self.pid > 0 and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = -1
        return self.pid < 0

    def discard(self) -> None:
        """End it unused, and remove its group."""
        self._orders.close()
        for descriptor in (self.output, self.report):
            os.close(descriptor)
        if self.pid > 0:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self._remove_group()


class Ahead:
    """Keeps one child ready. ``groups`` is the folder for their cgroups, None where there are none."""

    def __init__(self, groups: str | None, adjusted: bool) -> None:
        self._groups = groups
        self._adjusted = adjusted
        self._count = 0
        self._child: Child | None = None
        self._name = record.group_prefix(os.getpid(), identity.start_time(os.getpid()) or 0)

    def prepare(self) -> None:
        """Fork one, where none waits; without it the next launch tries again, and says what is wrong."""
        if self._child is None:
            with contextlib.suppress(OSError):
                self._child = self._fork(self._groups)

    def look_after(self) -> None:
        """After a SIGCHLD: replace the child if it is dead."""
        if self._child is not None and self._child.is_dead():
            lived = time.monotonic() - self._child.born
            self.close()
            if lived > _SETTLED_SECONDS:
                self.prepare()

    def take(self, groups: str | None, launch: bytes) -> Child:
        """A child that got ``launch`` (the content of ``launch.json``) and whose cgroup is in ``groups``; ``own``: in
        this process's own, as in a unit. Raises OSError when there can be none."""
        ready, self._child = self._child, None
        if ready is not None and groups == self._groups:
            try:
                ready.instruct(launch)
                holding.point("instructed")
                return ready
            except ConnectionError:
                pass  # it died, and the news is still to be read
        if ready is not None:
            ready.discard()
        child = self._fork(groups)
        try:
            child.instruct(launch)
        except ConnectionError:
            child.discard()
            raise
        return child

    def close(self) -> None:
        """Keep none."""
        child, self._child = self._child, None
        if child is not None:
            child.discard()

    def _fork(self, groups: str | None) -> Child:
        self._count += 1
        group = _own_group() if groups == "own" else groups and f"{groups}/{self._name}{self._count}"
        child = Child(group, self._adjusted)
        holding.point("forked")
        return child


def _own_group() -> str | None:
    """In a unit of its own: the shim moves into a leaf, and hands the unit's controllers down to the job's group."""
    own = cgroup.own_folder()
    if own is None:
        return None
    try:
        cgroup.vacate(own, "shim")
    except OSError:
        return None
    cgroup.enable(own)
    return os.path.join(own, "job")
