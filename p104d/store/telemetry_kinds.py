"""What kinds of chunks there are, what their columns mean, and how one kind is made of another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from p104d.store.telemetry_chunks import Chunk, Column, encode
from p104d.store.telemetry_metrics import BY_NUMBER, Metric
from p104d.store.telemetry_points import Point, point, spans

MINUTE, HOUR, DAY = 60, 3600, 86400
#: Times of samples are kept in 1/16 s: a timer's lateness is noise that would cost more than the readings, and
#: fractions of two add up exactly.
TICKS = 16
#: The column of times: ticks in chunks of samples, Unix seconds in those of minutes.
TIMES = 0
#: Chunks of minutes have four columns a metric: keys are ``number * _PARTS`` and on. The mean is kept as tenths above
#: the least (of a set of flags: as thousandths), the most as what it is above the least.
_PARTS = 4
_TENTHS, _THOUSANDTHS = 10, 1000


class Kind(IntEnum):
    """The numbers are in the files."""

    SAMPLES_MINUTE = 0
    SAMPLES_HOUR = 1
    MINUTES_HOUR = 2
    MINUTES_DAY = 3

    @property
    def seconds(self) -> int:
        return (MINUTE, HOUR, HOUR, DAY)[self]


def points_of(times: Sequence[float], values: Sequence[float], seconds: float, metric: Metric) -> list[Point]:
    """Points of each stretch of ``seconds`` that has any value; ``times`` (Unix seconds) ascend."""
    return sliced(spans(times, seconds), values, seconds, metric)


def sliced(
    places: Sequence[tuple[float, int, int]], values: Sequence[float | None], seconds: float, metric: Metric
) -> list[Point]:
    """Points of the stretches in ``places`` (``telemetry_points.spans``), where any value is."""
    whole = None not in values
    found = []
    for number, first, after in places:
        some = values[first:after]
        present = [value for value in some if value is not None] if not whole else some
        if present:
            found.append(point(number * seconds, present, bits=metric.bits))  # type: ignore[arg-type]
    return found


def minutes_chunk(points: Mapping[int, Sequence[Point]]) -> bytes:
    """A chunk of minutes' points, by the number of their metric."""
    starts = sorted({int(each.start) for some in points.values() for each in some})
    places = {start: place for place, start in enumerate(starts)}
    columns: dict[int, Column] = {TIMES: starts}
    for number, some in points.items():
        metric = BY_NUMBER.get(number)
        parts: list[list[int | None]] = [[None] * len(starts) for _ in range(_PARTS)]
        for each in some:
            place = places[int(each.start)]
            least, spread = int(each.minimum), int(each.maximum - each.minimum)
            mean = _kept_mean(each, bits=metric is not None and metric.bits)
            for part, value in zip(parts, (each.samples, least, mean, spread), strict=True):
                part[place] = value
        columns |= {number * _PARTS + part: column for part, column in enumerate(parts)}
    return encode(columns)


def _kept_mean(each: Point, *, bits: bool) -> int:
    return round(each.mean * _THOUSANDTHS) if bits else round((each.mean - each.minimum) * _TENTHS)


def minute_keys(metric: Metric) -> list[int]:
    """The keys of the columns that ``minute_points`` takes."""
    return [TIMES, *(metric.number * _PARTS + part for part in range(_PARTS))]


def minute_points(columns: Sequence[Column], metric: Metric) -> list[Point]:
    """The points of ``metric`` from the columns ``minute_keys`` of a chunk of minutes, in its units."""
    starts, *parts = columns
    found = []
    for start, count, least, mean, spread in zip(starts, *parts, strict=True):
        if start is None or count is None or least is None or mean is None or spread is None:
            continue
        real = mean / _THOUSANDTHS if metric.bits else least + mean / _TENTHS
        found.append(in_units(metric, Point(start, count, least, real, least + spread)))
    return found


def in_units(metric: Metric, kept: Point) -> Point:
    """A point of whole numbers as one of the metric's units."""
    if metric.bits:
        return kept
    times, parts = metric.times, metric.parts
    if parts == 1:
        return kept._replace(minimum=kept.minimum * times, mean=kept.mean * times, maximum=kept.maximum * times)
    least, mean, most = (value * times / parts for value in (kept.minimum, kept.mean, kept.maximum))
    return kept._replace(minimum=least, mean=mean, maximum=most)


def one_day(chunks: Iterable[Chunk]) -> bytes:
    """A day's chunk of minutes from those of its hours. Of a minute that is in several, the last counts."""
    rows: dict[int, tuple[Chunk, int]] = {}
    columns: dict[int, dict[int, list[int | None]]] = {}
    keys: set[int] = set()
    for chunk in chunks:
        columns[id(chunk)] = {key: chunk.column(key) for key in chunk.keys}
        keys |= columns[id(chunk)].keys()
        rows |= {start: (chunk, place) for place, start in enumerate(chunk.column(TIMES)) if start is not None}
    order = [rows[start] for start in sorted(rows)]
    return encode({key: [_at(columns[id(chunk)], key, place) for chunk, place in order] for key in sorted(keys)})


def _at(columns: Mapping[int, list[int | None]], key: int, place: int) -> int | None:
    column = columns.get(key)
    return None if column is None else column[place]
