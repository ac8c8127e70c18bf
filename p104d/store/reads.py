"""Questions to the queue: what could start, what is open, what a person asked to see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import JobSpec, JobState, Requirement
from p104d.core.snapshot import WaitingJob
from p104d.store import sql
from p104d.store.submit import StoredEnv

#: More distinct requirements than this are looked at in turns; see ready().
MAX_REQUIREMENTS = 512


class OpenAttempt(msgspec.Struct, kw_only=True):
    """An attempt whose end is not known yet, with what it holds."""

    job_id: int
    number: int
    state: JobState
    name: str
    uid: int
    boot_id: str
    stop_reason: str | None
    pid: int | None
    placed_at: float
    started_at: float | None
    ends_by: float | None
    ram_bytes: int
    cards: int
    instance_id: int | None
    holds: list[tuple[str, int, bool]]


class JobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon needs to start or to judge a job."""

    id: int
    document_id: int
    name: str
    uid: int
    user: str
    state: JobState
    priority: int
    attempts: int
    failures: int
    matrix: dict[str, str]
    spec: JobSpec
    env: StoredEnv
    umask: int
    submitted_at: float = 0.0


#: INDEXED BY, because the planner without statistics prefers the index on state, which grows with the queue; and
#: CROSS JOIN, which to SQLite means "in this order".
_READY = "state = 'queued' AND blocked = 0 AND eligible_at IS NULL"
#: A loose index scan: one seek per distinct requirement, however many jobs share it.
_REQUIREMENTS_READY = f"""
    WITH RECURSIVE r(id) AS (
        SELECT (SELECT min(requirement_id) FROM jobs INDEXED BY jobs_ready WHERE {_READY} AND requirement_id > ?)
        UNION ALL
        SELECT (SELECT min(requirement_id) FROM jobs INDEXED BY jobs_ready WHERE {_READY} AND requirement_id > r.id)
        FROM r WHERE r.id IS NOT NULL
    )
    SELECT r.id, q.requirement FROM r JOIN requirements q ON q.id = r.id LIMIT ?
"""  # noqa: S608 - constants
_READY_OF = """
    SELECT j.id, j.priority, d.time_limit_seconds, j.submitted_at
    FROM jobs j INDEXED BY jobs_ready JOIN documents d ON d.id = j.document_id
    WHERE j.requirement_id = ? AND j.state = 'queued' AND j.blocked = 0 AND j.eligible_at IS NULL
    ORDER BY j.priority DESC, j.id LIMIT ?
"""
_READY_COUNT = f"""
    SELECT count(*) FROM (
        SELECT 1 FROM jobs INDEXED BY jobs_ready WHERE requirement_id = ? AND {_READY} LIMIT ?)
"""  # noqa: S608 - constants
_FIRST = """
    SELECT j.id, j.priority, q.requirement, d.time_limit_seconds, j.submitted_at
    FROM jobs j INDEXED BY jobs_order JOIN requirements q ON q.id = j.requirement_id
        JOIN documents d ON d.id = j.document_id
    WHERE j.state = 'queued' AND j.blocked = 0 AND j.eligible_at IS NULL
    ORDER BY j.priority DESC, j.id LIMIT ?
"""
_decode_requirement = msgspec.json.Decoder(Requirement).decode
#: The jobs of a matrix share their document, and nothing changes it: most decodes are the one before again.
_decode_spec = lru_cache(maxsize=64)(msgspec.json.Decoder(JobSpec).decode)
_decode_env = lru_cache(maxsize=64)(msgspec.json.Decoder(StoredEnv).decode)
_decode_matrix = msgspec.json.Decoder(dict[str, str]).decode


def ready_requirements(conn: Connection, after: int = 0) -> list[tuple[int, Requirement]]:
    """The distinct requirements of jobs that could start now, by id from ``after`` on, at most MAX_REQUIREMENTS."""
    rows = sql.rows(conn, _REQUIREMENTS_READY, (after, MAX_REQUIREMENTS))
    return [(int(row[0]), _decode_requirement(row[1])) for row in rows]


def ready_jobs(conn: Connection, requirement_id: int, requirement: Requirement, limit: int) -> list[WaitingJob]:
    """The first ``limit`` jobs of a requirement, in the order in which they start."""
    rows = sql.rows(conn, _READY_OF, (requirement_id, limit))
    return [
        WaitingJob(id=row[0], priority=row[1], requirement=requirement, time_limit_seconds=row[2], arrival=row[3])
        for row in rows
    ]


