"""A rig with models in virtual time, and streams of newer jobs that never run dry against those that were there first.

``starves`` is as in policy_starvation.py, for commands and model jobs among each other: each of the first jobs must
start within a time that is known beforehand.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

import msgspec
from policy_model_worlds import ask, family, world
from policy_worlds import NOW, card, host

from p104d.core.job import Requirement
from p104d.core.plan import LoadModel, Plan, Start
from p104d.core.snapshot import CardView, Hold, ModelFamily, ResidentModel, Snapshot, WaitingJob
from p104d.core.units import GIB
from p104d.policy import schedule

LONGEST_RUN = 60.0
LOAD = 10.0
BACKLOG = 6
LINK_FAST, LINK_SLOW = 0.8e9, 0.4e9
#: By how much later jobs may have come that go before: the policy's own measure, for these families on this rig.
PATIENCE = 8.0 * LOAD * (1 + 1 + 1 + 2 + 3) / 3

FAMILIES = (
    family("a", rig=4, load_seconds=LOAD, mean_seconds=None, seen=0),
    family("b", rig=4, load_seconds=LOAD, ram_bytes=2 * GIB),
    family("one", rig=4, load_seconds=LOAD, fits=("GPU-0002",)),
    family("two", cards=2, rig=4, load_seconds=LOAD, mean_seconds=30.0),
    family("three", cards=3, rig=4, load_seconds=LOAD, ram_bytes=5 * GIB),
)

COMMANDS = (
    Requirement(cards=1),
    Requirement(cards=1, vram_bytes=2 * GIB),
    Requirement(cards=1, vram_bytes=GIB, ram_bytes=GIB),
    Requirement(cards=2),
    Requirement(cards=3, ram_bytes=4 * GIB),
    Requirement(cards=0, ram_bytes=7 * GIB),
    Requirement(cards=1, only=("GPU-0002",)),
)


@dataclass
class ModelWorld:
    """Applies plans, loads and unloads copies, ends jobs. ``fillers`` keep BACKLOG jobs waiting behind the others."""

    cards: tuple[CardView, ...]
    fillers: Iterator[tuple[WaitingJob, float]]
    check: Callable[[Snapshot, Plan], None] | None = None
    now: float = NOW
    queue: dict[int, tuple[WaitingJob, float]] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    residents: dict[int, ResidentModel] = field(default_factory=dict)
    _events: list[tuple[float, int, int]] = field(default_factory=list)
    _running: dict[int, tuple[WaitingJob, Start]] = field(default_factory=dict)
    _copies: int = 0

    def step(self) -> None:
        """Plan, act, and let the next thing happen."""
        while sum(number >= 1000 for number in self.queue) < BACKLOG:
            job, run = next(self.fillers)
            self.queue[job.id] = (msgspec.structs.replace(job, arrival=self.now), run)
        seen = self.look()
        made = schedule.plan(seen)
        if self.check is not None:
            self.check(seen, made)
        for act in (*made.loads, *made.starts):
            self._carry_out(act)
        assert self._events, "nothing will ever happen"
        self.now, copy, job = heapq.heappop(self._events)
        if job:
            self._end(job)
        elif copy in self.residents:
            self._change(copy, ready_at=None, last_used=self.now)

    def look(self) -> Snapshot:
        """The snapshot of now; copies hold no card for the snapshot's builder that a running job does not hold."""
        holds: dict[str, list[Hold]] = {}
        for job, start in self._running.values():
            ends = None if job.time_limit_seconds is None else self.started[job.id] + job.time_limit_seconds
            for uuid, size in zip(start.cards, start.reserved_bytes, strict=True):
                if start.resident is None:
                    hold = Hold(job_id=job.id, reserved_bytes=size, exclusive=start.exclusive, ends_by=ends,
                                since=self.started[job.id])  # fmt: skip
                    holds.setdefault(uuid, []).append(hold)
        views = [msgspec.structs.replace(view, holds=tuple(holds.get(view.uuid, ()))) for view in self.cards]
        ram = sum(job.requirement.ram_bytes for job, _ in self._running.values())
        ram += sum(each.ram_bytes for each in self.residents.values())
        slots = sum(not start.cards for _, start in self._running.values())
        rest = host(ram_free_bytes=host().ram_total_bytes - ram, cpu_slots_free=host().cpu_slots_total - slots)
        waiting = [job for job, _ in self.queue.values()]
        return world(*views, *FAMILIES, *self.residents.values(), *waiting, now=self.now, host=rest)

    def _carry_out(self, act: Start | LoadModel) -> None:
        for number in act.evicts:
            del self.residents[number]
        if isinstance(act, LoadModel):
            self._copies += 1
            each = by_key(act.family)
            ready = self.now + each.load_seconds * LINK_FAST / LINK_SLOW
            self.residents[self._copies] = ResidentModel(
                id=self._copies, family=act.family, label=each.label, cards=act.cards, last_used=self.now,
                ready_at=ready, ram_bytes=each.ram_bytes,
            )  # fmt: skip
            heapq.heappush(self._events, (ready, self._copies, 0))
            return
        job, run = self.queue.pop(act.job_id)
        self.started[job.id] = self.now
        self._running[job.id] = (job, act)
        heapq.heappush(self._events, (self.now + run, 0, job.id))
        if act.resident is not None:
            self._change(act.resident, job_id=job.id, busy_since=self.now, last_used=self.now)

    def _end(self, number: int) -> None:
        _, start = self._running.pop(number)
        if start.resident is not None:
            self._change(start.resident, job_id=None, busy_since=None, last_used=self.now)

    def _change(self, number: int, **changes: object) -> None:
        self.residents[number] = msgspec.structs.replace(self.residents[number], **changes)


