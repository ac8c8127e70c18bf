"""What the queue will come to: ``schedule.plan`` played in virtual time, with run times as they are expected.

Nothing here decides: at each moment at which something happens (a job ends, a model is loaded, a time comes, a card is
back) the same plan is asked for that the daemon would ask for, and done as the daemon would do it. Evictions take no
time, jobs succeed, nothing new comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from heapq import heappop, heappush

import msgspec

from p104d.core.plan import LoadModel, Start
from p104d.core.snapshot import ResidentModel, Snapshot, WaitingJob
from p104d.policy.explain import explain
from p104d.policy.fit import impossible, jobs_text
from p104d.policy.forecast_queue import Queue
from p104d.policy.forecast_rig import Rig
from p104d.policy.forecast_view import Ahead, Foretold, Loaded, Never, Planned, Question
from p104d.policy.residency import patience
from p104d.policy.residency_view import Family, RigCard, View
from p104d.policy.schedule import plan

#: Of those that never start so many kinds are explained; the sentence of each costs a plan.
_MOST_EXPLAINED = 32
#: What a plan costs more for each job that it looks at, with a model and without; measured.
_PER_MODEL_JOB, _PER_COMMAND = 0.02, 0.06


class _Event(IntEnum):
    """What happens at one time happens in this order: ends make room for what comes."""

    END = 0
    READY = 1
    OPEN = 2
    DUE = 3


def foretell(question: Question) -> Foretold:
    """Play until everything has ended, or nothing can change any more. Pure and deterministic."""
    play = Play(question)
    play.run()
    return play.told()


class Play:
    """The rig, the queue and the clock of one forecast. ``shortcuts`` False: every moment is planned in full."""

    def __init__(self, question: Question, *, shortcuts: bool = True) -> None:
        snapshot = question.snapshot
        self.now = snapshot.now
        self.rig = Rig(snapshot, question.underway)
        self.queue = Queue(question.ahead, question.needs)
        self._most_loads = max(1, question.max_parallel_loads)
        self._budget = float(question.plans)
        self._shortcuts = shortcuts
        self._events: list[tuple[float, _Event, int | str, int]] = []
        self._planned: list[Planned] = []
        self._behind: int | None = None
        self._ended: dict[int, tuple[float, int]] = {}
        for each in question.underway:
            self._at(each.ends_at, _Event.END, self.rig.number_of(each.id), each.id)
        for copy in snapshot.residents:
            if copy.ready_at is not None and copy.job_id is None:
                self._at(copy.ready_at, _Event.READY, copy.id)
        for uuid, at in question.opens.items():
            self._at(at, _Event.OPEN, uuid)
        self._later(self.queue.enter(self.now))
        cards = tuple(RigCard(id=uuid) for uuid in self.rig.cards)
        self._bare = View(now=self.now, cards=cards, residents=(), families=(), lines=())

    def _at(self, at: float, kind: _Event, what: int | str, job: int = 0) -> None:
        heappush(self._events, (max(at, self.now), kind, what, job))

    def _later(self, times: Iterator[tuple[float, int]]) -> None:
        for at, job in times:
            self._at(at, _Event.DUE, job)

    def run(self) -> None:
        """From moment to moment."""
        self._act()
        while self._events and self._budget > 0:
            self._moment()
            self._act()

    def _moment(self) -> None:
        """All that happens at the next time at which something does."""
        self.now = self._events[0][0]
        while self._events and self._events[0][0] <= self.now:
            _, kind, what, job = heappop(self._events)
            if kind is _Event.END:
                self._end(job)
            elif isinstance(what, str):
                self.rig.open(what)
            elif kind is _Event.READY:
                self.rig.ready(what, self.now)
            else:
                self.queue.due(what)

    def _end(self, job: int) -> None:
        run = self.rig.end(job, self.now)
        self._behind = job
        self._ended[job] = (self.now, len(self._ended))
        if run.succeeds:
            self._later(self.queue.succeeded(job, self.now))

    # --- deciding --------------------------------------------------------------------------------------------------

    def _act(self) -> None:
        if not self.queue.lines:
            return
        copy = self._obvious() if self._shortcuts else None
        if copy is not None:
            job = self.queue.lines[copy.family][0]
            shares = tuple(self.rig.cards[uuid].capacity_bytes for uuid in copy.cards)
            self._start(Start(job_id=job.id, cards=copy.cards, reserved_bytes=shares, exclusive=True, resident=copy.id))
            return
        snapshot = self._snapshot()
        commands = sum(job.family is None for job in snapshot.waiting)
        self._budget -= 1 + _PER_COMMAND * commands + _PER_MODEL_JOB * (len(snapshot.waiting) - commands)
        decided = plan(snapshot)
        for load in decided.loads[: max(0, self._most_loads - self.rig.loading())]:
            self._load(load)
        for start in decided.starts:
            self._start(start)

    def _snapshot(self) -> Snapshot:
        cards, queue = tuple(self.rig.cards.values()), self.queue
        families = [
            family
            if family.waiting == (count := queue.waiting(family))
            else msgspec.structs.replace(family, waiting=count)
            for family in self.rig.families.values()
        ]
        return self.rig.snapshot(self.now, queue.cut(cards, self.rig.host, self.rig.idle_by_family()), families)

    def _load(self, load: LoadModel) -> None:
        number, ready = self.rig.load(load, self.now)
        self._at(ready, _Event.READY, number)

    def _start(self, start: Start) -> None:
        job = self.queue.take(start.job_id)
        ends = self.now + self.queue.run_seconds(job.id)
        self._planned.append(self._told(start, ends))
        self.rig.start(start, job, self.now, ends)
        self._at(ends, _Event.END, self.rig.number_of(job.id), job.id)

    def _told(self, start: Start, ends: float) -> Planned:
        """The start, with who had its cards before: where several did, the one that gave the last."""
        load: Loaded | None = None
        before, card, latest = None, None, (-1.0, -1)
        for uuid in start.cards:
            last = self.rig.last[uuid]
            load = load or last.load
            ended = self._ended.get(last.job, latest) if last.job is not None else latest
            if ended > latest:
                before, card, latest = last.job, uuid, ended
        return Planned(
            id=start.job_id,
            starts=self.now,
            ends=ends,
            cards=start.cards,
            before=before,
            card=card,
            free_since=max(latest[0], 0.0),
            load=load,
            behind=self._behind,
        )

    def _obvious(self) -> ResidentModel | None:
        """The one idle copy, where it is plain without a plan that its next job starts on it and nothing else does:
        nobody waits but for models, nobody is late, and no other card can be had. Most moments of a batch are so."""
        queue, rig = self.queue, self.rig
        if queue.commands or len(queue.priorities) != 1:
            return None
        idle = rig.idle()
        if len(idle) != 1 or idle[0].pinned or idle[0].family not in queue.lines:
            return None
        taken = {uuid for copy in rig.residents.values() for uuid in copy.cards}
        if any(card.closed is not None or card.uuid not in taken for card in rig.cards.values()):
            return None
        heads = [line[0].arrival for line in queue.lines.values()]
        return idle[0] if max(heads) - min(heads) < self._patience() else None

    def _patience(self) -> float:
        waiting = [rig for key in self.queue.lines if isinstance(key, str) and (rig := self.rig.families.get(key))]
        families = [Family(name=each.key, cards=each.cards, load_seconds=each.load_seconds) for each in waiting]
        return patience(self._bare, families)

    # --- telling ---------------------------------------------------------------------------------------------------

    def told(self) -> Foretold:
        """What it came to."""
        waiting = sorted(job.id for line in self.queue.lines.values() for job in line)
        if self._events:
            blocked = [each.job.id for each, _ in self.queue.blocked()]
            due = [what for _, kind, what, _ in self._events if kind is _Event.DUE and isinstance(what, int)]
            left = tuple(sorted([*waiting, *blocked, *due]))
            never = self.queue.never
        else:
            left, never = (), [*self.queue.never, *self._stuck()]
            never += self._unmet({each.id for each in never})
        return Foretold(
            planned=tuple(self._planned),
            never=tuple(sorted(never, key=lambda each: each.id)),
            loads=self.rig.loads,
            left=left,
        )

    def _stuck(self) -> Iterator[Never]:
        """Those for whom there was no room to the end; asked of the same policy, at the end."""
        snapshot = self._snapshot()
        for count, line in enumerate(self.queue.lines.values()):
            reason = self._because(snapshot, line[0]) if count < _MOST_EXPLAINED else "there is no room for it"
            for job in line:
                yield Never(job.id, reason)

    def _because(self, snapshot: Snapshot, job: WaitingJob) -> str:
        never = impossible(snapshot.cards, snapshot.host, job.requirement)
        return f"can never run here: {never}" if never else explain(snapshot, job).waiting_because

    def _unmet(self, never: set[int]) -> Iterator[Never]:
        blocked = list(self.queue.blocked())
        never |= {each.job.id for each, _ in blocked}
        for each, needs in blocked:
            yield Never(each.job.id, _unmet_text(each, needs, never))


def _unmet_text(_job: Ahead, needs: set[int], never: set[int]) -> str:
    stuck = needs & never
    if stuck:
        return f"needs {jobs_text(stuck)}, which {'do' if len(stuck) > 1 else 'does'} not start either"
    return f"needs {jobs_text(needs)}, which will not succeed here as things stand"