def ready_count(conn: Connection, requirement_id: int, most: int) -> int:
    """How many jobs of a requirement could start now, counted up to ``most``."""
    return int(sql.value(conn, _READY_COUNT, (requirement_id, most)))


def first_jobs(conn: Connection, limit: int) -> list[WaitingJob]:
    """The first ``limit`` jobs that could start, whatever they ask for, in the order in which they are served."""
    return [
        WaitingJob(id=r[0], priority=r[1], requirement=_decode_requirement(r[2]), time_limit_seconds=r[3], arrival=r[4])
        for r in sql.rows(conn, _FIRST, (limit,))
    ]


def next_timer(conn: Connection) -> float | None:
    """When the next waiting job becomes ready by itself."""
    value = sql.value(
        conn,
        "SELECT min(eligible_at) FROM jobs INDEXED BY jobs_timer WHERE state = 'queued' AND eligible_at IS NOT NULL",
    )
    return None if value is None else float(value)


def counts(conn: Connection) -> dict[str, int]:
    """Jobs per state, every state named."""
    found = {str(row[0]): int(row[1]) for row in sql.rows(conn, "SELECT state, jobs FROM state_counts")}
    return {state.value: found.get(state.value, 0) for state in JobState}


def waiting_of_user(conn: Connection, uid: int) -> int:
    """How many held and queued jobs a user has."""
    return int(sql.value(conn, "SELECT count(*) FROM jobs WHERE uid = ? AND state IN ('held', 'queued')", (uid,)))


_OPEN = """
    SELECT a.job_id, a.number, j.state, j.name, j.uid, a.boot_id, a.stop_reason, a.pid, a.placed_at, a.started_at,
           a.ends_by, a.ram_bytes, a.cards, a.instance_id
    FROM attempts a INDEXED BY attempts_open CROSS JOIN jobs j ON j.id = a.job_id
    WHERE a.outcome IS NULL ORDER BY a.job_id
"""
_OPEN_CARDS = """
    SELECT c.job_id, c.card_uuid, c.reserved_bytes, c.exclusive FROM attempts a INDEXED BY attempts_open
    CROSS JOIN attempt_cards c ON c.job_id = a.job_id AND c.number = a.number
    WHERE a.outcome IS NULL ORDER BY c.job_id, c.position
"""


def open_attempts(conn: Connection) -> list[OpenAttempt]:
    """Every attempt without an outcome, oldest job first."""
    fields = OpenAttempt.__struct_fields__[:-1]
    found: dict[int, OpenAttempt] = {
        row[0]: OpenAttempt(**dict(zip(fields, row, strict=True)), holds=[]) for row in sql.rows(conn, _OPEN)
    }
    held = sql.rows(conn, _OPEN_CARDS) if any(attempt.cards for attempt in found.values()) else []
    for job_id, uuid, reserved, exclusive in held:
        found[job_id].holds.append((uuid, reserved, bool(exclusive)))
    for attempt in found.values():
        attempt.state = JobState(attempt.state)
    return list(found.values())


_FACTS = """
    SELECT j.id, j.document_id, j.name, j.uid, j.user, j.state, j.priority, j.attempts, j.failures, j.matrix,
           j.submitted_at, d.spec, d.env, d.umask
    FROM jobs j JOIN documents d ON d.id = j.document_id WHERE j.id = ?
"""


def facts(conn: Connection, job_id: int) -> JobFacts | None:
    """One job with its specification, or None."""
    row = sql.row(conn, _FACTS, (job_id,))
    if row is None:
        return None
    return JobFacts(
        id=row.id,
        document_id=row.document_id,
        name=row.name,
        uid=row.uid,
        user=row.user,
        state=JobState(row.state),
        priority=row.priority,
        attempts=row.attempts,
        failures=row.failures,
        matrix=_decode_matrix(row.matrix) if row.matrix else {},
        spec=_decode_spec(row.spec),
        env=_decode_env(row.env),
        umask=row.umask,
        submitted_at=row.submitted_at,
    )


def unmet_needs(conn: Connection, document_id: int, limit: int = 5) -> list[tuple[int, str]]:
    """(job, state) of some of the jobs that this document's jobs wait for."""
    statement = """
        SELECT j.id, j.state FROM needs n JOIN jobs j ON j.id = n.needs_job_id
            WHERE n.document_id = :d AND j.state <> 'succeeded'
        UNION SELECT j.id, j.state FROM needs n JOIN jobs j ON j.document_id = n.needs_document_id
            WHERE n.document_id = :d AND j.state <> 'succeeded'
        ORDER BY 1 LIMIT :limit
        """
    return [(row[0], row[1]) for row in sql.rows(conn, statement, {"d": document_id, "limit": limit})]


