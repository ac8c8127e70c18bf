"""Attempts that have a folder and no row: the queue was restored from an earlier state. They are taken in again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import JobSpec, Outcome
from p104d.core.matrix import requirement_of
from p104d.core.units import iso
from p104d.store import sql
from p104d.store.submit import NewDocument, insert_document, requirement_id


class Origin(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a launch keeps of its job, so that the job can be rebuilt from the attempt's folder alone.

    ``spec`` has no environment; the launch has it, with the names in ``kept`` copied from the submitter's. ``copy`` is
    the copy of a model that the attempt was put to.
    """

    name: str
    uid: int
    user: str
    submitted_at: float
    spec: JobSpec
    matrix: dict[str, str] = {}
    kept: tuple[str, ...] = ()
    limits: dict[str, tuple[int, int]] = {}
    copy: int | None = None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as its folder tells it. ``outcome`` None: how it ended is still to be found out, as of any open
    attempt. Times are Unix seconds."""

    number: int
    boot_id: str
    placed_at: float
    cards: tuple[str, ...] = ()
    reserved_bytes: tuple[int, ...] = ()
    ram_bytes: int = 0
    outcome: Outcome | None = None
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None


def known(conn: Connection, first: int, last: int) -> set[tuple[int, int]]:
    """(job, number) of the attempts of jobs ``first`` to ``last`` that have a row."""
    rows = sql.rows(conn, "SELECT job_id, number FROM attempts WHERE job_id BETWEEN ? AND ?", (first, last))
    return {(int(row[0]), int(row[1])) for row in rows}


def is_behind(conn: Connection, job_id: int, number: int) -> bool:
    """Whether the job has no row, or its row knows of no attempt ``number``."""
    attempts = sql.value(conn, "SELECT attempts FROM jobs WHERE id = ?", (job_id,))
    return attempts is None or int(attempts) < number


def take_in(
    conn: Connection, job_id: int, origin: Origin, env: Mapping[str, str], umask: int, found: Sequence[Found]
) -> None:
    """Write attempts that the queue had forgotten, in order of their numbers, and their job where that is gone too.

    The job is ``starting`` its last one afterwards, if that is open: what became of it is found out as for any open
    attempt after a start of the daemon.
    """
    last = found[-1]
    if sql.value(conn, "SELECT 1 FROM jobs WHERE id = ?", (job_id,)) is None:
        _insert_job(conn, job_id, origin, env, umask)
    # What was open when the backup was made has been left behind since.
    sql.run(
        conn,
        "UPDATE attempts SET outcome = ?, reason = ? WHERE job_id = ? AND number < ? AND outcome IS NULL",
        (Outcome.LOST.value, _FORGOTTEN, job_id, last.number),
    )
    for each in found:
        _insert_attempt(conn, job_id, each, exclusive=origin.spec.engine is None and origin.spec.vram_bytes is None)
    _put_to_copy(conn, job_id, last.number, origin.copy)
    sql.run(
        conn,
        "UPDATE jobs SET state = 'starting', attempts = ?, reason = NULL, exit_code = NULL, started_at = NULL, "
        "ended_at = NULL, eligible_at = NULL WHERE id = ?",
        (last.number, job_id),
    )


_FORGOTTEN = "the queue was restored from a time before its end"


def _insert_job(conn: Connection, job_id: int, origin: Origin, env: Mapping[str, str], umask: int) -> None:
    spec = msgspec.structs.replace(origin.spec, env=dict(env))
    document = NewDocument(spec=spec, combinations=[], kept=origin.kept, umask=umask, limits=origin.limits)
    document_id = insert_document(conn, document)
    sql.run(
        conn,
        "INSERT INTO jobs (id, document_id, name, uid, user, matrix, state, priority, requirement_id, blocked, "
        "attempts, failures, submitted_at) VALUES (?,?,?,?,?,?,'queued',?,?,0,0,0,?)",
        (
            job_id,
            document_id,
            origin.name,
            origin.uid,
            origin.user,
            msgspec.json.encode(origin.matrix).decode() if origin.matrix else None,
            spec.priority,
            requirement_id(conn, requirement_of(spec, origin.matrix, origin.uid)),
            origin.submitted_at,
        ),
    )


def _insert_attempt(conn: Connection, job_id: int, found: Found, *, exclusive: bool) -> None:
    sql.run(
        conn,
        "INSERT INTO attempts (job_id, number, boot_id, placed_at, ram_bytes, cards, outcome, exit_code, signal, "
        "reason, started_at, ended_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            job_id,
            found.number,
            found.boot_id,
            found.placed_at,
            found.ram_bytes,
            len(found.cards),
            found.outcome.value if found.outcome else None,
            found.exit_code,
            found.signal,
            None if found.outcome is None else f"taken in again {iso(found.ended_at or found.placed_at)}",
            found.started_at,
            found.ended_at,
        ),
    )
    for position, (uuid, reserved) in enumerate(zip(found.cards, found.reserved_bytes, strict=False)):
        sql.run(
            conn,
            "INSERT INTO attempt_cards (job_id, number, position, card_uuid, reserved_bytes, exclusive) "
            "VALUES (?,?,?,?,?,?)",
            (job_id, found.number, position, uuid, reserved, int(exclusive)),
        )


def _put_to_copy(conn: Connection, job_id: int, number: int, copy: int | None) -> None:
    """The attempt keeps its copy of a model busy, where the queue knows that copy; the server of another is ended."""
    sql.run(
        conn,
        "UPDATE attempts SET instance_id = (SELECT id FROM instances WHERE id = ? AND state != 'gone') "
        "WHERE job_id = ? AND number = ?",
        (copy, job_id, number),
    )


def lose_what_is_nowhere(conn: Connection, now: float) -> list[int]:
    """Jobs that are active without an open attempt cannot end any more: they are lost; their ids."""
    rows = sql.rows(
        conn,
        "UPDATE jobs SET state = 'lost', reason = 'its record was damaged', ended_at = ? "
        "WHERE state IN ('starting', 'running', 'stopping') AND NOT EXISTS ("
        "SELECT 1 FROM attempts a WHERE a.job_id = jobs.id AND a.outcome IS NULL) RETURNING id",
        (now,),
    )
    return [int(row[0]) for row in rows]
