"""Every change of a job's state: one guarded UPDATE each. No row back means a lost race, and nothing was changed."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.job import ENDED, Measurement, Outcome
from p104d.core.lifecycle import Move, sources, target
from p104d.core.plan import Start
from p104d.store import sql
from p104d.store.submit import is_blocked


def _states(move: Move) -> str:
    return ", ".join(f"'{state.value}'" for state in sorted(sources(move)))


def guarded(move: Move, sets: str = "", where: str = "id = :id") -> str:
    """The one shape of a transition: named states in, one state out, the rows that were won back."""
    return (
        f"UPDATE jobs SET state = '{target(move).value}'{', ' + sets if sets else ''} "  # noqa: S608 - constants
        f"WHERE {where} AND state IN ({_states(move)}) RETURNING id, attempts, uid, document_id"
    )


_HOLD = guarded(Move.HOLD, "reason = NULL")
_RELEASE = guarded(Move.RELEASE)
_PLACE = guarded(
    Move.PLACE, "attempts = attempts + 1, reason = NULL, exit_code = NULL, started_at = NULL, ended_at = NULL"
)
_REVOKE = guarded(Move.REVOKE)
_RUN = guarded(Move.RUN, "started_at = :at")
_STOP = guarded(Move.STOP, "reason = :reason")
_ENDS = {
    move: guarded(
        move,
        "reason = :reason, exit_code = :exit_code, ended_at = :at, failures = failures + :failed, "
        "started_at = COALESCE(:started_at, started_at)",
    )
    for move in (Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.LOSE)
}
_REQUEUE = guarded(Move.REQUEUE, "reason = :reason, eligible_at = :eligible_at, failures = failures + :failed")
_RETRY = guarded(
    Move.RETRY,
    "reason = NULL, exit_code = NULL, started_at = NULL, ended_at = NULL, eligible_at = NULL, failures = 0, "
    "blocked = :blocked",
)
#: An attempt is closed only together with its job's move, so its guard is the move's too.
_CLOSE = {
    move: (
        "UPDATE attempts SET outcome = ?, exit_code = ?, signal = ?, reason = ?, ended_at = ?, cpu_seconds = ?, "  # noqa: S608
        "max_rss_bytes = ?, log_bytes = ?, started_at = COALESCE(?, started_at) "
        "WHERE job_id = ? AND number = ? AND outcome IS NULL "
        f"AND EXISTS (SELECT 1 FROM jobs j WHERE j.id = job_id AND j.state IN ({_states(move)})) RETURNING job_id"
    )
    for move in (Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.LOSE, Move.REQUEUE, Move.REVOKE)
}
_CANCEL_WAITING = guarded(Move.CANCEL, "reason = :reason, ended_at = :at", "id = :id AND state IN ('held', 'queued')")


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended and what becomes of its job: ``move`` is one of succeed, fail, cancel, lose, requeue,
    revoke. ``eligible_at`` is when a requeued job may start again; ``failed`` whether a retry was used up."""

    job_id: int
    number: int
    move: Move
    outcome: Outcome
    at: float
    reason: str | None = None
    attempt_reason: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    eligible_at: float | None = None
    failed: bool = False
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int | None = None
    started_at: float | None = None
    measurements: Sequence[Measurement] = ()


def place(conn: Connection, start: Start, *, now: float, boot_id: str, ends_by: float | None, ram: int) -> int | None:
    """Queued -> starting with the cards reserved; the attempt's number, or None where the job was no longer queued."""
    row = sql.row(conn, _PLACE, {"id": start.job_id})
    if row is None:
        return None
    number = int(row.attempts)
    sql.run(
        conn,
        "INSERT INTO attempts (job_id, number, boot_id, placed_at, ends_by, ram_bytes, cards, instance_id) "
        "VALUES (?,?,?,?,?,?,?,?)",
        (start.job_id, number, boot_id, now, ends_by, ram, len(start.cards), start.resident),
    )
    for position, (uuid, reserved) in enumerate(zip(start.cards, start.reserved_bytes, strict=True)):
        sql.run(
            conn,
            "INSERT INTO attempt_cards (job_id, number, position, card_uuid, reserved_bytes, exclusive, driver, vbios) "
            "VALUES (?,?,?,?,?,?,(SELECT driver FROM cards WHERE uuid = ?), "
            "(SELECT json_extract(identity, '$.vbios') FROM cards WHERE uuid = ?))",
            (start.job_id, number, position, uuid, reserved, int(start.exclusive), uuid, uuid),
        )
    return number


