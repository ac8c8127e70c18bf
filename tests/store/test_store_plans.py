"""The statements of every dispatch on a long queue: by their indexes, and as fast as on a short one."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, column, document, end, place, settle_dependents

from p104d.core.job import ENDED, JobState
from p104d.core.lifecycle import Move
from p104d.store import lists, moves, reads, retention, schedules, sql
from p104d.store.engine import Database
from p104d.store.lists import JobFilter
from p104d.store.submit import is_blocked

LONG = 200_000
SHORT = 1_000

#: Rows as a long-lived queue has them: nine of ten waiting, some for a time or a job, the rest ended.
_FILL = """
    INSERT INTO jobs (document_id, name, uid, user, state, priority, requirement_id, blocked, eligible_at, attempts,
                      failures, submitted_at, ended_at)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < :rows)
    SELECT :document, 'job', 1000, 'me', CASE i % 10 WHEN 0 THEN 'succeeded' ELSE 'queued' END, i % 3,
           :requirement + i % 5, i % 7 = 1, CASE WHEN i % 11 = 2 THEN 2e9 + i END, 0, 0, 1e9,
           CASE i % 10 WHEN 0 THEN 1e9 + i END
    FROM n
"""


def filled(template: Path, folder: Path, rows: int) -> Path:
    path = folder / "queue.db"
    shutil.copy(template, path)
    database = Database(path, synchronous="OFF")
    with database.write() as conn:
        ids = [add(conn, document(f"kind{n}", ram_bytes=n))[0] for n in range(5)]
        values = {"rows": rows, "document": column(conn, "document_id", ids[0]),
                  "requirement": column(conn, "requirement_id", ids[0])}  # fmt: skip
        sql.run(conn, _FILL, values)
    database.close()
    return path


@pytest.fixture(scope="module")
def queues(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, Database]]:
    """(short, long)."""
    pair = [Database(filled(template, tmp_path_factory.mktemp("queue"), rows), synchronous="OFF")
            for rows in (SHORT, LONG)]  # fmt: skip
    yield pair[0], pair[1]
    for each in pair:
        each.close()


def listed(conn: Connection, wanted: JobFilter) -> None:
    """A list as it is made."""
    lists.listed(conn, wanted, lists.fitting(conn, wanted))


def dispatch(conn: Connection) -> None:
    """What one job costs from its submission to its end, and what the loop asks at each step."""
    (job_id,) = add(conn, document("one", priority=900), now=NOW)
    (after,) = add(conn, document("two", after=(job_id,)), now=NOW)
    for number, requirement in reads.ready_requirements(conn):
        reads.ready_jobs(conn, number, requirement, 4)
    reads.first_jobs(conn, 64)
    reads.next_timer(conn)
    schedules.next_schedule(conn)
    reads.counts(conn)
    moves.make_due(conn, NOW)
    number = place(conn, job_id)
    assert number == 1
    reads.open_attempts(conn)
    reads.facts(conn, job_id)
    moves.run(conn, job_id, number, pid=1, at=NOW)
    moves.stop(conn, job_id, "time limit")
    moves.stop_again(conn, job_id, "cancelled")
    end(conn, job_id, Move.SUCCEED)
    settle_dependents(conn, job_id)
    is_blocked(conn, column(conn, "document_id", after))
    moves.cancel_waiting(conn, after, "cancelled", NOW)
    settle_dependents(conn, after)
    moves.retry(conn, after, column(conn, "document_id", after))
    moves.hold(conn, after)
    moves.release(conn, after)
    moves.set_priority(conn, after, -900)
    lists.job_rows(conn, [job_id, after])
    lists.states(conn, [job_id, after])
    lists.cards_of(conn, [job_id])
    lists.attempts_of(conn, job_id)
    listed(conn, JobFilter())
    listed(conn, JobFilter(states=(JobState.RUNNING,)))
    listed(conn, JobFilter(name="one"))
    listed(conn, JobFilter(card="GPU-0000"))
    retention.forget_jobs(conn, 1e9 - 1, 100)


def plans_of(conn: Connection, work: Callable[[Connection], None]) -> dict[str, list[str]]:
    """statement -> the steps of its plan, of all that ``work`` executes."""
    driver = conn.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    seen: dict[str, None] = {}
    driver.set_trace_callback(lambda text: seen.setdefault(" ".join(text.split())))
    work(conn)
    driver.set_trace_callback(None)
    statements = [text for text in seen if text.split()[0] in ("SELECT", "UPDATE", "INSERT", "DELETE", "WITH")]
    return {text: [row[3] for row in driver.execute(f"EXPLAIN QUERY PLAN {text}")] for text in statements}


def walks(step: str) -> bool:
    """Does this step of a plan go over rows of the big tables without an index to start at?

    A scan along an index is one too, but for the newest jobs first (``list``), which stops at its limit.
    """
    words = step.split()
    big = ("jobs", "j", "attempts", "a", "attempt_cards", "c", "documents", "d", "needs", "n")
    return words[0] == "SCAN" and "VIRTUAL" not in words and words[1] in big


def test_no_statement_of_a_dispatch_walks_the_queue(queues: tuple[Database, Database]) -> None:
    with queues[1].write() as conn:
        plans = plans_of(conn, dispatch)
    assert len(plans) > 40
    walking = {text: plan for text, plan in plans.items() if any(walks(step) for step in plan)}
    # Served from an index that holds only what is ready or open, or in order up to a LIMIT.
    allowed = {
        text: plan
        for text, plan in walking.items()
        if all(
            not walks(step)
            or "USING INDEX jobs_order" in step
            or "INDEX attempts_open" in step
            or ("WHERE 1 ORDER BY j.id DESC LIMIT" in text and step == "SCAN j")
            for step in plan
        )
    }
    assert {text: plan for text, plan in walking.items() if text not in allowed} == {}


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (reads.ready_requirements, "jobs_ready"),
        (lambda conn: reads.ready_jobs(conn, 1, reads.requirement(conn, 1), 4), "jobs_ready"),
        (lambda conn: reads.first_jobs(conn, 4), "jobs_order"),
        (reads.next_timer, "jobs_timer"),
        (lambda conn: moves.make_due(conn, 0.0), "jobs_timer"),
        (lambda conn: retention.forget_jobs(conn, 0.0), "jobs_ended"),
        (reads.open_attempts, "attempts_open"),
    ],
)
def test_its_index_serves(queues: tuple[Database, Database], ask: Callable[[Connection], None], index: str) -> None:
    with queues[0].write() as conn:
        plans = plans_of(conn, ask)
    assert any(index in step for plan in plans.values() for step in plan), plans
    assert not any("USE TEMP B-TREE" in step for plan in plans.values() for step in plan), plans


def seconds(database: Database, work: Callable[[Connection], None], times: int = 15) -> float:
    spent = []
    for _ in range(times):
        with database.write() as conn:
            start = time.perf_counter()
            work(conn)
            spent.append(time.perf_counter() - start)
    return median(spent)


def cycle(conn: Connection) -> None:
    """One job through, and the loop's own questions; no listing, no forgetting."""
    (job_id,) = add(conn, document("one", priority=900))
    for number, requirement in reads.ready_requirements(conn):
        reads.ready_jobs(conn, number, requirement, 4)
    reads.first_jobs(conn, 64)
    reads.next_timer(conn)
    reads.counts(conn)
    reads.open_attempts(conn)
    bring(conn, job_id, JobState.SUCCEEDED)


