"""Every move from every state: possible exactly where core.lifecycle says, and a lost race changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Connection
from store_rig import CARD, NOW, add, bring, check_counts, column, document, end, everything, place, state

from p104d.core.job import ACTIVE, ENDED, WAITING, JobState, Measurement, Outcome
from p104d.core.lifecycle import Move, sources, target
from p104d.store import lists, moves, reads, sql
from p104d.store.engine import Database


def do(conn: Connection, job_id: int, move: Move) -> object:
    """``move`` by the store's function for it; true where it says that it was done."""
    document_id = column(conn, "document_id", job_id)
    if move is Move.CANCEL and state(conn, job_id) in WAITING:
        return moves.cancel_waiting(conn, job_id, "cancelled", NOW)
    by_hand: dict[Move, Callable[[], object]] = {
        Move.HOLD: lambda: moves.hold(conn, job_id),
        Move.RELEASE: lambda: moves.release(conn, job_id),
        Move.PLACE: lambda: place(conn, job_id),
        Move.RUN: lambda: moves.run(conn, job_id, 1, pid=1, at=NOW),
        Move.STOP: lambda: moves.stop(conn, job_id, "cancelled"),
        Move.RETRY: lambda: moves.retry(conn, job_id, document_id),
    }
    return by_hand.get(move, lambda: end(conn, job_id, move))()


@pytest.mark.parametrize("move", Move)
@pytest.mark.parametrize("start", JobState)
def test_a_move_is_possible_where_the_table_says(database: Database, start: JobState, move: Move) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, start)
        before = everything(conn)
        done = do(conn, job_id, move)
        if start in sources(move):
            assert done and state(conn, job_id) == target(move)
        elif move is Move.RUN and start in ACTIVE:
            # The attempt's process is noted even so; the state is not for this move to change.
            assert state(conn, job_id) == start
        else:
            assert not done and everything(conn) == before
        check_counts(conn)


def test_moves_cover_the_table() -> None:
    """Each state has a way in and, but for those that end, a way on: the parameters above miss none."""
    assert {target(move) for move in Move} == set(JobState)
    assert all(any(start in sources(move) for move in Move) for start in JobState)


def test_a_placed_job_holds_its_cards_until_its_end(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn, document(cards=2, ram_bytes=7))
        start = moves.Start(job_id=job_id, cards=("GPU-b", "GPU-a"), reserved_bytes=(3, 4), exclusive=False)
        assert moves.place(conn, start, now=NOW, boot_id="this", ends_by=NOW + 60, ram=7) == 1
        (attempt,) = reads.open_attempts(conn)
        assert attempt.holds == [("GPU-b", 3, False), ("GPU-a", 4, False)]
        assert (attempt.state, attempt.cards, attempt.ram_bytes) == (JobState.STARTING, 2, 7)
        assert (attempt.boot_id, attempt.placed_at, attempt.ends_by, attempt.pid) == ("this", NOW, NOW + 60, None)
        assert moves.run(conn, job_id, 1, pid=77, at=NOW + 1) == 2
        (attempt,) = reads.open_attempts(conn)
        assert (attempt.state, attempt.pid, attempt.started_at) == (JobState.RUNNING, 77, NOW + 1)
        assert end(conn, job_id, Move.SUCCEED)
        assert reads.open_attempts(conn) == []
        assert lists.cards_of(conn, [job_id]) == {(job_id, 1): ["GPU-b", "GPU-a"]}


def test_an_end_is_written_once(database: Database) -> None:
    figures = (Measurement(name="speed", value=3.5, unit="it/s"), Measurement(name="loss", value=0.1, unit=""))
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.RUNNING)
        assert end(conn, job_id, Move.FAIL, exit_code=3, failed=True, log_bytes=5, measurements=figures)
        before = everything(conn)
        assert not end(conn, job_id, Move.SUCCEED, exit_code=0)
        assert not end(conn, job_id, Move.FAIL, exit_code=4, failed=True)
        assert everything(conn) == before
        (attempt,) = lists.attempts_of(conn, job_id)
        assert (attempt.outcome, attempt.exit_code, attempt.log_bytes) == ("failed", 3, 5)
        assert [tuple(row) for row in lists.measurements_of(conn, job_id, 1)] == [
            ("loss", 0.1, ""), ("speed", 3.5, "it/s")]  # fmt: skip
        found = reads.facts(conn, job_id)
        assert found is not None and (found.state, found.failures) == (JobState.FAILED, 1)
        assert column(conn, "exit_code", job_id) == 3 and column(conn, "ended_at", job_id) == NOW + 9


