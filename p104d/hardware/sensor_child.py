"""The daemon's end of one sensor process: starts it, hears it, watches it, and never waits for it.

A process stuck in the driver may not even die of SIGKILL before the driver lets go. So nothing here blocks on one:
it is killed, left to itself, and reaped when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from enum import StrEnum

import msgspec

from p104d.hardware.marker import Marker, Stage
from p104d.hardware.messages import Command, Cycle, Place, SensorConfig

#: The interpreter's start and nvmlInit, which without persistence mode wakes every card first, seconds each.
START_SECONDS = 60.0
_PACKET_BYTES = 1 << 20
#: After this the kernel is left to hold a process that does not die; it is reaped when the daemon ends.
_REAP_SECONDS = 600.0
_STDERR_BYTES = 2000
_BOOT = (
    "import sys,ctypes;"
    # PR_SET_PDEATHSIG: the sensor dies with the daemon, also while a call hangs and it cannot see the socket close.
    "ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "sys.path[:]=sys.argv.pop(1).split(':');"
    "from p104d.hardware.sensor import main;main()"
)


def _module_path() -> str:
    """Where this process finds its modules, so that the sensor finds the same, installed or in a source tree."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    entries = [os.path.abspath(entry) for entry in sys.path if entry]
    return ":".join(entries if root in entries else [root, *entries])


class End(StrEnum):
    """How a sensor process ended, for the one who started it."""

    HUNG_CARD = "hung card"
    HUNG_DRIVER = "hung driver"
    DIED = "died"


class SensorChild:
    """One sensor process. ``on_cycle`` and ``on_end`` are called from the event loop; after ``on_end`` no more.

    ``deadline`` is how long one card may take, in seconds, ``start`` how long the driver may.
    """

    def __init__(
        self,
        config: SensorConfig,
        *,
        deadline: float,
        start: float = START_SECONDS,
        on_cycle: Callable[[Cycle], None],
        on_end: Callable[[End, Place, str], None],
    ) -> None:
        self._deadline, self._start_seconds = deadline, max(deadline, start)
        self._interval = config.interval
        self._on_cycle, self._on_end = on_cycle, on_end
        self._loop = asyncio.get_running_loop()
        self._decoder = msgspec.msgpack.Decoder(Cycle)
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self.reaped: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        self._spawn(config)

    def _spawn(self, config: SensorConfig) -> None:
        self._marker = Marker.create()
        self._stderr = os.memfd_create("p104d-sensor-stderr")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._channel.setblocking(False)
            descriptors = (theirs.fileno(), self._marker.descriptor)
            self._process = subprocess.Popen(
                # -S, with the daemon's own path: no site-packages hooks are run, so it starts fast and small.
                [sys.executable, "-I", "-S", "-c", _BOOT, _module_path(), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                pass_fds=descriptors,
                start_new_session=True,
            )
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead already: the reader will see it
            self._channel.send(msgspec.msgpack.encode(config))
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._watch()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, command: Command) -> None:
        """Tell it; a process that does not read any more is left to the watch."""
        if command.interval is not None:
            self._interval = command.interval
        if not self._ended:
            with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                self._channel.send(msgspec.msgpack.encode(command))

    def kill(self) -> None:
        """End it without a word to ``on_end``."""
        if not self._ended:
            self._finish()

    def _readable(self) -> None:
        while not self._ended:
            try:
                packet = self._channel.recv(_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._end(End.DIED, Place())
                return
            self._heard = time.monotonic()
            self._on_cycle(self._decoder.decode(packet))

    def _watch(self) -> None:
        """Look again when the present stage's time is over, if nothing changes until then."""
        if self._ended:
            return
        stage, index, bus_id, since = self._marker.read()
        allowed = {
            Stage.STARTING: self._start_seconds,
            Stage.DRIVER: self._start_seconds,
            Stage.IDLE: self._interval + self._deadline,
        }.get(stage, self._deadline)
        left = max(since, self._heard) + allowed - time.monotonic()
        if left > 0:
            # The stage may change to one with less time, so the watch wakes at least every deadline.
            self._timer = self._loop.call_later(min(left, self._deadline) + 0.001, self._watch)
        elif stage is Stage.CARD:
            self._end(End.HUNG_CARD, Place(index=index, bus_id=bus_id))
        else:
            self._end(End.HUNG_DRIVER, Place())

    def _end(self, end: End, place: Place) -> None:
        text = self._last_words()
        self._finish()
        self._on_end(end, place, text)

    def _last_words(self) -> str:
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, _STDERR_BYTES, max(0, size - _STDERR_BYTES)).decode("utf-8", "replace")
        return words.strip().rpartition("\n")[2]

    def _finish(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._channel.fileno())
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._marker.close()
        os.close(self._stderr)
        self.reaped = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        """Take leave of the process when it is dead, however long the kernel holds it."""
        wait, given_up = 0.005, time.monotonic() + _REAP_SECONDS
        while self._process.poll() is None and time.monotonic() < given_up:
            await asyncio.sleep(wait)
            wait = min(wait * 2, 5.0)
        self.abandon()

    def abandon(self) -> None:
        """Stop waiting for a process that even SIGKILL does not end, and spare the log a warning about it."""
        if self._process.returncode is None:
            self._process.returncode = -signal.SIGKILL