def run(conn: Connection, job_id: int, number: int, *, pid: int | None, at: float) -> int:
    """Starting -> running: the job's own process exists. The attempt is noted even when the job is being stopped.

    Returns how many cards it holds.
    """
    cards = sql.value(
        conn,
        "UPDATE attempts SET pid = ?, started_at = ? WHERE job_id = ? AND number = ? AND outcome IS NULL "
        "RETURNING cards",
        (pid, at, job_id, number),
    )
    if cards is None:
        # A late word about an attempt that is over; the job may be in its next one.
        return 0
    sql.row(conn, _RUN, {"id": job_id, "at": at})
    return int(cards)


def stop(conn: Connection, job_id: int, reason: str) -> int | None:
    """Starting or running -> stopping, with the reason kept on the attempt; the attempt's number."""
    row = sql.row(conn, _STOP, {"id": job_id, "reason": reason})
    if row is None:
        return None
    sql.run(
        conn,
        "UPDATE attempts SET stop_reason = ? WHERE job_id = ? AND number = ? AND outcome IS NULL",
        (reason, job_id, row.attempts),
    )
    return int(row.attempts)


def end(conn: Connection, ended: Ended) -> bool:
    """Close an attempt and move its job, with its measurements. False, and nothing changed, where it was closed
    before or the job is in no state for this move."""
    closed = sql.row(
        conn,
        _CLOSE[ended.move],
        (
            ended.outcome.value,
            ended.exit_code,
            ended.signal,
            ended.attempt_reason or ended.reason,
            ended.at,
            ended.cpu_seconds,
            ended.max_rss_bytes,
            ended.log_bytes,
            ended.started_at,
            ended.job_id,
            ended.number,
        ),
    )
    if closed is None:
        return False
    for m in ended.measurements:
        sql.run(
            conn,
            "INSERT OR REPLACE INTO measurements (job_id, number, name, value, unit) VALUES (?,?,?,?,?)",
            (ended.job_id, ended.number, m.name, m.value, m.unit),
        )
    return _move_job(conn, ended)


def _move_job(conn: Connection, ended: Ended) -> bool:
    values: dict[str, object] = {"id": ended.job_id, "reason": ended.reason, "failed": int(ended.failed)}
    if ended.move is Move.REVOKE:
        return sql.row(conn, _REVOKE, {"id": ended.job_id}) is not None
    if ended.move is Move.REQUEUE:
        return sql.row(conn, _REQUEUE, values | {"eligible_at": ended.eligible_at}) is not None
    values |= {"exit_code": ended.exit_code, "at": ended.at, "started_at": ended.started_at}
    return sql.row(conn, _ENDS[ended.move], values) is not None


def hold(conn: Connection, job_id: int) -> bool:
    """Queued -> held."""
    return sql.row(conn, _HOLD, {"id": job_id}) is not None


def release(conn: Connection, job_id: int) -> bool:
    """Held -> queued."""
    return sql.row(conn, _RELEASE, {"id": job_id}) is not None


def cancel_waiting(conn: Connection, job_id: int, reason: str, now: float) -> bool:
    """Held or queued -> cancelled, before anything ran."""
    return sql.row(conn, _CANCEL_WAITING, {"id": job_id, "reason": reason, "at": now}) is not None


def retry(conn: Connection, job_id: int, document_id: int) -> bool:
    """An ended job -> queued, with its retries whole again."""
    values = {"id": job_id, "blocked": int(is_blocked(conn, document_id))}
    return sql.row(conn, _RETRY, values) is not None


def set_priority(conn: Connection, job_id: int, priority: int) -> bool:
    """Change a job's priority; False for an ended job, which has none any more."""
    ended = ", ".join(f"'{s.value}'" for s in sorted(ENDED))
    statement = f"UPDATE jobs SET priority = ? WHERE id = ? AND state NOT IN ({ended}) RETURNING id"  # noqa: S608
    return sql.row(conn, statement, (priority, job_id)) is not None


def make_due(conn: Connection, now: float) -> int:
    """Jobs whose time to wait is over become ready; how many."""
    return sql.run(
        conn,
        "UPDATE jobs INDEXED BY jobs_timer SET eligible_at = NULL "
        "WHERE state = 'queued' AND eligible_at IS NOT NULL AND eligible_at <= ?",
        (now,),
    )


def stop_again(conn: Connection, job_id: int, reason: str) -> bool:
    """A job that is being stopped already gets another reason; False where it had this one."""
    row = sql.row(
        conn,
        "UPDATE attempts SET stop_reason = ? WHERE job_id = ? AND outcome IS NULL "
        "AND (stop_reason IS NULL OR stop_reason <> ?) RETURNING number",
        (reason, job_id, reason),
    )
    if row is not None:
        sql.run(conn, "UPDATE jobs SET reason = ? WHERE id = ? AND state = 'stopping'", (reason, job_id))
    return row is not None
