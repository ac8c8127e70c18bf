"""What a forecast begins with: the queue, the rig (or one that is imagined) and run times, as the policy takes them."""

from __future__ import annotations

from typing import Literal

import msgspec
from sqlalchemy.engine import Connection

from p104d.api.forecast import ForecastJob
from p104d.core.job import JobState, Requirement
from p104d.core.snapshot import ModelFamily, Snapshot, WaitingJob
from p104d.core.units import iso
from p104d.daemon.forecast_imagined import imagined, unused
from p104d.daemon.loop import Loop
from p104d.daemon.models import Bad
from p104d.daemon.residents import family_of, residents, with_runs
from p104d.policy.explain import blocked_by_hold
from p104d.policy.forecast_view import Ahead, Question, Underway
from p104d.policy.residency_estimate import REST, UNKNOWN_SECONDS
from p104d.store import foresight, instances, reads
from p104d.store.foresight import RunTimes, Waiting
from p104d.store.instances import Instance
from p104d.store.reads import OpenAttempt

#: More are left out, and counted.
MOST_JOBS = 2000
#: A card that is being tested, or too hot, is counted as back after this.
_BACK_SECONDS = 60.0
#: One that is being stopped is gone after this, about.
_STOP_SECONDS = 5.0
#: Above every priority that people can give: on an imagined rig what runs now goes first.
_FIRST = 2000

_State = Literal["held", "queued", "starting", "running", "stopping"]


class Told(msgspec.Struct, frozen=True):
    """What people are told of a job beside its times."""

    name: str
    model: str | None
    state: _State
    guessed: bool


class Input(msgspec.Struct, kw_only=True):
    """A question to the policy, and what its answer is told with. ``unlooked`` are (path, uid) of models that nobody
    knows yet; ``left_out`` counts jobs that the question leaves out."""

    question: Question
    jobs: dict[int, Told]
    running: list[ForecastJob]
    imagined: bool
    notes: list[str]
    unlooked: list[tuple[str, int]]
    left_out: int


def read(loop: Loop, conn: Connection, cards: int | None) -> Input:
    """All that the forecast needs; ``cards`` that many imagined ones instead of the rig's."""
    return _Reader(loop, conn, cards).read()


