"""What starts where, now: ``plan(snapshot)``.

Order is priority, then age. Every job is tried in this order, its whole gang or nothing. The first that does not fit,
but would once running jobs of ours end, gets what it needs kept for it (reserve and backfill, known as EASY): the
cards that free soonest, its host memory, its place. Those behind it may use a kept card only if sure to end before.

Why nobody starves, among equals with finite run times: the jobs ahead of one are finitely many and newer ones never
come before it, so it becomes the first that is blocked, or starts. From then on no new job stays on the kept cards,
and ``rank.Prospect`` only ever moves the choice to cards nearer to being free; so its cards run empty, it starts, and
the next is first. A job that no end of ours would help (a card drained or missing, memory of other processes) keeps
nothing, and blocks nobody.

Jobs with cards and jobs without meet only in host memory, so each kind keeps for its own first job.

Jobs that run on models have their turn together: before each command, ``residency`` decides for the model jobs that
come before it in the order, and at the end for all (``models.py``). Where there are only model jobs that is its own
decision. What it keeps for a late model job no command gets; what is kept for a command takes no copy and serves
no model job that comes after it. An idle copy blocks no command: it is unloaded, last of all those that are waited for.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from math import inf

import msgspec

from p104d.core.job import Requirement
from p104d.core.plan import Plan, Reservation, Start
from p104d.core.snapshot import Hold, Snapshot, WaitingJob
from p104d.policy.fit import Seat, host_refusal, obstacle
from p104d.policy.models import Models
from p104d.policy.rank import KILL_GRACE_SECONDS, Prospect, When, prospect, rank


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept for a job: cards, host memory, a processor place. ``for_cards`` tells the two kinds apart."""

    reservation: Reservation
    for_cards: bool
    ram_bytes: int
    slots: int


def plan(snapshot: Snapshot) -> Plan:
    """The starts that are possible now, in order, and what is kept for the first job that has to wait.

    Pure and deterministic: the order of ``cards`` and ``waiting`` does not matter.
    """
    if snapshot.paused:
        return Plan()
    turn = Round(snapshot)
    for job in in_order(snapshot.waiting):
        turn.serve(job)
    return turn.finish()


def in_order(waiting: Iterable[WaitingJob]) -> list[WaitingJob]:
    """Waiting jobs as they are served: priority, higher first; then age, older first."""
    return sorted(waiting, key=_turn)


def _turn(job: WaitingJob) -> tuple[int, int]:
    return -job.priority, job.id


