"""Samples that are easy to check, and the store they go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from p104d.store import sql
from p104d.store.telemetry import Samples, Telemetry, pack
from p104d.store.telemetry_kinds import Kind

CARD = "GPU-00000000-1111-4222-8333-444444444444"
#: Midnight, UTC.
DAY0 = 1_760_054_400
TEMPERATURE, POWER, MEMORY, THROTTLE = 1, 3, 9, 10


def temperature(at: float) -> int:
    """What the card read then."""
    return 40 + int(at) // 7 % 25


def record(
    store: Telemetry,
    start: float,
    seconds: int,
    *,
    entity: str = CARD,
    value: Callable[[float], int | None] = temperature,
    metric: int = TEMPERATURE,
) -> None:
    """A sample a second, written a minute at a time."""
    times = [start + second for second in range(seconds)]
    store.append(pack(Samples(entity, times, {metric: [value(at) for at in times]})))


def raw(store: Telemetry, since: float, until: float, metric: str = "temperature_celsius") -> dict[float, float]:
    """The samples as they are."""
    found = store.series(CARD, metric, since, until, 1.0)
    assert len(found.times) == len(found.mean)
    return dict(zip(found.times, found.mean, strict=True))


def kinds(store: Telemetry) -> dict[Kind, int]:
    """How many chunks there are of each kind."""
    with store.file.read() as conn:
        return {Kind(row[0]): row[1] for row in sql.rows(conn, "SELECT kind, count(*) FROM chunks GROUP BY kind")}


def rows(store: Telemetry, statement: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
    """Any question, as plain tuples."""
    with store.file.read() as conn:
        return [tuple(row) for row in sql.rows(conn, statement, parameters)]


def spoil(path: Path, statement: str) -> None:
    """Do to a closed file what a failing disk does."""
    import sqlite3

    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()
