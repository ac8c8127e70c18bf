"""What people ask to see: jobs by id or by filter, with their attempts, cards and measurements."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.errors import RefusedError
from p104d.core.job import JobSpec, JobState, UserPattern
from p104d.store import sql

#: What one answer may read of what people wrote. Nobody else is answered meanwhile, and all of it is in memory at once.
MOST_BYTES = 16 * 2**20


class JobFilter(msgspec.Struct, frozen=True, kw_only=True):
    """What ``list`` was asked for; None and () mean any."""

    states: tuple[JobState, ...] = ()
    name: str | None = None
    user: str | None = None
    label: tuple[str, str] | None = None
    card: str | None = None
    since: float | None = None
    before: int | None = None
    limit: int = 50
    #: Only jobs that could start now, the next to start first, instead of the newest first.
    next_first: bool = False


_JOB_COLUMNS = """
    SELECT j.id, j.document_id, j.schedule_id, j.name, j.uid, j.user, j.matrix, j.state, j.reason, j.priority,
           j.requirement_id, j.blocked, j.eligible_at, j.attempts, j.failures, j.submitted_at, j.started_at,
           j.ended_at, j.exit_code
"""
_JOB_ROW = f"{_JOB_COLUMNS} FROM jobs j JOIN documents d ON d.id = j.document_id"
#: CROSS JOIN means "in this order" to SQLite.
_LISTED_ROW = f"""
    {_JOB_COLUMNS} FROM json_each(?) w
    CROSS JOIN jobs j ON j.id = w.value CROSS JOIN documents d ON d.id = j.document_id
"""
_LABELLED = """
    EXISTS (SELECT 1 FROM documents ld, json_each(ld.spec, '$.labels') l
            WHERE ld.id = j.document_id AND l.key = ? AND l.value = ?)
