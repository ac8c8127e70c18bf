"""``after``: who is freed, who is cancelled and why, in chains, diamonds and matrices; and who waits for a time."""

from __future__ import annotations

import pytest
from store_rig import (
    NOW,
    add,
    bring,
    check_counts,
    column,
    document,
    end,
    place,
    ready_ids,
    settle,
    settle_dependents,
    state,
)

from p104d.core.errors import RefusedError
from p104d.core.job import ENDED, JobState
from p104d.core.lifecycle import Move
from p104d.store import dependents, moves, reads, sql
from p104d.store.engine import Database
from p104d.store.submit import NewDocument, submit


def test_a_chain_is_freed_link_by_link(database: Database) -> None:
    with database.write() as conn:
        a, b, c = add(conn, document("a"), document("b", after=("a",)), document("c", after=("b",)))
        assert ready_ids(conn) == {a}
        assert settle(conn, a, JobState.SUCCEEDED) == []
        assert ready_ids(conn) == {b}
        assert settle(conn, b, JobState.SUCCEEDED) == []
        assert ready_ids(conn) == {c}


@pytest.mark.parametrize(
    ("ended", "words"),
    [(JobState.FAILED, "failed"), (JobState.CANCELLED, "was cancelled"), (JobState.LOST, "was lost")],
)
def test_a_broken_chain_is_cancelled_to_its_end(database: Database, ended: JobState, words: str) -> None:
    with database.write() as conn:
        a, b, c, other = add(
            conn, document("a"), document("b", after=("a",)), document("c", after=("b",)), document("other")
        )
        assert sorted(settle(conn, a, ended)) == [b, c]
        assert (state(conn, b), state(conn, c), state(conn, other)) == ("cancelled", "cancelled", "queued")
        assert column(conn, "reason", b) == f"job {a}, which it needed, {words}"
        assert column(conn, "reason", c) == f"job {b}, which it needed, was cancelled"
        assert column(conn, "ended_at", c) == NOW
        check_counts(conn)


def test_documents_may_name_later_ones(database: Database) -> None:
    with database.write() as conn:
        last, first = add(conn, document("last", after=("first",)), document("first"))
        assert ready_ids(conn) == {first}
        settle(conn, first, JobState.SUCCEEDED)
        assert ready_ids(conn) == {last}


def test_a_matrix_is_waited_for_as_a_whole(database: Database) -> None:
    with database.write() as conn:
        *parts, after = add(conn, document("parts", matrix=3), document("sum", after=("parts",)))
        for part in parts[:-1]:
            assert settle(conn, part, JobState.SUCCEEDED) == [] and after not in ready_ids(conn)
        settle(conn, parts[-1], JobState.SUCCEEDED)
        assert ready_ids(conn) == {after}


def test_one_failure_in_a_matrix_is_enough(database: Database) -> None:
    with database.write() as conn:
        one, two, first, second = add(conn, document("parts", matrix=2), document("sums", matrix=2, after=("parts",)))
        assert sorted(settle(conn, one, JobState.FAILED)) == [first, second]
        # The rest of the matrix goes on; its success frees nobody that is cancelled.
        assert settle(conn, two, JobState.SUCCEEDED) == []
        assert state(conn, first) == state(conn, second) == "cancelled"


def diamond() -> list[NewDocument]:
    return [
        document("top"),
        document("left", after=("top",)),
        document("right", after=("top",)),
        document("bottom", after=("left", "right")),
    ]


def test_a_diamond_waits_for_both_sides(database: Database) -> None:
    with database.write() as conn:
        top, left, right, bottom = add(conn, *diamond())
        settle(conn, top, JobState.SUCCEEDED)
        assert ready_ids(conn) == {left, right}
        settle(conn, right, JobState.SUCCEEDED)
        assert ready_ids(conn) == {left} and reads.unmet_needs(conn, column(conn, "document_id", bottom)) == [
            (left, "queued")]  # fmt: skip
        settle(conn, left, JobState.SUCCEEDED)
        assert ready_ids(conn) == {bottom}


def test_a_diamond_is_cancelled_once(database: Database) -> None:
    with database.write() as conn:
        top, left, right, bottom = add(conn, *diamond())
        assert sorted(settle(conn, top, JobState.FAILED)) == [left, right, bottom]
        check_counts(conn)


