"""Those that wait for others (``after``): freed when all they need has succeeded, cancelled when some of it cannot.

A hundred thousand jobs may wait for one. So what is to be looked at is a list of documents, of which each step of the
loop settles a part; the rest still waits, and cannot start. Which documents those are need not be written down: all
that have needs are looked at after a start of the daemon.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import JobState
from p104d.core.lifecycle import Move
from p104d.store import moves, reads, sql
from p104d.store.submit import is_blocked

_WAITING = "state IN ('held', 'queued')"
_CANCEL_SOME = moves.guarded(
    Move.CANCEL,
    "reason = :reason, ended_at = :at",
    f"id IN (SELECT id FROM jobs INDEXED BY jobs_document WHERE document_id = :id AND {_WAITING} LIMIT :most)",  # noqa: S608
)


class Cancelled(msgspec.Struct, frozen=True):
    """Jobs of one document that were cancelled because of ``need``, which has ``past`` (failed, was lost, ...)."""

    document_id: int
    need: int
    past: str
    ids: list[int]


class Settled(msgspec.Struct):
    """What came of a part: ``freed`` documents' jobs may start, ``left`` is to be looked at yet."""

    cancelled: list[Cancelled] = []
    freed: int = 0
    left: list[int] = []


def past(state: str) -> str:
    """What a job did that ended so: ``failed``, ``was lost``, ``was cancelled``."""
    return {"failed": "failed", "lost": "was lost"}.get(state, "was cancelled")


def because(need: int, state: str) -> str:
    """Why a job is cancelled that needed one which ended so."""
    return f"job {need}, which it needed, {past(state)}"


def everything(conn: Connection) -> list[int]:
    """All documents that need something."""
    return [row[0] for row in sql.rows(conn, "SELECT DISTINCT document_id FROM needs")]


def of(conn: Connection, job_id: int, document_id: int) -> list[int]:
    """The documents to be looked at because this job, of that document, has ended."""
    found = sql.rows(conn, "SELECT document_id FROM needs WHERE needs_job_id = ?", (job_id,))
    # Few are needed as a whole, and every end comes here.
    needed = sql.value(conn, "SELECT EXISTS (SELECT 1 FROM needs WHERE needs_document_id = ?)", (document_id,))
    if needed and _is_decided(conn, document_id):
        found += sql.rows(conn, "SELECT document_id FROM needs WHERE needs_document_id = ?", (document_id,))
    return [row[0] for row in found]


def _is_decided(conn: Connection, document_id: int) -> bool:
    """Whether all of a document has succeeded, or some of it cannot. As long as others of it are on their way, the end
    of one changes nothing for those that need all of it: nine thousand would be asked at every end."""
    statement = "SELECT state FROM jobs INDEXED BY jobs_document WHERE document_id = ? ORDER BY state LIMIT 1"
    first = sql.value(conn, statement, (document_id,))  # "succeeded" comes last
    return first == JobState.SUCCEEDED or reads.doomed_job(conn, document_id) is not None


def settle(conn: Connection, documents: Iterable[int], now: float, most: int) -> Settled:
    """Free or cancel the jobs of ``documents``, and cancel those that wait for these in turn: up to ``most`` jobs."""
    todo, done = list(dict.fromkeys(documents)), Settled()
    while todo and most > 0:
        document = todo.pop()
        most -= 1
        if not _waits(conn, document):
            continue
        doomed = reads.doomed_need(conn, document)
        if doomed is None:
            done.freed += not is_blocked(conn, document) and _free(conn, document)
            continue
        ids = _cancel(conn, document, doomed, now, most + 1)
        done.cancelled.append(Cancelled(document, doomed[0], past(doomed[1]), ids))
        most -= len(ids)
        # Those that need it are told when its last job is gone.
        todo += [document] if _waits(conn, document) else _needing(conn, document)
    done.left = todo
    return done


def _waits(conn: Connection, document: int) -> bool:
    statement = f"SELECT EXISTS (SELECT 1 FROM jobs WHERE document_id = ? AND {_WAITING})"  # noqa: S608 - constants
    return bool(sql.value(conn, statement, (document,)))


def _free(conn: Connection, document: int) -> int:
    statement = f"UPDATE jobs SET blocked = 0 WHERE document_id = ? AND blocked AND {_WAITING}"  # noqa: S608 - constants
    return sql.run(conn, statement, (document,))


def _cancel(conn: Connection, document: int, doomed: tuple[int, str], now: float, most: int) -> list[int]:
    values = {"id": document, "reason": because(*doomed), "at": now, "most": most}
    return [row.id for row in sql.rows(conn, _CANCEL_SOME, values)]


def _needing(conn: Connection, document: int) -> list[int]:
    rows = sql.rows(
        conn,
        "SELECT document_id FROM needs WHERE needs_document_id = ? UNION "
        "SELECT n.document_id FROM needs n JOIN jobs j ON j.id = n.needs_job_id WHERE j.document_id = ?",
        (document, document),
    )
    return [int(row[0]) for row in rows]


def block(conn: Connection, job_id: int, document_id: int) -> None:
    """A job is to run again: those that wait for it and were free to start wait for it once more."""
    dependents = (
        "SELECT document_id FROM needs WHERE needs_job_id = :job_id "
        "UNION SELECT document_id FROM needs WHERE needs_document_id = :document_id"
    )
    for row in sql.rows(conn, dependents, {"job_id": job_id, "document_id": document_id}):
        sql.run(conn, f"UPDATE jobs SET blocked = 1 WHERE document_id = ? AND {_WAITING}", (row[0],))  # noqa: S608


def wait_again(conn: Connection, job_id: int, document_id: int, now: float) -> str | None:
    """A job that came back to the queue waits for what was retried while it ran; where that has ended otherwise than
    succeeded, the job is cancelled: its reason, else None."""
    if not is_blocked(conn, document_id):
        return None
    sql.run(conn, "UPDATE jobs SET blocked = 1 WHERE id = ? AND state = 'queued'", (job_id,))
    doomed = reads.doomed_need(conn, document_id)
    if doomed is None:
        return None
    reason = because(*doomed)
    return reason if moves.cancel_waiting(conn, job_id, reason, now) else None
