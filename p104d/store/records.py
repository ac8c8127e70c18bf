"""The record as people ask for it: results, what they come to, and the attempts that are drawn under readings.

A million rows take seconds to add up: these statements are for ``store.aside``.
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.store import sql

#: Rows of one listing of summaries; a rig has a few dozen kinds of work.
MAX_GROUPS = 5000
#: Jobs drawn under a picture at most; more are a grey band anyhow.
MAX_SPANS = 2000


class Records(msgspec.Struct, frozen=True, kw_only=True):
    """Which results; None means any. ``card`` finds those of several cards too, if it was one of them."""

    card: str | None = None
    job: int | None = None
    name: str | None = None
    model: str | None = None
    measure: str | None = None
    speeds: bool = False
    since: float | None = None
    until: float | None = None


def _where(wanted: Records) -> tuple[str, list[object]]:
    conditions, values = ["1"], list[object]()

    def need(condition: str, *given: object) -> None:
        conditions.append(condition)
        values.extend(given)

    for name, given in (("name", wanted.name), ("model", wanted.model), ("measure", wanted.measure)):
        if given is not None:
            need(f"{name} = ?", given)
    if wanted.job is not None:
        need("job_id = ?", wanted.job)
    if wanted.card is not None:
        need("(card_uuid = ? OR (card_uuid IS NULL AND instr(card_uuids, ?)))", wanted.card, f'"{wanted.card}"')
    if wanted.speeds:
        # it/s and s/it, tokens/s; not J/token, which is no speed.
        need("(unit LIKE '%/s' OR unit LIKE 's/%')")
    if wanted.since is not None:
        need("at >= ?", wanted.since)
    if wanted.until is not None:
        need("at < ?", wanted.until)
    return " AND ".join(conditions), values


_RESULT = (
    "id, at, job_id, attempt, name, model, user, cards, card_uuid, card_uuids, seconds, measure, value, unit, driver, "
    "vbios"
)


def results(conn: Connection, wanted: Records, limit: int) -> list[Any]:
    """The newest results that fit, newest first."""
    where, values = _where(wanted)
    order = f"SELECT {_RESULT} FROM results WHERE {where} ORDER BY at DESC, id DESC LIMIT ?"  # noqa: S608
    return sql.rows(conn, order, (*values, limit))


class Figures(msgspec.Struct, kw_only=True):
    """All ``values``, ascending, of one measure of one kind of work on one card (``card_uuid`` None: on several, or
    none), and the newest of them. ``name`` is None where work is told apart by its model."""

    name: str | None
    model: str | None
    measure: str
    unit: str
    card_uuid: str | None
    cards: int
    values: array[float]
    last: float
    last_at: float


class Summary(Figures, kw_only=True):
    """Figures with the time of the oldest."""

    first_at: float


def figures(conn: Connection, wanted: Records, *, by_name: bool) -> Iterator[Figures]:
    """What fits, put together by model, measure, unit and card; and by the job's name: where there is no model, or
    (``by_name``) in any case."""
    where, values = _where(wanted)
    name = "name" if by_name else "CASE WHEN model IS NULL THEN name END"
    # SQLite groups, because it lets the daemon's own thread go on meanwhile: a million rows taken up one by one in
    # Python hold it up for seconds, and window functions take five times as long. The bare columns are those of
    # the row with max(at), the only such aggregate here.
    statement = f"""
        SELECT {name}, model, measure, unit, card_uuid, cards, value, max(at), group_concat(value)
        FROM results WHERE {where} GROUP BY 1, 2, 3, 4, 5, 6 LIMIT {MAX_GROUPS}
    """  # noqa: S608 - this module's own names
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    for job, model, measure, unit, card, cards, last, last_at, joined in driver.execute(statement, values):
        yield Figures(
            name=job,
            model=model,
            measure=measure,
            unit=unit,
            card_uuid=card,
            cards=cards,
            values=array("d", sorted(map(float, joined.split(",")))),
            last=last,
            last_at=last_at,
        )


def summaries(conn: Connection, wanted: Records) -> list[Summary]:
    """Figures by model (or, without one, name), measure and card, in this order."""
    found = [
        Summary(**msgspec.structs.asdict(each), first_at=_first_at(conn, wanted, each))
        for each in figures(conn, wanted, by_name=False)
    ]
    return sorted(found, key=_order)


def _order(each: Figures) -> tuple[str, str, int, str]:
    return each.model or each.name or "", each.measure, each.cards, each.card_uuid or ""


def _first_at(conn: Connection, wanted: Records, found: Figures) -> float:
    where, values = _where(wanted)
    work = "model IS NULL AND name = ?" if found.model is None else "model = ?"
    first = sql.value(
        conn,
        f"SELECT at FROM results WHERE {where} AND {work} AND measure = ? AND unit = ? "  # noqa: S608
        "AND card_uuid IS ? AND cards = ? ORDER BY at LIMIT 1",
        (*values, found.model or found.name, found.measure, found.unit, found.card_uuid, found.cards),
    )
    return float(first)


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` of them (ascending, at least one) lie; linear between two."""
    place = part * (len(values) - 1)
    low = int(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def spans(conn: Connection, card: str, since: float, until: float) -> list[Any]:
    """Attempts that ran on the card in that time, those under way too, newest first."""
    return sql.rows(
        conn,
        """
        SELECT a.job_id, a.number, j.name, a.outcome, a.started_at, a.ended_at
        FROM attempt_cards c
        CROSS JOIN attempts a ON a.job_id = c.job_id AND a.number = c.number
        CROSS JOIN jobs j ON j.id = c.job_id
        WHERE c.card_uuid = ? AND a.started_at < ? AND (a.ended_at >= ? OR a.ended_at IS NULL)
        ORDER BY c.job_id DESC LIMIT ?
        """,
        (card, until, since, MAX_SPANS),
    )
