"""A trace: the cards of a rig, models with what loading them costs, and jobs with the moment each arrives."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite

import msgspec

from p104d.core.errors import RefusedError, UsageError

#: A year of jobs on a busy rig; more is a mistake, and would not be replayed in a sitting.
MOST_JOBS = 1_000_000
MOST_CARDS = 1024
MOST_SECONDS = 1e9
MOST_BYTES = 256 << 20


class TraceModel(msgspec.Struct, frozen=True, kw_only=True):
    """How many cards a copy of the model takes, and how long they load it (all at once)."""

    cards: int = 1
    load_seconds: float


class TraceJob(msgspec.Struct, frozen=True, kw_only=True):
    """One job. ``model`` null: it takes ``cards`` cards, loads nothing and leaves nothing behind."""

    id: str | int
    model: str | None
    arrival_seconds: float
    run_seconds: float
    cards: int | None = None
    priority: int = 0


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """A rig and what is asked of it. Fields not named here are somebody's own and ignored."""

    cards: int
    models: dict[str, TraceModel]
    jobs: list[TraceJob]

    def width(self, job: TraceJob) -> int:
        """How many cards ``job`` runs on."""
        return (job.cards or 1) if job.model is None else self.models[job.model].cards

    def load_seconds(self, job: TraceJob) -> float:
        """What loading for ``job`` takes where nothing is loaded."""
        return 0.0 if job.model is None else self.models[job.model].load_seconds


def decode(data: bytes, name: str) -> Trace:
    """The trace in ``data`` (JSON, from ``name``), checked; an error says which field is wrong and what would do."""
    try:
        trace = msgspec.json.decode(data, type=Trace)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{name}: {error}", mend='a trace is {"cards", "models", "jobs"}; see python -m p104d.replay --help'
        ) from None
    try:
        check(trace)
    except RefusedError as error:
        raise RefusedError(f"{name}: {error.message}", mend=error.mend) from None
    return trace


def check(trace: Trace) -> None:
    """Refuse what no rig could run."""
    if not 1 <= trace.cards <= MOST_CARDS:
        raise RefusedError(f"cards: {trace.cards}", mend=f"a rig has 1 to {MOST_CARDS} cards")
    if len(trace.jobs) > MOST_JOBS:
        raise RefusedError(f"jobs: {len(trace.jobs)}", mend=f"replay at most {MOST_JOBS} at a time")
    for name, model in trace.models.items():
        _width(f"models.{name}.cards", model.cards, trace.cards)
        _seconds(f"models.{name}.load_seconds", model.load_seconds)
    seen: set[str | int] = set()
    for index, job in enumerate(trace.jobs):
        _job(f"jobs[{index}]", job, trace)
        if job.id in seen:
            raise RefusedError(f"jobs[{index}].id: {job.id!r} is there twice", mend="give each job an id of its own")
        seen.add(job.id)


def _job(where: str, job: TraceJob, trace: Trace) -> None:
    if job.model is not None and job.model not in trace.models:
        raise RefusedError(f"{where}.model: no model {job.model!r}", mend=f"add it to models ({_some(trace.models)})")
    if job.model is not None and job.cards not in (None, trace.models[job.model].cards):
        raise RefusedError(
            f"{where}.cards: {job.cards}, the model has {trace.models[job.model].cards}", mend="leave it out"
        )
    if job.cards is not None:
        _width(f"{where}.cards", job.cards, trace.cards)
    _seconds(f"{where}.arrival_seconds", job.arrival_seconds)
    _seconds(f"{where}.run_seconds", job.run_seconds)


def _some(names: Iterable[str]) -> str:
    known = sorted(names)
    return f"known: {', '.join(known[:6])}{', ...' if len(known) > 6 else ''}" if known else "none is known"


def _width(where: str, cards: int, rig: int) -> None:
    if cards < 1:
        raise RefusedError(f"{where}: {cards}", mend="it takes at least 1 card")
    if cards > rig:
        raise RefusedError(f"{where}: {cards}, the rig has {rig}", mend=f"at most {rig}, or a rig with more cards")


def _seconds(where: str, value: float) -> None:
    if not isfinite(value) or not 0 <= value <= MOST_SECONDS:
        raise RefusedError(f"{where}: {value}", mend=f"seconds, from 0 to {MOST_SECONDS:.0f}")
