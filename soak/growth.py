"""What grew, how fast, and whether that is too much."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from soak.rig import Sample

MIB = 2**20


class Bound(msgspec.Struct, frozen=True):
    """``most`` is never to be exceeded; ``per_hour`` is the growth that is let pass, the slope of the second half."""

    name: str
    attribute: str
    unit: float
    most: float
    per_hour: float


#: Memory settles while caches fill; the database and readings grow with what is kept, by design.
BOUNDS = (
    Bound("memory, all processes (PSS)", "memory_bytes", MIB, 160.0, 30.0),
    Bound("descriptors of the daemon", "descriptors", 1.0, 400.0, 60.0),
    Bound("threads of the daemon", "threads", 1.0, 40.0, 6.0),
    Bound("processes", "processes", 1.0, 80.0, 30.0),
    Bound("write-ahead log of the queue", "wal_bytes", MIB, 16.0, 16.0),
    Bound("queue.db", "database_bytes", MIB, 512.0, 400.0),
    Bound("telemetry.db", "telemetry_bytes", MIB, 128.0, 60.0),
    Bound("logs of jobs", "jobs_bytes", MIB, 256.0, 4000.0),
)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table. ``per_hour`` None: too short to tell."""

    name: str
    first: float
    last: float
    most: float
    per_hour: float | None
    bound: float
    bound_per_hour: float
    good: bool


def growths(samples: Sequence[Sample]) -> list[Growth]:
    """Every bound, measured."""
    return [_growth(bound, samples) for bound in BOUNDS]


def _growth(bound: Bound, samples: Sequence[Sample]) -> Growth:
    values = [getattr(sample, bound.attribute) / bound.unit for sample in samples]
    half = len(values) // 2
    rate = _slope([sample.seconds for sample in samples[half:]], values[half:])
    # A slope needs its time: what a minute's load makes of it is noise.
    long_enough = samples[-1].seconds - samples[half].seconds >= 120.0
    most = max(values)
    return Growth(
        name=bound.name,
        first=values[0],
        last=values[-1],
        most=most,
        per_hour=rate * 3600.0 if long_enough else None,
        bound=bound.most,
        bound_per_hour=bound.per_hour,
        good=most <= bound.most and not (long_enough and rate * 3600.0 > bound.per_hour),
    )


def _slope(times: Sequence[float], values: Sequence[float]) -> float:
    """The median of the slopes between all pairs (Theil and Sen): one spike does not tilt it."""
    step = max(1, len(times) // 60)
    points = list(zip(times, values, strict=True))[::step]
    slopes = [(v - u) / (t - s) for i, (s, u) in enumerate(points) for t, v in points[i + 1 :] if t > s]
    return statistics.median(slopes) if slopes else 0.0


def table(rows: Sequence[Growth]) -> str:
    """For people."""
    lines = [f"{'':32} {'first':>8} {'last':>8} {'most':>8} {'bound':>8} {'an hour':>9} {'bound':>8}"]
    for row in rows:
        rate = "-" if row.per_hour is None else f"{row.per_hour:+.1f}"
        figures = (
            f"{row.first:8.1f} {row.last:8.1f} {row.most:8.1f} {row.bound:8.0f} {rate:>9} {row.bound_per_hour:8.0f}"
        )
        lines.append(f"{row.name:32} {figures}{'' if row.good else '  TOO MUCH'}")
    return "\n".join([*lines, "sizes in MiB"])
