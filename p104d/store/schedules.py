"""Schedules and notifications: what is owed to the future."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import ENDED
from p104d.store import sql


def all_schedules(conn: Connection) -> list[Any]:
    """Every schedule that was not cancelled, by id."""
    return sql.rows(conn, "SELECT * FROM schedules WHERE state <> 'cancelled' ORDER BY id")


def schedules_of_user(conn: Connection, uid: int) -> int:
    """How many schedules a user has that are not cancelled."""
    return int(sql.value(conn, "SELECT count(*) FROM schedules WHERE uid = ? AND state <> 'cancelled'", (uid,)))


def schedule_owner(conn: Connection, schedule_id: int) -> tuple[str, int] | None:
    """(state, uid) of a schedule."""
    row = sql.row(conn, "SELECT state, uid FROM schedules WHERE id = ?", (schedule_id,))
    return None if row is None else (row[0], row[1])


def set_schedule_state(conn: Connection, schedule_id: int, state: str) -> bool:
    """active, held or cancelled; False where it is cancelled already."""
    done = sql.row(
        conn,
        "UPDATE schedules SET state = ?, next_run_at = NULL WHERE id = ? AND state <> 'cancelled' RETURNING id",
        (state, schedule_id),
    )
    return done is not None


def set_next_run(conn: Connection, schedule_id: int, at: float | None) -> None:
    """When the schedule submits next."""
    sql.run(conn, "UPDATE schedules SET next_run_at = ? WHERE id = ?", (at, schedule_id))


def note_run(conn: Connection, schedule_id: int, at: float, job_id: int | None, next_at: float | None) -> None:
    """A time of the schedule has come: ``job_id`` was submitted for it, or None where the run before still goes."""
    sql.run(
        conn,
        "UPDATE schedules SET last_run_at = ?, last_job_id = COALESCE(?, last_job_id), next_run_at = ? WHERE id = ?",
        (at, job_id, next_at, schedule_id),
    )


def still_going(conn: Connection, schedule_id: int) -> bool:
    """Has any job of this schedule not ended yet?"""
    ended = ",".join(f"'{s.value}'" for s in ENDED)
    return bool(
        sql.value(
            conn,
            "SELECT EXISTS (SELECT 1 FROM schedules s JOIN jobs j ON j.document_id = s.document_id "  # noqa: S608
            f"WHERE s.id = ? AND j.state NOT IN ({ended}))",
            (schedule_id,),
        )
    )


def next_schedule(conn: Connection) -> float | None:
    """The earliest time at which an active schedule submits."""
    value = sql.value(conn, "SELECT min(next_run_at) FROM schedules WHERE state = 'active'")
    return None if value is None else float(value)


def anything_due(conn: Connection, now: float) -> bool:
    """Is there an active schedule whose time has come, or whose next time is not known yet?"""
    statement = (
        "SELECT EXISTS (SELECT 1 FROM schedules WHERE state = 'active' AND (next_run_at IS NULL OR next_run_at <= ?))"
    )
    return bool(sql.value(conn, statement, (now,)))


class Owed(msgspec.Struct, frozen=True):
    """A notification to be sent as its user, within the ``limits`` of the job that it tells of. ``env`` tells it what
    happened."""

    id: int
    uid: int
    user: str
    command: list[str]
    env: dict[str, str]
    limits: dict[str, tuple[int, int]] = {}


def owe(
    conn: Connection,
    *,
    job_id: int | None,
    uid: int,
    user: str,
    command: Sequence[str],
    env: dict[str, str],
    now: float,
) -> None:
    """Write down a notification in the transaction of what it tells."""
    sql.run(
        conn,
        "INSERT INTO notifications (job_id, uid, user, command, env, created_at, tries, state) "
        "VALUES (?,?,?,?,?,?,0,'owed')",
        (job_id, uid, user, msgspec.json.encode(command).decode(), msgspec.json.encode(env).decode(), now),
    )


_SENDING = (
    "SELECT uid, count(*) FROM notifications INDEXED BY notifications_sending WHERE state = 'sending' GROUP BY uid"
)
#: A loose index scan: one seek a user, however many are owed.
_OWED_TO = """
    WITH RECURSIVE users(uid) AS (
        SELECT (SELECT min(uid) FROM notifications INDEXED BY notifications_owed WHERE state = 'owed')
        UNION ALL
        SELECT (SELECT min(uid) FROM notifications INDEXED BY notifications_owed WHERE state = 'owed' AND uid > u.uid)
        FROM users u WHERE u.uid IS NOT NULL
    ) SELECT uid FROM users WHERE uid IS NOT NULL
"""
_OWED = """
    SELECT id FROM notifications INDEXED BY notifications_owed WHERE state = 'owed' AND uid = ? ORDER BY id LIMIT ?
"""
_TAKE_OWED = """
    UPDATE notifications SET state = 'sending', tries = tries + 1 WHERE id IN (SELECT value FROM json_each(?))
    RETURNING id, uid, user, command, env, (
        SELECT json_extract(d.env, '$.limits') FROM jobs j JOIN documents d ON d.id = j.document_id
        WHERE j.id = notifications.job_id
    ) AS limits
"""


def take_owed(conn: Connection, limit: int = 16, each: int = 8) -> list[Owed]:
    """Mark some owed notifications as being sent; they are sent at least once, at most three times.

    At most ``limit`` are under way at once, and ``each`` of one user: cancelling ten thousand jobs makes as many
    processes, and they must neither come all at once nor keep the others' waiting.
    """
    busy = {int(row[0]): int(row[1]) for row in sql.rows(conn, _SENDING)}
    turns: list[tuple[int, int]] = []
    for (uid,) in sql.rows(conn, _OWED_TO):
        going = busy.get(uid, 0)
        ids = sql.rows(conn, _OWED, (uid, max(0, each - going)))
        turns += [(going + turn, row[0]) for turn, row in enumerate(ids)]
    chosen = [number for _turn, number in sorted(turns)[: max(0, limit - sum(busy.values()))]]
    if not chosen:
        return []
    rows = sql.rows(conn, _TAKE_OWED, (msgspec.json.encode(chosen).decode(),))
    decode = msgspec.json.decode
    return [Owed(r.id, r.uid, r.user, decode(r.command), decode(r.env), _limits(r.limits)) for r in rows]


def _limits(stored: str | None) -> dict[str, tuple[int, int]]:
    """Those of a job's document; none of what tells of a card, or of a job that was forgotten."""
    return {} if stored is None else msgspec.json.decode(stored, type=dict[str, tuple[int, int]])


def notification_sent(conn: Connection, notification_id: int, error: str | None) -> None:
    """Sent, or failed with ``error``."""
    state = "sent" if error is None else "failed"
    sql.run(conn, "UPDATE notifications SET state = ?, error = ? WHERE id = ?", (state, error, notification_id))


def owe_again(conn: Connection) -> None:
    """After a restart: what was being sent may not have arrived; it is owed again, three tries at most."""
    sql.run(
        conn,
        "UPDATE notifications SET state = CASE WHEN tries < 3 THEN 'owed' ELSE 'failed' END WHERE state = 'sending'",
    )


def some_schedules(conn: Connection, ids: Sequence[int]) -> list[Any]:
    """These schedules, cancelled ones too, by id."""
    marks = ",".join("?" * len(ids))
    statement = f"SELECT * FROM schedules WHERE id IN ({marks}) ORDER BY id"  # noqa: S608 - question marks only
    return sql.rows(conn, statement, tuple(ids))
