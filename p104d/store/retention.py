"""Forgetting: ended jobs past their age leave, a bounded number at a time."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from p104d.store import sql

_OLD = """
    SELECT j.id FROM jobs j WHERE j.ended_at IS NOT NULL AND j.ended_at < ?
        AND j.state IN ('succeeded', 'failed', 'cancelled', 'lost')
        AND NOT EXISTS (
            SELECT 1 FROM needs n JOIN jobs w ON w.document_id = n.document_id
            WHERE n.needs_job_id = j.id AND w.state IN ('held', 'queued'))
        AND NOT EXISTS (
            SELECT 1 FROM needs n JOIN jobs w ON w.document_id = n.document_id
            WHERE n.needs_document_id = j.document_id AND w.state IN ('held', 'queued'))
    ORDER BY j.ended_at LIMIT ?
"""


def forget_jobs(conn: Connection, before: float, limit: int = 1000) -> list[int]:
    """Delete at most ``limit`` jobs that ended before ``before`` and that nothing waits for; their ids."""
    ids = [int(row[0]) for row in sql.rows(conn, _OLD, (before, limit))]
    for job_id in ids:
        sql.run(conn, "DELETE FROM jobs WHERE id = ?", (job_id,))
    if ids:
        sql.run(
            conn,
            "DELETE FROM documents WHERE NOT EXISTS (SELECT 1 FROM jobs j WHERE j.document_id = documents.id) "
            "AND NOT EXISTS (SELECT 1 FROM schedules s WHERE s.document_id = documents.id)",
        )
    sql.run(conn, "DELETE FROM notifications WHERE created_at < ? AND state <> 'owed'", (before,))
    return ids


def ended_oldest_first(conn: Connection, limit: int = 1000) -> list[int]:
    """Ended jobs that still have a log worth counting, oldest first."""
    rows = sql.rows(conn, "SELECT id FROM jobs WHERE ended_at IS NOT NULL ORDER BY ended_at LIMIT ?", (limit,))
    return [int(row[0]) for row in rows]
