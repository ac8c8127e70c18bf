"""Which model stays where: work goes where the weights are, and loading is paid for only where it pays.

``decide(view)`` knows families (jobs that can share a copy of a model), copies on their cards, and what waits; it knows
run times only as the means so far. One set of rules for a batch and for a stream of arrivals:

1. **Warm first.** An idle copy serves its own family, first come, first served, until nobody waits for it.
2. **Cold before copies.** Cards nobody waits for are loaded for the family with the most work waiting, counted by the
   cards it runs on, shared among its copies, and weighted by how long its first job waits. A family that has a copy
   gets another only when no family without one waits that could have the cards, and when its work is then done sooner
   by more than a part of the load (``GAIN``). For a gang that ranks before the others cards nobody waits for are kept
   where the last of them is free within a part of its load (``SOON``): waiting costs less than loading twice.
3. **Victims** are idle, not pinned and without jobs of their own: empty cards first, then the least recently used.
4. **Patience.** A job may be overtaken only by jobs that came at most ``patience`` seconds after it. When later ones
   would be served, idle copies go from them to it; if it needs more cards than are idle, those that are free
   soonest are kept for it, and the rest go on. Patience grows with what it costs to load everything that waits once,
   so that cards work more than they load even when all families take turns. Jobs of one batch came together: none is
   ever late.
5. **Priority** is absolute: jobs of a higher priority are served as if no others waited; what they wait for is kept.

Nobody starves: of the jobs that may go before one there are finitely many, and once they are served, every card that
becomes idle goes to it (the oldest such job first) until it has enough.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p104d.policy.residency_estimate import done, means
from p104d.policy.residency_rig import Rig, in_reach
from p104d.policy.residency_view import Ask, Begin, Decisions, Family, Kept, Line, Load, View

#: Another copy must bring the end of its family's work nearer by more than this part of its load.
GAIN = 0.3
#: Patience, in rounds of loading all that waits once on the whole rig; and the least.
PATIENCE_ROUNDS = 8.0
PATIENCE_LEAST_SECONDS = 60.0
#: A gang that ranks first gets cards kept that nobody waits for, if all it needs are free within this part of its load.
SOON = 0.25
#: A first job that waits as long as this counts twice as much as one that has just come.
AGE_SECONDS = 30.0


def decide(view: View) -> Decisions:
    """What to start, load and unload now, in this order. Pure; only the order of ``cards`` matters, as preference."""
    return Turn(view).decide(view.lines)


class _Queue:
    """A line while its jobs are being started."""

    __slots__ = ("family", "first", "priority")

    def __init__(self, line: Line, family: Family) -> None:
        self.family = family
        self.priority = line.priority
        self.first = list(reversed(line.first))

    @property
    def head(self) -> Ask:
        return self.first[-1]

    @property
    def age_key(self) -> tuple[float, int]:
        return self.head.arrival, self.head.id


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    """Who comes after the lines that are decided for, and may have what they leave: a job for other things than copies,
    and the families for which only later jobs wait."""

    priority: int
    arrival: float
    families: frozenset[str] = frozenset()


class Turn:
    """Decisions on one view. ``decide`` may be asked again, with the lines that are left and more jobs in them, after
    others took something of ``rig``."""

    def __init__(self, view: View) -> None:
        self.now = view.now
        self.families = {family.name: family for family in view.families}
        self.means = means(view.families)
        self.rig = Rig(view, self.families, self.means)
        self.patience = patience(view, (self.families[line.family] for line in view.lines if line.first))
        self.queues: list[_Queue] = []
        self.waiting: dict[str, int] = {}
        self.behind: Behind | None = None
        self.lowest = 0
        self.cold: dict[int, float] = {}
        self.acts: list[Begin | Load] = []
        self.kept: list[Kept] = []
        self._keeping: set[int] = set()

    def decide(self, lines: Iterable[Line], behind: Behind | None = None) -> Decisions:
        """What to do for ``lines``, beyond what was decided before."""
        self.acts, self.kept, self.queues, self.waiting, self.behind = [], [], [], {}, behind
        for line in lines:
            self.waiting[line.family] = self.waiting.get(line.family, 0) + line.count
            if line.first:
                self.queues.append(_Queue(line, self.families[line.family]))
        for priority in sorted({queue.priority for queue in self.queues}, reverse=True):
            self._serve(priority)
        return Decisions(acts=tuple(self.acts), kept=tuple(self.kept))

    def _serve(self, priority: int) -> None:
        """All that can be done for the jobs of one priority."""
        while lines := self._lines(priority):
            self._look()
            needy = [queue for queue in lines if self._pays(queue)]
            newest = self._newest(lines)
            late = [queue for queue in needy if self._late(queue, newest)]
            if any(self._load(queue) for queue in late):
                continue
            if priority not in self._keeping and any(self._keep(queue) for queue in late):
                self._keeping.add(priority)
            if not self._begin(lines) and not self._load_best(needy):
                return

    def _newest(self, lines: list[_Queue]) -> float:
        """The arrival of the youngest first job of one priority, with the one behind."""
        behind, last = self.behind, lines[-1]
        if behind is None or behind.priority != last.priority:
            return last.head.arrival
        return max(last.head.arrival, behind.arrival)

    def _lines(self, priority: int) -> list[_Queue]:
        """What waits with this priority, the oldest first."""
        return sorted((q for q in self.queues if q.priority == priority and q.first), key=lambda q: q.age_key)

    def _late(self, queue: _Queue, newest: float) -> bool:
        """Whether jobs that must not go before the head of ``queue`` are waiting too; ``newest`` is the arrival of the
        youngest head of its priority."""
        return newest > queue.head.arrival + self.patience or self.lowest < queue.priority

    def _after(self, queue: _Queue, other: _Queue) -> bool:
        return other.head.arrival > queue.head.arrival + self.patience

    def _begin(self, lines: Iterable[_Queue]) -> bool:
        """Start the oldest job that has an idle copy."""
        for queue in lines:
            copy = self.rig.warm(queue.family.name) if queue.family.kept else None
            if copy is not None:
                self.acts.append(self.rig.begin(self._pop(queue), copy))
                return True
        return False

    def _load_best(self, needy: Iterable[_Queue]) -> bool:
        """Load for the best that can have cards; for a gang that ranks before and can have them soon, they are kept."""
        return any(self._load(queue) or self._keep_soon(queue) for queue in sorted(needy, key=self._rank))

    def _keep_soon(self, queue: _Queue) -> bool:
        """Keep cards for a gang if that is for a short time only. Never True: keeping is no act, others may go on."""
        family = queue.family
        if family.cards > 1 and not self.rig.kept and not self.rig.free_at(family.name):
            wanted = {other.family.name: False for other in self.queues if other.first}
            kept = self.rig.keep(queue.head.id, family, wanted, SOON * family.load_seconds)
            if kept is not None:
                self.kept.append(kept)
        return False

    def _rank(self, queue: _Queue) -> tuple[float, float, int]:
        """The smaller, the sooner: work by cards, shared among the copies, weighted by age."""
        family, free = queue.family, self.rig.free_at(queue.family.name)
        work = self.waiting[family.name] * self.means[family.name] + sum(free)
        share = work * family.cards / max(len(free), 0.5)
        return -share * (self.now - queue.head.arrival + AGE_SECONDS), *queue.age_key

    def _load(self, queue: _Queue) -> bool:
        """Load for the head of ``queue`` on cards that can be had now."""
        family = queue.family
        if in_reach(family, self.rig.within_reach()) < family.cards:
            return False
        units = self.rig.choose(family, self._spare(queue))
        if units is None or not self._pays(queue, self.rig.cards_of(family, units)):
            return False
        job = queue.head.id if family.kept else self._pop(queue)
        self.acts.append(self.rig.load(job, family, units))
        return True

    def _pop(self, queue: _Queue) -> int:
        self.waiting[queue.family.name] -= 1
        return queue.first.pop().id

    def _keep(self, queue: _Queue) -> bool:
        """Keep cards for the head of ``queue``, if it has no copy to wait for."""
        if queue.family.kept and self.rig.free_at(queue.family.name):
            return False
        kept = self.rig.keep(queue.head.id, queue.family, self._spare(queue))
        if kept is not None:
            self.kept.append(kept)
        return kept is not None

    def _spare(self, queue: _Queue) -> dict[str, bool]:
        """Of each family with jobs waiting: whether an idle copy may be taken from it for the head of ``queue``."""
        spare: dict[str, bool] = dict.fromkeys(self.behind.families, True) if self.behind is not None else {}
        for other in self.queues:
            if other.first:
                name = other.family.name
                less = other.priority < queue.priority or (
                    other.priority == queue.priority and self._after(queue, other)
                )
                spare[name] = spare.get(name, True) and less and other.family is not queue.family
        return spare

    def _pays(self, queue: _Queue, load_seconds: float | None = None) -> bool:
        """Whether one more copy is worth its load: always where there is none, else by when the work is done."""
        family = queue.family
        free = self.rig.free_at(family.name)
        if not family.kept or not free:
            return True
        if self._cold_waits(queue):
            return False
        load = family.load_seconds if load_seconds is None else load_seconds
        count, mean = self.waiting[family.name], self.means[family.name]
        return done([*free, load], count, mean) + GAIN * load < done(free, count, mean)

    def _look(self) -> None:
        """What changes with each act: the least priority that waits, and for each the oldest job without any copy,
        whose cards may be had now (one that waits for more cards than are idle has no use for one of them)."""
        waiting = [queue for queue in self.queues if queue.first]
        self.lowest = min(queue.priority for queue in waiting)
        if self.behind is not None:
            self.lowest = min(self.lowest, self.behind.priority)
        self.cold, reach = {}, self.rig.within_reach()
        for queue in waiting:
            cold = not queue.family.kept or not self.rig.free_at(queue.family.name)
            if cold and queue.family.cards <= in_reach(queue.family, reach):
                oldest = self.cold.get(queue.priority, queue.head.arrival)
                self.cold[queue.priority] = min(oldest, queue.head.arrival)

    def _cold_waits(self, queue: _Queue) -> bool:
        """Whether jobs without any copy wait that may go before the head of ``queue``, which has one."""
        limit = queue.head.arrival + self.patience
        return any(
            priority > queue.priority or (priority == queue.priority and arrival <= limit)
            for priority, arrival in self.cold.items()
        )


def patience(view: View, waiting: Iterable[Family]) -> float:
    """By how many seconds later a job may have come that goes before another."""
    loads = {family.name: family.load_seconds * family.cards for family in waiting}
    return max(PATIENCE_LEAST_SECONDS, PATIENCE_ROUNDS * sum(loads.values()) / max(1, len(view.cards)))
