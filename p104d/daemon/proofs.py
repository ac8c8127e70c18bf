"""Memory tests of the rig's cards: begun in a step's transaction, run by children, judged in another step.

The record of a test is committed before its process is started, a verdict together with the end of the record. A
process that is to leave is waited for before anything else is started on its card.
"""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.card import DueTest
from p104d.daemon.config import Settings
from p104d.daemon.events import TestOver
from p104d.daemon.judging import ended_test, judged, not_the_cards_doing
from p104d.daemon.rig import Rig
from p104d.daemon.timetable import next_time
from p104d.daemon.underway import Running
from p104d.daemon.work import BegunTest, Work
from p104d.hardware.messages import Cycle
from p104d.hardware.rig import Rig as SimulatedRig
from p104d.memtest.messages import Depth, Progress, TestConfig
from p104d.memtest.tester import TestEnd, Tester
from p104d.policy.proof import choose, doubt_counts, hindrance, is_proven, waiting_because
from p104d.store import proofs as store
from p104d.store.cards import CardRecord, get_setting, save_card, set_setting

log = logging.getLogger(__name__)
#: No whole test takes longer: ten times and more of what the slowest card is known for.
_TIME_LIMITS = {Depth.QUICK: 900.0, Depth.FULL: 4 * 3600.0, Depth.THOROUGH: 3 * 86400.0}
#: A test that the host ended (no memory for it) is not begun again at once.
_REST_SECONDS = 30.0
#: A driver may name a process for a while after it is gone.
_RECENT_PIDS = 64
#: Outcomes are kept for those who asked and still watch.
_REMEMBERED = 1000
#: The setting that remembers when all cards are tested next, and by which schedule.
_NEXT_KEY = "verify_next"


