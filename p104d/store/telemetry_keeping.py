"""Keeping history small: hours from minutes, points from samples, and what is too old or too much leaves.

Every step is a transaction of one card and one hour (or day), in which the old is replaced by the new: a crash between
two of them leaves work to do, never anything twice. A step holds the file for some ten milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.store import sql
from p104d.store.telemetry import Telemetry, used_bytes
from p104d.store.telemetry_chunks import Chunk, ChunkError, encode, joined
from p104d.store.telemetry_kinds import (
    DAY,
    HOUR,
    MINUTE,
    TICKS,
    TIMES,
    Kind,
    minutes_chunk,
    one_day,
    sliced,
)
from p104d.store.telemetry_metrics import BY_NUMBER
from p104d.store.telemetry_points import Point, merged, spans

#: How much history one run may forget by age. A clock that is years ahead for an hour must not cost all there is.
_MOST_FORGOTTEN_SECONDS = 2 * DAY
#: Chunks deleted at a time where the file has grown too large.
_BATCH = 256
#: Free space in the file worth giving back to the disk, and how much of it one run gives back, in pages.
_MUCH_FREE, _GIVEN_BACK = 4096, 8192


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """How long samples and points of minutes are kept (seconds), and how large the file may be (bytes)."""

    samples_seconds: float = 30 * 86400.0
    minutes_seconds: float = 365 * 86400.0
    size_bytes: int = 2**30


def keep(store: Telemetry, now: float, rule: Keep, stopping: Callable[[], bool] = lambda: False) -> None:
    """All of it: compaction of what is over at ``now`` (Unix seconds), then forgetting. Once ``stopping`` says so,
    what is left is left for the next time."""
    compact(store, now, stopping)
    if not stopping():
        forget(store, now, rule)


# --- hours and days ------------------------------------------------------------------------------------------------


def compact(store: Telemetry, now: float, stopping: Callable[[], bool] = lambda: False) -> int:
    """Make one chunk of each hour of minutes but the present one, and of each day of hours but the present one; how
    many were made. Hours of the future (a clock that was wrong) are no exception."""
    made = 0
    for entity_id, hour in _pending(store, Kind.SAMPLES_MINUTE, HOUR, now):
        if stopping():
            return made
        with store.file.write() as conn:
            _hour(store, conn, entity_id, hour * HOUR)
        made += 1
    for entity_id, day in _pending(store, Kind.MINUTES_HOUR, DAY, now):
        if stopping():
            return made
        with store.file.write() as conn:
            _day(store, conn, entity_id, day * DAY)
        made += 1
    return made


def _pending(store: Telemetry, kind: Kind, seconds: int, now: float) -> list[tuple[int, int]]:
    with store.file.read() as conn:
        found = sql.rows(conn, _PENDING, {"kind": int(kind), "seconds": seconds, "present": int(now // seconds)})
    return [(row.entity_id, row.stretch) for row in found]


# Division of negative numbers (a clock before 1970) rounds towards nought in SQL: the comparison is Python's below.
_PENDING = """
    SELECT DISTINCT entity_id, start / :seconds AS stretch FROM chunks INDEXED BY chunks_by_time
    WHERE kind = :kind AND start >= 0 AND start / :seconds <> :present
"""
_WITHIN = """
    SELECT id, kind, data FROM chunks INDEXED BY chunks_by_time
    WHERE kind = ? AND entity_id = ? AND start >= ? AND start < ? ORDER BY start, id
"""
_ADD = "INSERT INTO chunks (kind, entity_id, start, data) VALUES (?, ?, ?, ?)"
_PUT = "INSERT OR REPLACE INTO rollups VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_GET = """
    SELECT start, count, minimum, mean, maximum FROM rollups
    WHERE entity_id = ? AND metric_id = ? AND seconds = ? AND start >= ? AND start < ?
