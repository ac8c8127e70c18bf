"""What is remembered of models: how long they load and run, what memory they really took, which ones people pinned."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.store import sql

#: Of a model's loads and peaks so many of the newest teach something: drivers, links and files change.
_RECENT = 8


class LoadTime(msgspec.Struct, frozen=True):
    """What loading a model took of late, in seconds as if on the rig's fastest link."""

    path: str
    label: str
    seconds: float
    count: int


def load_times(conn: Connection, path: str | None = None) -> list[LoadTime]:
    """Of every model that was loaded, or of one; the mean of its newest loads."""
    statement = f"""
        SELECT path, max(label), avg(load_seconds / max(slowness, 0.01)), count(*) FROM (
            SELECT path, label, load_seconds, slowness, row_number() OVER (PARTITION BY path ORDER BY id DESC) AS nth
            FROM instances WHERE load_seconds IS NOT NULL AND (? IS NULL OR path = ?))
        WHERE nth <= {_RECENT} GROUP BY path ORDER BY path
    """  # noqa: S608 - a constant
    return [LoadTime(row[0], row[1], float(row[2]), int(row[3])) for row in sql.rows(conn, statement, (path, path))]


def peaks(conn: Connection, path: str) -> list[tuple[int, int]]:
    """(Estimated, most really used) of the cards of a model's newest copies, bytes."""
    statement = (
        "SELECT c.estimated_bytes, c.peak_bytes FROM instances i JOIN instance_cards c ON c.instance_id = i.id "
        "WHERE i.path = ? AND i.cpu_only = 0 AND c.peak_bytes IS NOT NULL ORDER BY i.id DESC LIMIT ?"
    )
    return [(int(row[0]), int(row[1])) for row in sql.rows(conn, statement, (path, _RECENT))]


class Runs(msgspec.Struct, frozen=True):
    """How many jobs of a family have ended, and how long they ran together (seconds)."""

    count: int
    seconds: float


def ran(conn: Connection, family: str, path: str, label: str, seconds: float) -> None:
    """A job of the family has succeeded after ``seconds``."""
    sql.run(
        conn,
        "INSERT INTO families (key, path, label, runs, run_seconds) VALUES (?,?,?,1,?) "
        "ON CONFLICT (key) DO UPDATE SET runs = runs + 1, run_seconds = run_seconds + excluded.run_seconds",
        (family, path, label, seconds),
    )


def runs(conn: Connection, families: Sequence[str]) -> dict[str, Runs]:
    """What jobs of these families took so far; those that never ran are left out."""
    marks = ",".join("?" * len(families))
    statement = f"SELECT key, runs, run_seconds FROM families WHERE key IN ({marks})"  # noqa: S608 - marks
    return {str(row[0]): Runs(int(row[1]), float(row[2])) for row in sql.rows(conn, statement, tuple(families))}


class Pin(msgspec.Struct, frozen=True):
    """A model that is never unloaded for others, nor because it is idle."""

    path: str
    pinned_by: str
    at: float


def pins(conn: Connection) -> list[Pin]:
    """All pins that people have set."""
    return [Pin(*row) for row in sql.rows(conn, "SELECT path, pinned_by, at FROM pins ORDER BY path")]


def pin(conn: Connection, path: str, by: str, now: float) -> bool:
    """Pin a model; False where it is pinned already."""
    statement = "INSERT INTO pins (path, pinned_by, at) VALUES (?,?,?) ON CONFLICT DO NOTHING RETURNING path"
    return sql.row(conn, statement, (path, by, now)) is not None


def unpin(conn: Connection, path: str) -> bool:
    """Take a pin back; False where there is none."""
    return sql.row(conn, "DELETE FROM pins WHERE path = ? RETURNING path", (path,)) is not None
