"""The life of copies of models: written down, loaded, watched until they answer, unloaded, and found again.

What is here inside a transaction is called by the loop's steps alone; acts follow the commit. A copy is one server
process under a shim, like an attempt of a job, so it outlives the daemon and is adopted by the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.card import CardState
from p104d.core.plan import LoadModel
from p104d.core.snapshot import Snapshot
from p104d.daemon.accounts import Account, account
from p104d.daemon.endings import Finished
from p104d.daemon.events import ServerReady, ServerSick
from p104d.daemon.models import Known
from p104d.daemon.residents import jobs_on
from p104d.daemon.server_launch import KIND, ServerPlaces, server_spec
from p104d.daemon.server_new import new_instance
from p104d.daemon.server_sights import ServerSights
from p104d.daemon.server_watch import ServerWatch
from p104d.daemon.work import Work
from p104d.policy.retry import Stop
from p104d.processes.attempt import Key
from p104d.store import instances, reads
from p104d.store.instances import Instance, InstanceState
from p104d.store.reads import OpenAttempt

if TYPE_CHECKING:
    from p104d.daemon.loop import Loop

log = logging.getLogger(__name__)
IDLE, EVICTED, CARD_CLOSED, FOR_TEST, UNLOADED, DAEMON_ENDS = (
    "idle for too long",
    "its cards were needed",
    "its card takes no work",
    "its card is to be tested",
    "unloaded by hand",
    "the daemon ends",
)


def key_of(number: int) -> Key:
    """The attempt that copy ``number`` is to the supervisor."""
    return Key(KIND, number, 1)


class Servers:
    """All copies of one daemon."""

    def __init__(self, loop: Loop, places: ServerPlaces) -> None:
        self._loop, self._places = loop, places
        self._watch = ServerWatch(loop.supervisor, loop.settings.models.load_timeout_seconds, loop.post, loop.clock)
        self._gone: dict[int, asyncio.Future[bool]] = {}
        self._cards: dict[int, tuple[str, ...]] = {}
        self.sights = ServerSights()

    async def close(self) -> None:
        """Stop watching; every server runs on."""
        await self._watch.close()
        self._places.close()

    def unload_idle(self, conn: Connection, _now: float, work: Work) -> list[asyncio.Future[bool]]:
        """The daemon is told to end: copies that serve nobody would only cost power until it is back."""
        busy = jobs_on(reads.open_attempts(conn))
        for copy in instances.open_instances(conn):
            if copy.id not in busy:
                self.evict(conn, copy.id, DAEMON_ENDS, work)
        return list(self._gone.values())

    # --- inside a step's transaction -------------------------------------------------------------------------------

    def load(self, conn: Connection, load: LoadModel, known: Known, snapshot: Snapshot, work: Work, now: float) -> None:
        """Write down a copy that is to be loaded; its server is launched after the commit."""
        new = new_instance(load, known, snapshot.cards, known.owner or self._loop.models.shared_account())
        number = instances.add(conn, new, now=now, boot_id=self._loop.boot_id)
        loaded = msgspec.structs.replace(new.loaded, socket=self._places.socket(number))
        instances.set_loaded(conn, number, loaded)
        spec = server_spec(
            number,
            path=new.path,
            label=new.label,
            ask=known.ask,
            pooling=known.model.pooling,
            loaded=loaded,
            owner=self._account(new.uid),
            cards=load.cards,
            reserved=[card.reserved_bytes for card in new.cards],
            ram_bytes=new.ram_bytes,
            settings=self._loop.settings,
        )
        work.launches.append(spec)
        work.launch_cards[spec.key] = load.cards
        self._cards[number] = load.cards
        work.loads.append((number, self._account(new.uid), self._is_shared(known)))
        log.info("loading %s as copy %d on %s", new.label, number, ", ".join(load.cards), extra={"action": "load"})

    def _is_shared(self, known: Known) -> bool:
        return known.owner is None and self._loop.models.shared_account() is not None

    def _account(self, uid: int | None) -> Account | None:
        return None if uid is None else account(uid)

    def evict(self, conn: Connection, number: int, reason: str, work: Work) -> bool:
        """Commit that a copy is to go, and end it after the commit; False where it was told before."""
        if not instances.stop(conn, number, reason):
            return False
        work.evicts.append(number)
        work.dirty = True
        self._leaving(number)
        log.info("copy %d is unloaded: %s", number, reason, extra={"action": "unload"})
        return True

    def take_in(self, conn: Connection, event: ServerReady | ServerSick, work: Work, now: float) -> None:
        """What watching a copy has found."""
        if isinstance(event, ServerReady):
            self._is_ready(conn, event, work, now)
        else:
            self.is_sick(conn, event, work, now)

    def _is_ready(self, conn: Connection, event: ServerReady, work: Work, now: float) -> None:
        """A copy has answered with its first token."""
        copy, seconds = instances.find(conn, event.number), event.seconds
        if copy and instances.ready(conn, copy.id, at=now, seconds=seconds, cpu_only=event.cpu_only):
            work.dirty = True
            self._loop.models.loaded(copy.family)
            log.info("copy %d is ready after %.1f s", copy.id, seconds, extra={"action": "ready"})

    def is_sick(self, conn: Connection, event: ServerSick, work: Work, now: float) -> None:
        """A copy does not answer: it goes, and the job that it was loaded for is told why."""
        copy = instances.find(conn, event.number)
        if copy is None or not self.evict(conn, event.number, event.text, work):
            return
        work.evicts_at_once.add(event.number)
        if copy.state is InstanceState.LOADING:
            self._not_loaded(conn, copy, event.text, work, now)

    def started(self, conn: Connection, number: int, pid: int | None, work: Work) -> None:
        """Its process is there: it is watched until it answers."""
        instances.started(conn, number, pid)
        work.running_changed = True
        copy = instances.find(conn, number)
        if copy is not None and copy.usable:
            work.begun.append(copy)

    def over(self, conn: Connection, done: Finished, work: Work, now: float) -> None:
        """A copy's server has ended, or was never started."""
        number = done.key.id
        copy = instances.find(conn, number)
        self.sights.keep(conn, number)
        text = done.note or done.failure or self._watch.last_words(number, done.look)
        before = instances.gone(conn, number, at=now, reason=text)
        work.dirty = work.running_changed = True
        work.gone.append(number)
        if copy is None or before is None:
            return
        if before == InstanceState.LOADING:
            blameless = done.failure is None and (done.look is None or done.look.exit is None)
            self._not_loaded(conn, copy, text, work, now, again=blameless)
        elif before == InstanceState.READY:
            log.warning("copy %d (%s) ended by itself: %s", number, copy.label, text, extra={"action": "server_ended"})
        self._end_job_on(conn, number, work)

    def _not_loaded(
        self, conn: Connection, copy: Instance, text: str, work: Work, now: float, *, again: bool = False
    ) -> None:
        """The job that a copy was to be loaded for fails; the others of its family have each their own try. ``again``:
        neither model nor server has said anything against it (a daemon, a shim or the host died); it waits again."""
        self._loop.models.forget(copy.path)
        log.warning("%s could not be loaded: %s", copy.label, text, extra={"action": "load_failed"})
        why = f"{copy.label} could not be loaded: {text}"
        if not again:
            self._loop.models.failed(copy.family, why)
        if copy.job_id is not None:
            self._loop.placer.refuse(conn, copy.job_id, why, work, now, again=again)

    def _end_job_on(self, conn: Connection, number: int, work: Work) -> None:
        attempt = jobs_on(reads.open_attempts(conn)).get(number)
        if attempt is not None:
            self._loop.stop(conn, attempt.job_id, Stop.SERVER_ENDED, work)

    def lose(self, conn: Connection, uuids: Iterable[str], work: Work) -> None:
        """Cards are gone: so is what was loaded there."""
        lost = set(uuids)
        for copy in instances.open_instances(conn):
            if lost.intersection(copy.uuids) and self.evict(conn, copy.id, Stop.CARD_LOST, work):
                work.evicts_at_once.add(copy.id)

    def tidy(self, conn: Connection, snapshot: Snapshot, taken: Iterable[int], work: Work, now: float) -> None:
        """Unload what nobody needs: idle for too long, or on a card that takes no work. ``taken`` are copies that this
        step has given a job or evicted."""
        closed = {uuid for uuid in self._loop.rig.records if self._out_of_service(uuid)}
        asked = {uuid for uuid, record in self._loop.rig.records.items() if record.due and record.due.asked_by}
        limit = self._loop.settings.models.idle_unload_seconds
        used = set(taken)
        for copy in snapshot.residents:
            if copy.id in used or copy.job_id is not None:
                continue
            if closed.intersection(copy.cards):
                self.evict(conn, copy.id, CARD_CLOSED, work)
            elif copy.ready_at is None and asked.intersection(copy.cards):
                self.evict(conn, copy.id, FOR_TEST, work)
            elif copy.ready_at is None and not copy.pinned and limit and copy.last_used + limit <= now:
                self.evict(conn, copy.id, IDLE, work)
        self.sights.jobs = {copy.id: copy.job_id for copy in snapshot.residents if copy.job_id is not None}

    def _out_of_service(self, uuid: str) -> bool:
        """Whether a card was taken out of service. One that is only missing may be back in a moment: of those that are
        not, ``lose`` is told."""
        rig = self._loop.rig
        return rig.records[uuid].drained or rig.condition(uuid, ()).state is CardState.SUSPECT

    def next_deadline(self, conn: Connection) -> float | None:
        """When the next idle copy is to be unloaded."""
        limit = self._loop.settings.models.idle_unload_seconds
        if not limit:
            return None
        idle = [
            copy
            for copy in instances.open_instances(conn)
            if copy.state is InstanceState.READY and copy.id not in self.sights.jobs
        ]
        pinned = self._loop.placer.observer.pinned_paths(conn) if idle else frozenset[str]()
        return min((copy.last_used_at + limit for copy in idle if copy.path not in pinned), default=None)

    # --- after the commit ------------------------------------------------------------------------------------------

    def act(self, work: Work) -> None:
        """Make the sockets' folders of what is to be loaded, end what is to go."""
        for number, owner, shared in work.loads:
            try:
                self._places.make(number, owner, shared=shared)
            except OSError as error:
                self._loop.post(ServerSick(number, f"its socket's folder cannot be made: {error.strerror or error}"))
        for copy in work.begun:
            self.watch(copy)
        for number in work.gone:
            self._places.remove(number)
            self._watch.forget(number)
            self._cards.pop(number, None)
            left = self._gone.pop(number, None)
            if left is not None and not left.done():
                left.set_result(True)

    def leaving(self, cards: Iterable[str]) -> list[asyncio.Future[bool]]:
        """Copies on these cards that were told to go and have not gone yet."""
        wanted = set(cards)
        return [left for number, left in self._gone.items() if wanted.intersection(self._cards.get(number, ()))]

    def _leaving(self, number: int) -> None:
        if number not in self._gone:
            self._gone[number] = asyncio.get_running_loop().create_future()

    # --- what the sensor says --------------------------------------------------------------------------------------

    def note(
        self, copies: Sequence[Instance], attempts: Sequence[OpenAttempt], ours: Mapping[str, Mapping[int, int]]
    ) -> None:
        """Take in a look at the cards (``ServerSights.note``), and see that those that serve still answer."""
        self.sights.note(copies, attempts, ours)
        for copy in copies:
            if copy.state is InstanceState.READY:
                self._watch.beat(copy.id, copy.loaded.socket)

    # --- after a start ---------------------------------------------------------------------------------------------

    def found(self, copy: Instance) -> None:
        """A copy of an earlier daemon's: it is watched as our own."""
        self._cards[copy.id] = copy.uuids
        if copy.state is InstanceState.STOPPING:
            self._leaving(copy.id)
            self._loop.supervisor.stop(key_of(copy.id))
        else:
            self.watch(copy)

    def watch(self, copy: Instance) -> None:
        """Wait for its first token; of one that was ready, ask for another."""
        self._watch.begin(
            copy.id,
            copy.loaded.socket,
            embeddings=copy.loaded.embeddings,
            since=copy.created_at,
            was_ready=copy.state is InstanceState.READY,
            changed=partial(self._loop.models.changed, copy),
        )