def by_key(key: str) -> ModelFamily:
    return next(each for each in FAMILIES if each.key == key)


def work(random: Random, number: int, *, models: int) -> tuple[WaitingJob, float]:
    """A job and its run time; of ten ``models`` run on a model."""
    run = random.uniform(1.0, LONGEST_RUN)
    if random.randrange(10) < models:
        return ask(number, random.choice(FAMILIES).key), run
    limit = random.choice([None, None, LONGEST_RUN, LONGEST_RUN / 4])
    job = WaitingJob(id=number, priority=0, requirement=random.choice(COMMANDS), time_limit_seconds=limit)
    return job, min(run, limit or run)


def stream(random: Random) -> Iterator[tuple[WaitingJob, float]]:
    """Newer jobs: a few kinds, always the same, so that there is always one that would fit best."""
    models = random.choice([0, 3, 5, 7, 10])
    kinds = [work(random, 0, models=models)[0] for _ in range(random.randint(1, 4))]
    number = 1000
    while True:
        kind = random.choice(kinds)
        run = random.uniform(1.0, min(LONGEST_RUN, kind.time_limit_seconds or LONGEST_RUN))
        yield msgspec.structs.replace(kind, id=number), run
        number += 1


def starves(seed: int, check: Callable[[Snapshot, Plan], None] | None = None) -> str | None:
    """The first job that did not start in its time in the world of ``seed``; None: all did.

    The bound: later jobs go before one only if they came within its patience, and of these so many wait at its end,
    one after the other on one copy. Then those before it have their turns, each of which waits for the longest run,
    twice (a card that is chosen may turn out to serve an older job first), and loads.
    """
    random = Random(seed)
    links = [random.choice([LINK_FAST, LINK_SLOW]) for _ in range(3)]
    rig = ModelWorld(
        cards=tuple(card(index, link_bytes_per_second=link) for index, link in enumerate(links)),
        fillers=stream(random),
        check=check,
    )
    while rig.now < NOW + 3 * LONGEST_RUN:
        rig.step()
    begin = rig.now
    first = [work(random, number, models=5) for number in range(1, random.randint(2, 5))]
    for job, run in first:
        rig.queue[job.id] = (msgspec.structs.replace(job, arrival=begin), run)
    for ahead, (job, _) in enumerate(first, start=1):
        deadline = begin + PATIENCE + (BACKLOG + 2 * ahead) * (LONGEST_RUN + 2 * LOAD)
        while job.id not in rig.started and rig.now <= deadline:
            rig.step()
        if job.id not in rig.started:
            told = job.family or job.requirement
            return f"seed {seed}: job {job.id} ({told}) waits beyond {deadline - begin:.0f} s"
    return None