"""


class _Room:
    """What is left of MOST_BYTES."""

    def __init__(self) -> None:
        self._left = MOST_BYTES

    def take(self, text: str | None) -> None:
        """Raises RefusedError where ``text`` does not fit any more."""
        self._left -= len(text) if text else 0
        if self._left < 0:
            raise RefusedError("these jobs are too large for one answer", mend="ask for fewer of them at a time")


def job_rows(conn: Connection, ids: Sequence[int]) -> list[Any]:
    """The rows of these jobs in the order asked; unknown ids are left out. Raises RefusedError beyond MOST_BYTES."""
    found: dict[int, Any] = {}
    room = _Room()
    for chunk in (ids[i : i + 500] for i in range(0, len(ids), 500)):
        marks = ",".join("?" * len(chunk))
        for row in sql.each(conn, f"{_JOB_ROW} WHERE j.id IN ({marks})", tuple(chunk)):
            room.take(row.matrix)
            found[row.id] = row
    return [found[i] for i in ids if i in found]


_DEFAULT = JobSpec(name="", command=(), cwd="/")


class Brief(msgspec.Struct, frozen=True):
    """What a list shows of a specification."""

    labels: dict[str, str] = {}
    measure: tuple[str | UserPattern, ...] = _DEFAULT.measure


_decode_brief = msgspec.json.Decoder(Brief).decode


def specs(conn: Connection, document_ids: Iterable[int]) -> Iterator[tuple[int, str]]:
    """(id, specification as JSON) of these documents, one after the other. Raises RefusedError where they are more
    than one answer may read."""
    room = _Room()
    for document_id in document_ids:
        text = str(sql.value(conn, "SELECT spec FROM documents WHERE id = ?", (document_id,)))
        room.take(text)
        yield document_id, text


def briefs(conn: Connection, document_ids: Iterable[int]) -> dict[int, Brief]:
    """What a list shows of these documents. Raises RefusedError as ``specs`` does."""
    return {document_id: _decode_brief(text) for document_id, text in specs(conn, dict.fromkeys(document_ids))}


def states(conn: Connection, ids: Sequence[int]) -> dict[int, tuple[str, int]]:
    """id -> (state, owner's uid) of these jobs; unknown ids are left out."""
    found: dict[int, tuple[str, int]] = {}
    for chunk in (ids[i : i + 500] for i in range(0, len(ids), 500)):
        marks = ",".join("?" * len(chunk))
        statement = f"SELECT id, state, uid FROM jobs WHERE id IN ({marks})"  # noqa: S608 - question marks only
        found.update((row[0], (row[1], row[2])) for row in sql.rows(conn, statement, tuple(chunk)))
    return found


_WAITED = """
    SELECT j.id, j.uid, j.state, j.exit_code, j.reason, a.signal
    FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.number = j.attempts
"""


def waited(conn: Connection, ids: Sequence[int]) -> list[Any]:
    """How these jobs stand, in the order asked; unknown ids are left out."""
    found: dict[int, Any] = {}
    for chunk in (ids[i : i + 500] for i in range(0, len(ids), 500)):
        marks = ",".join("?" * len(chunk))
        for row in sql.rows(conn, f"{_WAITED} WHERE j.id IN ({marks})", tuple(chunk)):
            found[row.id] = row
    return [found[i] for i in ids if i in found]


def is_quick(wanted: JobFilter) -> bool:
    """Whether ``fitting`` finds these by one index, however long the queue; otherwise it may look at every job."""
    if wanted.user is not None or wanted.label is not None or wanted.card is not None or wanted.since is not None:
        return False
    return not wanted.states or (wanted.name is None and not wanted.next_first)


def fitting(conn: Connection, wanted: JobFilter) -> list[int]:
    """The ids of the newest jobs that fit, newest first (or ``next_first``), at most ``wanted.limit``."""
    if len(wanted.states) < 2 or not is_quick(wanted):
        return _fitting(conn, wanted, wanted.states)
    # Of each state its newest: in one statement the planner would sort all jobs of these states.
    found = {each for state in wanted.states for each in _fitting(conn, wanted, (state,))}
    return sorted(found, reverse=True)[: wanted.limit]


def _fitting(conn: Connection, wanted: JobFilter, states: tuple[JobState, ...]) -> list[int]:
    where, values = _conditions(wanted, states)
    index, order = "", "j.id DESC"
    if wanted.next_first:
        index, order = "INDEXED BY jobs_order", "j.priority DESC, j.id"
    elif wanted.name is not None:
        index = "INDEXED BY jobs_name"
    elif len(states) == 1:
        index = "INDEXED BY jobs_state"
    statement = f"SELECT j.id FROM jobs j {index} WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    return [row[0] for row in sql.rows(conn, statement, (*values, wanted.limit))]


def listed(conn: Connection, wanted: JobFilter, ids: Sequence[int]) -> list[Any]:
    """The rows of those of ``ids`` that fit (still), in their order. Raises RefusedError beyond MOST_BYTES."""
    where, values = _conditions(wanted, wanted.states)
    statement = f"{_LISTED_ROW} WHERE {where} ORDER BY w.key"
    found, room = list[Any](), _Room()
    for row in sql.each(conn, statement, (json.dumps(ids), *values)):
        room.take(row.matrix)
        found.append(row)
    return found


def _conditions(wanted: JobFilter, states: tuple[JobState, ...]) -> tuple[str, list[object]]:
    """For ``WHERE``, with ``j`` for the jobs, and the values of its question marks."""
    where, values = ["1"], list[object]()

    def need(condition: str, *given: object) -> None:
        where.append(condition)
        values.extend(given)

    if states:
        need(f"j.state IN ({','.join('?' * len(states))})", *(s.value for s in states))
    if wanted.name is not None:
        need("j.name = ?", wanted.name)
    if wanted.user is not None:
        need("j.user = ?", wanted.user)
    if wanted.since is not None:
        need("j.submitted_at >= ?", wanted.since)
    if wanted.before is not None:
        need("j.id < ?", wanted.before)
    if wanted.label is not None:
        need(_LABELLED, *wanted.label)
    if wanted.card is not None:
        need("j.id IN (SELECT job_id FROM attempt_cards WHERE card_uuid = ?)", wanted.card)
    if wanted.next_first:
        need("j.state = 'queued' AND j.blocked = 0 AND j.eligible_at IS NULL")
    return " AND ".join(where), values


def attempts_of(conn: Connection, job_id: int) -> list[Any]:
    """All attempts of a job, first to last."""
    return sql.rows(conn, "SELECT * FROM attempts WHERE job_id = ? ORDER BY number", (job_id,))


def cards_of(conn: Connection, job_ids: Sequence[int]) -> dict[tuple[int, int], list[str]]:
    """(job, attempt) -> card UUIDs in order, of these jobs' attempts."""
    found: dict[tuple[int, int], list[str]] = {}
    for chunk in (job_ids[i : i + 500] for i in range(0, len(job_ids), 500)):
        marks = ",".join("?" * len(chunk))
        statement = (
            f"SELECT job_id, number, card_uuid FROM attempt_cards WHERE job_id IN ({marks}) "  # noqa: S608
            "ORDER BY job_id, number, position"
        )
        for row in sql.rows(conn, statement, tuple(chunk)):
            found.setdefault((row[0], row[1]), []).append(row[2])
    return found


def measurements_of(conn: Connection, job_id: int, number: int) -> list[Any]:
    """What was read from an attempt's output."""
    statement = "SELECT name, value, unit FROM measurements WHERE job_id = ? AND number = ? ORDER BY name"
    return sql.rows(conn, statement, (job_id, number))
