"""What the scheduler is offered: compared with a plain reading of the whole table, over queues made by hypothesis."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Connection
from store_rig import NOW, add, bring, check_counts, document, ready_ids

from p104d.core.job import JobState, Requirement
from p104d.store import moves, reads, sql
from p104d.store.engine import Database
from p104d.store.submit import Submitter

ROW = st.fixed_dictionaries(
    {
        "cards": st.integers(0, 1),
        "ram_bytes": st.sampled_from([0, 5]),
        "priority": st.sampled_from([-3, 0, 7]),
        "state": st.sampled_from([*JobState, *[JobState.QUEUED] * 30]),
        "blocked": st.sampled_from([*[0] * 7, 1]),
        "eligible_at": st.sampled_from([*[None] * 8, NOW - 1, NOW + 5]),
    }
)


@contextmanager
def empty(template: Path) -> Iterator[Database]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "queue.db"
        shutil.copy(template, path)
        database = Database(path, synchronous="OFF")
        try:
            yield database
        finally:
            database.close()


def put(conn: Connection, row: dict[str, Any]) -> int:
    (job_id,) = add(
        conn, document(cards=row["cards"], ram_bytes=row["ram_bytes"], priority=row["priority"], time_limit_seconds=9.0)
    )
    sql.run(
        conn,
        "UPDATE jobs SET state = ?, blocked = ?, eligible_at = ? WHERE id = ?",
        (row["state"].value, row["blocked"], row["eligible_at"], job_id),
    )
    return job_id


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, max_size=16), limit=st.integers(1, 3))
def test_ready_equals_a_plain_reading(template: Path, rows: list[dict[str, Any]], limit: int) -> None:
    with empty(template) as database, database.write() as conn:
        for row in rows:
            row["id"] = put(conn, row)
        able = [r for r in rows if r["state"] == "queued" and not r["blocked"] and r["eligible_at"] is None]
        able.sort(key=lambda r: (-r["priority"], r["id"]))
        kinds = [Requirement(cards=c, ram_bytes=ram) for c, ram in sorted({(r["cards"], r["ram_bytes"]) for r in able})]
        found = reads.ready_requirements(conn)
        assert sorted(requirement for _, requirement in found) == kinds
        assert [number for number, _ in found] == sorted(number for number, _ in found)
        for number, kind in found:
            expected = [r for r in able if (r["cards"], r["ram_bytes"]) == (kind.cards, kind.ram_bytes)]
            offered = reads.ready_jobs(conn, number, kind, limit)
            assert [(job.id, job.priority) for job in offered] == [(r["id"], r["priority"]) for r in expected[:limit]]
            assert all(job.requirement == kind and job.time_limit_seconds == 9.0 for job in offered)
        assert [job.id for job in reads.first_jobs(conn, limit)] == [r["id"] for r in able[:limit]]
        timers = [r["eligible_at"] for r in rows if r["state"] == "queued" and r["eligible_at"] is not None]
        assert reads.next_timer(conn) == min(timers, default=None)
        check_counts(conn)


def test_many_requirements_come_in_parts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "MAX_REQUIREMENTS", 4)
    with database.write() as conn:
        ids = [add(conn, document(ram_bytes=n))[0] for n in range(1, 11)]
        bring(conn, ids[2], JobState.RUNNING)
        seen: list[int] = []
        after = 0
        for size in (4, 4, 1):
            part = reads.ready_requirements(conn, after)
            assert len(part) == size
            after = part[-1][0]
            seen += [requirement.ram_bytes for _, requirement in part]
        assert seen == [1, 2, 4, 5, 6, 7, 8, 9, 10]
        assert reads.ready_requirements(conn, after) == []


def test_equal_requirements_are_one(database: Database) -> None:
    with database.write() as conn:
        add(conn, *(document(f"d{n}", only=("GPU-a", "P104-100"), vram_bytes=5) for n in range(3)))
        ((number, requirement),) = reads.ready_requirements(conn)
        assert requirement == reads.requirement(conn, number)
        assert requirement == Requirement(cards=1, vram_bytes=5, only=("GPU-a", "P104-100"))
        assert len(reads.ready_jobs(conn, number, requirement, 10)) == 3


def test_counts_follow_every_way_of_changing(database: Database) -> None:
    """Single moves, moves of many, deletions, and none of them counted twice."""
    with database.write() as conn:
        ids = add(conn, document("matrix", matrix=20), document("after", matrix=5, after=("matrix",)))
        check_counts(conn)
        for job_id, state in zip(ids, itertools.cycle(JobState), strict=False):
            bring(conn, job_id, state)
        check_counts(conn)
        sql.run(conn, "DELETE FROM jobs WHERE state IN ('failed', 'cancelled')")
        check_counts(conn)
        sql.run(conn, "UPDATE jobs SET state = state")
        sql.run(conn, "UPDATE jobs SET state = 'held' WHERE state = 'queued'")
        check_counts(conn)
        assert reads.counts(conn)["queued"] == 0


def test_waiting_of_user(database: Database) -> None:
    with database.write() as conn:
        ids = add(conn, document(matrix=4))
        add(conn, who=Submitter(1001, "other"))
        bring(conn, ids[0], JobState.HELD)
        bring(conn, ids[1], JobState.RUNNING)
        assert (reads.waiting_of_user(conn, 1000), reads.waiting_of_user(conn, 1001)) == (3, 1)
        assert reads.waiting_of_user(conn, 5) == 0


def test_ids_are_never_given_again(database: Database) -> None:
    """Logs are kept by id, and a document that is needed must not become another one."""
    with database.write() as conn:
        (first,) = add(conn)
        old = sql.value(conn, "SELECT max(id) FROM documents")
        sql.run(conn, "DELETE FROM jobs")
        sql.run(conn, "DELETE FROM documents")
        (second,) = add(conn)
        assert second == first + 1 and sql.value(conn, "SELECT max(id) FROM documents") == old + 1
        assert ready_ids(conn) == {second}
        assert moves.hold(conn, second) and ready_ids(conn) == set()
