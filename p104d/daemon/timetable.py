"""Schedules: when each submits next, and the job it submits. APScheduler reads the cron expressions, nothing else."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection, Row

from p104d.api.spec import cron_trigger
from p104d.api.spec_matrix import combinations
from p104d.core.job import Schedule
from p104d.store import reads, schedules
from p104d.store.submit import NewDocument, Submitter, insert_jobs


def next_time(cron: str, timezone: str | None, after: float) -> float | None:
    """The first time of the schedule later than ``after`` (Unix seconds); None where there is none."""
    trigger = cron_trigger(Schedule(cron=cron, timezone=timezone))
    # Cron knows whole minutes; a fire time equal to ``after`` is the one that has just been served.
    found = trigger.get_next_fire_time(None, datetime.fromtimestamp(int(after) + 1, UTC))
    return None if found is None else float(found.timestamp())


def run_due(conn: Connection, now: float, most: int | None = None) -> list[int]:
    """Submit a job for every active schedule whose time has come; the jobs' ids.

    After downtime each schedule catches up once, however many of its times were missed. A run that still goes makes
    this one skip, and so does a user who would have more than ``most`` jobs waiting.
    """
    submitted: list[int] = []
    for row in schedules.all_schedules(conn):
        if row.state != "active":
            continue
        if row.next_run_at is None:
            schedules.set_next_run(conn, row.id, next_time(row.cron, row.timezone, now))
        elif row.next_run_at <= now:
            submitted += _run(conn, row, now, most)
    return submitted


def _run(conn: Connection, row: Row[Any], now: float, most: int | None) -> list[int]:
    upcoming = next_time(row.cron, row.timezone, now)
    if schedules.still_going(conn, row.id):
        schedules.note_run(conn, row.id, now, None, upcoming)
        return []
    document = reads.document(conn, row.document_id)
    new = NewDocument(spec=document.spec, combinations=combinations(document.spec.matrix))
    if most is not None and reads.waiting_of_user(conn, row.uid) + len(new.combinations) > most:
        schedules.note_run(conn, row.id, now, None, upcoming)
        return []
    ids = [n for n, _ in insert_jobs(conn, row.document_id, new, Submitter(row.uid, row.user), now, row.id)]
    schedules.note_run(conn, row.id, now, ids[-1], upcoming)
    return ids
