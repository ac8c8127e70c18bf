"""What p104ctl can ask: each answer was committed before it is given. Reads come from one state of the queue."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy.engine import Connection, Row

import p104d
from p104d.api import messages as m
from p104d.api import proof as p
from p104d.api.power import PowerCards, PowerRequest
from p104d.api.service import Caller, HistoryQuery, LogQuery
from p104d.core.errors import NotAllowedError, NotFoundError, RefusedError, UnavailableError
from p104d.core.job import ENDED, JobState
from p104d.core.units import iso
from p104d.daemon import doctor, memory, views
from p104d.daemon.cardnames import resolve
from p104d.daemon.cardviews import messages
from p104d.daemon.drain import drain
from p104d.daemon.logs import LogReader
from p104d.daemon.loop import Loop
from p104d.daemon.paths import Places
from p104d.daemon.power import PowerKeeper
from p104d.daemon.power_verb import set_power, show_power
from p104d.daemon.submission import Intake
from p104d.daemon.verbs import Verbs
from p104d.daemon.verify import Verify
from p104d.daemon.waiting import Explainer
from p104d.daemon.work import Work
from p104d.store import cards as card_store
from p104d.store import lists, reads, schedules
from p104d.store.lists import JobFilter

T = TypeVar("T")
_AFTER_SECONDS = 1.0
_SCHEDULE_STATES = {"hold": "held", "release": "active", "cancel": "cancelled"}


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status`` says of the daemon itself."""

    started_at: float
    simulated: bool
    user_mode: bool


