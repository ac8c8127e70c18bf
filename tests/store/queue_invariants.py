"""What must hold after every step of a random life, and the state it is asked of."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine, invariant
from queue_parts import HOST, Folders, views
from sqlalchemy.engine import Connection
from store_rig import check_counts

from p104d.core.clock import ManualClock
from p104d.core.job import ACTIVE, ENDED, WAITING, JobState
from p104d.daemon.endings import Finished, finish, settle_dependents
from p104d.daemon.work import Work
from p104d.processes.attempt import LookKind
from p104d.store import reads, sql
from p104d.store.engine import Database
from p104d.store.reads import OpenAttempt


class Held(RuleBasedStateMachine):
    """One daemon's queue. ``final`` is what was answered to be over: it must stay so until somebody retries it."""

    template: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir="/tmp")
        path = Path(self.folder.name) / "queue.db"
        shutil.copy(self.template, path)
        self.database = Database(path, synchronous="OFF")
        self.clock = ManualClock()
        self.final: dict[int, JobState] = {}
        self.acknowledged: set[int] = set()
        self.folders = Folders()
        self.boot = 1
        self.paused = False
        self.closed: set[str] = set()
        #: Documents that a step has left to the next ones; a daemon that dies forgets them.
        self.unsettled: list[int] = []
        self.unknown: set[int] = set()  # jobs that may have run, and nobody knows how that ended

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    # --- choosing ---

    def jobs(self, states: frozenset[JobState]) -> list[int]:
        with self.database.read() as conn:
            rows = sql.rows(conn, "SELECT id, state FROM jobs ORDER BY id")
        return [row.id for row in rows if row.state in states]

    def attempts(self) -> list[OpenAttempt]:
        with self.database.read() as conn:
            return reads.open_attempts(conn)

    def note(self, conn: Connection, work: Work) -> None:
        """The end of a step's transaction, which settles hardly any of those that wait for others."""
        work.unsettled = [*self.unsettled, *work.unsettled]
        settle_dependents(conn, work, self.clock.now(), most=2)
        self.unsettled = work.unsettled
        self.final |= work.ended

    def finish(self, done: Finished) -> bool:
        """An attempt's end, in a step of its own; whether it was of any consequence."""
        work, job_id = Work(), done.key.id
        with self.database.write() as conn:
            stopped = reads.stop_reason(conn, job_id, done.key.number) is not None
            finish(conn, done, work, self.clock.now())
            counted = work.dirty
            self.note(conn, work)
        if done.look is not None and done.look.kind is LookKind.DEAD and not stopped and counted:
            self.unknown.add(job_id)
        return counted

    # --- what must always hold ---

    @invariant()
    def everything_acknowledged_is_there_and_final_states_stay(self) -> None:
        with self.database.read() as conn:
            found = {row.id: JobState(row.state) for row in sql.rows(conn, "SELECT id, state FROM jobs")}
        assert found.keys() == self.acknowledged
        assert {job_id: state for job_id, state in found.items() if state in ENDED} == self.final

    @invariant()
    def attempts_fit_their_jobs(self) -> None:
        with self.database.read() as conn:
            check_counts(conn)
            rows = sql.rows(
                conn,
                "SELECT j.id, j.state, j.attempts, j.ended_at, count(a.number) AS made, max(a.number) AS last, "
                "sum(a.number IS NOT NULL AND a.outcome IS NULL) AS open, "
                "max(CASE WHEN a.outcome IS NULL THEN a.number END) AS open_number "
                "FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id GROUP BY j.id",
            )
        for row in rows:
            assert row.attempts == row.made == (row.last or 0), row
            assert row.open == (1 if row.state in ACTIVE else 0), row
            assert not row.open or row.open_number == row.attempts, row
            assert (row.ended_at is not None) is (row.state in ENDED), row

    @invariant()
    def nothing_is_over_reserved(self) -> None:
        attempts = self.attempts()
        for view in views(attempts, self.closed):
            assert sum(hold.reserved_bytes for hold in view.holds) <= view.capacity_bytes, view
            assert len(view.holds) <= 1 or not any(hold.exclusive for hold in view.holds), view
        assert sum(attempt.ram_bytes for attempt in attempts) <= HOST.ram_bytes
        assert sum(attempt.cards == 0 for attempt in attempts) <= HOST.cpu_slots
        assert all(len({uuid for uuid, *_ in a.holds}) == a.cards == len(a.holds) for a in attempts)

    @invariant()
    def a_schedule_has_one_run_at_a_time(self) -> None:
        with self.database.read() as conn:
            rows = sql.rows(conn, "SELECT document_id, state, count(*) AS n FROM jobs GROUP BY 1, 2")
            cron = {row.document_id for row in sql.rows(conn, "SELECT document_id FROM schedules")}
        going = [row for row in rows if row.document_id in cron and row.state not in ENDED]
        assert all(sum(row.n for row in going if row.document_id == each) <= 1 for each in cron)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """A blocked job has somebody to wait for, and nobody waits for what can no longer succeed; but for those that
        are to be settled yet, and these cannot start."""
        with self.database.read() as conn:
            for row in sql.rows(conn, "SELECT id, document_id, state, blocked FROM jobs"):
                if row.state in WAITING:
                    waits_for = reads.unmet_needs(conn, row.document_id)
                    assert row.blocked or not waits_for, row
                    assert self.unsettled or waits_for or not row.blocked, row
                    assert self.unsettled or reads.doomed_need(conn, row.document_id) is None, row
