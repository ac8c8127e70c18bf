"""The one way through: events and requests wake the loop; it takes them in, asks the policy, commits, then acts.

A step is one transaction: what ended is written, what became due is noted, the policy plans on the state that results,
and its starts are written too. Only after the commit is anything done to the world. A request takes part in a step, so
that a job submitted to an idle rig is stored and placed by one commit. A step that fails changes nothing; the events it
had taken are taken again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy.engine import Connection

from p104d.core.clock import Clock
from p104d.core.errors import UnavailableError
from p104d.daemon import timetable
from p104d.daemon.acting import Actor
from p104d.daemon.config import Settings
from p104d.daemon.endings import Finished, finish, settle_dependents
from p104d.daemon.events import (
    CardBad,
    CardsGone,
    CardsTooHot,
    LoopEvents,
    ServerReady,
    ServerSick,
    StopJob,
    TestOver,
)
from p104d.daemon.metrics_counts import Counts
from p104d.daemon.models import Models
from p104d.daemon.notify import owe_for_card
from p104d.daemon.placing import Placer
from p104d.daemon.proofs import Proofs
from p104d.daemon.rig import Rig
from p104d.daemon.server_launch import KIND, ServerPlaces
from p104d.daemon.servers import Servers
from p104d.daemon.trouble import Trouble
from p104d.daemon.waiters import Waiters
from p104d.daemon.walltime import WallTime
from p104d.daemon.work import Work
from p104d.policy.retry import Stop
from p104d.processes.attempt import Key
from p104d.processes.supervisor import LaunchFailed, Running, Supervisor
from p104d.store import cards, lists, moves, reads, schedules
from p104d.store.cards import CardRecord
from p104d.store.engine import Database
from p104d.store.results import Result

log = logging.getLogger(__name__)
T = TypeVar("T")
LoopEvent = Running | LaunchFailed | Finished | LoopEvents

#: Clocks get set while the daemon sleeps; it looks at them at least this often.
_LONGEST_SLEEP_SECONDS = 60.0
#: After a step that could not be committed (a full disk), the next try.
_RETRY_SECONDS = 1.0
#: How long the news that a job runs may wait to be written together with others.
_LINGER_SECONDS = 0.005


class Loop:
    """The scheduler. ``step`` is synchronous and short; ``run`` waits for reasons to take one."""

    def __init__(
        self,
        *,
        database: Database,
        rig: Rig,
        supervisor: Supervisor,
        proofs: Callable[[Callable[[TestOver], None]], Proofs],
        models: Callable[[Callable[[], None]], Models],
        servers: ServerPlaces,
        settings: Settings,
        clock: Clock,
        boot_id: str,
        paused: bool,
    ) -> None:
        self.database, self.rig, self.supervisor, self.settings = database, rig, supervisor, settings
        self.clock, self.paused, self.proofs = clock, paused, proofs(self.post)
        self.boot_id, self.models = boot_id, models(self.touch)
        self.placer = Placer(self)
        self.on_running_changed: Callable[[], None] = lambda: None
        self.on_results: Callable[[Sequence[Result]], object] = lambda _: None
        self.tick: Callable[[], None] = lambda: None
        self._events: deque[LoopEvent] = deque()
        self._save: dict[str, CardRecord] = {}
        #: Documents that wait for what has ended; a step settles a part of them.
        self.unsettled: list[int] = []
        self._wake = asyncio.Event()
        #: The daemon ends: nothing is placed any more.
        self.closing = False
        self._lingering = False
        self._dirty = True
        self._deadline: float | None = 0.0
        self.trouble = Trouble()
        self.waiters = Waiters()
        self.counts = Counts()
        self._wall = WallTime(clock)
        self.servers = Servers(self, servers)
        self._actor = Actor(self)

    # --- being woken -----------------------------------------------------------------------------------------------

    def post(self, event: LoopEvent) -> None:
        """Take in an event at the next step.

        That a job runs is news for people, and waits a moment for company: of a job that is over by then only the end
        need be written, and many starts are one commit.
        """
        self._events.append(event)
        if not isinstance(event, Running):
            self._wake.set()
        elif not self._lingering:
            self._lingering = True
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._wake_lingering)

    def _wake_lingering(self) -> None:
        self._lingering = False
        self._wake.set()

    def touch(self, save: list[CardRecord] | None = None) -> None:
        """Something placement depends on has changed; ``save`` are card records to be written."""
        for record in save or ():
            self._save[record.identity.uuid] = record
        self._dirty = True
        self._wake.set()

    async def run(self, stopping: asyncio.Event, longest: float = _LONGEST_SLEEP_SECONDS) -> None:
        """Step whenever there is a reason, until ``stopping``; call ``tick`` at least every ``longest`` seconds."""
        stop = asyncio.ensure_future(stopping.wait())
        stop.add_done_callback(lambda _: self._wake.set())
        try:
            while not stopping.is_set():
                await self._sleep(longest)
                self._wake.clear()
                self.tick()
                if not stopping.is_set():
                    self._careful_step()
        finally:
            stop.cancel()

    async def _sleep(self, longest: float) -> None:
        left = longest if self._deadline is None else min(longest, max(0.0, self._deadline - self.clock.now()))
        if left <= 0 or self._wake.is_set():
            await asyncio.sleep(0)  # to wait for an event that is set would give nobody else a turn
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left):
                await self._wake.wait()

    def _careful_step(self) -> None:
        """A step nobody asked for: what goes wrong is said in the log and tried again, never the end of the loop."""
        try:
            with contextlib.suppress(UnavailableError):  # it was noted, and is tried again
                self.step()
        except Exception:
            log.exception("a step failed", extra={"action": "step_failed"})
            self._try_again()

    def _try_again(self) -> None:
        """In a while: what failed now would fail at once again."""
        self.counts.step_failed()
        self._wake.clear()
        self._deadline = self.clock.now() + _RETRY_SECONDS

    # --- a step ----------------------------------------------------------------------------------------------------

    def step(self, request: Callable[[Connection, float, Work], T] | None = None) -> T | None:
        """Take in events and ``request``, plan, commit, act; returns what ``request`` returned.

        Raises what ``request`` raises, and UnavailableError where nothing could be committed; then nothing was
        changed and nothing done.
        """
        now = self.clock.now()
        due = self._deadline is not None and self._deadline <= now
        pending = self._events or self._dirty or self._save or self.unsettled
        if not (request or pending or due or self._wall.was_set(now)):
            return None
        events, saves = list(self._events), dict(self._save)
        self._events.clear()
        work = Work(dirty=self._dirty or due, unsettled=list(self.unsettled))
        try:
            with self._wall.write(self.database, now) as conn:
                for record in saves.values():
                    cards.save_card(conn, record)
                answer = request(conn, now, work) if request is not None else None
                self._take_in(conn, events, work, now)
                settle_dependents(conn, work, now)
                if work.dirty:
                    self.placer.place(conn, work, now)
                deadline = self._next_deadline(conn, now)
        except BaseException as error:
            self._events.extendleft(reversed(events))
            if isinstance(error, UnavailableError):
                self.trouble.meet(error.line(), self.clock.monotonic())
                self._try_again()
            else:
                self._wake.set()
            raise
        self.trouble.over()
        for uuid, record in saves.items():
            if self._save.get(uuid) is record:
                del self._save[uuid]
        # Of very many requirements a part was looked at; the rest have their turn before anybody sleeps.
        self._dirty = work.dirty and self.placer.unfinished(work)
        self.unsettled = work.unsettled
        if self._dirty or self.unsettled:
            self._wake.set()
        if deadline != self._deadline:
            # A request may have stepped while the loop sleeps towards the deadline of before.
            self._wake.set()
        self._deadline = deadline
        self._actor.act(work)
        return answer

    def _take_in(self, conn: Connection, events: list[LoopEvent], work: Work, now: float) -> None:
        over = {event.key for event in events if isinstance(event, Finished)}
        for event in events:
            # A job that has ended meanwhile was running: its end says since when.
            if not (isinstance(event, Running) and event.key in over):
                self._apply(conn, event, work, now)
        if self._deadline is not None and self._deadline <= now:
            work.dirty |= moves.make_due(conn, now) > 0
        # Schedules are few, and one that was just submitted has no next time yet.
        if schedules.anything_due(conn, now):
            work.dirty |= bool(timetable.run_due(conn, now, self.settings.queue_limit_per_user))
        self.proofs.run_schedule(conn, work, now)

    def _apply(self, conn: Connection, event: LoopEvent, work: Work, now: float) -> None:
        match event:
            case Running():
                self._running(conn, event, work)
            case LaunchFailed(key, text):
                log.warning("attempt %s could not be started: %s", key, text, extra={"action": "launch_failed"})
                self._finish(conn, Finished(key=key, look=None, note=text), work, now, text)
            case Finished():
                self._finish(conn, event, work, now, event.failure)
            case CardsGone(uuids):
                self._stop_on(conn, frozenset(uuids), Stop.CARD_LOST, work, now=True)
            case CardsTooHot(uuids):
                self._stop_on(conn, frozenset(uuids), Stop.TOO_HOT, work)
                for uuid in uuids:
                    self.proofs.interrupt(conn, work, uuid, now, "the card was too hot")
            case CardBad():
                log.warning("card %d is %s: %s", event.index, event.state, event.note, extra={"action": "card_bad"})
                work.notify |= owe_for_card(conn, event, self.settings.notify, now)
            case TestOver():
                self.proofs.over(conn, event, work, now)
            case StopJob(job_id, reason, at_once):
                self.stop(conn, job_id, reason, work, now=at_once)
            case ServerReady() | ServerSick():
                self.servers.take_in(conn, event, work, now)

    def _running(self, conn: Connection, event: Running, work: Work) -> None:
        key = event.key
        if key.kind == "job":
            work.running_changed |= moves.run(conn, key.id, key.number, pid=event.pid, at=event.started_at) > 0
        elif key.kind == KIND:
            self.servers.started(conn, key.id, event.pid, work)

    def _finish(self, conn: Connection, done: Finished, work: Work, now: float, failure: str | None) -> None:
        if done.key.kind == "notify":
            record = done.look.exit if done.look is not None else None
            good = record is not None and record.exit_code == 0
            schedules.notification_sent(conn, done.key.id, None if good else failure or "its command failed")
            work.notify = True
            return
        if done.key.kind == KIND:
            self.servers.over(conn, done, work, now)
            return
        if done.complaint is not None:
            for uuid in lists.cards_of(conn, [done.key.id]).get((done.key.id, done.key.number), ()):
                cause = f"job {done.key.id} failed with {done.complaint!r}"
                self.proofs.doubt(conn, work, uuid, cause, now)
        finish(conn, done, work, now)
        for number in work.sick:
            self.servers.is_sick(conn, ServerSick(number, f"it did not answer job {done.key.id}"), work, now)
        work.sick.clear()

    def _stop_on(self, conn: Connection, uuids: frozenset[str], reason: Stop, work: Work, *, now: bool = False) -> None:
        """End what runs on these cards."""
        for attempt in reads.open_attempts(conn):
            if any(uuid in uuids for uuid, _reserved, _exclusive in attempt.holds):
                self.stop(conn, attempt.job_id, reason, work, now=now)
        if reason is Stop.CARD_LOST:
            self.servers.lose(conn, uuids, work)

    def stop(self, conn: Connection, job_id: int, reason: str, work: Work, *, now: bool = False) -> bool:
        """Commit that an active job is to end, and end it after the commit; False where it is not active."""
        number = moves.stop(conn, job_id, reason)
        if number is None:
            return False
        (work.kills if now else work.stops).append(Key("job", job_id, number))
        return True

    def _next_deadline(self, conn: Connection, now: float) -> float | None:
        times = [
            reads.next_timer(conn),
            schedules.next_schedule(conn),
            self.proofs.next_deadline(now),
            self.servers.next_deadline(conn),
        ]
        return min((at for at in times if at is not None), default=None)
