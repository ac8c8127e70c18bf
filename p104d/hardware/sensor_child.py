"""The daemon's end of one sensor process: starts it, hears it, watches it, and never waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum

import msgspec

from p104d.hardware.child_process import ChildProcess
from p104d.hardware.marker import Marker, Stage
from p104d.hardware.messages import Command, Cycle, Place, SensorConfig

#: The interpreter's start and nvmlInit, which without persistence mode wakes every card first, seconds each.
START_SECONDS = 60.0


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
        self._heard = time.monotonic()
        self._marker = Marker.create()
        try:
            self._child = ChildProcess(
                "p104d.hardware.sensor",
                first=msgspec.msgpack.encode(config),
                on_packet=self._packet,
                on_closed=lambda: self._end(End.DIED, Place()),
                descriptors=(self._marker.descriptor,),
            )
        except BaseException:
            self._marker.close()
            raise
        self._watch()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.pid

    @property
    def reaped(self) -> asyncio.Task[bool] | None:
        """After the end: done when the process is gone (True), or given up (False)."""
        return self._child.reaped

    def send(self, command: Command) -> None:
        """Tell it; a process that does not read any more is left to the watch."""
        if command.interval is not None:
            self._interval = command.interval
        self._child.send(msgspec.msgpack.encode(command))

    def kill(self) -> None:
        """End it without a word to ``on_end``."""
        if not self._ended:
            self._finish()

    def abandon(self) -> None:
        """Stop waiting for a process that even SIGKILL does not end."""
        self._child.abandon()

    def _packet(self, packet: bytes) -> None:
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
        text = self._child.last_words()
        self._finish()
        self._on_end(end, place, text)

    def _finish(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        self._child.finish()
        self._marker.close()
