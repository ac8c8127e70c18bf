"""The product's own policy, played: the machine's state becomes a view, the decisions become acts."""

from __future__ import annotations

from collections import deque

from p104d.policy.residency import decide
from p104d.policy.residency_view import Ask, Begin, Family, Line, Load, Resident, RigCard, View
from p104d.replay.machine import Copy, Job, Machine


class P104d:
    """Keeps the queue by family, and the mean of the runs that ended."""

    def __init__(self) -> None:
        self.lines: dict[tuple[int, tuple[str, str]], deque[Job]] = {}
        self.runs: dict[tuple[str, str], tuple[int, float]] = {}
        self.shapes: dict[tuple[str, str], Job] = {}

    def arrived(self, _machine: Machine, job: Job) -> None:
        """Into its line."""
        self.shapes.setdefault(job.family, job)
        self.lines.setdefault((-job.priority, job.family), deque()).append(job)

    def ended(self, machine: Machine, copy: Copy, job: Job) -> None:
        """The run time of an ended job is known."""
        count, total = self.runs.get(job.family, (0, 0.0))
        self.runs[job.family] = (count + 1, total + (machine.now - copy.since))

    def act(self, machine: Machine) -> None:
        """Do as the policy decides."""
        if not any(self.lines.values()):
            return
        view = self._view(machine)
        for act in decide(view).acts:
            self._do(machine, act)

    def _do(self, machine: Machine, act: Begin | Load) -> None:
        job = machine.jobs[act.job]
        if isinstance(act, Begin):
            copy = machine.copies[act.resident]
            self._leave(job)
            machine.start(job, copy)
            return
        for number in act.evicts:
            machine.unload(machine.copies[number])
        if job.model is None:
            self._leave(job)
        machine.load(job, [int(card) for card in act.cards], start=job.model is None)

    def _leave(self, job: Job) -> None:
        line = self.lines[-job.priority, job.family]
        assert line[0] is job
        line.popleft()

    def _view(self, machine: Machine) -> View:
        size = machine.trace.cards
        lines = tuple(
            Line(
                family="/".join(family),
                priority=-negative,
                count=len(line),
                first=tuple(Ask(line[i].number, line[i].arrival) for i in range(min(size, len(line)))),
            )
            for (negative, family), line in sorted(self.lines.items())
            if line
        )
        return View(
            now=machine.now,
            cards=tuple(RigCard(id=str(number)) for number in range(size)),
            residents=tuple(self._resident(copy) for copy in machine.copies.values()),
            families=tuple(self._family(machine, family, job) for family, job in sorted(self.shapes.items())),
            lines=lines,
        )

    def _resident(self, copy: Copy) -> Resident:
        return Resident(
            id=copy.id,
            family="/".join(copy.family),
            cards=tuple(str(card) for card in copy.cards),
            last_used=copy.last_used,
            busy_since=None if copy.idle else copy.since,
            loading=copy.job is None and not copy.idle,
        )

    def _family(self, machine: Machine, family: tuple[str, str], job: Job) -> Family:
        count, total = self.runs.get(family, (0, 0.0))
        load = 0.0 if job.model is None else machine.trace.models[job.model].load_seconds
        return Family(
            name="/".join(family),
            cards=job.cards,
            load_seconds=load,
            mean_seconds=total / count if count else None,
            seen=count,
            kept=job.model is not None,
        )
