"""The jobs that wait in a forecast: those that could start, by what they ask for, and those that wait for others."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, HostView, ModelFamily, WaitingJob
from p104d.policy.cut import most_at_once
from p104d.policy.forecast_view import Ahead, Never

#: Of commands of very many kinds so many kinds are looked at, the first in line first; the others come up later.
_MOST_KINDS = 32
_Kind = str | Requirement


class Queue:
    """Every waiting job is in one place: ``lines`` (it could start), waiting for a time or for others, or never."""

    def __init__(self, ahead: Sequence[Ahead], needs: Mapping[int, frozenset[int]]) -> None:
        self.lines: dict[_Kind, list[WaitingJob]] = {}
        self.priorities: Counter[int] = Counter()
        self.never: list[Never] = []
        self._ahead = {each.job.id: each for each in ahead}
        self._needs: dict[int, set[int]] = {}
        self._needed_by: dict[int, list[int]] = {}
        self._members: dict[int, list[Ahead]] = {}
        self._commands = 0
        for document in {each.document for each in ahead if each.document in needs}:
            assert document is not None
            self._needs[document] = set(needs[document])
            for number in sorted(needs[document]):
                self._needed_by.setdefault(number, []).append(document)

    def enter(self, now: float) -> Iterator[tuple[float, int]]:
        """Put every job in its place; the times at which some have to be asked for again."""
        for each in self._ahead.values():
            if each.never is not None:
                self.never.append(Never(each.job.id, each.never))
            elif each.document is not None and self._needs.get(each.document):
                self._members.setdefault(each.document, []).append(each)
            elif each.due is not None and each.due > now:
                yield each.due, each.job.id
            else:
                self._add(each.job)

    def run_seconds(self, number: int) -> float:
        """How long a job is expected to run, its time limit considered."""
        each = self._ahead[number]
        limit = each.job.time_limit_seconds
        return each.run_seconds if limit is None else min(each.run_seconds, limit)

    def due(self, number: int) -> None:
        """A job's time has come."""
        self._add(self._ahead[number].job)

    def succeeded(self, number: int, now: float) -> Iterator[tuple[float, int]]:
        """A job is over: those that waited for it alone are free, or at the times that this tells."""
        for document in self._needed_by.pop(number, ()):
            self._needs[document].discard(number)
            if not self._needs[document]:
                for each in self._members.pop(document, ()):
                    if each.due is not None and each.due > now:
                        yield each.due, each.job.id
                    else:
                        self._add(each.job)

    def _add(self, job: WaitingJob) -> None:
        kind = job.family or job.requirement
        insort(self.lines.setdefault(kind, []), job, key=_turn)
        self.priorities[job.priority] += 1
        self._commands += job.family is None

    def take(self, number: int) -> WaitingJob:
        """A job starts."""
        job = self._ahead[number].job
        kind = job.family or job.requirement
        line = self.lines[kind]
        line.remove(job)
        if not line:
            del self.lines[kind]
        self.priorities[job.priority] -= 1
        if not self.priorities[job.priority]:
            del self.priorities[job.priority]
        self._commands -= job.family is None
        return job

    @property
    def commands(self) -> int:
        """How many jobs without a model could start."""
        return self._commands

    def cut(self, cards: Sequence[CardView], host: HostView, idle: Counter[str]) -> tuple[WaitingJob, ...]:
        """As much of the lines as can matter now; ``idle`` counts idle copies by family."""
        found: list[WaitingJob] = []
        commands: list[tuple[tuple[int, int], Requirement, list[WaitingJob]]] = []
        for kind, line in self.lines.items():
            if isinstance(kind, str):
                # Without commands in between only the first of a family can start, and as many as it has idle copies.
                found += line[: len(cards) + 1 if self._commands else idle[kind] + 1]
            else:
                commands.append((_turn(line[0]), kind, line))
        if len(commands) > _MOST_KINDS:
            commands = sorted(commands, key=lambda each: each[0])[:_MOST_KINDS]
        for _, requirement, line in commands:
            found += line if len(line) == 1 else line[: most_at_once(requirement, cards, host)]
        return tuple(found)

    def waiting(self, family: ModelFamily) -> int:
        """How many jobs of the family could start."""
        return len(self.lines.get(family.key, ()))

    def blocked(self) -> Iterator[tuple[Ahead, set[int]]]:
        """Those that still wait for others, and for which."""
        for document, members in self._members.items():
            for each in members:
                yield each, self._needs[document]


def _turn(job: WaitingJob) -> tuple[int, int]:
    return -job.priority, job.id
