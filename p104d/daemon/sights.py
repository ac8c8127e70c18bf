"""What one look at a card tells: its report, and whose processes are on it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from p104d.core.card import CardReading, CardReport
from p104d.daemon.events import CardBad
from p104d.hardware.messages import Cycle
from p104d.store.cards import CardRecord

#: Good cycles in a row after which a card that answered badly is trusted again.
_TRUST_AFTER_CYCLES = 3
#: Contexts, page tables and what a driver keeps for itself may make up as much on a card with a few processes.
_HIDDEN_BYTES = 512 << 20
#: The owner of a memory test's process: nobody's job, but no stranger either.
MEMORY_TEST = 0


class Sight(msgspec.Struct, kw_only=True):
    """What the sensor last said of a card. ``foreign_bytes`` is memory of processes that are not ours, ``ours`` that
    of each of our jobs, ``looked_at`` the Unix time of the last look that told processes."""

    report: CardReport
    at: float
    seen_at: float = 0.0
    foreign_bytes: int = 0
    ours: dict[int, int] = {}
    pids: frozenset[int] = frozenset()
    looked_at: float = 0.0
    good_cycles: int = _TRUST_AFTER_CYCLES

    @property
    def trusted(self) -> bool:
        """Has it answered well for long enough?"""
        return self.good_cycles >= _TRUST_AFTER_CYCLES


class Changes(msgspec.Struct, kw_only=True):
    """What a cycle changed: records to save, cards gone from under their jobs, whether placement may differ."""

    save: list[CardRecord] = []
    gone: list[str] = []
    bad: list[CardBad] = []
    material: bool = False
    warnings: list[str] = []


class Onlooker:
    """Makes sights of reports. ``owner_of`` tells whose a process is: a job's id, MEMORY_TEST, None for a stranger;
    ``is_alive`` whether a stranger's process is there."""

    def __init__(self, owner_of: Callable[[int], int | None], is_alive: Callable[[int], bool]) -> None:
        self._owner_of, self._is_alive = owner_of, is_alive

    def sight(self, report: CardReport, cycle: Cycle, before: Sight | None) -> Sight:
        """What the report adds to what was seen ``before``."""
        sight = Sight(report=report, at=cycle.monotonic, seen_at=cycle.at)
        if before is not None:
            sight.foreign_bytes, sight.ours, sight.looked_at = before.foreign_bytes, before.ours, before.looked_at
            sight.good_cycles = before.good_cycles
        if report.fault is not None:
            sight.good_cycles = 0
        elif sight.good_cycles < _TRUST_AFTER_CYCLES:
            sight.good_cycles += 1
        if report.reading.processes is not None:
            sight.looked_at = cycle.at
            self._share_out(sight, report.reading, before.pids if before else frozenset())
        return sight

    def _share_out(self, sight: Sight, reading: CardReading, before: frozenset[int]) -> None:
        """Tell our processes from others. A process that has just gone is nobody's: its memory is being freed. One that
        the driver still names a look later is only hidden from us."""
        ours, foreign, foreign_unknown = dict[int, int](), 0, False
        for process in reading.processes or ():
            job = self._owner_of(process.pid)
            if job is not None:
                ours[job] = ours.get(job, 0) + (process.memory_bytes or 0)
            elif process.pid in before or self._is_alive(process.pid):
                foreign += process.memory_bytes or 0
                foreign_unknown |= process.memory_bytes is None
        if foreign_unknown and reading.memory_used_bytes is not None:
            foreign = max(foreign, reading.memory_used_bytes - sum(ours.values()))
        if reading.memory_used_bytes is not None:
            # What is used beyond all that processes are named for is somebody's whom the driver does not name.
            hidden = reading.memory_used_bytes - sum(ours.values()) - foreign
            foreign += hidden if hidden > _HIDDEN_BYTES else 0
        sight.foreign_bytes, sight.ours = foreign, ours
        sight.pids = frozenset(process.pid for process in reading.processes or ())
