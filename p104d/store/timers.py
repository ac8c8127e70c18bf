"""What waits for a time, where the host's clock is set: a wait is a length of time, and stays as long as it was.

``not_before`` and the times of schedules are times of day that a person named; they are taken by the new clock.
"""

from __future__ import annotations

from sqlalchemy.engine import Connection

from p104d.store import sql

#: Jobs that ran before wait for their next try; those that never did, for a time of day.
_WAITS = (
    "UPDATE jobs INDEXED BY jobs_timer SET eligible_at = {0} "
    "WHERE state = 'queued' AND eligible_at IS NOT NULL AND attempts > 0",
    "UPDATE jobs SET eligible_at = {0} WHERE state = 'held' AND eligible_at IS NOT NULL AND attempts > 0",
)


def shift(conn: Connection, seconds: float) -> None:
    """The clock was set by so many seconds, ahead or back."""
    for statement in _WAITS:
        sql.run(conn, statement.format("eligible_at + ?"), (seconds,))
    sql.run(
        conn,
        "UPDATE attempts INDEXED BY attempts_open SET ends_by = ends_by + ? WHERE outcome IS NULL",
        (seconds,),
    )


def bound(conn: Connection, latest: float) -> None:
    """No next try is later than ``latest``: where it is, the clock was set back while nobody was there to see."""
    for statement in _WAITS:
        sql.run(conn, statement.format("min(eligible_at, ?)"), (latest,))


def forget_next_runs(conn: Connection, now: float) -> None:
    """Schedules whose time is still to come find it anew, by the clock as it is."""
    sql.run(conn, "UPDATE schedules SET next_run_at = NULL WHERE state = 'active' AND next_run_at > ?", (now,))
