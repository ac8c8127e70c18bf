"""What a forecast reads of the queue: in order, bounded, and along indexes however long the queue is."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, column, document
from test_store_plans import SHORT, filled, plans_of

from p104d.core.job import JobState
from p104d.store import foresight, moves, sql
from p104d.store.engine import Database
from p104d.store.foresight import RunTimes


@pytest.fixture
def conn(database: Database) -> Connection:
    with database.write() as connection:
        yield connection


def test_all_that_waits_in_the_order_of_service(conn: Connection) -> None:
    first, second = add(conn, document("plain", matrix=2, time_limit_seconds=60.0))
    (urgent,) = add(conn, document("urgent", priority=5))
    (after,) = add(conn, document("after", after=(first,)))
    (late,) = add(conn, document("late", not_before=NOW + 100))
    (held,) = add(conn, document("held"))
    moves.hold(conn, held)
    (running,) = add(conn, document("running"))
    bring(conn, running, JobState.RUNNING)
    found = foresight.waiting(conn, 10)
    assert [row.id for row in found] == [urgent, first, second, after, late, held]
    by_id = {row.id: row for row in found}
    assert (by_id[first].name, by_id[first].time_limit_seconds, by_id[first].state) == ("plain", 60.0, JobState.QUEUED)
    assert by_id[after].blocked and not by_id[first].blocked
    assert by_id[late].eligible_at == NOW + 100
    assert by_id[held].state is JobState.HELD
    assert [row.id for row in foresight.waiting(conn, 3)] == [urgent, first, second]


def test_what_a_document_still_needs(conn: Connection) -> None:
    one, two = add(conn, document("m", matrix=2))
    (after,) = add(conn, document("after", after=(one, two)))
    wanted = column(conn, "document_id", after)
    assert foresight.needs(conn, [wanted]) == {wanted: frozenset({one, two})}
    bring(conn, one, JobState.SUCCEEDED)
    assert foresight.needs(conn, [wanted, wanted]) == {wanted: frozenset({two})}


def test_run_times_by_name_and_requirement_then_by_name_then_by_document(conn: Connection) -> None:
    def ran(name: str, seconds: float, state: str = "succeeded", **changes: int) -> int:
        (job,) = add(conn, document(name, **changes))
        values = (state, NOW, NOW + seconds, job)
        sql.run(conn, "UPDATE jobs SET state = ?, started_at = ?, ended_at = ? WHERE id = ?", values)
        return job

    one = ran("a", 10.0)
    ran("a", 20.0)
    big = ran("a", 60.0, ram_bytes=7)
    ran("a", 1.0, "failed")
    ran("b", 100.0)
    times = RunTimes(conn)
    kind, document_id = (column(conn, each, one) for each in ("requirement_id", "document_id"))
    assert times.of("a", kind, document_id) == 15.0
    assert times.of("a", column(conn, "requirement_id", big), 0) == 60.0
    assert times.of("a", -1, 0) == 30.0
    assert times.of("renamed", -1, document_id) == 10.0
    assert times.of("renamed", -1, -1) is None
    assert times.overall() == 65.0
    assert foresight.requirements_of(conn, [one, 999]) == {one: (kind, document_id)}


def test_nothing_has_run(conn: Connection) -> None:
    assert RunTimes(conn).overall() is None


def test_it_reads_along_indexes(template: Path, tmp_path: Path) -> None:
    database = Database(filled(template, tmp_path, SHORT), synchronous="OFF")

    def work(conn: Connection) -> None:
        foresight.waiting(conn, 50)
        foresight.needs(conn, [1])
        RunTimes(conn).of("unknown", 1, 1)

    with database.write() as conn:
        plans = plans_of(conn, work)
    database.close()
    assert len(plans) == 7
    sorts = [text for text, plan in plans.items() if any("ORDER BY" in step for step in plan) and "UNION" not in text]
    # The blocked ones come out of a bounded part of the queue.
    assert all("blocked = 1" in text for text in sorts)
    walking = [step for plan in plans.values() for step in plan if step.startswith(("SCAN j", "SCAN jobs"))]
    assert all(
        "USING INDEX jobs_order" in step or "USING INDEX jobs_ended" in step or step == "SCAN j" for step in walking
    )
