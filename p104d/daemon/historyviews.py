"""The record as the wire has it: results, summaries, series, each against the speeds on record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from p104d.api import history as h
from p104d.core.units import iso
from p104d.engines.reference import reference
from p104d.store import records as store

#: UUID -> index and name.
Names = dict[str, tuple[int | None, str]]
_decode_uuids = msgspec.json.Decoder(list[str]).decode
#: What is better the smaller it is: times, and what is taken per piece of work.
_LESS_IS_BETTER = ("seconds", "joules", "watt_hours", "energy", "cost", "_watts", "_celsius", "vram")


class Readings(Protocol):
    """One series: Unix seconds, ascending, and at each the least, mean and most of the ``step`` seconds from it."""

    @property
    def unit(self) -> str: ...
    @property
    def step(self) -> float: ...
    @property
    def times(self) -> Sequence[float]: ...
    @property
    def minimum(self) -> Sequence[float]: ...
    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def maximum(self) -> Sequence[float]: ...


class Work(msgspec.Struct, frozen=True):
    """What was measured where: the question to the table of speeds on record. ``card`` is the card's catalogue name."""

    name: str | None
    model: str | None
    card: str | None
    cards: int
    measure: str
    unit: str


class OnRecord(msgspec.Struct, frozen=True):
    """A speed on record and where it is recorded."""

    value: float
    unit: str
    source: str


#: Finds the speed on record for the same work; None: there is none. Called in a thread.
FindReference = Callable[[Work], OnRecord | None]


def on_record(work: Work) -> OnRecord | None:
    """The speed of the table that p104d comes with."""
    found = reference(work.model or work.name or "", work.card, work.cards, work.measure)
    return None if found is None else OnRecord(found.value, found.unit, f"{found.source} ({found.setup})")


def less_is_better(measure: str, unit: str) -> bool:
    """Whether a smaller value of the measure is the better one: seconds per step, joules per token."""
    return unit.startswith(("s/", "ms/")) or unit == "s" or any(part in measure for part in _LESS_IS_BETTER)


class References:
    """Speeds on record, each question asked once."""

    def __init__(self, find: FindReference, names: Names) -> None:
        self._find, self._names = find, names
        self._known: dict[Work, OnRecord | None] = {}

    def against(self, row: Any, cards: Sequence[str], value: float) -> h.Reference | None:
        """The speed on record for this row's work, and how ``value`` stands against it."""
        kinds = {self._names[uuid][1] for uuid in cards if uuid in self._names}
        work = Work(row.name, row.model, kinds.pop() if len(kinds) == 1 else None, row.cards, row.measure, row.unit)
        if work not in self._known:
            self._known[work] = self._find(work)
        found = self._known[work]
        if found is None:
            return None
        less = less_is_better(row.measure, row.unit)
        part, whole = (found.value, value) if less else (value, found.value)
        percent = 100.0 * part / whole if whole else None
        return h.Reference(value=found.value, unit=found.unit, source=found.source, percent=percent)


def result(row: Any, references: References) -> h.Result:
    """A row of ``results`` on the wire."""
    cards = _decode_uuids(row.card_uuids)
    return h.Result(
        at=iso(row.at) or "",
        job_id=row.job_id,
        attempt=row.attempt,
        name=row.name,
        model=row.model,
        user=row.user,
        cards=row.cards,
        card_uuids=cards,
        measure=row.measure,
        value=row.value,
        unit=row.unit,
        seconds=row.seconds,
        driver=row.driver,
        vbios=row.vbios,
        reference=references.against(row, cards, row.value),
    )


def summary(row: store.Summary, references: References, names: Names) -> h.Summary:
    """What results come to, on the wire."""
    median = store.quantile(row.values, 0.5)
    index, name = names.get(row.card_uuid or "", (None, None))
    # Work on several cards does not say here which they were; on a rig of one kind that makes no difference.
    cards = [row.card_uuid] if row.card_uuid else list(names) if row.cards else []
    return h.Summary(
        name=row.name,
        model=row.model,
        card=row.card_uuid,
        card_index=index,
        card_name=name,
        cards=row.cards,
        measure=row.measure,
        unit=row.unit,
        count=len(row.values),
        best=row.values[0 if less_is_better(row.measure, row.unit) else -1],
        median=median,
        spread=store.quantile(row.values, 0.75) - store.quantile(row.values, 0.25),
        last=row.last,
        first_at=iso(row.first_at) or "",
        last_at=iso(row.last_at) or "",
        reference=references.against(row, cards, median),
    )


def series(entity: str, metric: str, found: Readings) -> h.Series:
    """A series on the wire."""
    return h.Series(
        entity=entity,
        metric=metric,
        unit=found.unit,
        step_seconds=found.step,
        times=[iso(at) or "" for at in found.times],
        minimum=list(found.minimum),
        mean=list(found.mean),
        maximum=list(found.maximum),
    )


def span(row: Any) -> h.Span:
    """An attempt under readings."""
    return h.Span(
        job_id=row.job_id,
        attempt=row.number,
        name=row.name,
        outcome=row.outcome,
        started_at=iso(row.started_at) or "",
        ended_at=iso(row.ended_at),
    )
