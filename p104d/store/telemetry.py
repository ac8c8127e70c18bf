"""Performance history: readings of cards and of the host over time, in telemetry.db.

Samples are appended a minute at a time and kept in chunks (``telemetry_chunks``). Once an hour is over, its minutes
become one chunk, and points (count, least, mean, most) of its minutes and of the hour itself are made from it, and of
the day from its hours. Samples go after a month, points of minutes after a year, those of hours and days never
(``telemetry_keeping``). What was not read is not there: no value is ever filled in.

Every method may be called from any thread, and may take as long as the disk does.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress
from math import ceil
from pathlib import Path
from typing import TypeVar

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.errors import NotFoundError
from p104d.store import sql
from p104d.store.telemetry_chunks import Chunk, ChunkError, encode, in_order
from p104d.store.telemetry_file import TelemetryFile
from p104d.store.telemetry_kinds import (
    DAY,
    HOUR,
    MINUTE,
    TICKS,
    TIMES,
    Kind,
    in_units,
    minute_keys,
    minute_points,
    points_of,
)
from p104d.store.telemetry_metrics import IDLE_BIT, Metric, metric_of
from p104d.store.telemetry_points import Point, bucketed

log = logging.getLogger(__name__)

#: An emergency backstop: more points than this nobody can draw; the step is widened instead.
MOST_POINTS = 1_000_000
_LEAST_STEP = 1 / TICKS
T = TypeVar("T")


class Samples(msgspec.Struct, frozen=True):
    """Rows of one entity: ``times`` (Unix seconds) and, by the number of a metric, what it read at each (in units of
    its scale; None: absent)."""

    entity: str
    times: Sequence[float]
    columns: dict[int, Sequence[int | None]]


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one entity. ``times`` are Unix seconds: of the samples themselves, or of the beginnings of
    stretches of ``step`` seconds, of which least, mean and most are told; stretches without a sample are left out.
    Where the samples are gone by age, points of minutes or hours stand in their place."""

    entity: str
    metric: str
    unit: str
    step: float
    times: list[float]
    minimum: list[float]
    mean: list[float]
    maximum: list[float]


class NewChunk(msgspec.Struct, frozen=True):
    """A minute of samples, ready to be written: ``start`` is Unix seconds."""

    entity: str
    start: int
    data: bytes


