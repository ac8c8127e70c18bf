"""What one user can make the daemon do by the clock and by endings, asked of the real queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from p104d.core.job import JobSpec, Schedule
from p104d.daemon.timetable import run_due
from p104d.store import schedules
from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child
from p104d.store.submit import NewDocument, Submitter, submit

DAY = 86_400.0


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[Connection]:
    upgrade_in_child(tmp_path / "queue.db")
    database = Database(tmp_path / "queue.db")
    try:
        with database.write() as found:
            yield found
    finally:
        database.close()


def test_schedules_fill_the_queue_no_further_than_submissions(conn: Connection) -> None:
    spec = JobSpec(
        name="n",
        command=("true",),
        cwd="/",
        schedule=Schedule(cron="0 3 * * *", timezone="UTC"),
        matrix={"n": tuple(map(str, range(40)))},
    )
    for uid in (1000, 1000, 1000, 1001):
        submit(conn, [NewDocument(spec=spec, combinations=[])], Submitter(uid, str(uid)), 0.0)
    assert run_due(conn, 0.0, 100) == []
    made = run_due(conn, DAY, 100)
    rows = conn.exec_driver_sql("SELECT uid, count(*) FROM jobs GROUP BY uid").fetchall()
    assert dict(map(tuple, rows)) == {1000: 80, 1001: 40} and len(made) == 120
    # The third is not due for ever: it skipped this time, as with a run still going.
    assert run_due(conn, DAY, 100) == []


def test_notifications_are_taken_a_few_at_a_time_and_fairly(conn: Connection) -> None:
    for uid in [1000] * 50 + [1001] * 3 + [1002]:
        schedules.owe(conn, job_id=None, uid=uid, user=str(uid), command=["true"], env={}, now=0.0)
    first = schedules.take_owed(conn)
    assert Counter(each.uid for each in first) == {1000: 8, 1001: 3, 1002: 1}
    assert schedules.take_owed(conn) == [], "eight of one user are under way, and no others are owed"
    schedules.notification_sent(conn, first[0].id, None)
    assert len(schedules.take_owed(conn)) == 1
    for uid in range(2000, 2020):
        schedules.owe(conn, job_id=None, uid=uid, user=str(uid), command=["true"], env={}, now=0.0)
    assert len(schedules.take_owed(conn)) == 4, "sixteen in all"
    assert schedules.take_owed(conn) == []
    schedules.owe_again(conn)
    assert len(schedules.take_owed(conn)) == 16