def test_needs_by_id_over_submissions(database: Database) -> None:
    with database.write() as conn:
        (done,) = add(conn)
        settle(conn, done, JobState.SUCCEEDED)
        (going,) = add(conn)
        (met,) = add(conn, document(after=(done,)))
        (both,) = add(conn, document(after=(done, going)))
        assert ready_ids(conn) == {going, met}
        assert reads.needed_jobs(conn, column(conn, "document_id", both)) == [done, going]
        settle(conn, going, JobState.SUCCEEDED)
        assert ready_ids(conn) == {met, both}


@pytest.mark.parametrize("ended", sorted(ENDED - {JobState.SUCCEEDED}))
def test_waiting_for_what_cannot_succeed_is_refused_and_nothing_stored(database: Database, ended: JobState) -> None:
    with database.write() as conn:
        (dead,) = add(conn)
        settle(conn, dead, ended)
        jobs = sql.value(conn, "SELECT count(*) FROM jobs")
    with pytest.raises(RefusedError, match=f"after: job {dead} has .*could never start") as caught, \
            database.write() as conn:  # fmt: skip
        add(conn, document("fine"), document(after=(dead,)))
    assert caught.value.mend is not None and f"retry {dead}" in caught.value.mend
    with pytest.raises(RefusedError, match="no job 999"), database.write() as conn:
        add(conn, document(after=(999,)))
    with database.read() as conn:
        assert sql.value(conn, "SELECT count(*) FROM jobs") == jobs
        assert sql.value(conn, "SELECT count(*) FROM documents") == jobs


def test_held_jobs_are_freed_and_cancelled_too(database: Database) -> None:
    with database.write() as conn:
        a, freed = add(conn, document("a"), document("b", after=("a",)))
        bring(conn, freed, JobState.HELD)
        settle(conn, a, JobState.SUCCEEDED)
        assert moves.release(conn, freed) and ready_ids(conn) == {freed}
        x, gone = add(conn, document("x"), document("y", after=("x",)))
        bring(conn, gone, JobState.HELD)
        assert settle(conn, x, JobState.FAILED) == [gone]


def test_a_retried_chain_waits_again(database: Database) -> None:
    with database.write() as conn:
        a, b = add(conn, document("a"), document("b", after=("a",)))
        settle(conn, a, JobState.FAILED)
        a_document, b_document = (column(conn, "document_id", job) for job in (a, b))
        assert reads.doomed_need(conn, b_document) == (a, "failed")
        assert moves.retry(conn, a, a_document) and reads.doomed_need(conn, b_document) is None
        assert moves.retry(conn, b, b_document)
        assert ready_ids(conn) == {a} and column(conn, "blocked", b) == 1
        assert place(conn, a) == 2 and end(conn, a, Move.SUCCEED, number=2)
        settle_dependents(conn, a)
        assert ready_ids(conn) == {b}


def test_not_before_and_backoff_wait_for_their_time(database: Database) -> None:
    with database.write() as conn:
        past, soon, late = (add(conn, document(not_before=NOW + s))[0] for s in (-5, 10, 20))
        assert ready_ids(conn) == {past} and reads.next_timer(conn) == NOW + 10
        assert moves.make_due(conn, NOW + 9.99) == 0
        assert moves.make_due(conn, NOW + 10) == 1
        assert ready_ids(conn) == {past, soon} and reads.next_timer(conn) == NOW + 20
        # A held job's time may pass, but nothing wakes for it; when released it is due.
        assert moves.hold(conn, late) and reads.next_timer(conn) is None
        assert moves.make_due(conn, NOW + 30) == 0
        assert moves.release(conn, late) and reads.next_timer(conn) == NOW + 20
        assert moves.make_due(conn, NOW + 30) == 1 and ready_ids(conn) == {past, soon, late}


def test_a_blocked_job_stays_blocked_when_its_time_comes(database: Database) -> None:
    with database.write() as conn:
        a, b = add(conn, document("a"), document("b", after=("a",), not_before=NOW + 5))
        assert moves.make_due(conn, NOW + 5) == 1 and ready_ids(conn) == {a}
        settle(conn, a, JobState.SUCCEEDED)
        assert ready_ids(conn) == {b}


def test_a_submission_in_the_order_written(database: Database) -> None:
    with database.write() as conn:
        from store_rig import ME

        done = submit(conn, [document("b", matrix=2), document("a")], ME, NOW)
        (first, name), *_rest = done.jobs
        assert [(n - first, title) for n, title in done.jobs] == [(0, "b"), (1, "b"), (2, "a")] and name == "b"
        assert reads.facts(conn, first + 1).matrix == {"n": "1"}  # type: ignore[union-attr]