class _Reader:
    """Reads one question."""

    def __init__(self, loop: Loop, conn: Connection, cards: int | None) -> None:
        self._loop, self._conn, self._imagined = loop, conn, cards is not None
        self._now = loop.clock.now()
        self._attempts = reads.open_attempts(conn)
        self._copies = [each for each in instances.open_instances(conn) if each.usable]
        self._numbers = foresight.requirements_of(conn, [each.job_id for each in self._attempts])
        views = loop.rig.views(self._attempts)
        self._cards = views if cards is None else imagined(views, cards)
        self._times = RunTimes(conn)
        self._families: dict[str, ModelFamily] = {}
        self._known: dict[int, str | None] = {}
        self._never: dict[int, str] = {}
        self._jobs: dict[int, Told] = {}
        self._notes: list[str] = []
        self._unlooked: dict[tuple[str, int], None] = {}
        self._requirements: dict[int, Requirement] = {}

    def read(self) -> Input:
        """The whole input."""
        if not self._imagined:
            self._families = {each.family: family_of(each) for each in self._copies}
        rows = foresight.waiting(self._conn, MOST_JOBS)
        again = [number for number, _document in self._numbers.values()] if self._imagined else []
        for number in dict.fromkeys([*(row.requirement_id for row in rows), *again]):
            self._resolve(number)
        runs = with_runs(self._conn, self._running_families() | self._families)
        means = {each.key: each.mean_seconds for each in runs if each.mean_seconds is not None}
        guess = self._guess(means)
        moved, underway, running = self._active(means, guess)
        ahead = [self._ahead(row, means, guess) for row in rows]
        families = tuple(each for each in runs if each.key in self._families)
        counts = reads.counts(self._conn)
        left_out = counts["queued"] + counts["held"] - len(rows)
        self._note(left_out, bool(moved))
        return Input(
            question=Question(
                snapshot=self._snapshot(families),
                ahead=(*moved, *ahead),
                underway=tuple(underway),
                needs=foresight.needs(self._conn, (row.document_id for row in rows if row.blocked)),
                opens=self._opens(),
                max_parallel_loads=self._loop.settings.max_parallel_loads,
            ),
            jobs=self._jobs,
            running=running,
            imagined=self._imagined,
            notes=self._notes,
            unlooked=list(self._unlooked),
            left_out=max(0, left_out),
        )

    # --- the rig ---------------------------------------------------------------------------------------------------

    def _snapshot(self, families: tuple[ModelFamily, ...]) -> Snapshot:
        observer = self._loop.placer.observer
        host, copies = observer.host(self._attempts, self._copies), residents((), (), (), self._now)
        if self._imagined:
            host = unused(host)
        else:
            pinned = observer.pinned_paths(self._conn)
            copies = residents(self._copies, self._attempts, pinned, self._now)
        return Snapshot(
            now=self._now,
            paused=False,
            cards=self._cards,
            host=host,
            waiting=(),
            residents=copies,
            families=families,
        )

    def _opens(self) -> dict[str, float]:
        return {card.uuid: self._now + _BACK_SECONDS for card in self._cards if card.closed and card.temporary}

    # --- models and run times --------------------------------------------------------------------------------------

    def _requirement(self, number: int) -> Requirement:
        found = self._requirements.get(number)
        if found is None:
            found = reads.requirement(self._conn, number)
            if self._imagined and found.only:
                # Imagined cards are nobody's: they all do.
                found = msgspec.structs.replace(found, only=())
            self._requirements[number] = found
        return found

    def _resolve(self, number: int) -> None:
        """The family of a requirement, or why it has none."""
        requirement = self._requirement(number)
        self._known[number] = None
        if requirement.model is None:
            return
        found = self._loop.models.resolve(self._conn, requirement, self._cards)
        if found is None:
            self._never[number] = "its model is being looked at; ask again in a moment"
            self._unlooked[requirement.model.path, requirement.model.uid] = None
        elif isinstance(found, Bad):
            self._never[number] = found.public
        else:
            self._known[number] = found.family.key
            self._families[found.family.key] = found.family

    def _running_families(self) -> dict[str, ModelFamily]:
        return {each.family: family_of(each) for each in self._copies}

    def _guess(self, means: dict[str, float]) -> float:
        """For what nothing is known of: the mean of all there is."""
        known = [*means.values(), *([mean] if (mean := self._times.overall()) is not None else [])]
        return sum(known) / len(known) if known else UNKNOWN_SECONDS

    # --- jobs ------------------------------------------------------------------------------------------------------

    def _ahead(self, row: Waiting, means: dict[str, float], guess: float) -> Ahead:
        family, requirement = self._known[row.requirement_id], self._requirement(row.requirement_id)
        known = self._times.of(row.name, row.requirement_id, row.document_id) if family is None else means.get(family)
        label = self._families[family].label if family is not None else _model_name(requirement)
        self._jobs[row.id] = Told(row.name, label, row.state.value, known is None)  # type: ignore[arg-type]
        never = self._never.get(row.requirement_id)
        return Ahead(
            job=WaitingJob(
                id=row.id,
                priority=row.priority,
                requirement=requirement,
                time_limit_seconds=row.time_limit_seconds,
                family=family,
                arrival=row.submitted_at,
            ),
            run_seconds=guess if known is None else known,
            document=row.document_id if row.blocked else None,
            due=row.eligible_at,
            never=blocked_by_hold(row.id) if row.state is JobState.HELD else never,
        )

    def _active(self, means: dict[str, float], guess: float) -> tuple[list[Ahead], list[Underway], list[ForecastJob]]:
        """What runs: on this rig to its end, on an imagined one what is left of it once more."""
        copies = {each.id: each for each in self._copies}
        moved, underway, running = list[Ahead](), list[Underway](), list[ForecastJob]()
        for attempt in self._attempts:
            number, document = self._numbers[attempt.job_id]
            copy = copies.get(attempt.instance_id) if attempt.instance_id is not None else None
            known = self._expected(attempt, copy, means, number, document)
            since = attempt.started_at or attempt.placed_at
            left = self._left(attempt, since, guess if known is None else known)
            label = copy.label if copy is not None else _model_name(self._requirement(number))
            self._jobs[attempt.job_id] = Told(attempt.name, label, attempt.state.value, known is None)  # type: ignore[arg-type]
            if self._imagined:
                moved.append(self._again(attempt, number, left))
            else:
                underway.append(_underway(attempt, since, self._now + left))
                running.append(self._running(attempt, since, self._now + left))
        return moved, underway, running

    def _expected(
        self, attempt: OpenAttempt, copy: Instance | None, means: dict[str, float], number: int, document: int
    ) -> float | None:
        return means.get(copy.family) if copy is not None else self._times.of(attempt.name, number, document)

    def _left(self, attempt: OpenAttempt, since: float, mean: float) -> float:
        """How long it is expected to go on; never less than a part, until its time limit."""
        if attempt.state is JobState.STOPPING:
            return _STOP_SECONDS
        left = max(mean - max(0.0, self._now - since), REST * mean)
        return left if attempt.ends_by is None else min(left, max(0.0, attempt.ends_by - self._now) + 1.0)

    def _again(self, attempt: OpenAttempt, number: int, left: float) -> Ahead:
        return Ahead(
            job=WaitingJob(
                id=attempt.job_id,
                priority=_FIRST,
                requirement=self._requirement(number),
                family=self._known[number],
                arrival=attempt.placed_at,
            ),
            run_seconds=left,
            never=self._never.get(number),
        )

    def _running(self, attempt: OpenAttempt, since: float, ends: float) -> ForecastJob:
        told = self._jobs[attempt.job_id]
        return ForecastJob(
            id=attempt.job_id,
            name=told.name,
            model=told.model,
            state=told.state,
            starts_at=iso(since),
            ends_at=iso(ends),
            cards=[uuid for uuid, _reserved, _exclusive in attempt.holds],
            waits_for=None,
            guessed=told.guessed,
        )

    # --- notes -----------------------------------------------------------------------------------------------------

    def _note(self, left_out: int, moved: bool) -> None:
        note = self._notes.append
        if self._loop.paused:
            note("the queue is paused: this is as if it went on now; p104ctl resume lets it")
        if left_out > 0:
            note(f"{left_out} more jobs wait than the {MOST_JOBS} that a forecast looks at")
        if self._imagined:
            note(f"the cards are imagined: {self._cards[0].name}, empty at the start; any card is as good for a job")
            if moved:
                note("what runs now is counted with what is left of it, and goes first")
            return
        if not self._loop.rig.counted:
            note("the cards are still being counted")
        for card in self._cards:
            if card.closed and card.temporary:
                note(f"card {card.index} ({card.closed}) is counted as back in {_BACK_SECONDS:.0f} s")
            elif card.closed:
                note(f"card {card.index} ({card.closed}) is left out")


def _underway(attempt: OpenAttempt, since: float, ends: float) -> Underway:
    return Underway(
        id=attempt.job_id,
        since=since,
        ends_at=ends,
        ram_bytes=attempt.ram_bytes,
        on_processor=attempt.cards == 0,
        succeeds=attempt.state is not JobState.STOPPING,
    )


def _model_name(requirement: Requirement) -> str | None:
    return None if requirement.model is None else requirement.model.path.rsplit("/", 1)[-1].removesuffix(".gguf")
