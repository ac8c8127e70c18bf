"""The record of what succeeded attempts measured: written with their end, kept for good, compared fast.

Every comparison goes along an index that holds all it reads, and looks at the newest results of a work (one name or
model, one measure) alone: it costs the same however long the record grows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import Measurement
from p104d.store import sql

#: Of a work, the results that tell what is usual: older ones were of another driver, another season.
LOOK_BACK = 300
#: What a work goes by.
By = Literal["name", "model"]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A succeeded attempt with what it measured. ``at`` is its end (Unix time), ``seconds`` its length (None: not
    known), ``card_uuids`` its cards in order."""

    at: float
    job_id: int
    attempt: int
    name: str
    model: str | None
    user: str
    uid: int
    card_uuids: tuple[str, ...]
    seconds: float | None
    measurements: tuple[Measurement, ...]

    @property
    def place(self) -> Place:
        """Where it ran."""
        count = len(self.card_uuids)
        return Place(self.card_uuids[0] if count == 1 else None, count)


class Place(msgspec.Struct, frozen=True, order=True):
    """Where results were made that may be compared: on one card, or on so many (``card_uuid`` None)."""

    card_uuid: str | None
    cards: int


def record(conn: Connection, result: Result) -> int:
    """Write a row a measurement, in the transaction that ends the attempt; how many. A second word about the same
    attempt changes nothing."""
    if not result.measurements:
        return 0
    known = "SELECT 1 FROM results INDEXED BY results_job WHERE job_id = ? AND attempt = ? LIMIT 1"
    if sql.value(conn, known, (result.job_id, result.attempt)) is not None:
        return 0
    ran = sql.row(
        conn,
        "SELECT driver, vbios FROM attempt_cards WHERE job_id = ? AND number = ? AND position = 0",
        (result.job_id, result.attempt),
    )
    driver, vbios = (ran[0], ran[1]) if ran is not None else (None, None)
    place, uuids = result.place, msgspec.json.encode(result.card_uuids).decode()
    for each in result.measurements:
        sql.run(
            conn,
            "INSERT INTO results (at, job_id, attempt, name, model, user, uid, cards, card_uuid, card_uuids, seconds, "
            "measure, value, unit, driver, vbios) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                result.at, result.job_id, result.attempt, result.name, result.model, result.user, result.uid,
                place.cards, place.card_uuid, uuids, result.seconds, each.name, each.value, each.unit, driver, vbios,
            ),
        )  # fmt: skip
    return len(result.measurements)


def recent(
    conn: Connection, by: By, work: str, measure: str, *, before: float | None = None, limit: int = LOOK_BACK
) -> dict[Place, list[tuple[float, float, str]]]:
    """place -> (at, value, unit) of the newest results of a work, newest first; ``before``: only those that ended
    earlier."""
    rows = _newest(conn, by, work, measure, before, limit)
    found: dict[Place, list[tuple[float, float, str]]] = {}
    for row in rows:
        found.setdefault(Place(row.card_uuid, row.cards), []).append((row.at, row.value, row.unit))
    return found


def _newest(conn: Connection, by: By, work: str, measure: str, before: float | None, limit: int) -> list[Any]:
    statement = (
        f"SELECT at, card_uuid, cards, value, unit FROM results INDEXED BY results_{by} "  # noqa: S608
        f"WHERE {by} = ? AND {by} IS NOT NULL AND measure = ? AND at < ? ORDER BY at DESC LIMIT ?"
    )
    return sql.rows(conn, statement, (work, measure, 9e99 if before is None else before, limit))


def middle_and_spread(values: Iterable[float]) -> tuple[float, float]:
    """The median, and the distance of the quartiles (0 below four values). ``values`` must not be empty."""
    ordered = sorted(values)
    if len(ordered) < 4:
        return median(ordered), 0.0
    return median(ordered), median(ordered[(len(ordered) + 1) // 2 :]) - median(ordered[: len(ordered) // 2])


def usual(
    conn: Connection, by: By, work: str, measures: Sequence[str], *, before: float | None = None, share: bool = False
) -> dict[Place, dict[str, float]]:
    """place -> measure -> the median of the newest results of a work. ``share``: of a measure in seconds, the part
    (0..1) of each attempt's own time."""
    found: dict[Place, dict[str, float]] = {}
    for measure in measures:
        values: dict[Place, list[float]] = {}
        if share:
            for row in _shares(conn, by, work, measure, before):
                values.setdefault(Place(row[0], row[1]), []).append(min(1.0, row[2]))
        else:
            places = recent(conn, by, work, measure, before=before)
            values = {place: [value for _at, value, _unit in each] for place, each in places.items()}
        for place, each in values.items():
            found.setdefault(place, {})[measure] = middle_and_spread(each)[0]
    return found


def _shares(conn: Connection, by: By, work: str, measure: str, before: float | None) -> list[Any]:
    statement = (
        f"SELECT card_uuid, cards, value / seconds FROM results INDEXED BY results_{by} "  # noqa: S608
        f"WHERE {by} = ? AND {by} IS NOT NULL AND measure = ? AND at < ? AND seconds > 0 ORDER BY at DESC LIMIT ?"
    )
    return sql.rows(conn, statement, (work, measure, 9e99 if before is None else before, LOOK_BACK))
