"""``p104ctl verify`` and the tests over time: asking for memory tests, watching them, ending them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.api import proof as p
from p104d.api.service import Caller
from p104d.core.card import CardState, DueTest
from p104d.core.errors import NotAllowedError, RefusedError
from p104d.daemon import proofviews
from p104d.daemon.cardnames import resolve
from p104d.daemon.loop import Loop
from p104d.daemon.rig import holds_by_card
from p104d.daemon.work import Work
from p104d.policy.proof import deeper, is_first
from p104d.store import proofs as store
from p104d.store import reads

#: Progress is for eyes: no more often than this.
_EVERY_SECONDS = 0.4
_AGAIN_SECONDS = 15.0
_ASKED = "asked for"
_encode = msgspec.json.Encoder().encode


class Asked(msgspec.Struct, frozen=True):
    """One card's test as one request asked for it; ``asked_at`` tells requests apart."""

    uuid: str
    asked_at: float


class Verify:
    """Serves requests for tests. What is asked for is committed before it is answered."""

    def __init__(self, loop: Loop) -> None:
        self._loop, self._proofs = loop, loop.proofs
        #: How many callers watch each request.
        self._watched: Counter[Asked] = Counter()

    def ask(self, caller: Caller, request: p.VerifyRequest) -> list[Asked]:
        """Want tests of the cards named, or of all; with ``stop`` end them, and say which. Raises NotAllowedError,
        NotFoundError or RefusedError; then nothing was changed."""
        if not caller.admin:
            raise NotAllowedError("testing cards is for root and group p104-admin", mend="ask one of them, or use sudo")
        uuids = self._named(request.cards, missing=request.stop)
        if request.stop:
            return self._stop(caller, uuids)

        def step(conn: Connection, now: float, work: Work) -> list[Asked]:
            asked = []
            for uuid in uuids:
                wanted = self._wanted(uuid, request.depth, caller.user, now)
                self._proofs.ask(conn, work, uuid, wanted)
                asked.append(Asked(uuid, wanted.asked_at))
            work.dirty = True
            return asked

        return self._loop.step(step) or []

    def _wanted(self, uuid: str, depth: str, user: str, now: float) -> DueTest:
        """The test that serves this request too. Two people's waiting requests are one, as deep as the deeper; what the
        daemon itself wanted comes back if the request is taken back."""
        due, running = self._loop.rig.records[uuid].due, self._proofs.running.get(uuid)
        if due is not None and due.asked_by is not None:
            begun = running is not None and running.due.asked_at == due.asked_at
            if not begun or deeper(due.depth, depth) == due.depth:
                return msgspec.structs.replace(due, depth=deeper(due.depth, depth))
            due = None  # a deeper test than the one under way: another one
        return DueTest(cause=_ASKED, depth=depth, asked_at=self._token(uuid, now), asked_by=user, before=due)

    def _token(self, uuid: str, now: float) -> float:
        """A time of asking that no other request for the card has."""
        before = self._loop.rig.records[uuid].due
        running = self._proofs.running.get(uuid)
        taken = [due.asked_at for due in (before, running.due if running else None) if due is not None]
        return max([now, *(at + 1e-3 for at in taken)])

    def _named(self, names: Sequence[str], *, missing: bool) -> list[str]:
        rig = self._loop.rig
        uuids = list(dict.fromkeys(resolve(rig, name) for name in names)) if names else list(rig.records)
        absent = [uuid for uuid in uuids if rig.condition(uuid, ()).state is CardState.MISSING]
        if names and absent and not missing:
            index = rig.records[absent[0]].identity.index
            raise RefusedError(f"card {index} is missing", mend="p104ctl status says more")
        return uuids if missing else [uuid for uuid in uuids if uuid not in absent]

    def _stop(self, caller: Caller, uuids: Sequence[str]) -> list[Asked]:
        rig = self._loop.rig
        stopped = []
        for uuid in uuids:
            record, running = rig.records[uuid], self._proofs.running.get(uuid)
            if running is not None and running.due.asked_by is None and is_first(record.verdict, record.proven_bytes):
                raise RefusedError(
                    f"card {record.identity.index} works only once its memory is proven: its first test is not stopped",
                    mend=f"p104ctl drain {record.identity.index} keeps jobs off it",
                )
            due = running.due if running is not None else record.due
            if due is not None:
                stopped.append(Asked(uuid, due.asked_at))

        def step(conn: Connection, now: float, work: Work) -> bool:
            for each in stopped:
                self._proofs.stop(conn, work, each.uuid, now, caller.user)
                if rig.records[each.uuid].due is not None:
                    self._proofs.ask(conn, work, each.uuid, None)
            work.dirty = True
            return True

        self._loop.step(step)
        return stopped

    def take_back(self, caller: Caller, asked: Sequence[Asked]) -> None:
        """End those tests that nobody waits for any more, begun or not; what had been wanted before is wanted again."""
        rig = self._loop.rig
        alone = [each for each in asked if not self._watched[each]]

        def step(conn: Connection, now: float, work: Work) -> bool:
            for each in alone:
                running, due = self._proofs.running.get(each.uuid), rig.records[each.uuid].due
                if running is not None and running.due.asked_at == each.asked_at:
                    self._proofs.stop(conn, work, each.uuid, now, caller.user)
                if due is not None and due.asked_at == each.asked_at:
                    self._proofs.ask(conn, work, each.uuid, due.before)
            work.dirty = True
            return True

        if alone:
            self._loop.step(step)

    def state(self, asked: Sequence[Asked]) -> p.Verified:
        """How the tests asked for stand."""
        with self._loop.database.read() as conn:
            jobs = {
                uuid: [hold.job_id for hold in holds]
                for uuid, holds in holds_by_card(reads.open_attempts(conn)).items()
            }
            tests = [self._test(conn, each, jobs.get(each.uuid, ())) for each in asked]
        open_ones = [test for test in tests if test.state in ("waiting", "running")]
        return p.Verified(tests=tests, done=not open_ones)

    def _test(self, conn: Connection, asked: Asked, jobs: Sequence[int]) -> p.MemoryTest:
        rig, proofs = self._loop.rig, self._proofs
        record, running = rig.records[asked.uuid], proofs.running.get(asked.uuid)
        if running is not None and running.due.asked_at == asked.asked_at:
            return proofviews.under_way(record, running)
        if record.due is not None and record.due.asked_at == asked.asked_at:
            return proofviews.waiting(record, record.due, proofs.waiting_because(asked.uuid, jobs))
        test_id = proofs.outcome(asked.uuid, asked.asked_at)
        row = store.test(conn, test_id) if test_id is not None else None
        if row is not None:
            return proofviews.recorded(rig, proofs, row)
        due = DueTest(cause=_ASKED, depth="quick", asked_at=asked.asked_at)
        return msgspec.structs.replace(proofviews.waiting(record, due, ""), state="stopped", text="it had not begun")

    async def watch(self, caller: Caller, asked: Sequence[Asked]) -> AsyncGenerator[bytes, None]:
        """Lines of ``Verified`` until all has ended. Whoever stops listening before that ends the tests."""
        changed = self._proofs.subscribe()
        self._watched.update(asked)
        done = False
        try:
            while not done:
                changed.clear()
                now = self.state(asked)
                done = now.done
                yield _encode(now) + b"\n"
                if not done:
                    with contextlib.suppress(TimeoutError):
                        # What a test waits for may change without any test doing so.
                        async with asyncio.timeout(_AGAIN_SECONDS):
                            await changed.wait()
                    # Several cards' progress comes as one line.
                    await asyncio.sleep(_EVERY_SECONDS)
        finally:
            self._proofs.unsubscribe(changed)
            self._watched.subtract(asked)
            if not done:
                self.take_back(caller, asked)
