"""From the queue and the rig to one snapshot: as much of the queue as can matter, however long it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, HostView, Snapshot, WaitingJob
from p104d.store import reads
from p104d.store.reads import OpenAttempt

_FIRST_IN_LINE = 64


class Capacity(msgspec.Struct, frozen=True):
    """What the host gives to jobs: places for those without cards, and memory in bytes."""

    cpu_slots: int
    ram_bytes: int


class Observer:
    """Builds snapshots. Of each distinct requirement only as many jobs are read as could start at once, so the cost
    does not grow with the queue; of very many distinct requirements a part at a time, the next part the next time.
    ``more`` tells that there are other parts, ``wrapped`` that the last part of all was among those just read."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity = capacity
        self._cursor = 0
        self.more = False
        self.wrapped = True

    def snapshot(
        self,
        conn: Connection,
        *,
        now: float,
        paused: bool,
        cards: tuple[CardView, ...],
        attempts: Sequence[OpenAttempt],
    ) -> Snapshot:
        """The rig and the queue as the policy sees them."""
        host = self.host(attempts)
        return Snapshot(now=now, paused=paused, cards=cards, host=host, waiting=tuple(self._waiting(conn, cards, host)))

    def host(self, attempts: Sequence[OpenAttempt]) -> HostView:
        """What is free of the host once every open attempt has what it reserved."""
        return HostView(
            ram_free_bytes=self.capacity.ram_bytes - sum(attempt.ram_bytes for attempt in attempts),
            ram_total_bytes=self.capacity.ram_bytes,
            cpu_slots_free=self.capacity.cpu_slots - sum(attempt.cards == 0 for attempt in attempts),
            cpu_slots_total=self.capacity.cpu_slots,
        )

    def _waiting(self, conn: Connection, cards: Sequence[CardView], host: HostView) -> list[WaitingJob]:
        found = reads.ready_requirements(conn, self._cursor)
        self.wrapped = len(found) < reads.MAX_REQUIREMENTS
        if self._cursor and self.wrapped:
            known = {number for number, _ in found}
            found += [each for each in reads.ready_requirements(conn, 0) if each[0] not in known]
            found = found[: reads.MAX_REQUIREMENTS]
        self.more = len(found) == reads.MAX_REQUIREMENTS
        self._cursor = found[-1][0] if self.more and not self.wrapped else 0
        waiting: dict[int, WaitingJob] = {}
        for number, requirement in found:
            for job in reads.ready_jobs(conn, number, requirement, most_at_once(requirement, cards, host)):
                waiting[job.id] = job
        if self.more:
            # Whoever is first in line is in every snapshot: what is kept for it must stay kept.
            waiting |= {job.id: job for job in reads.first_jobs(conn, _FIRST_IN_LINE)}
        return list(waiting.values())


def most_at_once(requirement: Requirement, cards: Sequence[CardView], host: HostView) -> int:
    """An upper bound of how many jobs of this requirement could start now, and one more to be first in line."""
    if requirement.cards == 0:
        return max(host.cpu_slots_free, 0) + 1
    if requirement.vram_bytes is None:
        free = sum(card.closed is None and not card.holds for card in cards)
        return free // requirement.cards + 1
    shares = sum(
        max(0, card.capacity_bytes - sum(hold.reserved_bytes for hold in card.holds)) // requirement.vram_bytes
        for card in cards
        if card.closed is None
    )
    return shares // requirement.cards + 1