class DaemonService:
    """Implements api.service.Service on the loop, the rig and the store."""

    def __init__(self, loop: Loop, places: Places, facts: DaemonFacts, intake: Intake, keeper: PowerKeeper) -> None:
        self._loop, self._places, self._facts, self._intake = loop, places, facts, intake
        self._keeper = keeper
        self._verbs = Verbs(loop)
        self._logs = LogReader(loop)
        self._verify = Verify(loop)
        self.warnings: Callable[[], Sequence[str]] = lambda: ()

    # --- reading ---------------------------------------------------------------------------------------------------

    def status(self, caller: Caller) -> m.Status:
        """One screen."""
        with self._loop.database.read() as conn:
            attempts = reads.open_attempts(conn)
            rows = lists.job_rows(conn, [attempt.job_id for attempt in attempts])
            return m.Status(
                daemon=self._daemon(),
                cards=messages(self._loop.rig, self._loop.proofs, attempts),
                queue=reads.counts(conn),
                running=self._listed(conn, rows, caller, explain=False),
                warnings=[*self._loop.rig.warnings(), *self.warnings()],
            )

    def _daemon(self) -> m.Daemon:
        return m.Daemon(
            version=p104d.__version__,
            pid=os.getpid(),
            started_at=iso(self._facts.started_at) or "",
            mode="simulated" if self._facts.simulated else "real",
            paused=self._loop.paused,
            user_mode=self._facts.user_mode,
        )

    def cards(self, caller: Caller) -> m.Cards:  # noqa: ARG002 - everybody sees the cards
        """All cards."""
        with self._loop.database.read() as conn:
            return m.Cards(messages(self._loop.rig, self._loop.proofs, reads.open_attempts(conn)))

    def listed(self, caller: Caller, query: JobFilter) -> m.ListedJobs:
        """Jobs that fit, newest first."""
        if query.label is not None and caller.uid != 0 and not self._facts.user_mode:
            # Labels are the owner's own business, and filtering by them would tell.
            query = msgspec.structs.replace(query, user=caller.user)
        if query.card is not None:
            query = msgspec.structs.replace(query, card=resolve(self._loop.rig, query.card))
        with self._loop.database.read() as conn:
            found = m.ListedJobs(self._listed(conn, lists.listed(conn, query), caller, explain=True))
        _give_back_later(len(found.jobs))
        return found

    def _listed(
        self, conn: Connection, rows: Sequence[Row[Any]], caller: Caller, *, explain: bool
    ) -> list[m.ListedJob]:
        cards = lists.cards_of(conn, [row.id for row in rows if row.attempts])
        waiting = explain and any(row.state in (JobState.QUEUED, JobState.HELD) for row in rows)
        explainer = Explainer(self._loop, conn) if waiting else None
        return [
            views.listed_job(
                row, cards.get((row.id, row.attempts), ()), caller, explainer.because(row) if explainer else None
            )
            for row in rows
        ]

    def _known(self, conn: Connection, ids: Sequence[int]) -> list[Row[Any]]:
        rows = lists.job_rows(conn, ids)
        if len(rows) != len(ids):
            known = {row.id for row in rows}
            raise views.no_such_job(next(each for each in ids if each not in known))
        return rows

    def show(self, caller: Caller, ids: list[int]) -> m.Jobs:
        """Jobs with their attempts."""
        with self._loop.database.read() as conn:
            rows = self._known(conn, ids)
            cards = lists.cards_of(conn, ids)
            explainer = Explainer(self._loop, conn)
            return m.Jobs([self._full(conn, row, cards, caller, explainer) for row in rows])

    def _full(
        self,
        conn: Connection,
        row: Row[Any],
        cards: dict[tuple[int, int], list[str]],
        caller: Caller,
        explainer: Explainer,
    ) -> m.Job:
        seen = views.may_see(caller, row.uid)
        return views.full_job(
            row,
            caller=caller,
            because=explainer.because(row),
            attempts=lists.attempts_of(conn, row.id),
            cards=cards,
            measurements=lists.measurements_of(conn, row.id, row.attempts),
            env=reads.document(conn, row.document_id).env if seen else None,
            after=reads.needed_jobs(conn, row.document_id),
        )

    def explain(self, caller: Caller, ids: list[int]) -> m.Explanations:  # noqa: ARG002 - why is no secret
        """Why jobs wait, card by card."""
        with self._loop.database.read() as conn:
            rows = self._known(conn, ids)
            explainer = Explainer(self._loop, conn)
            return m.Explanations([self._explained(explainer, row) for row in rows])

    def _explained(self, explainer: Explainer, row: Row[Any]) -> m.Explained:
        if row.state not in (JobState.QUEUED, JobState.HELD):
            return m.Explained(id=row.id, waiting_because=None, cards=[])
        found = explainer.explain(row)
        return m.Explained(
            id=row.id,
            waiting_because=found.waiting_because,
            # A job for the processor asks no card, so none has an answer.
            cards=[m.Refusal(card.uuid, card.refusal) for card in found.cards] if explainer.asks_cards(row) else [],
        )

    async def wait(self, caller: Caller, ids: list[int], timeout: float | None) -> m.WaitedJobs:  # noqa: ARG002
        """Answers when all have ended, or after ``timeout`` seconds with how they stand."""
        unique = list(dict.fromkeys(ids))
        futures = {job_id: self._loop.waiters.end_of(job_id) for job_id in unique}
        try:
            with self._loop.database.read() as conn:
                self._known(conn, unique)
                states = lists.states(conn, unique)
            left = [futures[job_id] for job_id in unique if states[job_id][0] not in ENDED]
            if left and (timeout is None or timeout > 0):
                await asyncio.wait(left, timeout=timeout)
        finally:
            for future in futures.values():
                future.cancel()
        with self._loop.database.read() as conn:
            return m.WaitedJobs([self._waited(conn, row) for row in self._known(conn, ids)])

    def _waited(self, conn: Connection, row: Row[Any]) -> m.Waited:
        attempts = lists.attempts_of(conn, row.id)
        signal = attempts[-1].signal if attempts else None
        return m.Waited(row.id, row.state, row.exit_code, row.reason, signal)

    def log(self, caller: Caller, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """An attempt's output, for its owner and root."""
        return self._logs.read(caller, query)

    async def export(self, caller: Caller) -> Path:
        """A consistent copy of the queue in a temporary file; the server removes it."""
        if not self._facts.user_mode and caller.uid != 0:
            raise NotAllowedError("only root may export the queue: it holds every user's specs", mend="use sudo")
        handle, name = tempfile.mkstemp(prefix="export-", suffix=".db", dir=self._places.state)
        os.close(handle)
        path = Path(name)
        try:
            await asyncio.to_thread(self._loop.database.copy_to, path)
        except sqlite3.Error as error:
            path.unlink(missing_ok=True)
            raise UnavailableError(f"the copy cannot be made: {error}", mend=f"free space on {path.parent}") from None
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

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
        documents = await self._intake.read(caller, request)
        _give_back_later(sum(len(each.jobs) for each in documents))
        return self._step(lambda conn, now, work: self._intake.store(conn, caller, documents, request.umask, now, work))

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

    def history(self, caller: Caller, query: HistoryQuery) -> p.History:  # noqa: ARG002 - everybody sees the cards
        """Memory tests over time."""
        return self._verify.history(query.card, query.limit, with_map=query.map)

    def power(self, caller: Caller) -> PowerCards:  # noqa: ARG002 - everybody sees the cards
        """What is wished of cards' settings, and how they stand."""
        return show_power(self._loop.rig, self._keeper)

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
            return True

        self._step(request)
        self._loop.paused = paused
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


def _give_back_later(jobs: int) -> None:
    """Once the answer to a large request is on its way, what it took is given back."""
    if jobs >= memory.LARGE:
        asyncio.get_running_loop().call_later(_AFTER_SECONDS, memory.give_back)
