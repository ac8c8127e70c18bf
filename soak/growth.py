"""What grew, and whether that is too much: quiet samples compared, not a slope laid through the noise of the load.

A queue keeps its jobs, so a part of what grows does so by the job, by design, and another by the hour. What is left of
``Bound.slack`` is what caches and the allocator take without a leak.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from soak.rig import Sample

MIB, KIB = 2**20, 2**10
#: A run of so many minutes has jobs and faults enough between its first and its last rest. Of a shorter one growth is
#: told, not judged.
LEAST_MINUTES = 5.0


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """``most`` is never to be exceeded, under load either; between two rests ``attribute`` may grow by ``slack``, and
    by ``per_job`` and ``per_hour``. All in ``unit``; the last two in bytes or pieces. None: not judged so."""

    name: str
    attribute: str
    unit: float = 1.0
    most: float | None = None
    slack: float | None = None
    per_job: float = 0.0
    per_hour: float = 0.0


#: The figures behind them are in docs/reliability.md. The shim that is left at a rest may be fresh, or have run many
#: jobs, which costs it 1 MiB once.
BOUNDS = (
    Bound(name="memory of the daemon", attribute="daemon_bytes", unit=MIB, most=96, slack=1.5, per_job=200),
    Bound(name="memory of the sensor", attribute="sensor_bytes", unit=MIB, most=48, slack=1, per_hour=MIB),
    Bound(name="memory of the zygote", attribute="zygote_bytes", unit=MIB, most=16, slack=0.5, per_hour=0.25 * MIB),
    Bound(name="memory of the largest shim", attribute="shim_bytes", unit=MIB, most=16, slack=2),
    Bound(name="memory of all but jobs (PSS)", attribute="total_bytes", unit=MIB, most=256),
    Bound(name="descriptors of the daemon", attribute="descriptors", most=400, slack=1),
    Bound(name="descriptors of its helpers", attribute="helper_descriptors", most=60, slack=1),
    Bound(name="descriptors of a shim", attribute="shim_descriptors", most=40, slack=1),
    Bound(name="threads of the daemon", attribute="threads", most=40, slack=6),
    Bound(name="processes", attribute="processes", most=200, slack=1),
    Bound(name="write-ahead log of queue.db", attribute="wal_bytes", unit=MIB, most=16),
    Bound(name="write-ahead log of telemetry.db", attribute="telemetry_wal_bytes", unit=MIB, most=16),
    Bound(name="queue.db", attribute="database_bytes", unit=MIB, slack=0.5, per_job=1200),
    Bound(name="telemetry.db", attribute="telemetry_bytes", unit=MIB, slack=0.5, per_hour=8 * MIB),
    Bound(name="logs of jobs", attribute="jobs_bytes", unit=MIB, slack=1, per_job=4 * KIB),
    Bound(name="log of the daemon", attribute="log_bytes", unit=MIB, slack=0.1, per_job=100),
)


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, in the bound's unit. ``grew`` and ``allowed`` are of the time between the first and the
    last rest, None where there were not two, or it is not judged; ``per_job`` in bytes or pieces."""

    name: str
    first: float
    last: float
    most: float
    bound: float | None
    grew: float | None
    allowed: float | None
    per_job: float | None
    good: bool


def growths(samples: Sequence[Sample], rests: Sequence[Sample], *, judged: bool) -> list[Growth]:
    """Every bound, measured: ``samples`` are those under load, ``rests`` the quiet ones, the first after a warm-up.
    Not ``judged``: growth is told and never too much."""
    return [_growth(bound, samples, rests, judged=judged) for bound in BOUNDS]


def _growth(bound: Bound, samples: Sequence[Sample], rests: Sequence[Sample], *, judged: bool) -> Growth:
    seen = [getattr(sample, bound.attribute) / bound.unit for sample in (*samples, *rests)]
    first, last = (rests[0], rests[-1]) if len(rests) > 1 else (samples[0], samples[-1])
    begin, end = (getattr(sample, bound.attribute) / bound.unit for sample in (first, last))
    jobs, hours = last.jobs - first.jobs, (last.seconds - first.seconds) / 3600
    grew = allowed = None
    if len(rests) > 1 and bound.slack is not None:
        grew = end - begin
        allowed = bound.slack + (bound.per_job * jobs + bound.per_hour * hours) / bound.unit
    too_much = judged and grew is not None and allowed is not None and grew > allowed
    return Growth(
        name=bound.name,
        first=begin,
        last=end,
        most=max(seen),
        bound=bound.most,
        grew=grew,
        allowed=allowed,
        per_job=grew * bound.unit / jobs if grew is not None and jobs else None,
        good=not too_much and (bound.most is None or max(seen) <= bound.most),
    )


def smallest_leak(rests: Sequence[Sample]) -> float | None:
    """Bytes a job that the daemon would have to leak for this run to see it; None without two rests."""
    if len(rests) < 2 or rests[-1].jobs <= rests[0].jobs:
        return None
    bound = next(bound for bound in BOUNDS if bound.attribute == "daemon_bytes")
    return (bound.slack or 0.0) * bound.unit / (rests[-1].jobs - rests[0].jobs) + bound.per_job


def table(rows: Sequence[Growth]) -> str:
    """For people."""
    heads = ("first", "last", "most", "bound", "grew", "allowed", "a job")
    lines = [f"{'':32} {' '.join(f'{head:>9}' for head in heads)}"]
    for row in rows:
        figures = [
            *(f"{value:9.1f}" for value in (row.first, row.last, row.most)),
            _figure(row.bound, "9.0f"),
            _figure(row.grew, "+9.2f"),
            _figure(row.allowed, "9.2f"),
            _figure(row.per_job, "+9.1f"),
        ]
        lines.append(f"{row.name:32} {' '.join(figures)}{'' if row.good else '  TOO MUCH'}")
    return "\n".join([*lines, "sizes in MiB, a job in bytes; first and last: at rest, most: under load too"])


def _figure(value: float | None, form: str) -> str:
    return f"{'-':>9}" if value is None else format(value, form)
