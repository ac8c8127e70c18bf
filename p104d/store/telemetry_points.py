"""What values over a stretch of time come to: count, least, mean and most; and such points put together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import groupby
from math import floor
from operator import and_, or_
from typing import NamedTuple

from p104d.store.telemetry_metrics import IDLE_BIT

#: A start that is a multiple of the step must not fall into the stretch before by the last bit of a fraction.
_ROUNDING = 1e-6


class Point(NamedTuple):
    """What some samples, ``samples`` of them, come to in the stretch that begins at ``start`` (Unix seconds). In the
    file values are whole numbers of the metric's scale (the mean a fraction of them), in answers in its unit."""

    start: float
    samples: int
    minimum: float
    mean: float
    maximum: float


def point(start: float, values: Sequence[float], *, bits: bool = False) -> Point:
    """The point of at least one value."""
    count = len(values)
    if bits:
        flags = [int(value) for value in values]
        throttled = sum(1 for value in flags if value & ~IDLE_BIT)
        return Point(start, count, reduce(and_, flags), throttled / count, reduce(or_, flags))
    return Point(start, count, min(values), sum(values) / count, max(values))


def merged(start: float, points: Sequence[Point], *, bits: bool = False) -> Point:
    """At least one point as one: exactly what all of their values would have come to."""
    if len(points) == 1:
        return points[0]._replace(start=start)
    count = sum(each.samples for each in points)
    mean = sum(each.samples * each.mean for each in points) / count
    if bits:
        always = reduce(and_, (int(each.minimum) for each in points))
        return Point(start, count, always, mean, reduce(or_, (int(each.maximum) for each in points)))
    return Point(start, count, min(p.minimum for p in points), mean, max(p.maximum for p in points))


def bucketed(points: Iterable[Point], step: float, *, bits: bool = False) -> list[Point]:
    """Points as one for each stretch of ``step`` seconds (counted from 1970, UTC) that has any, in order of time."""
    ordered = sorted(points, key=lambda each: each.start)
    stretches = groupby(ordered, lambda each: floor(each.start / step + _ROUNDING))
    return [merged(number * step, list(some), bits=bits) for number, some in stretches]


def spans(times: Sequence[float], unit: float) -> list[tuple[float, int, int]]:
    """Where in ``times`` (ascending) each stretch of ``unit`` begins and ends: its number, first index, last + 1."""
    found: list[tuple[float, int, int]] = []
    first, count = 0, len(times)
    while first < count:
        number = times[first] // unit
        after = first + 1
        while after < count and times[after] // unit == number:
            after += 1
        found.append((number, first, after))
        first = after
    return found
