"""From the queue and the rig to one snapshot: as much of the queue as can matter, however long it is."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, HostView, ModelFamily, Snapshot, WaitingJob
from p104d.daemon.models import Bad, Known, Models
from p104d.daemon.residents import family_of, residents, with_runs
from p104d.policy.cut import most_at_once
from p104d.store import model_facts, reads
from p104d.store.instances import Instance
from p104d.store.reads import OpenAttempt

_FIRST_IN_LINE = 64
#: More waiting jobs of a model make no difference to any decision.
_MOST_COUNTED = 10_000


class Capacity(msgspec.Struct, frozen=True):
    """What the host gives to jobs: places for those without cards, and memory in bytes."""

    cpu_slots: int
    ram_bytes: int


class Observer:
    """Builds snapshots. Of each distinct requirement only as many jobs are read as could start at once, so the cost
    does not grow with the queue; of very many distinct requirements a part at a time, the next part the next time.
    ``more`` tells that there are other parts, ``wrapped`` that the last part of all was among those just read.

    ``known`` are the models of the families in the last snapshot, by key; ``bad`` the first jobs of each requirement
    whose model cannot be used, and why. ``pinned`` are the paths of models that the configuration pins.
    """

    def __init__(self, capacity: Capacity, models: Models | None = None, pinned: Sequence[str] = ()) -> None:
        self.capacity, self.models, self.pinned = capacity, models, tuple(pinned)
        self._cursor = 0
        self.more = False
        self.wrapped = True
        self.known: dict[str, Known] = {}
        self.bad: list[tuple[int, str]] = []
        self._families: dict[str, ModelFamily] = {}
        self._unlooked: set[str] = set()

    def snapshot(
        self,
        conn: Connection,
        *,
        now: float,
        paused: bool,
        cards: tuple[CardView, ...],
        attempts: Sequence[OpenAttempt],
        instances: Sequence[Instance] = (),
    ) -> Snapshot:
        """The rig and the queue as the policy sees them."""
        host = self.host(attempts, instances)
        self.known, self.bad, self._unlooked = {}, [], set()
        self._families = {each.family: family_of(each) for each in instances if each.usable}
        waiting = tuple(self._waiting(conn, cards, host))
        # After a start nobody has looked at a model yet; its copies must not go meanwhile as if nobody waited for them.
        pinned = self.pinned_paths(conn) | self._unlooked if instances else frozenset[str]()
        return Snapshot(
            now=now,
            paused=paused,
            cards=cards,
            host=host,
            waiting=waiting,
            residents=residents(instances, attempts, pinned, now),
            families=with_runs(conn, self._families),
        )

    def pinned_paths(self, conn: Connection) -> frozenset[str]:
        """The models that stay: those of the configuration, and those that people have pinned."""
        return frozenset([*self.pinned, *(pin.path for pin in model_facts.pins(conn))])

    def host(self, attempts: Sequence[OpenAttempt], instances: Sequence[Instance] = ()) -> HostView:
        """What is free of the host once every open attempt and every copy of a model has what it reserved."""
        reserved = sum(attempt.ram_bytes for attempt in attempts) + sum(each.ram_bytes for each in instances)
        return HostView(
            ram_free_bytes=self.capacity.ram_bytes - reserved,
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
            most = len(cards) + 1 if requirement.model else most_at_once(requirement, cards, host)
            jobs = reads.ready_jobs(conn, number, requirement, most)
            if requirement.model is not None:
                jobs = self._of_family(conn, number, requirement, jobs, cards)
            waiting |= {job.id: job for job in jobs}
        if self.more:
            # Whoever is first in line is in every snapshot: what is kept for it must stay kept.
            first = reads.first_jobs(conn, _FIRST_IN_LINE)
            waiting |= {job.id: job for job in first if job.requirement.model is None}
        return list(waiting.values())

    def _of_family(
        self,
        conn: Connection,
        number: int,
        requirement: Requirement,
        jobs: list[WaitingJob],
        cards: Sequence[CardView],
    ) -> list[WaitingJob]:
        """Jobs of one model with the family that they are of; none where it is not known (yet), or its file is bad."""
        found = self.models.resolve(conn, requirement, cards) if self.models is not None else None
        if not isinstance(found, Known):
            if found is None and requirement.model is not None:
                self._unlooked.add(requirement.model.path)
            if isinstance(found, Bad) and not found.never:
                self.bad += [(job.id, found.text) for job in jobs]
            return []
        key, count = found.family.key, reads.ready_count(conn, number, _MOST_COUNTED)
        before = self._families[key].waiting if key in self._families else 0
        self.known[key] = found
        self._families[key] = msgspec.structs.replace(found.family, waiting=before + count)
        return [msgspec.structs.replace(job, family=key) for job in jobs]
