"""A few bytes shared by a sensor and its watcher: what the sensor is about to do, and since when.

The sensor writes before each thing that may never return; the daemon reads when no message came in time.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from enum import IntEnum

#: stage, card index (-1: unknown), CLOCK_MONOTONIC seconds, bus address.
_LAYOUT = struct.Struct("=iid32s")


class Stage(IntEnum):
    """What the sensor is doing."""

    STARTING = 0
    DRIVER = 1
    CARD = 2
    IDLE = 3


class Marker:
    """The shared bytes, over a memfd that the sensor inherits. The one who calls ``create`` closes it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, mmap.PAGESIZE)

    @classmethod
    def create(cls) -> Marker:
        """A new one, in stage STARTING since now. Its ``descriptor`` is to be passed to the sensor."""
        descriptor = os.memfd_create("p104d-sensor-marker")
        os.ftruncate(descriptor, mmap.PAGESIZE)
        marker = cls(descriptor)
        marker.note(Stage.STARTING)
        return marker

    def note(self, stage: Stage, index: int = -1, bus_id: str | None = None) -> None:
        """What comes next."""
        _LAYOUT.pack_into(self._map, 0, stage, index, time.monotonic(), (bus_id or "").encode())

    def read(self) -> tuple[Stage, int | None, str | None, float]:
        """Stage, card index, bus address, and the CLOCK_MONOTONIC second of the note."""
        stage, index, since, bus_id = _LAYOUT.unpack_from(self._map, 0)
        return Stage(stage), None if index < 0 else index, bus_id.rstrip(b"\0").decode() or None, since

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()
        os.close(self.descriptor)
