"""Schedules by a clock turned by hand, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from p104d.core.clock import ManualClock
from p104d.core.job import JobSpec, JobState, Schedule
from p104d.daemon.timetable import next_time, run_due
from p104d.store import lists, moves, schedules
from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child
from p104d.store.submit import NewDocument, Submitter, submit

HOUR = 3600.0
START = datetime(2026, 11, 23, 2, 30, tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("queue") / "queue.db"
    upgrade_in_child(path)
    return path.read_bytes()


@pytest.fixture
def conn(empty: bytes, tmp_path: Path) -> Iterator[Connection]:
    (tmp_path / "queue.db").write_bytes(empty)
    database = Database(tmp_path / "queue.db")
    try:
        with database.write() as connection:
            yield connection
    finally:
        database.close()


def schedule(conn: Connection, now: float, cron: str = "0 3 * * *", **keys: object) -> int:
    spec = JobSpec(name="nightly", command=("true",), cwd="/", schedule=Schedule(cron=cron, timezone="UTC"), **keys)  # type: ignore[arg-type]
    made = submit(conn, [NewDocument(spec=spec, combinations=[{}])], Submitter(0, "root"), now)
    assert made.jobs == []
    [(number, name)] = made.schedules
    assert name == "nightly"
    return number


def next_run(conn: Connection, number: int) -> datetime:
    [row] = schedules.some_schedules(conn, [number])
    return datetime.fromtimestamp(row.next_run_at, UTC)


def finish(conn: Connection, job: int) -> None:
    assert moves.cancel_waiting(conn, job, "cancelled", 0.0)


def test_the_first_time_is_after_the_submission(conn: Connection) -> None:
    number = schedule(conn, START)
    assert run_due(conn, START) == []
    assert next_run(conn, number) == datetime(2026, 11, 23, 3, tzinfo=UTC)


def test_it_submits_once_each_time(conn: Connection) -> None:
    clock = ManualClock(START)
    number = schedule(conn, clock.now())
    run_due(conn, clock.now())
    for day in (23, 24, 25):
        clock.jump(datetime(2026, 11, day, 3, tzinfo=UTC).timestamp() - 0.5 - clock.now())
        assert run_due(conn, clock.now()) == []
        clock.advance(1)
        [job] = run_due(conn, clock.now())
        assert run_due(conn, clock.now()) == []
        assert next_run(conn, number).day == day + 1
        finish(conn, job)


def test_downtime_is_caught_up_once(conn: Connection) -> None:
    number = schedule(conn, START)
    run_due(conn, START)
    later = START + 10 * 24 * HOUR
    assert len(run_due(conn, later)) == 1
    assert run_due(conn, later) == []
    assert next_run(conn, number).timestamp() > later


def test_a_run_still_going_makes_the_next_one_skip(conn: Connection) -> None:
    number = schedule(conn, START)
    run_due(conn, START)
    [job] = run_due(conn, START + HOUR)
    assert run_due(conn, START + 25 * HOUR) == []
    [row] = schedules.some_schedules(conn, [number])
    assert row.last_job_id == job and row.last_run_at == START + 25 * HOUR
    finish(conn, job)
    [again] = run_due(conn, START + 49 * HOUR)
    assert again > job


def test_a_held_schedule_rests_and_goes_on_from_its_release(conn: Connection) -> None:
    number = schedule(conn, START)
    run_due(conn, START)
    schedules.set_schedule_state(conn, number, "held")
    assert run_due(conn, START + 100 * HOUR) == []
    schedules.set_schedule_state(conn, number, "active")
    # What it missed while a person held it is not caught up.
    assert run_due(conn, START + 100 * HOUR) == []
    assert next_run(conn, number).timestamp() > START + 100 * HOUR
    schedules.set_schedule_state(conn, number, "cancelled")
    assert run_due(conn, START + 1000 * HOUR) == []


def test_a_schedules_matrix_makes_all_its_jobs_each_time(conn: Connection) -> None:
    schedule(conn, START, matrix={"seed": ("1", "2")})
    run_due(conn, START)
    jobs = run_due(conn, START + HOUR)
    assert [row.matrix for row in lists.job_rows(conn, jobs)] == ['{"seed":"1"}', '{"seed":"2"}']
    assert {row.state for row in lists.job_rows(conn, jobs)} == {JobState.QUEUED.value}
    finish(conn, jobs[0])
    assert run_due(conn, START + 25 * HOUR) == []


def test_sunday_is_0_and_7() -> None:
    sunday = datetime(2026, 11, 29, 3, tzinfo=UTC).timestamp()
    assert next_time("0 3 * * 0", "UTC", START) == next_time("0 3 * * 7", "UTC", START) == sunday


def test_zones_with_summer_time() -> None:
    """Berlin, 2026-10-25: 03:00 becomes 02:00. Three in the morning stays three in the morning."""
    before = datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp()
    first = next_time("0 3 * * *", "Europe/Berlin", before)
    assert first == datetime(2026, 10, 25, 2, tzinfo=UTC).timestamp()
    assert (
        next_time("0 3 * * *", "Europe/Berlin", before - 24 * HOUR) == datetime(2026, 10, 24, 1, tzinfo=UTC).timestamp()
    )
    assert next_time("0 3 * * *", "Europe/Berlin", first) == datetime(2026, 10, 26, 2, tzinfo=UTC).timestamp()
