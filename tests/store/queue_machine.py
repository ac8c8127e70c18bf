"""Random lives of a small rig: the real store and policy under a clock turned by hand, and what must always hold.

The processes are left out: a rule tells what an attempt's folder says. The daemon's own code does all the rest:
a restart is a new database connection and the real recovery, which asks those folders.
"""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule
from queue_invariants import Held
from queue_parts import CAPACITIES, DOCUMENTS, HOST, HOW, KEEP_SECONDS, MEANWHILE, NO_MODELS, Failed, finished, views
from sqlalchemy.engine import Connection
from store_rig import ME, document, everything

from p104d.core.errors import RefusedError
from p104d.core.job import ENDED, JobState, Schedule
from p104d.daemon import timetable
from p104d.daemon.endings import Finished, settle
from p104d.daemon.observe import Observer
from p104d.daemon.recover import recover
from p104d.daemon.work import Work
from p104d.policy.retry import Stop
from p104d.policy.schedule import plan
from p104d.processes.attempt import Key, Look, LookKind
from p104d.store import dependents, moves, reads, retention, schedules
from p104d.store.submit import submit


class Queue(Held):
    """One daemon's queue. ``final`` is what was answered to be over: it must stay so until somebody retries it."""

    # --- what users do ---

    @initialize(made=st.lists(DOCUMENTS, min_size=2, max_size=3), data=st.data())
    def first(self, made: list[dict[str, Any]], data: st.DataObject) -> None:
        self.submit_documents(made, data, 0)

    @rule(made=st.lists(DOCUMENTS, min_size=1, max_size=3), data=st.data(), wait=st.sampled_from([0, 0, 0, 50]))
    def submit(self, made: list[dict[str, Any]], data: st.DataObject, wait: int) -> None:
        self.submit_documents(made, data, wait)

    def submit_documents(self, made: list[dict[str, Any]], data: st.DataObject, wait: int) -> None:
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
        self.place_now(data)

    @rule(values=DOCUMENTS)
    def schedule(self, values: dict[str, Any]) -> None:
        if values["cards"] == 0:
            values = {**values, "vram_bytes": None}
        document_ = document("cron", **values, schedule=Schedule(cron="*/10 * * * *", timezone="UTC"))
        with self.database.write() as conn:
            assert not submit(conn, [document_], ME, self.clock.now()).jobs, "a schedule runs at its time, not before"

    @rule(data=st.data(), state=st.sampled_from(["held", "active", "cancelled"]))
    def schedule_verb(self, data: st.DataObject, state: str) -> None:
        with self.database.write() as conn:
            if known := [row.id for row in schedules.all_schedules(conn)]:
                assert schedules.set_schedule_state(conn, data.draw(st.sampled_from(known)), state)

    @precondition(lambda self: self.acknowledged)
    @rule(data=st.data(), verb=st.sampled_from(["hold", "release", "cancel", "cancel", "priority"]))
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
        self.note(conn, work)

    @precondition(lambda self: self.acknowledged)
    @rule(data=st.data(), among=st.sampled_from(["ended", "ended", "all"]))
    def retry(self, data: st.DataObject, among: str) -> None:
        job_id = data.draw(
            st.sampled_from(sorted(self.final if among == "ended" and self.final else self.acknowledged))
        )
        with self.database.write() as conn:
            job = reads.facts(conn, job_id)
            assert job is not None
            if reads.doomed_need(conn, job.document_id) is not None:
                return
            assert moves.retry(conn, job_id, job.document_id) is (job_id in self.final)
            if self.final.pop(job_id, None) is not None:
                dependents.block(conn, job_id, job.document_id)
                self.unknown.discard(job_id)  # its owner says so

    # --- what the daemon does ---

    @precondition(lambda self: self.unsettled)
    @rule()
    def settles(self) -> None:
        with self.database.write() as conn:
            self.note(conn, Work())

    def place_now(self, data: st.DataObject) -> None:
        """A step places what it can; now and then something comes between."""
        if data.draw(st.sampled_from([True, True, True, False])):
            with self.database.write() as conn:
                self._place(conn)

    @rule()
    def place(self) -> None:
        with self.database.write() as conn:
            self._place(conn)

    @rule()
    def place_but_fail(self) -> None:
        """A step whose commit fails has changed nothing."""
        with self.database.read() as conn:
            before = everything(conn)
        with contextlib.suppress(Failed), self.database.write() as conn:
            self._place(conn, lasts=False)
            raise Failed
        with self.database.read() as conn:
            assert everything(conn) == before

    def _place(self, conn: Connection, *, lasts: bool = True) -> None:
        """What a step of the loop does: what became due, then the policy's starts."""
        now = self.clock.now()
        moves.make_due(conn, now)
        submitted = timetable.run_due(conn, now)
        if lasts:
            self.acknowledged.update(submitted)
        if self.paused:
            return
        attempts = reads.open_attempts(conn)
        cards = views(attempts, self.closed)
        snapshot = Observer(HOST, NO_MODELS).snapshot(conn, now=now, paused=False, cards=cards, attempts=attempts)
        for start in plan(snapshot).starts:
            job = reads.facts(conn, start.job_id)
            assert job is not None
            assert not reads.unmet_needs(conn, job.document_id), "it starts before what it waits for"
            assert not self.closed.intersection(start.cards), "it starts on a card that takes nothing"
            assert job.spec.idempotent or job.id not in self.unknown, "it may run twice"
            ram = job.spec.ram_bytes
            number = moves.place(conn, start, now=now, boot_id=str(self.boot), ends_by=None, ram=ram)
            assert number == job.attempts + 1, "the policy was offered a job that was not queued"

    @precondition(lambda self: self.attempts())
    @rule(data=st.data())
    def starts(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        self.folders.said[Key("job", attempt.job_id, attempt.number)] = Look(kind=LookKind.RUNNING)
        with self.database.write() as conn:
            moves.run(conn, attempt.job_id, attempt.number, pid=5, at=self.clock.now())

    @precondition(lambda self: self.attempts())
    @rule(data=st.data(), how=st.sampled_from(HOW), stale=st.sampled_from([False, False, False, True]))
    def ends(self, data: st.DataObject, how: str, stale: bool) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        number = attempt.number - 1 if stale else attempt.number
        done = finished(Key("job", attempt.job_id, number), how, self.clock.now())
        for twice in range(2):
            assert not (self.finish(done) and (stale or twice)), "an end was counted again"
        self.place_now(data)

    @precondition(lambda self: self.attempts())
    @rule(data=st.data(), why=st.sampled_from(sorted(set(Stop) - {Stop.CANCEL, Stop.CARD_LOST})))
    def stops(self, data: st.DataObject, why: Stop) -> None:
        attempt = data.draw(st.sampled_from(self.attempts()))
        with self.database.write() as conn:
            moves.stop(conn, attempt.job_id, why)

    @rule(uuid=st.sampled_from(sorted(CAPACITIES)), undo=st.sampled_from([False, True, True]))
    def drain(self, uuid: str, undo: bool) -> None:
        self.closed = self.closed - {uuid} if undo else self.closed | {uuid}

    @rule(uuid=st.sampled_from(sorted(CAPACITIES)))
    def card_is_lost(self, uuid: str) -> None:
        """What runs there is stopped; it is back at once, for the rule above closes cards enough."""
        with self.database.write() as conn:
            for attempt in reads.open_attempts(conn):
                if any(held == uuid for held, *_ in attempt.holds):
                    moves.stop(conn, attempt.job_id, Stop.CARD_LOST)

    @rule(paused=st.sampled_from([True, False, False]))
    def pause_or_resume(self, paused: bool) -> None:
        self.paused = paused

    @rule(seconds=st.sampled_from([1.0, 60.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([3600.0, -3600.0]))
    def clock_is_set(self, seconds: float) -> None:
        self.clock.jump(seconds)

    @rule(data=st.data(), host_died=st.sampled_from([False, False, True]))
    def daemon_restarts(self, data: st.DataObject, host_died: bool) -> None:
        """Killed, and started again some time after: everything but the database and the folders is forgotten."""
        self.boot += host_died
        for attempt in self.attempts():
            became = data.draw(st.sampled_from(MEANWHILE))
            self._meanwhile(Key("job", attempt.job_id, attempt.number), became, host_died)
        self.database.reopen()
        told: list[Finished] = []
        self.folders.adopted, self.folders.stopped = set(), set()

        async def ended(key: Key, look: Look) -> None:
            told.append(Finished(key=key, look=look))

        loop = SimpleNamespace(clock=self.clock, post=told.append, unsettled=[])
        asyncio.run(recover(loop, self.database, self.folders, str(self.boot), ended))  # type: ignore[arg-type]
        self.unsettled = loop.unsettled
        for done in told:
            assert self.finish(done), "the end of an attempt was of no consequence"
        for attempt in self.attempts():
            key = Key("job", attempt.job_id, attempt.number)
            assert key in self.folders.adopted, "nobody watches it"
            assert attempt.stop_reason is None or key in self.folders.stopped, "a stop was forgotten"

    def _meanwhile(self, key: Key, became: str, host_died: bool) -> None:
        before = self.folders.look(key)
        if host_died and (before.kind is LookKind.RUNNING or became == "running"):
            became = "dead"
        if became == "running":
            self.folders.said[key] = Look(kind=LookKind.RUNNING)
        elif became != "as before":
            look = finished(key, became, self.clock.now()).look
            assert look is not None
            self.folders.said[key] = look

    @rule()
    def forgets(self) -> None:
        with self.database.write() as conn:
            for job_id in retention.forget_jobs(conn, self.clock.now() - KEEP_SECONDS, 3):
                assert self.final.pop(job_id) in ENDED
                self.acknowledged.remove(job_id)