_DOOMED = "('cancelled', 'failed', 'lost')"


def doomed_need(conn: Connection, document_id: int) -> tuple[int, str] | None:
    """A job that this document needs and that has ended otherwise than succeeded, if there is one."""
    one = sql.row(
        conn,
        "SELECT j.id, j.state FROM needs n JOIN jobs j ON j.id = n.needs_job_id "  # noqa: S608 - a constant
        f"WHERE n.document_id = ? AND j.state IN {_DOOMED} ORDER BY j.id LIMIT 1",
        (document_id,),
    )
    if one is not None:
        return one[0], one[1]
    needs = sql.rows(
        conn,
        "SELECT needs_document_id FROM needs WHERE document_id = ? AND needs_document_id IS NOT NULL ORDER BY 1",
        (document_id,),
    )
    return next((found for (need,) in needs if (found := doomed_job(conn, need)) is not None), None)


def doomed_job(conn: Connection, document_id: int) -> tuple[int, str] | None:
    """A job of this document that has ended otherwise than succeeded, if there is one."""
    row = sql.row(
        conn,
        "SELECT id, state FROM jobs INDEXED BY jobs_document "  # noqa: S608 - a constant
        f"WHERE document_id = ? AND state IN {_DOOMED} LIMIT 1",
        (document_id,),
    )
    return None if row is None else (row[0], row[1])


def losses(conn: Connection, job_id: int) -> int:
    """How many attempts of a job were lost with their shim or host."""
    return _attempts_ended(conn, job_id, "lost")


def revokes(conn: Connection, job_id: int) -> int:
    """How many attempts of a job were taken back before they ran."""
    return _attempts_ended(conn, job_id, "revoked")


def _attempts_ended(conn: Connection, job_id: int, outcome: str) -> int:
    statement = "SELECT count(*) FROM attempts WHERE job_id = ? AND outcome = ?"
    return int(sql.value(conn, statement, (job_id, outcome)))


def servers_lost(conn: Connection, job_id: int, reasons: Sequence[str]) -> int:
    """How many attempts of a job ended for one of these reasons."""
    marks = ",".join("?" * len(reasons))
    statement = f"SELECT count(*) FROM attempts WHERE job_id = ? AND reason IN ({marks})"  # noqa: S608 - marks
    return int(sql.value(conn, statement, (job_id, *reasons)))


def stop_reason(conn: Connection, job_id: int, number: int) -> str | None:
    """Why the daemon asked an attempt to stop; None where it did not."""
    statement = "SELECT stop_reason FROM attempts WHERE job_id = ? AND number = ?"
    value = sql.value(conn, statement, (job_id, number))
    return None if value is None else str(value)


def requirement(conn: Connection, requirement_id: int) -> Requirement:
    """A stored requirement."""
    statement = "SELECT requirement FROM requirements WHERE id = ?"
    return _decode_requirement(sql.value(conn, statement, (requirement_id,)))


def time_limit(conn: Connection, document_id: int) -> float | None:
    """The time limit of a document's jobs, seconds."""
    value = sql.value(conn, "SELECT time_limit_seconds FROM documents WHERE id = ?", (document_id,))
    return None if value is None else float(value)


class Document(msgspec.Struct, frozen=True):
    """A stored document: its specification and environment."""

    spec: JobSpec
    env: StoredEnv


def document(conn: Connection, document_id: int) -> Document:
    """One document; it exists as long as a job or schedule names it."""
    row = sql.rows(conn, "SELECT spec, env FROM documents WHERE id = ?", (document_id,))[0]
    return Document(_decode_spec(row.spec), _decode_env(row.env))


def needed_jobs(conn: Connection, document_id: int, limit: int = 1000) -> list[int]:
    """The jobs that a document's jobs need to have succeeded, by id."""
    statement = """
        SELECT needs_job_id AS id FROM needs WHERE document_id = :d AND needs_job_id IS NOT NULL
        UNION SELECT j.id FROM needs n JOIN jobs j ON j.document_id = n.needs_document_id WHERE n.document_id = :d
        ORDER BY 1 LIMIT :limit
        """
    return [int(row[0]) for row in sql.rows(conn, statement, {"d": document_id, "limit": limit})]