class Proofs:
    """All tests of one daemon. ``post`` takes in the end of a test; ``simulate`` and ``epoch`` are the sensors'."""

    def __init__(
        self,
        rig: Rig,
        settings: Settings,
        *,
        simulate: SimulatedRig | None,
        epoch: float,
        post: Callable[[TestOver], None],
    ) -> None:
        self._rig, self._settings = rig, settings
        self._simulate, self._epoch, self._post = simulate, epoch, post
        self.running: dict[str, Running] = {}
        self._rest: dict[str, float] = {}
        self._leaving: dict[str, asyncio.Task[bool]] = {}
        self._pids: deque[int] = deque(maxlen=_RECENT_PIDS)
        self._ended: dict[tuple[str, float], int] = {}
        self._watchers: set[asyncio.Event] = set()
        self.on_changed: Callable[[], None] = lambda: None
        self.next_at: float | None = None if not settings.verify.schedule else 0.0

    # --- what others ask -------------------------------------------------------------------------------------------

    def owns(self, pid: int) -> bool:
        """Whether a process is, or was lately, one of our tests."""
        return pid in self._pids

    def processes(self) -> list[tuple[int, str, int]]:
        """(pid, card, bytes) of the tests, for the simulated rig."""
        found = []
        for uuid, test in self.running.items():
            total = self._rig.records[uuid].identity.memory_total_bytes or 0
            if test.tester.pid is not None:
                found.append((test.tester.pid, uuid, total * 97 // 100))
        return found

    def waiting_because(self, uuid: str, jobs: Sequence[int]) -> str:
        """Why a card's due test has not begun."""
        if uuid in self._leaving:
            return "the test before is being ended"
        view = self._rig.candidate(uuid, jobs)
        if uuid in self._rest and hindrance(view) is None:
            return "the test before was cut short; it begins again in a moment"
        return waiting_because(view, len(self.running), self._settings.max_parallel_loads)

    def next_deadline(self, now: float) -> float | None:
        """When something is to be done that nothing else wakes for."""
        self._rest = {uuid: until for uuid, until in self._rest.items() if until > now}
        times = [*self._rest.values(), *([self.next_at] if self.next_at is not None else [])]
        return min(times, default=None)

    def outcome(self, uuid: str, asked_at: float) -> int | None:
        """The record of the test that served this request; None while it has not ended."""
        return self._ended.get((uuid, asked_at))

    def subscribe(self) -> asyncio.Event:
        """An event set at every change of any test; ``unsubscribe`` it."""
        event = asyncio.Event()
        self._watchers.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """No more of it."""
        self._watchers.discard(event)

    # --- inside a step's transaction -------------------------------------------------------------------------------

    def begin(self, conn: Connection, work: Work, now: float, holds: Mapping[str, Sequence[int]]) -> None:
        """Write down the tests that begin with this step. ``holds`` are the jobs on each card, those placed just now
        too."""
        views = [
            self._rig.candidate(uuid, holds.get(uuid, ()))
            for uuid in self._rig.records
            if uuid not in self._leaving and uuid not in work.tests_left and self._rest.get(uuid, 0.0) <= now
        ]
        staying = len(self.running.keys() - work.tests_left.keys()) + len(self._leaving.keys() - self.running.keys())
        chosen = choose(views, staying, self._settings.max_parallel_loads)
        for view in views:
            if view.uuid not in chosen or view.due is None:
                continue
            record = self._rig.records[view.uuid]
            test_id = store.begin(
                conn,
                view.uuid,
                view.due,
                now,
                driver=record.driver,
                vbios=record.identity.vbios,
                total_bytes=record.identity.memory_total_bytes,
            )
            work.tests.append(BegunTest(uuid=view.uuid, test_id=test_id, due=view.due, at=now))

    def interrupt(
        self, conn: Connection, work: Work, uuid: str, now: float, why: str = "a job needed the card"
    ) -> None:
        """The test there leaves, for a job that is placed on the card or for ``why``, and stays due."""
        self._leave(conn, work, uuid, now, "preempted", why)

    def stop(self, conn: Connection, work: Work, uuid: str, now: float, by: str) -> None:
        """End the card's test for a person."""
        self._leave(conn, work, uuid, now, "stopped", f"stopped by {by}")

    def ask(self, conn: Connection, work: Work, uuid: str, due: DueTest | None) -> None:
        """Want a test of the card, or (None) no more."""
        self.change(conn, work, msgspec.structs.replace(self.record_of(work, uuid), due=due))

    def doubt(self, conn: Connection, work: Work, uuid: str, cause: str, now: float) -> None:
        """Something that a job met points at the card: want a test, unless one is wanted or has just been."""
        record = self.record_of(work, uuid) if uuid in self._rig.records else None
        if record is not None and record.due is None and doubt_counts(record.proof, now):
            self.ask(conn, work, uuid, DueTest(cause=cause, depth=self._settings.verify.first, asked_at=now))
            work.dirty = True

    def run_schedule(self, conn: Connection, work: Work, now: float) -> None:
        """Want a test of every proven card when the schedule says so; after downtime once, however many were missed."""
        wanted = self._settings.verify
        if self.next_at is None or self.next_at > now:
            return
        schedule, _, at = get_setting(conn, _NEXT_KEY, "").rpartition("@")
        if self.next_at == 0.0 and schedule == wanted.schedule and float(at) > now:
            work.tests_next_at = float(at)
            return
        if schedule == wanted.schedule:
            for uuid in self._rig.records:
                record = self.record_of(work, uuid)
                if record.due is None and is_proven(record.verdict, record.proven_bytes):
                    due = DueTest(cause="the schedule (verify.schedule)", depth=wanted.depth, asked_at=now)
                    self.ask(conn, work, uuid, due)
                    work.dirty = True
        upcoming = next_time(wanted.schedule, None, now)
        if upcoming is not None:
            set_setting(conn, _NEXT_KEY, f"{wanted.schedule}@{upcoming}")
        work.tests_next_at = upcoming if upcoming is not None else math.inf

    def over(self, conn: Connection, event: TestOver, work: Work, now: float) -> None:
        """Judge a test that has ended by itself: the record, the verdict, and the request it served, in one piece."""
        test = self.running.get(event.uuid)
        if test is None or test.test_id != event.test_id:
            return
        sight = self._rig.sights.get(event.uuid)
        others = max(test.foreign_bytes, sight.foreign_bytes if sight is not None else 0)
        excuse = not_the_cards_doing(test, event.end, others)
        if excuse is not None:
            self._rest[event.uuid] = now + _REST_SECONDS
            self._leave(conn, work, event.uuid, now, "interrupted", excuse)
            return
        record = self.record_of(work, event.uuid)
        ended, after = judged(record, test, event.end, now)
        if store.end(conn, event.test_id, ended):
            self.change(conn, work, after)
            work.tests_left[event.uuid] = event.test_id
            work.dirty = True
            work.verdicts.append(ended.verdict)
            work.findings.append(f"card {record.identity.index}: {ended.verdict} ({ended.text})")

    def _leave(self, conn: Connection, work: Work, uuid: str, now: float, state: str, text: str) -> None:
        test = self.running.get(uuid)
        if test is None or uuid in work.tests_left:
            return
        if store.end(conn, test.test_id, ended_test(test, state, text, now)):
            work.tests_left[uuid] = test.test_id
            work.verdicts.append(None)
            work.dirty = True

    def record_of(self, work: Work, uuid: str) -> CardRecord:
        """A card's record as this step has made it."""
        return work.cards.get(uuid) or self._rig.records[uuid]

    def change(self, conn: Connection, work: Work, record: CardRecord) -> None:
        """Save a card's new record; it holds once the step is committed."""
        save_card(conn, record)
        work.cards[record.identity.uuid] = record

    # --- after the commit ------------------------------------------------------------------------------------------

    def act(self, work: Work) -> None:
        """Do what was committed: records, processes to leave, processes to start."""
        for finding in work.findings:
            log.info("%s", finding, extra={"action": "verified"})
        if work.tests_next_at is not None:
            self.next_at = work.tests_next_at if work.tests_next_at < math.inf else None
        for uuid, record in work.cards.items():
            self._rig.records[uuid] = record
        for uuid, test_id in work.tests_left.items():
            self._left(uuid, test_id)
        for begun in work.tests:
            self._start(begun)
        if work.tests or work.tests_left or work.cards:
            self._tell()
        if work.tests or work.tests_left:
            self.on_changed()

    def leaving(self, cards: Iterable[str]) -> list[asyncio.Task[bool]]:
        """Tests that are leaving these cards; each task is done when its process is gone."""
        return [self._leaving[uuid] for uuid in cards if uuid in self._leaving]

    async def close(self) -> None:
        """End all tests, without a verdict; at the next start they are due as before."""
        await asyncio.gather(*(test.tester.close() for test in self.running.values()))

    def _start(self, begun: BegunTest) -> None:
        config = TestConfig(
            uuid=begun.uuid,
            depth=Depth(begun.due.depth),
            seed=secrets.randbits(64),
            simulate=self._simulate,
            epoch=self._epoch,
        )
        sight = self._rig.sights.get(begun.uuid)
        tester = Tester(
            config,
            on_progress=lambda progress: self._progressed(begun, progress),
            on_end=lambda end: self._has_ended(begun, end),
            time_limit=_TIME_LIMITS[config.depth],
        )
        self.running[begun.uuid] = Running(
            uuid=begun.uuid,
            test_id=begun.test_id,
            due=begun.due,
            started_at=begun.at,
            tester=tester,
            foreign_bytes=sight.foreign_bytes if sight is not None else 0,
        )
        self._rig.testing.add(begun.uuid)
        if tester.pid is not None:
            self._pids.append(tester.pid)

    def _progressed(self, begun: BegunTest, progress: Progress) -> None:
        test = self.running.get(begun.uuid)
        if test is not None and test.test_id == begun.test_id:
            test.progress = progress
            self._tell()

    def _has_ended(self, begun: BegunTest, end: TestEnd) -> None:
        test = self.running.get(begun.uuid)
        if test is not None and test.test_id == begun.test_id:
            if end.result is None:
                # What broke it may yet be heard of as an XID.
                self._rig.tested_at[begun.uuid] = time.monotonic()
            self._post(TestOver(begun.uuid, begun.test_id, end))

    def _left(self, uuid: str, test_id: int) -> None:
        test = self.running.get(uuid)
        if test is None or test.test_id != test_id:
            return
        del self.running[uuid]
        self._rig.testing.discard(uuid)
        self._ended[uuid, test.due.asked_at] = test_id
        while len(self._ended) > _REMEMBERED:
            del self._ended[next(iter(self._ended))]
        leaving = self._leaving[uuid] = test.tester.kill()
        leaving.add_done_callback(lambda _: self._has_left(uuid))

    def _has_left(self, uuid: str) -> None:
        self._leaving.pop(uuid, None)
        self._tell()
        self.on_changed()

    def _tell(self) -> None:
        for event in self._watchers:
            event.set()

    # --- what the sensor says --------------------------------------------------------------------------------------

    def on_cycle(self, cycle: Cycle) -> None:
        """Note temperature and clocks of the cards under test."""
        for report in cycle.cards:
            test = self.running.get(report.identity.uuid)
            if test is not None:
                test.note(report.reading)
