"""Placing: a snapshot of the rig and the queue, the policy's plan for it, and what a step writes down of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.errors import P104Error
from p104d.core.plan import LoadModel, Plan, Start
from p104d.core.snapshot import Snapshot
from p104d.daemon.launch import launch_spec
from p104d.daemon.observe import Capacity, Observer
from p104d.daemon.rig import holds_by_card
from p104d.daemon.servers import EVICTED
from p104d.daemon.work import Work
from p104d.policy.schedule import plan
from p104d.processes.attempt import Key
from p104d.store import instances, moves, reads
from p104d.store.instances import Instance, InstanceState
from p104d.store.reads import OpenAttempt

if TYPE_CHECKING:
    from p104d.daemon.loop import Loop


class Placer:
    """Places for the loop, inside its transactions."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        settings = loop.settings
        self._capacity = Capacity(settings.cpu_jobs, settings.host_ram_bytes)
        self.observer = Observer(self._capacity, loop.models, settings.models.pinned)

    def unfinished(self, work: Work) -> bool:
        """Of very many requirements a part was looked at; the rest have their turn before anybody sleeps."""
        return self.observer.more and (bool(work.launches) or not self.observer.wrapped)

    def peek(self, conn: Connection, attempts: list[OpenAttempt], now: float) -> Snapshot:
        """A snapshot for explaining, which does not move the observer on."""
        observer = Observer(self._capacity, self._loop.models, self._loop.settings.models.pinned)
        return self._snapshot(observer, conn, attempts, instances.open_instances(conn), now)

    def _snapshot(
        self,
        observer: Observer,
        conn: Connection,
        attempts: list[OpenAttempt],
        copies: Sequence[Instance],
        now: float,
    ) -> Snapshot:
        cards = self._loop.rig.views(attempts)
        return observer.snapshot(
            conn, now=now, paused=self._loop.paused, cards=cards, attempts=attempts, instances=copies
        )

    def place(self, conn: Connection, work: Work, now: float) -> None:
        """Jobs first; memory tests begin on what they leave idle, and go from what they take."""
        loop = self._loop
        if loop.closing:
            return
        attempts, copies = reads.open_attempts(conn), instances.open_instances(conn)
        holds = {uuid: [hold.job_id for hold in held] for uuid, held in holds_by_card(attempts).items()}
        for copy in copies:
            for uuid in copy.uuids:
                holds.setdefault(uuid, []).append(-copy.id)
        snapshot = self._snapshot(self.observer, conn, attempts, copies, now)
        decided = Plan()
        if not loop.paused:
            for job_id, text in self.observer.bad:
                self.refuse(conn, job_id, text, work, now)
            decided = plan(snapshot)
            self._load(conn, decided.loads, snapshot, copies, holds, work, now)
            for start in decided.starts:
                self._begin(conn, start, copies, holds, work, now)
        taken = [start.resident for start in decided.starts if start.resident is not None]
        loop.servers.tidy(conn, snapshot, taken, work, now)
        loop.proofs.begin(conn, work, now, holds)

    def _begin(
        self,
        conn: Connection,
        start: Start,
        copies: Sequence[Instance],
        holds: dict[str, list[int]],
        work: Work,
        now: float,
    ) -> None:
        self._clear(conn, start.evicts, start.cards if start.resident is None else (), copies, work)
        copy = next((each for each in copies if each.id == start.resident), None)
        if copy is not None:
            # The copy has its place already; the job holds it while it runs there.
            start = msgspec.structs.replace(start, reserved_bytes=tuple(card.reserved_bytes for card in copy.cards))
        self.start(conn, start, work, now, copy)
        for uuid in start.cards:
            self._loop.proofs.interrupt(conn, work, uuid, now)
            holds.setdefault(uuid, []).append(start.job_id)

    def _load(
        self,
        conn: Connection,
        loads: Sequence[LoadModel],
        snapshot: Snapshot,
        copies: Sequence[Instance],
        holds: dict[str, list[int]],
        work: Work,
        now: float,
    ) -> None:
        """A few at a time: weak power supplies and slow links. The others are planned again when one is done; one whose
        file was looked at a while ago, when it has been looked at again."""
        loop = self._loop
        loading = sum(copy.state is InstanceState.LOADING for copy in copies)
        for load in loads[: max(0, loop.settings.max_parallel_loads - loading)]:
            known = self.observer.known[load.family]
            if not loop.models.fresh(known.need):
                continue
            self._clear(conn, load.evicts, load.cards, copies, work)
            loop.servers.load(conn, load, known, snapshot, work, now)
            for uuid in load.cards:
                loop.proofs.interrupt(conn, work, uuid, now)
                holds.setdefault(uuid, []).append(0)

    def _clear(
        self, conn: Connection, evicts: Sequence[int], cards: Sequence[str], copies: Sequence[Instance], work: Work
    ) -> None:
        """Unload what is to go, and whatever else is on ``cards``: the plan may count on a load before this one to free
        them, which is put off."""
        here = [copy.id for copy in copies if copy.usable and not set(cards).isdisjoint(copy.uuids)]
        for number in (*evicts, *here):
            self._loop.servers.evict(conn, number, EVICTED, work)

    def start(self, conn: Connection, start: Start, work: Work, now: float, copy: Instance | None = None) -> None:
        """Write down a job's attempt; it is launched after the commit."""
        job = reads.facts(conn, start.job_id)
        if job is None:
            return
        limit = job.spec.time_limit_seconds
        number = moves.place(
            conn,
            start,
            now=now,
            boot_id=self._loop.boot_id,
            ends_by=now + limit if limit is not None else None,
            # Of a job on a copy, the copy has the host's memory.
            ram=job.spec.ram_bytes if copy is None else 0,
        )
        if number is None:
            return
        if copy is not None:
            instances.used(conn, copy.id, now)
        if number == 1:
            work.waits.append(max(0.0, now - job.submitted_at))
        try:
            spec = launch_spec(job, number, start, self._loop.settings, copy)
            work.launches.append(spec)
            work.launch_cards[spec.key] = start.cards if copy is None else ()
        except P104Error as error:
            work.unstartable.append((Key("job", job.id, number), error.message))

    def refuse(self, conn: Connection, job_id: int, text: str, work: Work, now: float, *, again: bool = False) -> None:
        """A waiting job cannot be started: an attempt that fails for ``text``, or, ``again``, is taken back for it."""
        start = Start(job_id=job_id, cards=(), reserved_bytes=(), exclusive=False)
        number = moves.place(conn, start, now=now, boot_id=self._loop.boot_id, ends_by=None, ram=0)
        if number is not None:
            (work.taken_back if again else work.unstartable).append((Key("job", job_id, number), text))
