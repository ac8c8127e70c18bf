"""Making one whole of rows that come from a backup and from a damaged file: nothing names what is not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import msgspec

from p104d.core.card import CardIdentity, DueTest, Proof
from p104d.core.job import JobSpec, Requirement
from p104d.core.matrix import requirement_of
from p104d.store.submit import StoredEnv

_AUTOINCREMENT = ("documents", "jobs", "results", "memory_tests", "instances")
#: What is nothing without the other; a job or an attempt that still has its folder comes back from there.
_ORPHANS = (
    "DELETE FROM jobs WHERE document_id NOT IN (SELECT id FROM documents)",
    "DELETE FROM needs WHERE document_id NOT IN (SELECT id FROM documents)",
    "DELETE FROM schedules WHERE document_id NOT IN (SELECT id FROM documents)",
    "DELETE FROM attempts WHERE job_id NOT IN (SELECT id FROM jobs)",
    "DELETE FROM instance_cards WHERE instance_id NOT IN (SELECT id FROM instances)",
    "DELETE FROM attempt_cards WHERE NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = attempt_cards.job_id "
    "AND a.number = attempt_cards.number)",
    "DELETE FROM measurements WHERE NOT EXISTS (SELECT 1 FROM attempts a WHERE a.job_id = measurements.job_id "
    "AND a.number = measurements.number)",
)
#: The later of job and attempt wins: an open attempt that its job does not know yet makes the job start it; one that
#: its job has left behind is closed.
_AGREE = (
    """
    UPDATE jobs SET state = 'starting', attempts = (SELECT max(number) FROM attempts a WHERE a.job_id = jobs.id)
    WHERE state NOT IN ('starting', 'running', 'stopping') AND EXISTS (
        SELECT 1 FROM attempts a WHERE a.job_id = jobs.id AND a.outcome IS NULL AND a.number > jobs.attempts)
    """,
    """
    UPDATE jobs SET attempts = (SELECT max(number) FROM attempts a WHERE a.job_id = jobs.id)
    WHERE attempts < (SELECT max(number) FROM attempts a WHERE a.job_id = jobs.id)
    """,
    """
    UPDATE attempts SET outcome = 'lost', reason = 'its record was damaged' WHERE outcome IS NULL AND EXISTS (
        SELECT 1 FROM jobs j WHERE j.id = job_id
        AND (j.attempts > number OR j.state NOT IN ('starting', 'running', 'stopping')))
    """,
)
#: Whether a job may start follows from those that it waits for. One of them that is nowhere any more is for a person.
_NEED = "(j.id = n.needs_job_id OR j.document_id = n.needs_document_id)"
_WAITING = (
    """
    UPDATE jobs SET state = 'held', reason = 'a job that it needs was lost with a part of the queue'
    WHERE state = 'queued' AND EXISTS (
        SELECT 1 FROM needs n WHERE n.document_id = jobs.document_id
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.id = n.needs_job_id)
        AND NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document_id = n.needs_document_id))
    """,
    f"""
    UPDATE jobs SET blocked = EXISTS (
        SELECT 1 FROM needs n JOIN jobs j ON {_NEED} WHERE n.document_id = jobs.document_id AND j.state <> 'succeeded')
    WHERE state IN ('queued', 'held') AND document_id IN (SELECT document_id FROM needs)
    """,  # noqa: S608 - a constant
)
_DOOMED = f"""
    UPDATE jobs SET state = 'cancelled', reason = 'a job that it needs did not succeed'
    WHERE state IN ('queued', 'held') AND EXISTS (
        SELECT 1 FROM needs n JOIN jobs j ON {_NEED}
        WHERE n.document_id = jobs.document_id AND j.state IN ('failed', 'cancelled', 'lost'))
"""  # noqa: S608 - a constant


def tidy(connection: sqlite3.Connection, *, skipped_ids: int) -> int:
    """Make the rows one whole, inside the caller's transaction without foreign keys; how many were left out.

    ``skipped_ids`` are added to the counters of ids, of which some may have been given and lost.
    """
    dropped = _undecodable(connection)
    _requirements_again(connection)
    for statement in _ORPHANS:
        dropped += connection.execute(statement).rowcount
    for statement in (*_AGREE, *_WAITING):
        connection.execute(statement)
    while connection.execute(_DOOMED).rowcount:
        pass  # and those that need them in turn
    _count_again(connection)
    _ids_go_on(connection, skipped_ids)
    return dropped


def _undecodable(connection: sqlite3.Connection) -> int:
    """Leave out rows whose JSON is none: the daemon reads these columns and trusts them."""
    return sum(
        _leave_out(connection, table, column, msgspec.json.Decoder(kind).decode)
        for table, column, kind in (
            ("documents", "spec", JobSpec),
            ("documents", "env", StoredEnv),
            ("requirements", "requirement", Requirement),
            ("cards", "identity", CardIdentity),
            ("cards", "proof", Proof),
            ("cards", "due", DueTest),
            ("jobs", "matrix", dict[str, str]),
        )
    )


def _leave_out(connection: sqlite3.Connection, table: str, column: str, decode: Callable[[str], object]) -> int:
    bad = []
    for rowid, text in connection.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL"):  # noqa: S608
        try:
            decode(text)
        except msgspec.DecodeError:
            bad.append((rowid,))
    connection.executemany(f"DELETE FROM {table} WHERE rowid = ?", bad)  # noqa: S608
    return len(bad)


def _requirements_again(connection: sqlite3.Connection) -> None:
    """A job's requirement follows from its document, its user and, on an engine, its combination: what is missing is
    derived again."""
    rows = connection.execute(
        "SELECT DISTINCT d.id, d.spec, j.uid, iif(json_extract(d.spec, '$.engine') IS NULL, NULL, j.matrix) "
        "FROM jobs j JOIN documents d ON d.id = j.document_id "
        "WHERE j.requirement_id NOT IN (SELECT id FROM requirements)"
    ).fetchall()
    for document_id, text, uid, matrix in rows:
        spec = msgspec.json.decode(text, type=JobSpec)
        combination = msgspec.json.decode(matrix, type=dict[str, str]) if matrix else {}
        needed = msgspec.json.encode(requirement_of(spec, combination, uid)).decode()
        connection.execute("INSERT OR IGNORE INTO requirements (requirement) VALUES (?)", (needed,))
        connection.execute(
            "UPDATE jobs SET requirement_id = (SELECT id FROM requirements WHERE requirement = ?) "
            "WHERE document_id = ? AND (? OR matrix = ?) AND requirement_id NOT IN (SELECT id FROM requirements)",
            (needed, document_id, matrix is None, matrix),
        )


def _count_again(connection: sqlite3.Connection) -> None:
    connection.execute(
        "UPDATE state_counts SET jobs = (SELECT count(*) FROM jobs WHERE jobs.state = state_counts.state)"
    )


def _ids_go_on(connection: sqlite3.Connection, skipped: int) -> None:
    for table in _AUTOINCREMENT:
        (most,) = connection.execute(f"SELECT COALESCE(max(id), 0) FROM {table}").fetchone()  # noqa: S608
        row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        wanted = max(int(most), int(row[0]) if row else 0) + skipped
        if row is None:
            connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, wanted))
        else:
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (wanted, table))
