"""Forgetting: ended jobs past their age leave, a bounded number at a time."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from p104d.store import sql

#: The + keeps the planner off the index by state, by which it would read and sort every job that ever ended.
_OLD = """
    SELECT j.id, j.document_id FROM jobs j WHERE j.ended_at IS NOT NULL AND j.ended_at < ?
        AND +j.state IN ('succeeded', 'failed', 'cancelled', 'lost')
        AND NOT EXISTS (
            SELECT 1 FROM needs n JOIN jobs w ON w.document_id = n.document_id
            WHERE n.needs_job_id = j.id AND w.state IN ('held', 'queued'))
        AND NOT EXISTS (
            SELECT 1 FROM needs n JOIN jobs w ON w.document_id = n.document_id
            WHERE n.needs_document_id = j.document_id AND w.state IN ('held', 'queued'))
    ORDER BY j.ended_at LIMIT ?
"""
_UNUSED_DOCUMENT = """
    DELETE FROM documents WHERE id = :id
        AND NOT EXISTS (SELECT 1 FROM jobs WHERE document_id = :id)
        AND NOT EXISTS (SELECT 1 FROM schedules WHERE document_id = :id)
"""


def forget_jobs(conn: Connection, before: float, limit: int = 1000) -> list[int]:
    """Delete at most ``limit`` jobs that ended before ``before`` and that nothing waits for; their ids."""
    old = sql.rows(conn, _OLD, (before, limit))
    for row in old:
        sql.run(conn, "DELETE FROM jobs WHERE id = ?", (row.id,))
    for document_id in {row.document_id for row in old}:
        sql.run(conn, _UNUSED_DOCUMENT, {"id": document_id})
    sql.run(conn, "DELETE FROM notifications WHERE created_at < ? AND state <> 'owed'", (before,))
    return [int(row.id) for row in old]


def ended_oldest_first(conn: Connection, limit: int = 1000) -> list[int]:
    """Ended jobs that still have a log worth counting, oldest first."""
    rows = sql.rows(conn, "SELECT id FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at LIMIT ?", (limit,))
    return [int(row[0]) for row in rows]
