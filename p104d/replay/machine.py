"""A rig in virtual time: cards, the copies of models on them, the jobs running. It does as a policy says, and refuses
what no rig could do (a card twice, a busy copy unloaded), so that no policy can win by cheating."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Protocol

from p104d.replay.trace import Trace, TraceJob


class Job:
    """A job of the trace. A policy must look at neither ``run_seconds`` nor a job that has not arrived."""

    __slots__ = ("arrival", "cards", "ended", "family", "id", "model", "number", "priority", "run_seconds")

    def __init__(self, number: int, job: TraceJob, cards: int) -> None:
        self.number = number
        self.id = job.id
        self.model = job.model
        self.cards = cards
        #: Jobs without a model are alike where they take as many cards.
        self.family = ("model", job.model) if job.model is not None else ("plain", str(cards))
        self.arrival = job.arrival_seconds
        self.priority = job.priority
        self.run_seconds = job.run_seconds
        self.ended: float | None = None


class Copy:
    """A model on cards: loading until ``ready_at``, then running ``job`` (since ``since``) or idle."""

    __slots__ = ("cards", "family", "id", "job", "last_used", "model", "ready_at", "since")

    def __init__(self, number: int, job: Job, cards: tuple[int, ...], ready_at: float) -> None:
        self.id = number
        self.model = job.model
        self.family = job.family
        self.cards = cards
        self.ready_at: float | None = ready_at
        self.job: Job | None = None
        self.since = ready_at
        self.last_used = ready_at

    @property
    def idle(self) -> bool:
        """Loaded, and running nothing."""
        return self.job is None and self.ready_at is None


class Policy(Protocol):
    """Who decides. Told of each arrival and end, then asked once a moment to act on the machine."""

    def arrived(self, machine: Machine, job: Job, /) -> None: ...

    def ended(self, machine: Machine, copy: Copy, job: Job, /) -> None: ...

    def act(self, machine: Machine, /) -> None: ...


class _Event(IntEnum):
    """What happens at one time happens in this order: ends make room for what arrives."""

    END = 0
    READY = 1
    ARRIVAL = 2


class Machine:
    """The rig and its clock."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.now = 0.0
        self.loads = 0
        self.jobs = [Job(number, job, trace.width(job)) for number, job in enumerate(trace.jobs)]
        self.copies: dict[int, Copy] = {}
        self.on_card: list[Copy | None] = [None] * trace.cards
        self._events: list[tuple[float, _Event, int, Job | Copy]] = [
            (job.arrival, _Event.ARRIVAL, job.number, job) for job in self.jobs
        ]
        heapq.heapify(self._events)
        self._arrived: set[int] = set()
        self._started: set[int] = set()
        self._next_copy = 0

    def run(self, policy: Policy) -> None:
        """Play the whole trace; the policy must have every job run to its end."""
        while self._events:
            self._moment(policy)
            policy.act(self)
        left = [job.id for job in self.jobs if job.ended is None]
        if left:
            raise AssertionError(f"{len(left)} jobs never ran, the first is {left[0]!r}")

    def _moment(self, policy: Policy) -> None:
        """All that happens at the next time at which something does."""
        self.now = self._events[0][0]
        while self._events and self._events[0][0] <= self.now:
            _, kind, _, thing = heapq.heappop(self._events)
            if kind is _Event.ARRIVAL and isinstance(thing, Job):
                self._arrived.add(thing.number)
                policy.arrived(self, thing)
            elif isinstance(thing, Copy) and kind is _Event.READY:
                self._loaded(thing)
            elif isinstance(thing, Copy):
                self._end(policy, thing)

    def free_cards(self) -> list[int]:
        """The cards with nothing on them."""
        return [index for index, copy in enumerate(self.on_card) if copy is None]

    def idle_copies(self) -> Iterator[Copy]:
        """The copies that could be used or unloaded now, oldest first."""
        return (copy for copy in self.copies.values() if copy.idle)

    def load(self, job: Job, cards: Sequence[int], *, start: bool) -> Copy:
        """Load the model of ``job`` on ``cards``, which must be free; ``start``: the job runs once it is there."""
        taken = [card for card in cards if self.on_card[card] is not None]
        if taken or len(set(cards)) != job.cards or job.number not in self._arrived:
            raise AssertionError(f"no such load: job {job.id!r} on {list(cards)}, taken: {taken}")
        seconds = 0.0 if job.model is None else self.trace.models[job.model].load_seconds
        copy = Copy(self._next_copy, job, tuple(sorted(cards)), self.now + seconds)
        self._next_copy += 1
        self.copies[copy.id] = copy
        for card in copy.cards:
            self.on_card[card] = copy
        self.loads += job.model is not None
        if start or job.model is None:
            self._begin(copy, job, self.now + seconds)
        else:
            heapq.heappush(self._events, (self.now + seconds, _Event.READY, copy.id, copy))
        return copy

    def start(self, job: Job, copy: Copy) -> None:
        """Run ``job`` on a copy of its model that is idle."""
        if not copy.idle or copy.family != job.family or self.copies.get(copy.id) is not copy:
            raise AssertionError(f"no such start: job {job.id!r} on copy {copy.id}")
        self._begin(copy, job, self.now)

    def unload(self, copy: Copy) -> None:
        """Give back the cards of an idle copy."""
        if not copy.idle:
            raise AssertionError(f"copy {copy.id} is in use")
        self._drop(copy)

    def _begin(self, copy: Copy, job: Job, at: float) -> None:
        if job.number in self._started or job.number not in self._arrived:
            raise AssertionError(f"job {job.id!r} cannot start")
        self._started.add(job.number)
        copy.job, copy.since, copy.last_used = job, at, self.now
        heapq.heappush(self._events, (at + job.run_seconds, _Event.END, copy.id, copy))

    def _loaded(self, copy: Copy) -> None:
        copy.ready_at, copy.last_used = None, self.now

    def _end(self, policy: Policy, copy: Copy) -> None:
        job = copy.job
        assert job is not None
        job.ended = copy.last_used = self.now
        copy.job = copy.ready_at = None
        if copy.model is None:
            self._drop(copy)
        policy.ended(self, copy, job)

    def _drop(self, copy: Copy) -> None:
        del self.copies[copy.id]
        for card in copy.cards:
            self.on_card[card] = None
