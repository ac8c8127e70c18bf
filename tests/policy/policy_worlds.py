"""Rigs and queues for the policy's tests: builders, strategies, and a world in virtual time that runs a plan."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from p104d.core.job import Requirement
from p104d.core.plan import Plan
from p104d.core.snapshot import CardView, Hold, HostView, Snapshot, WaitingJob
from p104d.core.units import GIB, MIB

NOW = 1_700_000_000.0
FULL = 8 * GIB
PROMISED = 8000 * MIB
LOCKED = 4 * GIB


def card(index: int = 0, **changes: object) -> CardView:
    """A healthy, empty, unlocked P104-100 with ``changes``."""
    plain = CardView(
        uuid=f"GPU-{index:04d}", index=index, name="P104-100", capacity_bytes=FULL, promised_bytes=PROMISED
    )
    return msgspec.structs.replace(plain, **changes)


def host(**changes: int) -> HostView:
    plain = HostView(ram_free_bytes=8 * GIB, ram_total_bytes=8 * GIB, cpu_slots_free=2, cpu_slots_total=2)
    return msgspec.structs.replace(plain, **changes)


def job(number: int = 1, *, priority: int = 0, limit: float | None = None, **req: object) -> WaitingJob:
    return WaitingJob(id=number, priority=priority, requirement=Requirement(**req), time_limit_seconds=limit)


def alone(number: int, ends_by: float | None = None) -> Hold:
    return Hold(job_id=number, reserved_bytes=FULL, exclusive=True, ends_by=ends_by)


def shared(number: int, size: int, ends_by: float | None = None, since: float | None = None) -> Hold:
    return Hold(job_id=number, reserved_bytes=size, exclusive=False, ends_by=ends_by, since=since)


def snapshot(*cards: CardView, waiting: tuple[WaitingJob, ...] = (), **changes: object) -> Snapshot:
    plain = Snapshot(now=NOW, paused=False, cards=cards, host=host(), waiting=waiting)
    return msgspec.structs.replace(plain, **changes)


# Strategies: small figures, so that collisions (just fits, just does not) are common.

_limits = st.sampled_from([None, None, 30.0, 30.0, 190.0, 1990.0])
_ends = st.sampled_from([None, NOW - 100, NOW - 5, NOW + 40, NOW + 40, NOW + 200, NOW + 200, NOW + 2000])
_vram = st.sampled_from([None, None, GIB, 2 * GIB, 3 * GIB, 4 * GIB, 6 * GIB, FULL, 9 * GIB])


@st.composite
def cards(draw: st.DrawFn, index: int) -> CardView:
    capacity = draw(st.sampled_from([FULL, FULL, FULL, LOCKED]))
    foreign = draw(st.sampled_from([0, 0, 0, 100 * MIB, GIB, 3 * GIB]))
    holds: list[Hold] = []
    if draw(st.integers(0, 3)) == 0:
        holds.append(Hold(job_id=100 + index, reserved_bytes=capacity, exclusive=True, ends_by=draw(_ends)))
    else:
        room = capacity
        for slot in range(draw(st.integers(0, 2))):
            size = draw(st.sampled_from([GIB, 2 * GIB]))
            if size <= room:
                room -= size
                since = draw(st.sampled_from([None, NOW - 7, NOW - 70]))
                holds.append(shared(200 + 10 * index + slot, size, draw(_ends), since))
    closed = draw(st.sampled_from([None, None, None, None, "drained", "missing"]))
    link = draw(st.sampled_from([0.8e9, 0.2e9]))
    name = draw(st.sampled_from(["P104-100", "NVIDIA GeForce GTX 1070"]))
    return card(index, name=name, capacity_bytes=capacity, foreign_bytes=foreign, holds=tuple(holds), closed=closed,
                link_bytes_per_second=link)  # fmt: skip


@st.composite
def requirements(draw: st.DrawFn, card_count: int) -> Requirement:
    count = draw(st.sampled_from([0, 1, 1, 1, 2, 3]))
    only: tuple[str, ...] = ()
    if count and draw(st.integers(0, 4)) == 0:
        only = draw(st.sampled_from([("p104-100",), ("GTX 9",), ("geforce gtx 1070",)]))
        if card_count and draw(st.booleans()):
            only = (f"GPU-{draw(st.integers(0, card_count - 1)):04d}",)
    ram = draw(st.sampled_from([0, 0, GIB, 3 * GIB, 9 * GIB]))
    return Requirement(cards=count, vram_bytes=draw(_vram) if count else None, ram_bytes=ram, only=only)


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    count = draw(st.integers(0, 5))
    views = tuple(draw(cards(index)) for index in range(count))
    kinds = draw(st.lists(requirements(count), min_size=1, max_size=4))
    waiting = tuple(
        WaitingJob(
            id=number,
            priority=draw(st.sampled_from([0, 0, 0, 5])),
            requirement=draw(st.sampled_from(kinds)),
            time_limit_seconds=draw(_limits),
        )
        for number in range(1, draw(st.integers(0, 8)) + 1)
    )
    slots = draw(st.integers(0, 2))
    free = draw(st.sampled_from([0, 2 * GIB, 4 * GIB, 8 * GIB]))
    return Snapshot(
        now=NOW,
        paused=False,
        cards=views,
        host=host(ram_free_bytes=free, cpu_slots_free=slots),
        waiting=tuple(draw(st.permutations(waiting))),
    )


@dataclass
class Work:
    """A job of the world: what is asked, and how long it really runs (never beyond its limit)."""

    waiting: WaitingJob
    run_seconds: float


@dataclass
class World:
    """A rig in virtual time: applies plans, ends jobs when their time is over. ``fillers`` never run dry."""

    cards: tuple[CardView, ...]
    host: HostView
    policy: Callable[[Snapshot], Plan]
    queue: dict[int, Work] = field(default_factory=dict)
    fillers: Iterator[Work] | None = None
    check: Callable[[Snapshot, Plan], None] | None = None
    now: float = NOW
    started: dict[int, float] = field(default_factory=dict)
    _running: list[tuple[float, int]] = field(default_factory=list)
    _work: dict[int, Work] = field(default_factory=dict)
    _holds: dict[str, list[Hold]] = field(default_factory=dict)

    def run_until_started(self, wanted: set[int], deadline: float) -> bool:
        """Let events happen until all ``wanted`` have started; False when ``deadline`` passes or nothing can happen."""
        while True:
            self._refill()
            self._act(self.policy(self._look()))
            if wanted <= self.started.keys():
                return True
            if not self._running or self._running[0][0] > deadline:
                return False
            self._end_next()

    def _refill(self) -> None:
        if self.fillers is not None:
            while sum(work.waiting.id >= 1000 for work in self.queue.values()) < 4:
                work = next(self.fillers)
                self.queue[work.waiting.id] = work

    def _look(self) -> Snapshot:
        ram = sum(self._work[number].waiting.requirement.ram_bytes for _, number in self._running)
        slots = sum(self._work[number].waiting.requirement.cards == 0 for _, number in self._running)
        views = tuple(msgspec.structs.replace(view, holds=tuple(self._holds.get(view.uuid, ()))) for view in self.cards)
        rest = msgspec.structs.replace(
            self.host,
            ram_free_bytes=self.host.ram_total_bytes - ram,
            cpu_slots_free=self.host.cpu_slots_total - slots,
        )
        waiting = tuple(work.waiting for work in self.queue.values())
        return Snapshot(now=self.now, paused=False, cards=views, host=rest, waiting=waiting)

    def _act(self, made: Plan) -> None:
        if self.check is not None:
            self.check(self._look(), made)
        for start in made.starts:
            work = self.queue.pop(start.job_id)
            self._work[start.job_id] = work
            self.started[start.job_id] = self.now
            limit = work.waiting.time_limit_seconds
            ends_by = None if limit is None else self.now + limit
            for uuid, size in zip(start.cards, start.reserved_bytes, strict=True):
                hold = Hold(job_id=start.job_id, reserved_bytes=size, exclusive=start.exclusive, ends_by=ends_by,
                            since=self.now)  # fmt: skip
                self._holds.setdefault(uuid, []).append(hold)
            heapq.heappush(self._running, (self.now + work.run_seconds, start.job_id))

    def _end_next(self) -> None:
        self.now, number = heapq.heappop(self._running)
        for uuid in self._holds:
            self._holds[uuid] = [hold for hold in self._holds[uuid] if hold.job_id != number]
