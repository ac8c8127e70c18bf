"""Reading a job's output: ``log.1`` and ``log`` as one, and what is added to them while the job runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import ClassVar, NamedTuple

from p104d.processes import attempt, native, record
from p104d.processes.attempt import LookKind

_CHUNK = 64 * 1024
#: How often somebody's follower looks without having been woken: a shim that was killed writes nothing to wake it, and
#: where inotify is used up this is all there is.
_LOOK_SECONDS = 0.25
#: An inotify instance is one of 128 that a user has on the whole host, root too, and other programs need some.
#: Followers beyond these look by the timer.
_MOST_WATCHES = 16
#: A job that writes without pause wakes its followers no more often than this.
_BREATH_SECONDS = 0.02
_OVER = (LookKind.ENDED, LookKind.DEAD, LookKind.REVOKED)


class _Part(NamedTuple):
    """An open file of the log."""

    descriptor: int
    inode: int
    size: int


def _open(folder: str, name: str) -> _Part | None:
    try:
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    status = os.fstat(descriptor)
    return _Part(descriptor, status.st_ino, status.st_size)


def _parts(folder: str) -> list[_Part]:
    """The log's files, oldest first, consistent though a rotation may happen meanwhile."""
    while True:
        parts = [part for part in (_open(folder, record.LOG_OLD), _open(folder, record.LOG)) if part is not None]
        if len({part.inode for part in parts}) == len(parts):
            return parts
        _close(parts)  # the file was renamed between the two: once more


def _close(parts: list[_Part]) -> None:
    for part in parts:
        os.close(part.descriptor)


def size(folder: str) -> int:
    """Bytes that :func:`read` could return now; 0 where there is no output."""
    parts = _parts(folder)
    _close(parts)
    return sum(part.size for part in parts)


def read(folder: str, *, offset: int = 0, limit: int | None = None, tail: int | None = None) -> bytes:
    """The output that is kept: ``limit`` bytes (None: all) from ``offset``, or the last ``tail`` bytes.

    Offsets count from the oldest byte kept, and so move when the log rotates. Raises OSError for an unreadable file.
    """
    parts = _parts(folder)
    try:
        total = sum(part.size for part in parts)
        start = max(0, total - tail) if tail is not None else min(offset, total)
        left = total - start if limit is None else min(limit, total - start)
        return b"".join(_pieces(parts, start, left))
    finally:
        _close(parts)


def _pieces(parts: list[_Part], start: int, left: int) -> list[bytes]:
    pieces: list[bytes] = []
    for part in parts:
        skip = min(start, part.size)
        start -= skip
        piece = os.pread(part.descriptor, min(left, part.size - skip), skip) if left else b""
        left -= len(piece)
        pieces.append(piece)
    return pieces


def tail_lines(folder: str, lines: int) -> bytes:
    """The last ``lines`` lines that are kept."""
    if lines <= 0:
        return b""
    data = read(folder)
    at = len(data) - 1 if data.endswith(b"\n") else len(data)
    for _ in range(lines):
        at = data.rfind(b"\n", 0, max(at, 0))
        if at < 0:
            return data
    return data[at + 1 :]


class _Follower:
    """Where a reader is in a log that grows and rotates."""

    def __init__(self, folder: str, skip: int) -> None:
        self._folder = folder
        self._queue = _parts(folder)
        self._inode: int | None = None
        for part in self._queue:
            self._inode = part.inode
            step = min(skip, part.size)
            os.lseek(part.descriptor, step, os.SEEK_SET)
            skip -= step

    def step(self) -> bytes:
        """Some of what is new; empty when there is nothing now."""
        while True:
            if self._queue:
                data = os.read(self._queue[0].descriptor, _CHUNK)
                if data:
                    return data
            if len(self._queue) > 1:
                os.close(self._queue.pop(0).descriptor)
            elif not self._advance():
                return b""

    def _advance(self) -> bool:
        """Open what came after the file being read, if it is not the newest any more."""
        parts = _parts(self._folder)
        known = [index for index, part in enumerate(parts) if part.inode == self._inode]
        newer = parts[known[0] + 1 :] if known else parts  # both replaced since: what is between is gone
        _close([part for part in parts if part not in newer])
        if newer:
            # The last bytes of the old file were written before the rename; whoever saw a newer file has them in reach.
            self._queue += newer
            self._inode = newer[-1].inode
        return bool(newer)

    def close(self) -> None:
        _close(self._queue)
        self._queue = []


async def follow(folder: str, *, offset: int = 0, tail: int | None = None) -> AsyncIterator[bytes]:
    """What the log holds from ``offset`` (or its last ``tail`` bytes), then what is added, until the attempt is over.

    Also where nothing was claimed yet: it waits. Ends too when the folder is removed.
    """
    follower = _Follower(folder, offset if tail is None else max(0, size(folder) - tail))
    wake = _Waker(folder)
    try:
        while True:
            over = not os.path.isdir(folder) or attempt.look(folder).kind in _OVER  # asked before the last read
            while data := follower.step():
                yield data
                await asyncio.sleep(0)
            if over:
                return
            await wake.wait()
    finally:
        wake.close()
        follower.close()


class _Waker:
    """Waits until something in the folder was written, or until it is time to look anyway."""

    _watching: ClassVar[int] = 0

    def __init__(self, folder: str) -> None:
        self._event = asyncio.Event()
        self._descriptor = -1
        if _Waker._watching >= _MOST_WATCHES:
            return
        with contextlib.suppress(OSError):  # others have used them up: then the timer alone
            self._descriptor = native.watch_folder(folder)
            _Waker._watching += 1
            asyncio.get_running_loop().add_reader(self._descriptor, self._on_change)

    def _on_change(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _CHUNK)
        self._event.set()

    async def wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await self._event.wait()
                await asyncio.sleep(_BREATH_SECONDS)
        self._event.clear()

    def close(self) -> None:
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            _Waker._watching -= 1
