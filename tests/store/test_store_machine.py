"""Random lives of a small rig: the real store and policy under a clock turned by hand, and what must always hold.

The processes are left out: a rule tells how an attempt ended, as its folder would.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy.engine import Connection
from store_rig import ME, check_counts, document

from p104d.core.clock import ManualClock
from p104d.core.errors import RefusedError
from p104d.core.job import ACTIVE, ENDED, WAITING, JobState
from p104d.core.snapshot import CardView, Hold
from p104d.core.units import GIB
from p104d.daemon.endings import Finished, finish, settle
from p104d.daemon.observe import Capacity, Observer
from p104d.daemon.work import Work
from p104d.policy.retry import Stop
from p104d.policy.schedule import plan
from p104d.processes.attempt import ExitRecord, Key, Look, LookKind
from p104d.store import moves, reads, retention, sql
from p104d.store.engine import Database
from p104d.store.reads import OpenAttempt
from p104d.store.submit import submit

CAPACITIES = {"GPU-0": 8 * GIB, "GPU-1": 8 * GIB, "GPU-2": 4 * GIB}
HOST = Capacity(cpu_slots=2, ram_bytes=4 * GIB)
KEEP_SECONDS = 500.0

DOCUMENTS = st.fixed_dictionaries(
    {
        "cards": st.sampled_from([0, 1, 1, 1, 2]),
        "vram_bytes": st.sampled_from([None, GIB, 3 * GIB, 5 * GIB]),
        "ram_bytes": st.sampled_from([0, 0, 2 * GIB]),
        "priority": st.sampled_from([0, 0, 5]),
        "retries": st.integers(0, 2),
        "idempotent": st.booleans(),
        "time_limit_seconds": st.sampled_from([None, 60.0]),
        "matrix": st.sampled_from([0, 0, 2]),
    }
)
LOOKS = st.sampled_from(["0", "1", "signal", "dead", "unclaimed", "not started"])


class Queue(RuleBasedStateMachine):
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

    def note(self, work: Work) -> None:
        self.final |= work.ended

    # --- what users do ---

    @rule(made=st.lists(DOCUMENTS, min_size=1, max_size=3), data=st.data(), wait=st.sampled_from([0, 0, 50]))
    def submit(self, made: list[dict[str, Any]], data: st.DataObject, wait: int) -> None:
        now = self.clock.now()
        known = self.jobs(frozenset(JobState))
        documents = []
        for number, values in enumerate(made):
            if values["cards"] == 0:
                values = {**values, "vram_bytes": None}
            names = data.draw(st.sets(st.sampled_from([f"d{n}" for n in range(number)]))) if number else set()
            ids = data.draw(st.sets(st.sampled_from(known), max_size=2)) if known else set()
            after = (*sorted(names), *sorted(ids))
            not_before = now + wait if wait else None
            documents.append(document(f"d{number}", **values, after=after, not_before=not_before))
        with contextlib.suppress(RefusedError), self.database.write() as conn:
            self.acknowledged |= {job_id for job_id, _ in submit(conn, documents, ME, now).jobs}

    @precondition(lambda self: self.acknowledged)
    @rule(data=st.data(), verb=st.sampled_from(["hold", "release", "cancel", "cancel", "retry", "priority"]))
    def verb(self, data: st.DataObject, verb: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.acknowledged)))
        with self.database.write() as conn:
            getattr(self, f"_{verb}")(conn, job_id)

    def _hold(self, conn: Connection, job_id: int) -> None:
        moves.hold(conn, job_id)

    def _release(self, conn: Connection, job_id: int) -> None:
        moves.release(conn, job_id)

    def _priority(self, conn: Connection, job_id: int) -> None:
        assert moves.set_priority(conn, job_id, 9) is (job_id not in self.final)

    def _cancel(self, conn: Connection, job_id: int) -> None:
        job, work = reads.facts(conn, job_id), Work()
        assert job is not None
        if moves.cancel_waiting(conn, job_id, Stop.CANCEL, self.clock.now()):
            settle(conn, job, JobState.CANCELLED, Stop.CANCEL, work, self.clock.now())
        elif job.state is JobState.STOPPING:
            moves.stop_again(conn, job_id, Stop.CANCEL)
        else:
            assert (moves.stop(conn, job_id, Stop.CANCEL) is None) is (job.state in ENDED)
        self.note(work)

    def _retry(self, conn: Connection, job_id: int) -> None:
        job = reads.facts(conn, job_id)
        assert job is not None
        if reads.doomed_need(conn, job.document_id) is None:
            assert moves.retry(conn, job_id, job.document_id) is (job_id in self.final)
            self.final.pop(job_id, None)

    # --- what the daemon does ---

    @rule()
    def place(self) -> None:
        now = self.clock.now()
        with self.database.write() as conn:
            moves.make_due(conn, now)
            attempts = reads.open_attempts(conn)
            snapshot = Observer(HOST).snapshot(conn, now=now, paused=False, cards=views(attempts), attempts=attempts)
            for start in plan(snapshot).starts:
                job = reads.facts(conn, start.job_id)
                assert job is not None
                number = moves.place(conn, start, now=now, boot_id="b", ends_by=None, ram=job.spec.ram_bytes)
                assert number == job.attempts + 1, "the policy was offered a job that was not queued"

    @precondition(lambda self: self.attempts())
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        with self.database.write() as conn:
            moves.run(conn, attempt.job_id, attempt.number, pid=5, at=self.clock.now())

    @precondition(lambda self: self.attempts())
    @rule(data=st.data(), look=LOOKS, stale=st.sampled_from([False, False, False, True]))
    def ends(self, data: st.DataObject, look: str, stale: bool) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        number = attempt.number - 1 if stale else attempt.number
        done = finished(Key("job", attempt.job_id, number), look, self.clock.now())
        for _twice in range(2):
            work = Work()
            with self.database.write() as conn:
                finish(conn, done, work, self.clock.now())
            assert not (work.ended and (stale or _twice)), "an end was counted again"
            self.note(work)

    @precondition(lambda self: self.attempts())
    @rule(data=st.data(), why=st.sampled_from([Stop.TIME_LIMIT, Stop.CARD_LOST]))
    def stops(self, data: st.DataObject, why: Stop) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        with self.database.write() as conn:
            moves.stop(conn, attempt.job_id, why)

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def daemon_restarts(self) -> None:
        self.database.reopen()

    @rule()
    def forgets(self) -> None:
        with self.database.write() as conn:
            for job_id in retention.forget_jobs(conn, self.clock.now() - KEEP_SECONDS, 3):
                assert self.final.pop(job_id) in ENDED
                self.acknowledged.remove(job_id)

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
        for view in views(attempts):
            assert sum(hold.reserved_bytes for hold in view.holds) <= view.capacity_bytes, view
            assert len(view.holds) <= 1 or not any(hold.exclusive for hold in view.holds), view
        assert sum(attempt.ram_bytes for attempt in attempts) <= HOST.ram_bytes
        assert sum(attempt.cards == 0 for attempt in attempts) <= HOST.cpu_slots
        assert all(len({uuid for uuid, *_ in a.holds}) == a.cards == len(a.holds) for a in attempts)

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        """A blocked job has somebody to wait for, and nobody waits for what can no longer succeed."""
        with self.database.read() as conn:
            for row in sql.rows(conn, "SELECT id, document_id, state, blocked FROM jobs"):
                if row.state in WAITING:
                    assert not row.blocked or reads.unmet_needs(conn, row.document_id), row
                    assert reads.doomed_need(conn, row.document_id) is None, row


def views(attempts: list[OpenAttempt]) -> tuple[CardView, ...]:
    holds: dict[str, list[Hold]] = {uuid: [] for uuid in CAPACITIES}
    for attempt in attempts:
        for uuid, reserved, exclusive in attempt.holds:
            holds[uuid].append(Hold(job_id=attempt.job_id, reserved_bytes=reserved, exclusive=exclusive))
    return tuple(
        CardView(uuid=uuid, index=n, name="P104-100", capacity_bytes=size, promised_bytes=8 * GIB,
                 holds=tuple(holds[uuid]))
        for n, (uuid, size) in enumerate(CAPACITIES.items())
    )  # fmt: skip


def finished(key: Key, how: str, now: float) -> Finished:
    """What the folder of an attempt says that ended so."""
    if how == "not started":
        return Finished(key=key, look=None, failure="no such program")
    if how in ("dead", "unclaimed"):
        return Finished(key=key, look=Look(kind=LookKind.DEAD if how == "dead" else LookKind.UNCLAIMED))
    record = ExitRecord(
        version=1, exit_code=None if how == "signal" else int(how), signal=9 if how == "signal" else None, reason=None,
        started_at=now, ended_at=now, wall_seconds=0.0, user_seconds=0.0, system_seconds=0.0, max_rss_bytes=0,
        log_bytes=0, dropped_bytes=0,
    )  # fmt: skip
    return Finished(key=key, look=Look(kind=LookKind.ENDED, exit=record))


def test_random_lives(template: Path) -> None:
    chosen = settings(
        max_examples=30, stateful_step_count=30, deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    run_state_machine_as_test(type("TestedQueue", (Queue,), {"template": template}), settings=chosen)


_place, _end = moves.place, moves.end


def _place_anywhere(conn: Connection, start: Any, **rest: Any) -> int | None:
    """Whatever state the job is in, on one card alone."""
    sql.run(conn, "UPDATE jobs SET state = 'queued' WHERE id = ?", (start.job_id,))
    made = moves.Start(job_id=start.job_id, cards=("GPU-2",), reserved_bytes=(3 * GIB,), exclusive=False)
    return _place(conn, made, **rest)


def _end_the_last(conn: Connection, ended: moves.Ended) -> bool:
    """The job's last attempt, whichever was meant."""
    last = sql.value(conn, "SELECT attempts FROM jobs WHERE id = ?", (ended.job_id,))
    return _end(conn, msgspec.structs.replace(ended, number=last))


@pytest.mark.parametrize(
    "mutant",
    [{"place": _place_anywhere}, {"settle_dependents": lambda *_a, **_k: []}, {"end": _end_the_last}],
    ids=["unguarded-place", "dependents-forgotten", "any-attempt-ends"],
)
def test_random_lives_can_end_badly(template: Path, mutant: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, sabotaged in mutant.items():
        monkeypatch.setattr(moves, name, sabotaged)
    # Only found, not shrunk; the same every time: whether a mutant dies must not be a matter of luck.
    chosen = settings(
        max_examples=200, stateful_step_count=30, deadline=None, derandomize=True, database=None,
        phases=(Phase.generate,), suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with pytest.raises(AssertionError):
        run_state_machine_as_test(type("TestedQueue", (Queue,), {"template": template}), settings=chosen)