"""


def _within(conn: Connection, kind: Kind, entity_id: int, start: int, seconds: int) -> list[Any]:
    return sql.rows(conn, _WITHIN, (int(kind), entity_id, start, start + seconds))


def _sound(store: Telemetry, rows: Sequence[Any]) -> list[Chunk]:
    """Those of ``rows`` whose every column can be read."""
    found = []
    for row in rows:
        chunk = store.opened(row.id, row.data)
        if chunk is None:
            continue
        try:
            for key in chunk.keys:
                chunk.column(key)
        except ChunkError as error:
            store.damaged(row.id, error)
            continue
        found.append(chunk)
    return found


def _delete(conn: Connection, rows: Sequence[Any]) -> None:
    for row in rows:
        sql.run(conn, "DELETE FROM chunks WHERE id = ?", (row.id,))


def _hour(store: Telemetry, conn: Connection, entity_id: int, start: int) -> None:
    """One chunk of samples, one of minutes, and the hour's and the day's points."""
    before = _within(conn, Kind.SAMPLES_HOUR, entity_id, start, HOUR)
    minutes = _within(conn, Kind.SAMPLES_MINUTE, entity_id, start, HOUR)
    columns = joined(_sound(store, [*before, *minutes]), TIMES)
    _delete(conn, [*before, *minutes])
    ticks: list[int] = columns.get(TIMES, [])  # type: ignore[assignment]
    if not ticks:
        return
    sql.run(conn, _ADD, (int(Kind.SAMPLES_HOUR), entity_id, start, encode(columns)))
    places, points = spans(ticks, MINUTE * TICKS), {}
    for number, values in columns.items():
        if number in BY_NUMBER:
            points[number] = sliced(places, values, MINUTE, BY_NUMBER[number])
    _delete(conn, _within(conn, Kind.MINUTES_HOUR, entity_id, start, HOUR))
    sql.run(conn, _ADD, (int(Kind.MINUTES_HOUR), entity_id, start, minutes_chunk(points)))
    for number, some in points.items():
        # Samples that come late for an hour whose own are gone by age belong to it nevertheless.
        known = [] if before else _rolled(conn, entity_id, number, HOUR, start, HOUR)
        _roll(conn, entity_id, number, HOUR, start, [*known, *some])
        _roll(conn, entity_id, number, DAY, start // DAY * DAY, _rolled_day(conn, entity_id, number, start))


def _rolled(conn: Connection, entity_id: int, number: int, seconds: int, start: int, span: int) -> list[Point]:
    return [Point(*row) for row in sql.rows(conn, _GET, (entity_id, number, seconds, start, start + span))]


def _rolled_day(conn: Connection, entity_id: int, number: int, start: int) -> list[Point]:
    return _rolled(conn, entity_id, number, HOUR, start // DAY * DAY, DAY)


def _roll(conn: Connection, entity_id: int, number: int, seconds: int, start: int, points: Sequence[Point]) -> None:
    if points:
        whole = merged(start, points, bits=BY_NUMBER[number].bits)
        sql.run(conn, _PUT, (entity_id, number, seconds, *whole))


def _day(store: Telemetry, conn: Connection, entity_id: int, start: int) -> None:
    rows = [
        *_within(conn, Kind.MINUTES_DAY, entity_id, start, DAY),
        *_within(conn, Kind.MINUTES_HOUR, entity_id, start, DAY),
    ]
    chunks = _sound(store, rows)
    _delete(conn, rows)
    if chunks:
        sql.run(conn, _ADD, (int(Kind.MINUTES_DAY), entity_id, start, one_day(chunks)))


# --- forgetting ----------------------------------------------------------------------------------------------------


def forget(store: Telemetry, now: float, rule: Keep) -> None:
    """What is older than ``rule`` leaves, at most two days of it a call; then, while the file is too large, the oldest
    samples, and after them the oldest points of minutes."""
    for kinds, seconds in ((_SAMPLES, rule.samples_seconds), (_MINUTES, rule.minutes_seconds)):
        with store.file.write() as conn:
            for kind in kinds:
                _forget_old(conn, kind, now - seconds)
    for _ in _too_large(store, rule.size_bytes):
        with store.file.write() as conn:
            for kind in (*_SAMPLES, *_MINUTES):
                if sql.run(conn, _OLDEST, (int(kind), _BATCH)):
                    break
            else:
                return
    _give_back(store)


_SAMPLES = (Kind.SAMPLES_HOUR, Kind.SAMPLES_MINUTE)
_MINUTES = (Kind.MINUTES_DAY, Kind.MINUTES_HOUR)
_OLDEST = "DELETE FROM chunks WHERE id IN (SELECT id FROM chunks WHERE kind = ? ORDER BY start LIMIT ?)"


def _forget_old(conn: Connection, kind: Kind, before: float) -> None:
    oldest = sql.value(conn, "SELECT min(start) FROM chunks WHERE kind = ?", (int(kind),))
    if oldest is not None:
        # A chunk leaves when all of it is old enough.
        last = min(before, oldest + _MOST_FORGOTTEN_SECONDS) - kind.seconds
        sql.run(conn, "DELETE FROM chunks WHERE kind = ? AND start <= ?", (int(kind), last))


def _too_large(store: Telemetry, most: int) -> Iterator[None]:
    while True:
        with store.file.read() as conn:
            if used_bytes(conn) <= most:
                return
        yield


def _give_back(store: Telemetry) -> None:
    """Free pages are used again; only where there are many does the file shrink."""
    with store.file.read() as conn:
        free = int(sql.value(conn, "PRAGMA freelist_count"))
    if free > _MUCH_FREE:
        store.file.shrink(min(free - _MUCH_FREE // 2, _GIVEN_BACK))