_ACTIVE = tuple(state for state in JobState if state not in ENDED)


@pytest.mark.parametrize(
    ("wanted", "quick"),
    [
        (JobFilter(), True),
        (JobFilter(states=_ACTIVE, before=7), True),
        (JobFilter(name="one"), True),
        (JobFilter(next_first=True), True),
        (JobFilter(next_first=True, states=_ACTIVE), False),
        (JobFilter(name="one", states=_ACTIVE), False),
        (JobFilter(user="me"), False),
        (JobFilter(label=("a", "b")), False),
        (JobFilter(card="GPU-0000"), False),
        (JobFilter(since=1.0), False),
    ],
)
def test_a_list_that_may_walk_the_queue_is_known_as_one(wanted: JobFilter, quick: bool) -> None:
    """What is not quick is asked beside the loop."""
    assert lists.is_quick(wanted) == quick


@pytest.mark.parametrize(
    "work",
    [
        cycle,
        reads.ready_requirements,
        reads.next_timer,
        reads.counts,
        reads.open_attempts,
        lambda conn: reads.first_jobs(conn, 64),
        lambda conn: moves.make_due(conn, NOW),
        lambda conn: listed(conn, JobFilter()),
        lambda conn: listed(conn, JobFilter(states=(JobState.RUNNING, JobState.FAILED))),
        lambda conn: listed(conn, JobFilter(states=_ACTIVE)),
        lambda conn: listed(conn, JobFilter(states=tuple(JobState), before=600)),
        lambda conn: listed(conn, JobFilter(name="job")),
        lambda conn: retention.forget_jobs(conn, 1e9 + 100, 5),
    ],
    ids=[
        "cycle",
        "requirements",
        "timer",
        "counts",
        "open",
        "first",
        "due",
        "list",
        "list-rare",
        "list-active",
        "list-all",
        "list-name",
        "forget",
    ],
)
def test_a_long_queue_costs_what_a_short_one_does(
    queues: tuple[Database, Database], work: Callable[[Connection], None]
) -> None:
    short, long = (seconds(database, work) for database in queues)
    # 200 times the rows; a walk would show as a hundred times the time. Twice and a millisecond are the noise of a
    # busy machine.
    assert long < 3 * short + 0.001, f"{short * 1e6:.0f} µs of 1,000 jobs, {long * 1e6:.0f} µs of 200,000"
