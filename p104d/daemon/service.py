"""What p104ctl can ask: each answer was committed before it is given. Reads come from one state of the queue."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from p104d.api import messages as m
from p104d.api import proof as p
from p104d.api.forecast import Forecast
from p104d.api.history import HistoryAnswer, Report, SeriesAnswer
from p104d.api.history_queries import RecordQuery, SeriesQuery, WhileQuery
from p104d.api.models import ModelVerb, Residents
from p104d.api.power import PowerCards, PowerRequest
from p104d.api.service import Caller, Exported, LogQuery
from p104d.core.errors import NotAllowedError, NotFoundError, RefusedError, UnavailableError
from p104d.daemon import doctor, memory, views
from p104d.daemon.aside import Aside
from p104d.daemon.drain import drain
from p104d.daemon.forecasting import forecast
from p104d.daemon.history import HistoryReader
from p104d.daemon.logs import LogReader
from p104d.daemon.loop import Loop
from p104d.daemon.metrics import CONTENT_TYPE, Metrics
from p104d.daemon.modelverbs import ModelVerbs
from p104d.daemon.paths import Places
from p104d.daemon.power import PowerKeeper
from p104d.daemon.power_verb import set_power, show_power
from p104d.daemon.progress import ProgressReader
from p104d.daemon.reading import DaemonFacts, Readings
from p104d.daemon.restore import RESCUE
from p104d.daemon.submission import Intake
from p104d.daemon.verbs import Verbs
from p104d.daemon.verify import Verify
from p104d.daemon.work import Work
from p104d.store import cards as card_store
from p104d.store import schedules

T = TypeVar("T")
_SCHEDULE_STATES = {"hold": "held", "release": "active", "cancel": "cancelled"}


async def _nothing_recorded(_target: Path) -> None:
    raise UnavailableError("this daemon records no telemetry")


class DaemonService(Readings):
    """Implements api.service.Service on the loop, the rig and the store."""

    def __init__(
        self,
        loop: Loop,
        places: Places,
        facts: DaemonFacts,
        intake: Intake,
        keeper: PowerKeeper,
        metrics: Metrics,
        history: HistoryReader,
    ) -> None:
        self._loop, self._places, self._facts, self._intake = loop, places, facts, intake
        self._keeper, self._metrics, self._history = keeper, metrics, history
        self._aside = Aside(loop.database)
        self._progress = ProgressReader(now=loop.clock.now)
        self._verbs = Verbs(loop)
        self._logs = LogReader(loop)
        self._verify = Verify(loop)
        self._models = ModelVerbs(loop, user_mode=facts.user_mode)
        self.warnings: Callable[[], Sequence[str]] = lambda: ()
        self.copy_telemetry: Callable[[Path], Awaitable[None]] = _nothing_recorded
        #: The copy of telemetry that somebody reads, and whether one is being made.
        self._copy: BinaryIO | None = None
        self._copying = False

    # --- reading ---------------------------------------------------------------------------------------------------

    def log(self, caller: Caller, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """An attempt's output, for its owner and root."""
        return self._logs.read(caller, query)

    async def export(self, caller: Caller, what: Exported) -> BinaryIO:
        """A consistent copy of the queue or of telemetry: an open file without a name, gone when it is closed."""
        if what == "queue" and not self._facts.user_mode and caller.uid != 0:
            raise NotAllowedError("only root may export the queue: it holds every user's specs", mend="use sudo")
        if what == "queue" or caller.uid == 0:
            return await self._copied(what)
        # Readings are for everybody, the disk is not: who is not root has one copy of them on it, with all others.
        if self._copying or (self._copy is not None and not self._copy.closed):
            raise UnavailableError("somebody else is exporting telemetry", mend="try again in a minute")
        self._copying = True
        try:
            self._copy = await self._copied(what)
        finally:
            self._copying = False
        return self._copy

    async def _copied(self, what: Exported) -> BinaryIO:
        handle, name = tempfile.mkstemp(prefix="export-", suffix=".db", dir=self._places.state)
        os.close(handle)
        path = Path(name)
        try:
            if what == "telemetry":
                await self.copy_telemetry(path)
            else:
                await asyncio.to_thread(self._loop.database.copy_to, path)
            return path.open("rb")
        except (sqlite3.Error, sa.exc.DatabaseError) as error:
            raise UnavailableError(f"the copy cannot be made: {error}", mend=f"free space on {path.parent}") from None
        finally:
            path.unlink(missing_ok=True)

    async def doctor(self, caller: Caller) -> m.Checks:  # noqa: ARG002 - the checks tell nothing of jobs
        """What is wrong with this rig, and its mend."""
        return m.Checks(doctor.checks(self._loop, self._places, simulated=self._facts.simulated))

    # --- doing -----------------------------------------------------------------------------------------------------

    def _step(self, request: Callable[[Connection, float, Work], T]) -> T:
        answer = self._loop.step(request)
        assert answer is not None
        return answer

    def _admin(self, caller: Caller, what: str) -> None:
        if not caller.admin:
            raise NotAllowedError(f"{what} is for root and group p104-admin", mend="ask one of them, or use sudo")

    async def submit(self, caller: Caller, request: m.SubmitRequest) -> m.Submitted:
        """Check and store jobs, all or none."""
        documents, warnings = await self._intake.read(caller, request)
        memory.give_back_later(sum(len(each.jobs) for each in documents))
        limits = self._intake.limits(caller)

        def store(conn: Connection, now: float, work: Work) -> m.Submitted:
            return self._intake.store(conn, caller, documents, request.umask, limits, now, work, warnings)

        return self._step(store)

    def verb(self, caller: Caller, verb: str, ids: list[int], priority: int | None) -> m.MovedJobs:
        """cancel, hold, release, retry, priority: to all of ``ids`` or to none."""
        return self._verbs.do(caller, verb, list(dict.fromkeys(ids)), priority)

    def drain(self, caller: Caller, cards: list[str], undo: bool) -> m.Cards:
        """Let cards take no new jobs (or again); undrain also clears a suspicion."""
        self._admin(caller, "draining cards")
        return drain(self._loop, caller, cards, undo)

    def verify(self, caller: Caller, request: p.VerifyRequest) -> p.Verified:
        """Want memory tests; answers with how they stand at once."""
        return self._verify.state(self._verify.ask(caller, request))

    def watch_verify(self, caller: Caller, request: p.VerifyRequest) -> AsyncGenerator[bytes, None]:
        """Want memory tests, and tell of them until they are over; they end with the one who listens."""
        return self._verify.watch(caller, self._verify.ask(caller, request))

    async def history(self, caller: Caller, query: RecordQuery) -> HistoryAnswer:  # noqa: ARG002 - no secrets in it
        """Memory tests, results and what they come to."""
        return await self._history.history(query)

    async def series(self, caller: Caller, query: SeriesQuery) -> SeriesAnswer:  # noqa: ARG002
        """Readings over time."""
        return await self._history.series(query)

    async def report(self, caller: Caller, query: WhileQuery) -> Report:  # noqa: ARG002
        """What was done in a while, and what it took."""
        return await self._history.report(query)

    async def metrics(self) -> tuple[bytes, str]:
        """The page for Prometheus, and its type. Everybody who reaches the socket may see it: it names no job."""
        return await self._metrics.page(), CONTENT_TYPE

    def power(self, caller: Caller) -> PowerCards:  # noqa: ARG002 - everybody sees the cards
        """What is wished of cards' settings, and how they stand."""
        return show_power(self._loop.rig, self._keeper)

    def models(self, caller: Caller) -> Residents:
        """The copies of models on the cards, pins and load times."""
        return self._models.residents(caller)

    def models_verb(self, caller: Caller, verb: ModelVerb, model: str) -> Residents:
        """Pin a model, unpin it, or unload its idle copies."""
        return self._models.do(caller, verb, model)

    async def plan(self, caller: Caller, cards: int | None, limit: int) -> Forecast:  # noqa: ARG002
        """When the queue will be done, on this rig's cards or on so many."""
        return await forecast(self._loop, cards, limit)

    async def set_power(self, caller: Caller, request: PowerRequest) -> PowerCards:
        """Keep cards at these settings from now on."""
        return await set_power(self._loop.rig, self._keeper, caller, request, self._commit_settings)

    def _commit_settings(self, settings: Mapping[str, str]) -> None:
        def request(conn: Connection, _now: float, _work: Work) -> bool:
            for key, text in settings.items():
                card_store.set_setting(conn, key, text)
            return True

        self._step(request)

    def pause(self, caller: Caller, paused: bool) -> m.Paused:
        """Stop new starts, or go on. Kept over a restart."""
        self._admin(caller, "pausing the queue")

        def request(conn: Connection, _now: float, _work: Work) -> bool:
            card_store.set_setting(conn, "paused", "1" if paused else "0")
            if not paused:
                card_store.set_setting(conn, RESCUE, "")
            return True

        self._step(request)
        self._loop.paused = paused
        if not paused:
            self._loop.trouble.rescued = ""
        self._loop.touch()
        return m.Paused(paused)

    def schedules(self, caller: Caller) -> m.Schedules:  # noqa: ARG002 - names and times only
        """All schedules that are not cancelled."""
        with self._loop.database.read() as conn:
            return m.Schedules([views.schedule(row) for row in schedules.all_schedules(conn)])

    def schedule_verb(self, caller: Caller, verb: str, ids: list[int]) -> m.Schedules:
        """hold, release or cancel schedules, all or none."""

        def request(conn: Connection, _now: float, work: Work) -> bool:
            for schedule_id in ids:
                found = schedules.schedule_owner(conn, schedule_id)
                if found is None or found[0] == "cancelled":
                    raise NotFoundError(f"there is no schedule {schedule_id}", mend="p104ctl schedules lists them")
                if not views.may_see(caller, found[1]):
                    raise NotAllowedError(f"schedule {schedule_id} is not yours")
                state = _SCHEDULE_STATES[verb]
                if found[0] == state:
                    raise RefusedError(f"schedule {schedule_id} is {state} already")
                schedules.set_schedule_state(conn, schedule_id, state)
            work.dirty = True
            return True

        self._step(request)
        with self._loop.database.read() as conn:
            rows = schedules.some_schedules(conn, ids)
            return m.Schedules([views.schedule(row) for row in rows])