def pack(samples: Samples) -> list[NewChunk]:
    """Chunks of these samples, one for each minute of the clock, wherever the clock went."""
    ticks = [round(at * TICKS) for at in samples.times]
    starts = [tick // (MINUTE * TICKS) for tick in ticks]
    found = []
    for start in dict.fromkeys(starts):
        places = [place for place, each in enumerate(starts) if each == start]
        columns = {number: [values[place] for place in places] for number, values in samples.columns.items()}
        rows = in_order({TIMES: [ticks[place] for place in places], **columns}, TIMES)
        found.append(NewChunk(samples.entity, start * MINUTE, encode(rows)))
    return found


class Telemetry:
    """The history in the file ``path``, made where there is none.

    Raises MigrationError for a file of a later release, UnavailableError where the disk is full or fails; a later call
    tries again. A damaged file is moved aside, and a damaged chunk costs what is in it, with a warning.
    """

    def __init__(self, path: Path) -> None:
        self.file = TelemetryFile(path)
        self._damaged: set[int] = set()

    def close(self) -> None:
        self.file.close()

    def append(self, chunks: Iterable[NewChunk]) -> None:
        """Write chunks of minutes (``pack``), all or none. Survives kill -9 as soon as it returns."""
        with self.file.write() as conn:
            for chunk in chunks:
                sql.run(conn, "INSERT OR IGNORE INTO entities (name) VALUES (?)", (chunk.entity,))
                sql.run(conn, _APPEND, (Kind.SAMPLES_MINUTE, chunk.start, chunk.data, chunk.entity))

    def entities(self) -> list[str]:
        """Every card (by UUID) and host that anything is known of, by name."""
        with self.file.read() as conn:
            return [str(row.name) for row in sql.rows(conn, "SELECT name FROM entities ORDER BY name")]

    def size_bytes(self) -> int:
        """What the file holds, without what is free in it."""
        with self.file.read() as conn:
            return used_bytes(conn)

    def series(
        self, entity: str, metric: str, since: float, until: float, step: float, extra: Iterable[NewChunk] = ()
    ) -> Series:
        """``metric`` of ``entity`` from ``since`` to before ``until`` (Unix seconds), every ``step`` seconds.

        A step of a second or less gives the samples as they were taken; from a minute on points of minutes are read,
        from an hour on those of hours. ``extra`` are chunks not written yet. Raises NotFoundError for an unknown
        metric.
        """
        found = metric_of(entity, metric)
        if found is None:
            raise NotFoundError(f"there is no metric {metric} of {entity}", mend="see docs/history.md")
        if until - since > MOST_POINTS * max(step, 1.0):
            step = float(ceil((until - since) / MOST_POINTS))
        with self.file.read() as conn:
            entity_id = sql.value(conn, "SELECT id FROM entities WHERE name = ?", (entity,))
            look = _Look(self, conn, -1 if entity_id is None else entity_id, found, since, until)
            look.extra = [chunk for chunk in extra if chunk.entity == entity]
            if step < MINUTE:
                times, values, points = look.samples()
                if step <= 1.0 and not points:
                    return _plain(entity, found, step, times, values)
                points += points_of(times, values, max(step, _LEAST_STEP), found)
            else:
                points = look.points(step)
        return _series(entity, found, step, bucketed(points, max(step, _LEAST_STEP), bits=found.bits))

    def opened(self, number: int, data: bytes) -> Chunk | None:
        """The chunk with the id ``number``; None where it is damaged, which is told once."""
        try:
            return Chunk(data)
        except (ChunkError, ValueError, ArithmeticError) as error:
            self.damaged(number, error)
            return None

    def damaged(self, number: int, error: Exception) -> None:
        """Tell, once, that a chunk is damaged."""
        if number not in self._damaged:
            self._damaged.add(number)
            log.warning("a part of the history is damaged: chunk %d: %s", number, error, extra={"action": "chunk"})


_APPEND = "INSERT INTO chunks (kind, entity_id, start, data) SELECT ?, id, ?, ? FROM entities WHERE name = ?"
_CHUNKS = """
    SELECT id, start, data FROM chunks INDEXED BY chunks_by_time
    WHERE kind = ? AND entity_id = ? AND start > ? AND start < ? ORDER BY start, id
"""
_STARTS = """
    SELECT start FROM chunks INDEXED BY chunks_by_time WHERE kind = ? AND entity_id = ? AND start > ? AND start < ?
"""
_ROLLUPS = """
    SELECT start, count, minimum, mean, maximum FROM rollups
    WHERE entity_id = ? AND metric_id = ? AND seconds = ? AND start > ? AND start < ?
"""


def used_bytes(conn: Connection) -> int:
    """Pages in use, in bytes."""
    pages, free, size = (
        sql.value(conn, f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size")
    )  # fmt: skip
    return int((pages - free) * size)


class _Look:
    """One question about one series, in one transaction."""

    def __init__(
        self, store: Telemetry, conn: Connection, entity_id: int, metric: Metric, since: float, until: float
    ) -> None:
        self._store, self._conn, self._entity_id, self._metric = store, conn, entity_id, metric
        self._since, self._until = since, until
        self.extra: list[NewChunk] = []

    def _decode(self, kind: Kind, since: float, until: float, decode: Callable[[Chunk], T]) -> Iterator[T]:
        """What ``decode`` makes of every chunk of the stretch that is sound."""
        for row in sql.rows(self._conn, _CHUNKS, (int(kind), self._entity_id, since - kind.seconds, until)):
            try:
                found = decode(Chunk(row.data))
            except ChunkError as error:
                self._store.damaged(row.id, error)
                continue
            yield found

    def _sampled(self, kinds: Sequence[Kind]) -> tuple[list[float], list[float]]:
        """Times (Unix seconds), ascending, and values, in units, of the samples that have one."""
        times: list[float] = []
        values: list[float] = []
        ordered = True
        for some_times, some in chain(self._stored(kinds), map(self._decoded, self._fresh())):
            ordered = ordered and (not times or not some_times or times[-1] <= some_times[0])
            times += some_times
            values += some
        if not ordered:
            order = sorted(range(len(times)), key=times.__getitem__)
            times, values = [times[place] for place in order], [values[place] for place in order]
        first, last = bisect_left(times, self._since), bisect_left(times, self._until)
        return (times, values) if last - first == len(times) else (times[first:last], values[first:last])

    def _fresh(self) -> Iterator[Chunk]:
        return (Chunk(one.data) for one in self.extra if self._since - MINUTE < one.start < self._until)

    def _stored(self, kinds: Sequence[Kind]) -> Iterator[tuple[list[float], list[float]]]:
        for kind in kinds:
            yield from self._decode(kind, self._since, self._until, self._decoded)

    def _decoded(self, chunk: Chunk) -> tuple[list[float], list[float]]:
        """Times and values of the rows in which the metric is there."""
        times, _ = chunk.scaled(TIMES, 1, TICKS)
        values, chart = chunk.scaled(self._metric.number, self._metric.times, self._metric.parts)
        return times if chart is None else list(compress(times, chart)), values

    def samples(self) -> tuple[list[float], list[float], list[Point]]:
        """Every sample, and points of minutes for hours of which no samples are left."""
        times, values = self._sampled((Kind.SAMPLES_HOUR, Kind.SAMPLES_MINUTE))
        points = [point for since, until in self._gone() for point in self._minutes(since, until)]
        return times, values, points

    def _gone(self) -> list[tuple[float, float]]:
        """The stretches of whole hours without a chunk of samples."""
        there = set()
        for kind in (Kind.SAMPLES_HOUR, Kind.SAMPLES_MINUTE):
            starts = (int(kind), self._entity_id, self._since - HOUR, self._until)
            there |= {row.start // HOUR for row in sql.rows(self._conn, _STARTS, starts)}
        there |= {chunk.start // HOUR for chunk in self.extra}
        within = [edge for hour in sorted(there) for edge in (hour * HOUR, (hour + 1) * HOUR)]
        edges = [self._since, *within, self._until]
        pairs = zip(edges[::2], edges[1::2], strict=True)
        return [(max(start, self._since), min(end, self._until)) for start, end in pairs if start < end]

    def _minutes(self, since: float, until: float) -> list[Point]:
        """Points of compacted minutes; a minute that was compacted again counts as it was the last time."""
        found: dict[float, Point] = {}
        for kind in (Kind.MINUTES_DAY, Kind.MINUTES_HOUR):
            for points in self._decode(kind, since, until, self._in_minutes):
                found |= {point.start: point for point in points}
        return [each for start, each in sorted(found.items()) if since - MINUTE < start < until]

    def _in_minutes(self, chunk: Chunk) -> list[Point]:
        return minute_points([chunk.column(key) for key in minute_keys(self._metric)], self._metric)

    def points(self, step: float) -> list[Point]:
        """Points no coarser than ``step``, those of the hour that is not over from its samples."""
        unit = MINUTE if step < HOUR else HOUR if step < DAY or step % DAY else DAY
        times, values = self._sampled((Kind.SAMPLES_MINUTE,))
        fresh = points_of(times, values, MINUTE, self._metric)
        if unit == MINUTE:
            kept = self._minutes(self._since, self._until)
            # A late minute of an hour that was compacted is in it only after the next compaction.
            there = {point.start // HOUR for point in kept}
            older = [p for p in self._rolled(HOUR) if p.start // HOUR not in there]
            return [*kept, *older, *fresh]
        return [*self._rolled(unit), *fresh]

    def _rolled(self, seconds: int) -> list[Point]:
        asked = (self._entity_id, self._metric.number, seconds, self._since - seconds, self._until)
        return [in_units(self._metric, Point(*row)) for row in sql.rows(self._conn, _ROLLUPS, asked)]


def _plain(entity: str, metric: Metric, step: float, times: list[float], values: list[float]) -> Series:
    """The samples as they are: least, mean and most are the same list."""
    means = values
    if metric.bits:
        shares = {value: float(int(value) & ~IDLE_BIT != 0) for value in set(values)}
        means = list(map(shares.__getitem__, values))
    return Series(
        entity=entity,
        metric=metric.name,
        unit=metric.unit,
        step=step,
        times=times,
        minimum=values,
        mean=means,
        maximum=values,
    )


def _series(entity: str, metric: Metric, step: float, points: Sequence[Point]) -> Series:
    return Series(
        entity=entity,
        metric=metric.name,
        unit=metric.unit,
        step=step,
        times=[point.start for point in points],
        minimum=[point.minimum for point in points],
        mean=[point.mean for point in points],
        maximum=[point.maximum for point in points],
    )