class Round:
    """One pass over the waiting jobs: the rig filling up as jobs are started, and what is kept for whom.

    Room only shrinks during a round, so a requirement refused once stays refused, but for a shorter time limit.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.now = snapshot.now
        self.host = snapshot.host
        self.seats = [Seat(card) for card in sorted(snapshot.cards, key=lambda card: (card.index, card.uuid))]
        self.ram_free_bytes = snapshot.host.ram_free_bytes
        self.slots_free = snapshot.host.cpu_slots_free
        self.starts: list[Start] = []
        self.models = Models(snapshot, self.seats, self.starts) if snapshot.families or snapshot.residents else None
        self.keeps: list[Keep] = []
        self.card_keep: Reservation | None = None
        self._kept_cards: frozenset[str] = frozenset()
        self._refused: dict[Requirement, float] = {}

    def serve(self, job: WaitingJob) -> None:
        """The turn of ``job``. Those that run on models are decided for together, as late as the order allows."""
        if self.models is not None:
            if job.family is not None:
                self.models.queues.add(job)
                return
            self.settle(job)
        if job.family is None:
            self.consider(job)

    def settle(self, behind: WaitingJob | None = None) -> None:
        """Decide for the model jobs that had their turn, before ``behind`` has his; None: they were all."""
        models = self.models
        if models is None or not models.queues.waiting_families():
            return
        if behind is not None and (
            self._is_refused(behind) or not (behind.requirement.cards or behind.requirement.ram_bytes)
        ):
            return
        kept = sum(keep.ram_bytes for keep in self.keeps)
        self.ram_free_bytes = kept + models.decide(self.ram_free_bytes - kept, behind)
        wanted, models.wants_ram_bytes = models.wants_ram_bytes, 0
        if self._memory_will_do(wanted):
            models.wants_ram_bytes = wanted

    def finish(self) -> Plan:
        """The plan, once all had their turn."""
        self.settle()
        models, kept = self.models, self.keeps[0].reservation if self.keeps else None
        if models is None:
            return Plan(starts=tuple(self.starts), reservation=kept)
        return Plan(starts=tuple(self.starts), loads=tuple(models.loads), reservation=kept, kept=tuple(models.kept))

    def _is_refused(self, job: WaitingJob) -> bool:
        refused = self._refused.get(job.requirement)
        return refused is not None and (job.time_limit_seconds is None or job.time_limit_seconds >= refused)

    def consider(self, job: WaitingJob) -> Start | None:
        """Start the command ``job`` if it fits; else keep for it what it needs, if it is the first of its kind that
        waits."""
        if self._is_refused(job):
            return None
        seats = None if self.host_refusal(job.requirement) else self._choose(job)
        if seats is None:
            self._refused[job.requirement] = inf if job.time_limit_seconds is None else job.time_limit_seconds
            self._keep_for(job)
            return None
        self.starts.append(start := self._start(job, seats))
        return start

    def host_refusal(self, req: Requirement) -> str | None:
        """Why the host has no place for ``req``, with what is kept for those before it taken off."""
        return host_refusal(
            req,
            ram_free_bytes=self.ram_bytes() - sum(keep.ram_bytes for keep in self.keeps),
            slots_free=self.slots_free - sum(keep.slots for keep in self.keeps),
            slots_total=self.host.cpu_slots_total,
        )

    def ram_bytes(self) -> int:
        """Host memory that is free, or comes back with idle copies of models, less what a model before waits for."""
        models = self.models
        if models is None:
            return self.ram_free_bytes
        return self.ram_free_bytes + models.reclaimable_ram_bytes() - models.wants_ram_bytes

    def _unkept_ram_bytes(self) -> int:
        wanted = 0 if self.models is None else self.models.wants_ram_bytes
        return self.ram_free_bytes - sum(keep.ram_bytes for keep in self.keeps) - wanted

    def kept_from(self, seat: Seat, job: WaitingJob) -> int | None:
        """The job for which this card is kept from ``job``; None: it is not, or ``job`` surely ends before."""
        if self.models is not None and (model_job := self.models.kept_job(seat)) is not None:
            return model_job
        return (
            None
            if self.card_keep is None or self._ends_before(job, self.card_keep.starts_by)
            else self.reserved_for(seat)
        )

    def reserved_for(self, seat: Seat) -> int | None:
        """The command for which this card is kept."""
        keep = self.card_keep
        return None if keep is None or seat.view.uuid not in self._kept_cards else keep.job_id

    def _ends_before(self, job: WaitingJob, starts_by: float | None) -> bool:
        if starts_by is None or job.time_limit_seconds is None:
            return False
        return self.now + job.time_limit_seconds + KILL_GRACE_SECONDS <= starts_by

    def _choose(self, job: WaitingJob) -> list[Seat] | None:
        """The best cards for the whole gang, unkept ones first, in order of index; None: not enough of them."""
        req, kept = job.requirement, self._kept_cards
        free = [seat for seat in self.seats if obstacle(seat, req) is None]
        if kept and self.card_keep is not None and not self._ends_before(job, self.card_keep.starts_by):
            free = [seat for seat in free if seat.view.uuid not in kept]
        if self.models is not None:
            free = [seat for seat in free if self.models.kept_job(seat) is None]
        if len(free) < req.cards:
            return None
        best = nsmallest(
            req.cards,
            free,
            key=lambda seat: (
                seat.view.uuid in kept,
                () if seat.model is None or self.models is None else self.models.cost(seat.model),
                rank(seat, req),
            ),
        )
        return sorted(best, key=lambda seat: (seat.view.index, seat.view.uuid))

    def _start(self, job: WaitingJob, seats: list[Seat]) -> Start:
        req = job.requirement
        evicts = self._evict(req, seats) if self.models is not None else ()
        whole = req.cards > 0 and req.vram_bytes is None
        ends_by = None if job.time_limit_seconds is None else self.now + job.time_limit_seconds
        reserved = tuple(seat.view.capacity_bytes if whole else req.vram_bytes or 0 for seat in seats)
        for seat, share in zip(seats, reserved, strict=True):
            seat.add(Hold(job_id=job.id, reserved_bytes=share, exclusive=whole, ends_by=ends_by, since=self.now))
        if self.models is not None:
            self.models.take(seats)
        self.ram_free_bytes -= req.ram_bytes
        if req.cards == 0:
            self.slots_free -= 1
        return Start(
            job_id=job.id,
            cards=tuple(seat.view.uuid for seat in seats),
            reserved_bytes=reserved,
            exclusive=whole,
            evicts=evicts,
        )

    def _evict(self, req: Requirement, seats: list[Seat]) -> tuple[int, ...]:
        """Unload the copies on ``seats``, and as many others as host memory asks for."""
        assert self.models is not None
        evicts = self.models.evict(seats, req.ram_bytes - self._unkept_ram_bytes() if req.ram_bytes else 0)
        self.ram_free_bytes += self.models.ram_bytes_of(evicts)
        return evicts

    def _keep_for(self, job: WaitingJob) -> None:
        """Keep what ``job`` needs, if nobody of its kind is served so already and ends of our jobs will make it fit."""
        req = job.requirement
        with_cards = req.cards > 0
        if any(keep.for_cards == with_cards for keep in self.keeps) or not self._host_will_do(req):
            return
        prospects = self._prospects(req)
        if len(prospects) < req.cards:
            return
        on_host = self.host_refusal(req) is not None
        chosen = nsmallest(req.cards, prospects)
        known = not on_host and all(each.when <= When.BY_A_TIME for each in chosen)
        reservation = Reservation(
            job_id=job.id,
            cards=tuple(
                each.rank.uuid for each in sorted(chosen, key=lambda each: (each.rank.position, each.rank.uuid))
            ),
            starts_by=max((each.at for each in chosen), default=None) if known else None,
            host=on_host,
        )
        if self.models is not None and req.ram_bytes:
            self.models.shut_for_memory(req.ram_bytes - self._unkept_ram_bytes())
        self.keeps.append(
            Keep(reservation=reservation, for_cards=with_cards, ram_bytes=req.ram_bytes, slots=0 if with_cards else 1)
        )
        if with_cards:
            self.card_keep, self._kept_cards = reservation, frozenset(reservation.cards)
            if self.models is not None:
                self.models.shut(reservation)

    def _host_will_do(self, req: Requirement) -> bool:
        """Whether the host will have what ``req`` asks once our jobs have ended; with none running it never will."""
        if req.cards == 0 and self.host.cpu_slots_total < 1:
            return False
        return self._memory_will_do(req.ram_bytes)

    def _memory_will_do(self, ram_bytes: int) -> bool:
        if ram_bytes <= self.ram_bytes() or not ram_bytes:
            return True
        pinned = 0 if self.models is None else self.models.pinned_ram_bytes()
        anything_runs = self.slots_free < self.host.cpu_slots_total or any(
            seat.holds or seat.model is not None for seat in self.seats
        )
        return anything_runs and ram_bytes <= self.host.ram_total_bytes - pinned

    def _prospects(self, req: Requirement) -> list[Prospect]:
        """The cards that take ``req`` now or once our jobs on them have ended, and when."""
        if req.cards == 0:
            return []
        return [
            prospect(seat, req, self.now, free=obstacle(seat, req) is None, behind=self._kept_for_models(seat))
            for seat in self.seats
            if obstacle(seat.emptied(), req) is None
        ]

    def _kept_for_models(self, seat: Seat) -> bool:
        return self.models is not None and self.models.kept_job(seat) is not None
