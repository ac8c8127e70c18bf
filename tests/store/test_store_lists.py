"""What people are shown of the queue, and what is forgotten of it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, check_counts, column, document, place, ready_ids, settle, state

from p104d.core.job import ENDED, JobState
from p104d.store import lists, moves, reads, retention, sql
from p104d.store.engine import Database
from p104d.store.lists import JobFilter
from p104d.store.submit import Submitter


def names(conn: Connection, **wanted: Any) -> list[str]:
    filter_ = JobFilter(**wanted)
    return [row.name for row in lists.listed(conn, filter_, lists.fitting(conn, filter_))]


@pytest.fixture
def filled(database: Database) -> Database:
    """a..f, older to newer: two users, labels, states, cards."""
    with database.write() as conn:
        add(conn, document("a", labels={"project": "posters", "n": "1"}), now=NOW)
        add(conn, document("b", labels={"project": "films"}), now=NOW + 1, who=Submitter(1001, "other"))
        add(conn, document("c", labels={"posters": "project"}), now=NOW + 2)
        (d,) = add(conn, document("d"), now=NOW + 3)
        (e,) = add(conn, document("e", cards=2), now=NOW + 4)
        add(conn, document("f", labels={"project": "posters"}), now=NOW + 5)
        bring(conn, d, JobState.FAILED)
        place(conn, e, ("GPU-0001", "GPU-0002"))
    return database


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, "fedcba"),
        ({"limit": 2}, "fe"),
        ({"limit": 2, "before": 5}, "dc"),
        ({"states": (JobState.FAILED,)}, "d"),
        ({"states": (JobState.FAILED, JobState.STARTING)}, "ed"),
        ({"states": (JobState.LOST,)}, ""),
        ({"name": "c"}, "c"),
        ({"user": "other"}, "b"),
        ({"user": "other", "name": "a"}, ""),
        ({"label": ("project", "posters")}, "fa"),
        ({"label": ("project", "poster")}, ""),
        ({"label": ("n", "1")}, "a"),
        ({"card": "GPU-0002"}, "e"),
        ({"card": "GPU-0000"}, "d"),
        ({"card": "GPU-9"}, ""),
        ({"since": NOW + 4}, "fe"),
        ({"since": NOW + 1, "states": (JobState.QUEUED,), "limit": 2}, "fc"),
    ],
)
def test_filters(filled: Database, wanted: dict[str, Any], found: str) -> None:
    with filled.read() as conn:
        assert "".join(names(conn, **wanted)) == found


def test_the_next_to_start_come_first(database: Database) -> None:
    with database.write() as conn:
        add(conn, document("a"), document("b", priority=5), document("c"), document("d", priority=5))
        (e,) = add(conn, document("e", priority=9))
        add(conn, document("f", priority=9, after=(e,)))
        bring(conn, e, JobState.FAILED)
        assert names(conn, next_first=True) == ["b", "d", "a", "c"]
        assert names(conn, next_first=True, limit=1) == ["b"]
        assert names(conn, next_first=True, name="c") == ["c"]
        assert names(conn, next_first=True, states=(JobState.QUEUED, JobState.FAILED)) == ["b", "d", "a", "c"]


def test_what_changed_since_it_was_found_is_left_out(filled: Database) -> None:
    wanted = JobFilter(states=(JobState.QUEUED,), since=NOW + 0.5)
    with filled.write() as conn:
        ids = lists.fitting(conn, wanted)
        assert len(ids) == 3
        bring(conn, ids[1], JobState.RUNNING)
        assert [row.id for row in lists.listed(conn, wanted, [*ids, 10**9])] == [ids[0], ids[2]]


@pytest.mark.parametrize("text", ["a' OR 1=1 --", "%", "_", "\0", "é" * 300, ""])
def test_filters_are_values_never_sql(filled: Database, text: str) -> None:
    with filled.read() as conn:
        for wanted in ({"name": text}, {"user": text}, {"card": text}, {"label": (text, text)}):
            assert names(conn, **wanted) == []


def test_rows_come_in_the_order_asked(database: Database) -> None:
    with database.write() as conn:
        ids = add(conn, document(matrix=1200))
        asked = [*reversed(ids), 10**9]
        assert [row.id for row in lists.job_rows(conn, asked)] == asked[:-1]
        assert lists.states(conn, asked) == dict.fromkeys(ids, ("queued", 1000))
        assert reads.facts(conn, 10**9) is None and lists.job_rows(conn, []) == []


def test_env_is_kept_apart_from_the_spec(database: Database) -> None:
    with database.write() as conn:
        (job_id,) = add(conn, document(env={"TOKEN": "secret-7"}))
        row = lists.job_rows(conn, [job_id])[0]
        assert "secret-7" not in dict(lists.specs(conn, [row.document_id]))[row.document_id]
        assert reads.document(conn, row.document_id).env.env == {"TOKEN": "secret-7"}


# --- forgetting ---


def old(conn: Connection, state: JobState, at: float = NOW, **changes: Any) -> int:
    (job_id,) = add(conn, document(**changes))
    bring(conn, job_id, state, ended_at=at)
    return job_id


def left(conn: Connection) -> set[int]:
    return {row[0] for row in sql.rows(conn, "SELECT id FROM jobs")}


def test_only_what_ended_before_is_forgotten(database: Database) -> None:
    with database.write() as conn:
        gone = [old(conn, state) for state in sorted(ENDED)]
        young = old(conn, JobState.SUCCEEDED, at=NOW + 100)
        going = [old(conn, state) for state in sorted(set(JobState) - ENDED)]
        assert sorted(retention.forget_jobs(conn, NOW + 50)) == gone
        assert left(conn) == {young, *going}
        check_counts(conn)
        for table in ("attempts", "attempt_cards"):
            owners = {row[0] for row in sql.rows(conn, f"SELECT DISTINCT job_id FROM {table}")}
            assert owners == left(conn) - set(going[:2])
        assert sql.value(conn, "SELECT count(*) FROM documents") == 6


def test_forgetting_is_bounded_and_oldest_first(database: Database) -> None:
    with database.write() as conn:
        ids = [old(conn, JobState.SUCCEEDED, at=NOW - n) for n in range(5)]
        assert retention.ended_oldest_first(conn, 2) == [ids[4], ids[3]]
        assert retention.forget_jobs(conn, NOW + 1, limit=2) == [ids[4], ids[3]]
        assert left(conn) == set(ids[:3])


def test_what_is_waited_for_is_kept(database: Database) -> None:
    with database.write() as conn:
        by_id = old(conn, JobState.SUCCEEDED)
        add(conn, document("waits", after=(by_id,), not_before=NOW + 1000))
        one, two, last = add(conn, document("parts", matrix=2), document("sum", after=("parts",)))
        bring(conn, one, JobState.SUCCEEDED, ended_at=NOW)
        assert retention.forget_jobs(conn, NOW + 50) == []
        settle(conn, two, JobState.SUCCEEDED)
        assert ready_ids(conn) == {last}
        assert retention.forget_jobs(conn, NOW + 50) == []
        bring(conn, last, JobState.FAILED, ended_at=NOW)
        assert sorted(retention.forget_jobs(conn, NOW + 50)) == [one, two, last]
        assert by_id in left(conn)


def test_a_matrix_keeps_its_document_until_the_last_is_gone(database: Database) -> None:
    with database.write() as conn:
        one, two = add(conn, document(matrix=2))
        bring(conn, one, JobState.FAILED, ended_at=NOW)
        bring(conn, two, JobState.FAILED, ended_at=NOW + 100)
        assert retention.forget_jobs(conn, NOW + 50) == [one]
        assert reads.facts(conn, two) is not None
        assert retention.forget_jobs(conn, NOW + 500) == [two]
        assert sql.value(conn, "SELECT count(*) FROM documents") == 0


def test_retry_of_a_job_whose_need_was_forgotten(database: Database) -> None:
    """It succeeded long ago; waiting for it would be waiting for ever."""
    with database.write() as conn:
        a, b = add(conn, document("b", after=("a",)), document("a"))[::-1]
        settle(conn, a, JobState.SUCCEEDED)
        bring(conn, b, JobState.FAILED, ended_at=NOW + 500)
        c = old(conn, JobState.FAILED, at=NOW + 500, after=(a,))
        assert retention.forget_jobs(conn, NOW + 50) == [a]
        # A new document must not take the forgotten one's place.
        (new,) = add(conn)
        for job_id in (b, c):
            assert moves.retry(conn, job_id, column(conn, "document_id", job_id))
        assert ready_ids(conn) == {new, b, c}
        assert settle(conn, new, JobState.FAILED) == [] and state(conn, b) == "queued"


def test_a_schedules_document_stays(database: Database) -> None:
    from p104d.core.job import Schedule

    with database.write() as conn:
        add(conn, document("nightly", schedule=Schedule(cron="0 3 * * *")))
        old(conn, JobState.FAILED)
        retention.forget_jobs(conn, NOW + 50)
        assert [row[0] for row in sql.rows(conn, "SELECT name FROM documents")] == ["nightly"]
