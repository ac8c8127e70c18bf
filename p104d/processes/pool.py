"""Shims kept ready: forked ahead by the zygote, used again after each attempt, so that a short job costs little more
than its own fork and exec."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from p104d.processes import descriptors, sweep
from p104d.processes.attempt import Key
from p104d.processes.launchers import Watcher, boot_argv

_MESSAGE_BYTES = 8192
#: Shims that wait while jobs come one after the other, and what is left of them when none came for a while: an idle
#: one keeps 4 MB of its own, and costs its 3 ms again when it is missing.
_KEEP, _KEEP_QUIET, _QUIET_SECONDS = 16, 1, 5.0
#: What a dead shim kept ahead dies a moment after it, and only then can its cgroup be removed.
_TIDY_SECONDS, _TIDY_TRIES = 0.01, 100
#: It answers within milliseconds. One that says nothing for so long is stopped or stuck, and attempts wait for it
#: that are given up after 30 s.
_DEAF_SECONDS = 15.0
#: A zygote that dies at once, over and over, is not restarted faster than this.
_RESTART_SECONDS = 0.5


class LinkedShim:
    """The daemon's end of one shim."""

    def __init__(self, pool: ZygoteLauncher, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.link = link
        self.watcher: Watcher | None = None
        self._pool = pool
        link.setblocking(False)
        asyncio.get_running_loop().add_reader(link, self._receive)

    def send(self, command: bytes) -> bool:
        """Give a command; False when the shim is gone (or has not read for a long time, which is the same)."""
        try:
            self.link.send(command)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Hang up: a busy shim finishes its attempt alone, an idle one ends."""
        asyncio.get_running_loop().remove_reader(self.link)
        self.link.close()

    def _receive(self) -> None:
        try:
            data = self.link.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._pool.lost(self)
            return
        message = json.loads(data)
        watcher = self.watcher
        if message["event"] == "ended":
            self.watcher = None
        try:
            if watcher is not None:
                watcher.message(message)
        finally:  # whatever becomes of the news
            if message["event"] == "ended" and not message["last"]:
                self._pool.free(self)


class _Waiting(NamedTuple):
    folder: str
    watcher: Watcher


class ZygoteLauncher:
    """Keeps a zygote running and shims waiting. ``argv`` replaces the zygote's command, for tests."""

    def __init__(self, argv: Sequence[str] | None = None) -> None:
        self._argv = argv or boot_argv("zygote", "int(sys.argv[2])")
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._asked = 0
        self._groups: str | None = None
        self._waiting: deque[_Waiting] = deque()
        self._idle: list[LinkedShim] = []
        self._all: set[LinkedShim] = set()
        self._dying: set[int] = set()
        self._started_at = 0.0
        self._launched_at = 0.0
        self._restart: asyncio.TimerHandle | None = None
        self._trim: asyncio.TimerHandle | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._deaf: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """The zygote's pid while there is one."""
        return self._process.pid if self._process else None

    async def start(self, groups: str | None) -> None:
        """Start the zygote; it answers as soon as it is warm (15 to 30 ms). Jobs have their cgroups in ``groups``."""
        self._groups = groups
        self._spawn()

    async def close(self) -> None:
        """End the zygote and the idle shims. Busy ones finish alone; what still waits for a shim is never started."""
        self._drop()
        for timer in (self._restart, self._trim, self._tidying):
            if timer:
                timer.cancel()
        for shim in self._all:
            shim.close()
        self._all.clear()
        self._idle.clear()
        self._waiting.clear()

    def launch(self, key: Key, folder: str, watcher: Watcher) -> None:  # noqa: ARG002 - units need the key
        """Have the attempt in ``folder`` run by the next free shim."""
        self._launched_at = asyncio.get_running_loop().time()
        self._waiting.append(_Waiting(folder, watcher))
        self._serve()

    def free(self, shim: LinkedShim) -> None:
        """The shim is done with its attempt."""
        self._idle.append(shim)
        self._serve()
        if len(self._idle) > _KEEP:
            self._discard(self._idle.pop(0))
        self._trim_later()

    def _trim_later(self) -> None:
        if len(self._idle) > _KEEP_QUIET and self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._shrink)

    def lost(self, shim: LinkedShim) -> None:
        """The shim's end closed: it is dead."""
        watcher, shim.watcher = shim.watcher, None
        if shim in self._idle:
            self._idle.remove(shim)
        self._discard(shim)
        try:
            if watcher is not None:
                watcher.gone()
        finally:
            self._order()
            if self._tidying:
                self._tidying.cancel()
            self._dying.add(shim.pid)
            self._tidy(_TIDY_TRIES)

    def _tidy(self, tries: int) -> None:
        """Remove the cgroups of dead shims: at once, or when what is in them is dead too."""
        self._tidying = None
        if self._groups is not None and sweep.remove_leftovers(self._groups, self._dying) and tries:
            self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy, tries - 1)
        else:
            self._dying.clear()

    def _discard(self, shim: LinkedShim) -> None:
        self._all.discard(shim)
        shim.close()

    def _shrink(self) -> None:
        self._trim = None
        loop = asyncio.get_running_loop()
        quiet_at = self._launched_at + _QUIET_SECONDS
        if loop.time() < quiet_at:
            self._trim = loop.call_at(quiet_at, self._shrink)
            return
        while len(self._idle) > _KEEP_QUIET:
            self._discard(self._idle.pop(0))

    def _serve(self) -> None:
        """Bring waiting attempts and idle shims together, the warmest first."""
        while self._waiting and self._idle:
            waiting, shim = self._waiting.popleft(), self._idle.pop()
            if shim.send(b"run " + os.fsencode(waiting.folder)):
                shim.watcher = waiting.watcher
                waiting.watcher.started(shim)
            else:
                self._waiting.appendleft(waiting)
                self.lost(shim)
        self._order()

    def _order(self) -> None:
        """Ask for a shim for each that waits, and for one ahead."""
        wanted = len(self._waiting) + (0 if self._idle else 1)
        while self._link is not None and self._asked < wanted:
            try:
                self._link.send(os.fsencode(self._groups or "-"))
            except OSError:
                return  # full: its answers bring us here again; dead: its end of file does
            self._asked += 1
            self._expect_answer()

    def _expect_answer(self) -> None:
        if self._asked and self._deaf is None:
            self._deaf = asyncio.get_running_loop().call_later(_DEAF_SECONDS, self._died)

    def _heard(self) -> None:
        if self._deaf is not None:
            self._deaf.cancel()
            self._deaf = None

    def _spawn(self) -> None:
        self._restart = None
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            self._restart = loop.call_later(_RESTART_SECONDS, self._spawn)
            return
        try:
            self._process = subprocess.Popen(
                [*self._argv, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={"P104_SHIM": "1"},  # not empty, so that a sweep need not wonder about it; jobs never see it
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError:
            ours.close()
            self._restart = loop.call_later(_RESTART_SECONDS, self._spawn)
            return
        finally:
            theirs.close()
        descriptors.as_given(self._process.pid)  # before it is asked for the first shim
        ours.setblocking(False)
        self._link = ours
        loop.add_reader(ours, self._receive)
        self._order()

    def _receive(self) -> None:
        while self._link is not None:
            try:
                data, passed, _, _ = socket.recv_fds(self._link, 512, 1)
            except BlockingIOError:
                return
            except OSError:
                data, passed = b"", []
            if not data:
                self._died()
                return
            self._asked -= 1
            self._heard()
            self._expect_answer()
            self._answered(data, passed)

    def _answered(self, data: bytes, passed: list[int]) -> None:
        if passed:
            shim = LinkedShim(self, int(data), socket.socket(fileno=passed[0]))
            self._all.add(shim)
            self._idle.append(shim)
            self._serve()
            self._trim_later()  # it may come when the one that was to be spared it is free again
        elif self._waiting:  # no process, or here no descriptor, to be had: the attempt is told, not kept waiting
            text = data[1:] if data.startswith(b"!") else b"too many open files"
            self._waiting.popleft().watcher.failed(text.decode("utf-8", "replace"))

    def _died(self) -> None:
        self._drop()
        loop = asyncio.get_running_loop()
        wait = 0.0 if loop.time() - self._started_at > _RESTART_SECONDS else _RESTART_SECONDS
        self._restart = loop.call_later(wait, self._spawn)

    def _drop(self) -> None:
        link, self._link = self._link, None
        self._asked = 0
        self._heard()
        if link is not None:
            asyncio.get_running_loop().remove_reader(link)
            link.close()
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it would end by itself, but there is no point in waiting for that
            process.wait()