def test_who_waits_for_a_job_that_is_tried_again_waits_once_more(database: Database) -> None:
    with database.write() as conn:
        a, b = add(conn, document("a"), document("b", after=("a",)))
        settle(conn, a, JobState.SUCCEEDED)
        assert ready_ids(conn) == {b}
        job = reads.facts(conn, a)
        assert job is not None and moves.retry(conn, a, job.document_id)
        dependents.block(conn, a, job.document_id)
        assert ready_ids(conn) == {a}
        assert settle(conn, a, JobState.SUCCEEDED) == []
        assert ready_ids(conn) == {b}


@pytest.mark.parametrize("second", [None, JobState.FAILED, JobState.SUCCEEDED])
def test_who_comes_back_to_the_queue_waits_for_what_was_retried_meanwhile(
    database: Database, second: JobState | None
) -> None:
    """It was placed when its need had succeeded; that was retried, and has ended again or has not."""
    with database.write() as conn:
        first, later = add(conn, document("first"), document("later", after=("first",)))
        settle(conn, first, JobState.SUCCEEDED)
        place(conn, later)
        moves.retry(conn, first, 1)
        dependents.block(conn, first, 1)
        if second is not None:
            settle(conn, first, second)
        assert end(conn, later, Move.REQUEUE)
        reason = dependents.wait_again(conn, later, 2, NOW)
        if second is JobState.FAILED:
            assert reason == f"job {first}, which it needed, failed" and state(conn, later) == "cancelled"
            return
        assert reason is None and state(conn, later) == "queued"
        assert (later in ready_ids(conn)) == (second is not None)
        if second is None:
            settle(conn, first, JobState.SUCCEEDED)
            assert later in ready_ids(conn)


def test_many_are_settled_in_parts(database: Database) -> None:
    """What is left cannot start; where its need is retried meanwhile, it waits again."""
    with database.write() as conn:
        first, *rest = add(
            conn, document("first"), document("many", matrix=25, after=("first",)), document("last", after=("many",))
        )
        last = rest.pop()
        bring(conn, first, JobState.FAILED)
        document_id = column(conn, "document_id", first)
        todo = dependents.of(conn, first, document_id)
        done = dependents.settle(conn, todo, NOW, 10)
        assert [len(some.ids) for some in done.cancelled] == [10] and done.left == todo
        assert ready_ids(conn) == set() and state(conn, last) == "queued"
        assert dependents.everything(conn) == [document_id + 1, document_id + 2], "what a daemon that died looks at"
        done = dependents.settle(conn, done.left, NOW, 15)
        assert len(done.cancelled[0].ids) == 15 and state(conn, last) == "queued" and done.left
        done = dependents.settle(conn, done.left, NOW, 15)
        assert [(some.ids, some.past) for some in done.cancelled] == [([last], "was cancelled")] and not done.left
        assert column(conn, "reason", last) == f"job {rest[0]}, which it needed, was cancelled"
        check_counts(conn)


def test_what_is_retried_while_its_dependents_are_cancelled(database: Database) -> None:
    with database.write() as conn:
        first, *rest = add(conn, document("first"), document("many", matrix=25, after=("first",)))
        bring(conn, first, JobState.FAILED)
        document_id = column(conn, "document_id", first)
        done = dependents.settle(conn, dependents.of(conn, first, document_id), NOW, 10)
        assert moves.retry(conn, first, document_id)
        dependents.block(conn, first, document_id)
        later = dependents.settle(conn, done.left, NOW, 100)
        assert (later.cancelled, later.freed, later.left) == ([], 0, [])
        number = place(conn, first)
        assert number is not None and end(conn, first, Move.SUCCEED, number=number)
        settle_dependents(conn, first)
        assert len(ready_ids(conn)) == 15 and ready_ids(conn) <= set(rest)


def test_an_end_within_a_matrix_asks_nobody_yet(database: Database) -> None:
    with database.write() as conn:
        one, two, *_after = add(conn, document("parts", matrix=2), document("a", after=("parts",)),
                                document("b", after=("parts",)))  # fmt: skip
        document_id = column(conn, "document_id", one)
        bring(conn, one, JobState.SUCCEEDED)
        assert dependents.of(conn, one, document_id) == []
        bring(conn, two, JobState.SUCCEEDED)
        assert dependents.of(conn, two, document_id) == [document_id + 1, document_id + 2]
