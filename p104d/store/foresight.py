"""What a forecast reads of the queue: a bounded part of what waits, and how long its like ran."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import JobState
from p104d.store import sql

#: Of the jobs that ended last so many tell how long their like runs.
_LOOK_BACK = 2000
#: Of one document.
_ENOUGH = 16
#: So many ids of jobs that others need are read in all.
_MOST_NEEDS = 20_000


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A job that waits; times are Unix seconds."""

    id: int
    document_id: int
    name: str
    state: JobState
    priority: int
    requirement_id: int
    blocked: bool
    eligible_at: float | None
    submitted_at: float
    time_limit_seconds: float | None


_COLUMNS = """
    SELECT j.id, j.document_id, j.name, j.state, j.priority, j.requirement_id, j.blocked, j.eligible_at, j.submitted_at,
           d.time_limit_seconds
"""
_JOINED = "CROSS JOIN documents d ON d.id = j.document_id"
#: Along the indexes that the scheduler has. Those that wait for others have none; they are looked for among the oldest.
_PARTS: tuple[str, ...] = (
    f"""{_COLUMNS} FROM jobs j INDEXED BY jobs_order {_JOINED}
        WHERE j.state = 'queued' AND j.blocked = 0 AND j.eligible_at IS NULL
        ORDER BY j.priority DESC, j.id LIMIT :most""",
    f"""{_COLUMNS} FROM jobs j INDEXED BY jobs_timer {_JOINED}
        WHERE j.state = 'queued' AND j.eligible_at IS NOT NULL ORDER BY j.eligible_at LIMIT :most""",
    f"""{_COLUMNS} FROM (SELECT * FROM jobs INDEXED BY jobs_state WHERE state = 'queued' ORDER BY id LIMIT :far) j
        {_JOINED} WHERE j.blocked = 1 AND j.eligible_at IS NULL ORDER BY j.id LIMIT :most""",  # noqa: S608 - constants
    f"""{_COLUMNS} FROM jobs j INDEXED BY jobs_state {_JOINED} WHERE j.state = 'held' ORDER BY j.id LIMIT :most""",
)


def waiting(conn: Connection, most: int) -> list[Waiting]:
    """The first ``most`` of the jobs that wait, in the order in which they are served."""
    found = [
        Waiting(
            id=row[0],
            document_id=row[1],
            name=row[2],
            state=JobState(row[3]),
            priority=row[4],
            requirement_id=row[5],
            blocked=bool(row[6]),
            eligible_at=row[7],
            submitted_at=row[8],
            time_limit_seconds=row[9],
        )
        for part in _PARTS
        for row in sql.rows(conn, part, {"most": most, "far": 4 * most})
    ]
    return sorted(found, key=lambda job: (-job.priority, job.id))[:most]


_NEEDED = """
    SELECT j.id FROM needs n JOIN jobs j ON j.id = n.needs_job_id
        WHERE n.document_id = :document AND j.state <> 'succeeded'
    UNION SELECT j.id FROM needs n JOIN jobs j ON j.document_id = n.needs_document_id
        WHERE n.document_id = :document AND j.state <> 'succeeded'
    ORDER BY 1 LIMIT :most
"""


def needs(conn: Connection, documents: Iterable[int]) -> dict[int, frozenset[int]]:
    """By document, the jobs that have still to succeed before its own start. Documents that need too many are told with
    some of these."""
    found: dict[int, frozenset[int]] = {}
    left = _MOST_NEEDS
    for document in dict.fromkeys(documents):
        rows = sql.rows(conn, _NEEDED, {"document": document, "most": max(1, left)})
        found[document] = frozenset(int(row[0]) for row in rows)
        left -= len(rows)
    return found


class RunTimes:
    """How long jobs ran that succeeded of late, by name and requirement; read as it is asked for."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._exact: dict[tuple[str, int], float] = {}
        self._names: dict[str, tuple[int, float]] = {}
        self._documents: dict[int, float | None] = {}
        for name, requirement, count, seconds in sql.rows(conn, _RUN_TIMES, (_LOOK_BACK,)):
            self._exact[name, requirement] = seconds / count
            before = self._names.get(name, (0, 0.0))
            self._names[name] = (before[0] + count, before[1] + seconds)

    def of(self, name: str, requirement_id: int, document_id: int) -> float | None:
        """The mean of its like, in seconds; None: none has succeeded."""
        exact = self._exact.get((name, requirement_id))
        if exact is not None:
            return exact
        if name in self._names:
            count, seconds = self._names[name]
            return seconds / count
        if document_id not in self._documents:
            value = sql.value(self._conn, _OF_DOCUMENT, (document_id, _ENOUGH))
            self._documents[document_id] = None if value is None else float(value)
        return self._documents[document_id]

    def overall(self) -> float | None:
        """The mean over the names; None: nothing has succeeded."""
        means = [seconds / count for count, seconds in self._names.values()]
        return sum(means) / len(means) if means else None


_RUN_TIMES = """
    SELECT name, requirement_id, count(*), sum(ended_at - started_at) FROM (
        SELECT name, requirement_id, state, started_at, ended_at FROM jobs INDEXED BY jobs_ended
        WHERE ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT ?)
    WHERE state = 'succeeded' AND started_at IS NOT NULL GROUP BY name, requirement_id
"""
_OF_DOCUMENT = """
    SELECT avg(ended_at - started_at) FROM (
        SELECT started_at, ended_at FROM jobs INDEXED BY jobs_document
        WHERE document_id = ? AND state = 'succeeded' LIMIT ?)
"""


def requirements_of(conn: Connection, jobs: Iterable[int]) -> dict[int, tuple[int, int]]:
    """The requirement and the document of each of these jobs."""
    statement = "SELECT requirement_id, document_id FROM jobs WHERE id = ?"
    return {job: (row[0], row[1]) for job in jobs if (row := sql.row(conn, statement, (job,))) is not None}
