"""What the tests of the store share: specs, submissions, jobs put into any state by the store's own moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.engine import Connection

from p104d.core.job import JobSpec, JobState, Outcome
from p104d.core.lifecycle import Move
from p104d.core.plan import Start
from p104d.store import dependents, moves, reads, sql
from p104d.store.submit import NewDocument, Submitter, submit

NOW = 1_700_000_000.0
CARD = "GPU-0000"
ME = Submitter(1000, "me")


def spec(name: str = "job", **changes: Any) -> JobSpec:
    return JobSpec(**{"name": name, "command": ("true",), "cwd": "/", **changes})


def document(name: str = "job", matrix: int = 0, **changes: Any) -> NewDocument:
    """One document; ``matrix`` jobs of it, or a single one without a matrix."""
    combinations = [{"n": str(n)} for n in range(matrix)] or [{}]
    return NewDocument(spec=spec(name, **changes), combinations=combinations)


def add(conn: Connection, *documents: NewDocument, now: float = NOW, who: Submitter = ME) -> list[int]:
    """Submit ``documents`` (one plain job where there is none) and return the ids."""
    return [number for number, _ in submit(conn, list(documents) or [document()], who, now).jobs]


def place(conn: Connection, job_id: int, cards: Sequence[str] = (CARD,), *, share: int | None = None) -> int | None:
    start = Start(job_id=job_id, cards=tuple(cards), reserved_bytes=(share or 8,) * len(cards), exclusive=share is None)
    return moves.place(conn, start, now=NOW, boot_id="boot", ends_by=None, ram=0)


OUTCOMES = {
    Move.SUCCEED: Outcome.SUCCEEDED,
    Move.FAIL: Outcome.FAILED,
    Move.CANCEL: Outcome.CANCELLED,
    Move.LOSE: Outcome.LOST,
    Move.REQUEUE: Outcome.FAILED,
    Move.REVOKE: Outcome.REVOKED,
}


def end(conn: Connection, job_id: int, move: Move, *, number: int = 1, at: float = NOW + 9, **changes: Any) -> bool:
    """End an attempt by ``move``."""
    made = {"outcome": OUTCOMES[move], "reason": f"by {move}", **changes}
    return moves.end(conn, moves.Ended(job_id=job_id, number=number, move=move, at=at, **made))


_WAY_TO_END = {
    JobState.SUCCEEDED: Move.SUCCEED,
    JobState.FAILED: Move.FAIL,
    JobState.CANCELLED: Move.CANCEL,
    JobState.LOST: Move.LOSE,
}


def bring(conn: Connection, job_id: int, state: JobState, *, ended_at: float = NOW + 9) -> None:
    """Move a queued job to ``state`` as the daemon would."""
    if state is JobState.QUEUED:
        return
    if state is JobState.HELD:
        assert moves.hold(conn, job_id)
        return
    number = place(conn, job_id)
    assert number is not None
    if state is JobState.STARTING:
        return
    moves.run(conn, job_id, number, pid=4242, at=NOW + 1)
    if state is JobState.STOPPING:
        moves.stop(conn, job_id, "cancelled")
    elif state is not JobState.RUNNING:
        assert end(conn, job_id, _WAY_TO_END[state], number=number, at=ended_at)


def settle(conn: Connection, job_id: int, state: JobState) -> list[int]:
    """End a queued job in ``state`` and settle those that wait for it, as the daemon does."""
    bring(conn, job_id, state)
    return settle_dependents(conn, job_id)


def settle_dependents(conn: Connection, job_id: int) -> list[int]:
    """Settle those that wait for a job that has ended: those that were cancelled."""
    todo = dependents.of(conn, job_id, column(conn, "document_id", job_id))
    done = dependents.settle(conn, todo, NOW, 10**6)
    assert not done.left
    return [each for some in done.cancelled for each in some.ids]


def state(conn: Connection, job_id: int) -> str:
    return str(sql.value(conn, "SELECT state FROM jobs WHERE id = ?", (job_id,)))


def column(conn: Connection, name: str, job_id: int) -> Any:
    return sql.value(conn, f"SELECT {name} FROM jobs WHERE id = ?", (job_id,))


def ready_ids(conn: Connection, limit: int = 1000) -> set[int]:
    """What the scheduler is offered, requirement by requirement."""
    return {
        job.id
        for number, requirement in reads.ready_requirements(conn)
        for job in reads.ready_jobs(conn, number, requirement, limit)
    }


def everything(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables: two of these are equal exactly if nothing was changed."""
    tables = [row[0] for row in sql.rows(conn, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    return {table: [tuple(row) for row in sql.rows(conn, f"SELECT * FROM {table}")] for table in tables}


def check_counts(conn: Connection) -> None:
    """The counts that triggers keep equal a recount."""
    counted = {row[0]: row[1] for row in sql.rows(conn, "SELECT state, count(*) FROM jobs GROUP BY state")}
    assert reads.counts(conn) == {s.value: counted.get(s.value, 0) for s in JobState}