def test_a_requeued_job_waits_its_time_and_counts_its_failure(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.RUNNING)
        assert end(conn, job_id, Move.REQUEUE, eligible_at=NOW + 30, failed=True)
        assert state(conn, job_id) == "queued" and column(conn, "failures", job_id) == 1
        assert column(conn, "eligible_at", job_id) == NOW + 30 and column(conn, "ended_at", job_id) is None
        assert moves.make_due(conn, NOW + 30) == 1
        assert place(conn, job_id) == 2
        assert [attempt.number for attempt in reads.open_attempts(conn)] == [2]


def test_a_revoked_claim_costs_no_retry(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.STARTING)
        assert end(conn, job_id, Move.REVOKE, outcome=Outcome.REVOKED)
        assert state(conn, job_id) == "queued" and column(conn, "failures", job_id) == 0
        assert (reads.revokes(conn, job_id), reads.losses(conn, job_id)) == (1, 0)
        assert place(conn, job_id) == 2


@pytest.mark.parametrize("ended", sorted(ENDED))
def test_retry_starts_from_the_beginning(database: Database, ended: JobState) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.RUNNING)
        assert end(conn, job_id, Move.REQUEUE, failed=True)
        assert place(conn, job_id) == 2
        move = next(m for m in (Move.SUCCEED, Move.FAIL, Move.CANCEL, Move.LOSE) if target(m) is ended)
        assert end(conn, job_id, move, number=2, exit_code=1, failed=True, started_at=NOW + 2)
        assert moves.retry(conn, job_id, column(conn, "document_id", job_id))
        row = sql.row(
            conn,
            "SELECT state, reason, exit_code, started_at, ended_at, eligible_at, failures, attempts, blocked "
            "FROM jobs WHERE id = ?",
            (job_id,),
        )
        assert tuple(row or ()) == ("queued", None, None, None, None, None, 0, 2, 0)
        assert place(conn, job_id) == 3 and len(lists.attempts_of(conn, job_id)) == 3


def test_a_late_word_about_an_attempt_that_is_over_moves_nothing(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.STARTING)
        assert end(conn, job_id, Move.REVOKE)
        assert place(conn, job_id) == 2
        before = everything(conn)
        assert moves.run(conn, job_id, 1, pid=5, at=NOW) == 0
        assert not end(conn, job_id, Move.SUCCEED, number=1)
        assert everything(conn) == before


def test_stop_keeps_the_reason_and_a_cancel_comes_over_it(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.RUNNING)
        assert moves.stop(conn, job_id, "time limit") == 1
        assert moves.stop(conn, job_id, "cancelled") is None
        assert reads.stop_reason(conn, job_id, 1) == "time limit" == column(conn, "reason", job_id)
        assert moves.stop_again(conn, job_id, "cancelled")
        assert not moves.stop_again(conn, job_id, "cancelled")
        assert reads.stop_reason(conn, job_id, 1) == "cancelled" == column(conn, "reason", job_id)
        assert end(conn, job_id, Move.CANCEL)
        assert not moves.stop_again(conn, job_id, "time limit")


@pytest.mark.parametrize("start", JobState)
def test_priority_is_for_jobs_that_have_not_ended(database: Database, start: JobState) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, start)
        assert moves.set_priority(conn, job_id, 5) is (start not in ENDED)
        assert column(conn, "priority", job_id) == (0 if start in ENDED else 5)


def test_the_durable_end_is_there_after_reopening(database: Database, tmp_path: Path) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
        bring(conn, job_id, JobState.SUCCEEDED)
    database.reopen()
    with database.read() as conn:
        assert state(conn, job_id) == "succeeded"
        check_counts(conn)


def test_a_transaction_that_raises_changes_nothing(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn)
    with database.read() as conn:
        before = everything(conn)

    def half() -> Any:
        with database.write() as conn:
            place(conn, job_id, (CARD, "GPU-0001"))
            add(conn, document("more", matrix=3))
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="middle"):
        half()
    with database.read() as conn:
        assert everything(conn) == before
