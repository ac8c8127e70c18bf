"""A job's output on its way to the log: bounded in size and in rate, and never in the job's way. Standard library only.

``log`` is moved to ``log.1``, replacing it, when it has half of the limit: the newest output is what is kept. A job
that prints faster than the disk should be made to write loses lines, counted and noted in the log; a full disk loses
lines too. Neither blocks the job, and neither costs its exit status.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from p104d.processes.record import LOG, LOG_OLD

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_BUFFER = 16 * 1024
_BUFFER = 1024 * 1024
_HELD = 64 * 1024


class Log:
    """The two files of a log in the folder behind ``folder`` (a descriptor).

    ``limit`` is bytes for both together; ``rate`` bytes a second once a burst of half the limit (at least a buffer) was
    used up. The newest of what the rate did not allow is held back, so that the last words of a loud job are kept.
    """

    def __init__(self, folder: int, limit: int, rate: int) -> None:
        self._folder = folder
        self._half = max(limit // 2, 4096)
        self._rate = rate
        self._burst = max(self._half, _BUFFER)
        self._allowance = float(self._burst)
        self._refilled = time.monotonic()
        self._descriptor = -1
        self._size = 0
        self._gap = 0
        self._held = b""
        self.written = 0
        self.dropped = 0

    def _open(self) -> None:
        self._descriptor = os.open(LOG, _FLAGS, 0o600, dir_fd=self._folder)
        self._size = os.fstat(self._descriptor).st_size

    def _rotate(self) -> None:
        os.close(self._descriptor)
        self._descriptor, self._size = -1, 0
        os.rename(LOG, LOG_OLD, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def write(self, data: memoryview | bytes) -> None:
        """Keep ``data``, or count it as dropped. Never raises OSError."""
        if not self._affordable(len(data)):
            self._hold(data)
            return
        self._flush_held()
        self._keep(data)

    def _keep(self, data: memoryview | bytes) -> None:
        kept = self._put(data)
        self.written += kept
        self._drop(len(data) - kept)

    def _hold(self, data: memoryview | bytes) -> None:
        self._drop(len(self._held) + max(len(data) - _HELD, 0))
        self._held = bytes(data[-_HELD:])

    def _flush_held(self) -> None:
        gap, held = self._gap, self._held
        if gap and self._put(b"\n[p104d: %d bytes of output were not kept here]\n" % gap):
            self._gap = 0
        if held:
            self._held = b""
            self._allowance -= len(held)
            self._keep(held)

    def _affordable(self, size: int) -> bool:
        if size <= self._allowance:
            self._allowance -= size
            return True
        now = time.monotonic()
        self._allowance = min(self._burst, self._allowance + (now - self._refilled) * self._rate)
        self._refilled = now
        if size > self._allowance:
            return False
        self._allowance -= size
        return True

    def _drop(self, size: int) -> None:
        self.dropped += size
        self._gap += size

    def _put(self, data: memoryview | bytes) -> int:
        """Write ``data`` as far as the disk takes it; returns how many bytes were."""
        done = 0
        try:
            while done < len(data):
                if self._descriptor >= 0 and self._size >= self._half:
                    self._rotate()
                if self._descriptor < 0:
                    self._open()
                count = os.write(self._descriptor, data[done : done + self._half - self._size])
                self._size += count
                done += count
        except OSError:
            pass
        return done

    def close(self) -> None:
        """Write what was held back, note a gap at the very end, close."""
        self._flush_held()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Pump:
    """Moves what arrives in a pipe into a :class:`Log`."""

    def __init__(self, pipe: int, log: Log) -> None:
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self.log = log
        self._buffer = bytearray(_FIRST_BUFFER)

    def step(self) -> bool:
        """Move one buffer's worth; False when the pipe ended. Raises BlockingIOError when it has nothing now."""
        count = os.readv(self.pipe, [self._buffer])
        if count:
            with memoryview(self._buffer) as view:
                self.log.write(view[:count])
            if count == len(self._buffer) == _FIRST_BUFFER:
                self._widen()
        return count > 0

    def _widen(self) -> None:
        """A talkative job: fewer and larger moves. Quiet jobs, nearly all, do without the memory."""
        self._buffer = bytearray(_BUFFER)
        with contextlib.suppress(OSError):
            fcntl.fcntl(self.pipe, fcntl.F_SETPIPE_SZ, _BUFFER)

    def drain(self, limit: int = 64 * 1024 * 1024) -> None:
        """Take what is in the pipe, when its writers are dead: without waiting, and not for ever if one is not."""
        taken = self.log.written + self.log.dropped
        with contextlib.suppress(BlockingIOError):
            while self.step() and self.log.written + self.log.dropped - taken < limit:
                pass
        os.close(self.pipe)
