"""What people read of the queue and the cards: each answer comes from one state of the queue."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy.engine import Connection, Row

import p104d
from p104d.api import messages as m
from p104d.api.service import Caller
from p104d.core.job import ENDED, JobState
from p104d.core.units import iso
from p104d.daemon import memory, views
from p104d.daemon.aside import Aside
from p104d.daemon.cardnames import resolve
from p104d.daemon.cardviews import messages
from p104d.daemon.loop import Loop
from p104d.daemon.progress import Asked, Current, ProgressReader
from p104d.daemon.waiting import Explainer
from p104d.processes.attempt import Key
from p104d.store import instances, lists, reads
from p104d.store.lists import Brief, JobFilter


class DaemonFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status`` says of the daemon itself."""

    started_at: float
    simulated: bool
    user_mode: bool


class Readings:
    """The reading half of api.service.Service."""

    _loop: Loop
    _facts: DaemonFacts
    _progress: ProgressReader
    _aside: Aside
    warnings: Callable[[], Sequence[str]]

    def status(self, caller: Caller) -> m.Status:
        """One screen."""
        with self._loop.database.read() as conn:
            attempts = reads.open_attempts(conn)
            rows = lists.job_rows(conn, [attempt.job_id for attempt in attempts])
            return m.Status(
                daemon=self._daemon(),
                cards=messages(self._loop.rig, self._loop.proofs, attempts, instances.open_instances(conn)),
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
            return m.Cards(
                messages(self._loop.rig, self._loop.proofs, reads.open_attempts(conn), instances.open_instances(conn))
            )

    async def listed(self, caller: Caller, query: JobFilter) -> m.ListedJobs:
        """Jobs that fit, newest first. To find them may take a look at each; the loop goes on meanwhile."""
        if query.label is not None and caller.uid != 0 and not self._facts.user_mode:
            # Labels are the owner's own business, and filtering by them would tell.
            query = msgspec.structs.replace(query, user=caller.user)
        if query.card is not None:
            query = msgspec.structs.replace(query, card=resolve(self._loop.rig, query.card))
        ids = None if lists.is_quick(query) else await self._aside.ask(lambda conn: lists.fitting(conn, query))
        with self._loop.database.read() as conn:
            rows = lists.listed(conn, query, lists.fitting(conn, query) if ids is None else ids)
            found = m.ListedJobs(self._listed(conn, rows, caller, explain=True))
        memory.give_back_later(len(found.jobs))
        return found

    def _listed(
        self, conn: Connection, rows: Sequence[Row[Any]], caller: Caller, *, explain: bool
    ) -> list[m.ListedJob]:
        cards = lists.cards_of(conn, [row.id for row in rows if row.attempts])
        briefs = lists.briefs(conn, [row.document_id for row in rows])
        running = self._current(rows, briefs)
        waiting = explain and any(row.state in (JobState.QUEUED, JobState.HELD) for row in rows)
        explainer = Explainer(self._loop, conn, caller) if waiting else None
        return [
            views.listed_job(
                row,
                cards.get((row.id, row.attempts), ()),
                caller,
                explainer.because(row) if explainer else None,
                briefs[row.document_id].labels,
                running.get(row.id),
            )
            for row in rows
        ]

    def _current(self, rows: Sequence[Row[Any]], briefs: Mapping[int, Brief]) -> dict[int, Current]:
        """How running jobs are doing, as the end of their output tells."""
        folder = self._loop.supervisor.folder
        return self._progress.current(
            [
                Asked(row.id, row.attempts, folder(Key("job", row.id, row.attempts)), briefs[row.document_id].measure)
                for row in rows
                if row.state in (JobState.RUNNING, JobState.STOPPING)
            ]
        )

    def _known(self, conn: Connection, ids: Sequence[int]) -> list[Row[Any]]:
        rows = lists.job_rows(conn, ids)
        self._all_known(ids, {row.id for row in rows})
        return rows

    def _all_known(self, ids: Sequence[int], known: Container[int]) -> None:
        missing = next((each for each in ids if each not in known), None)
        if missing is not None:
            raise views.no_such_job(missing)

    def show(self, caller: Caller, ids: list[int]) -> m.Jobs:
        """Jobs with their attempts."""
        with self._loop.database.read() as conn:
            rows = self._known(conn, ids)
            cards = lists.cards_of(conn, ids)
            explainer = Explainer(self._loop, conn, caller)
            running = self._current(rows, lists.briefs(conn, [row.document_id for row in rows]))
            texts = lists.specs(conn, [row.document_id for row in rows])
            return m.Jobs(
                [
                    self._full(conn, row, cards, caller, explainer, running.get(row.id), text)
                    for row, (_, text) in zip(rows, texts, strict=True)
                ]
            )

    def _full(
        self,
        conn: Connection,
        row: Row[Any],
        cards: dict[tuple[int, int], list[str]],
        caller: Caller,
        explainer: Explainer,
        current: Current | None,
        spec: str,
    ) -> m.Job:
        seen = views.may_see(caller, row.uid)
        return views.full_job(
            row,
            caller=caller,
            because=explainer.because(row),
            attempts=lists.attempts_of(conn, row.id),
            cards=cards,
            measurements=lists.measurements_of(conn, row.id, row.attempts),
            spec=spec,
            env=reads.document(conn, row.document_id).env if seen else None,
            after=reads.needed_jobs(conn, row.document_id),
            current=current,
        )

    def explain(self, caller: Caller, ids: list[int]) -> m.Explanations:
        """Why jobs wait, card by card."""
        with self._loop.database.read() as conn:
            rows = self._known(conn, ids)
            explainer = Explainer(self._loop, conn, caller)
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

    async def wait(self, caller: Caller, ids: list[int], timeout: float | None) -> m.WaitedJobs:
        """Answers when all have ended, or after ``timeout`` seconds with how they stand."""
        with self._loop.waiters.room(caller.uid, len(ids)):
            with self._loop.database.read() as conn:
                states = lists.states(conn, list(dict.fromkeys(ids)))
            self._all_known(ids, states)
            left = [job_id for job_id, (state, _) in states.items() if state not in ENDED]
            del states
            if left and (timeout is None or timeout > 0):
                await self._loop.waiters.all_ended(left, timeout)
            with self._loop.database.read() as conn:
                rows = lists.waited(conn, ids)
            self._all_known(ids, {row.id for row in rows})
            return m.WaitedJobs([self._waited(row, caller) for row in rows])

    def _waited(self, row: Row[Any], caller: Caller) -> m.Waited:
        reason = row.reason if views.may_see(caller, row.uid) else views.public_reason(row.reason)
        return m.Waited(row.id, row.state, row.exit_code, reason, row.signal)
