"""The keeper of memory tests on a real queue, with tests that end as a test of ours wants them to."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_rig import Bench, report, uuid

from p104d.core.card import DueTest, Verdict
from p104d.core.units import MIB
from p104d.daemon import proofs as proofs_module
from p104d.daemon.config import Config, VerifyConfig, settle
from p104d.daemon.events import TestOver as Over
from p104d.daemon.proofs import Proofs
from p104d.daemon.work import Work
from p104d.memtest.messages import BadCell, Depth, Failure, Fault
from p104d.memtest.messages import TestResult as Result
from p104d.memtest.tester import EndKind
from p104d.memtest.tester import TestEnd as End
from p104d.store import proofs as store
from p104d.store.cards import load_cards, save_card
from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child

CARD = uuid(0)
GOOD = Result(
    depth=Depth.QUICK,
    cuda_total_bytes=8109 * MIB,
    cuda_free_bytes=8023 * MIB,
    tested_bytes=8022 * MIB,
    seconds=1.0,
    write_bytes_per_second=2e11,
    read_bytes_per_second=2e11,
    copy_bytes_per_second=2e11,
    host_to_device_bytes_per_second=7e8,
    device_to_host_bytes_per_second=7e8,
    passes=(),
)


THIN = msgspec.structs.replace(GOOD, tested_bytes=5000 * MIB)
ALIASED = msgspec.structs.replace(
    GOOD, errors=1000, aliased=1000, alias_offset=4 << 30, fault=Fault.ALIASING, cells=(BadCell(0, 1000, 1),)
)


class FakeTester:
    """A test that ends when it is told to."""

    def __init__(self, config: Any, *, on_progress: Any, on_end: Callable[[End], None], time_limit: float) -> None:
        assert time_limit > 0
        self.config, self.killed, self.pid, self.ended, self._on_end = config, False, 4242, False, on_end

    def end(self, end: End) -> None:
        self.ended = True
        self._on_end(end)

    def kill(self) -> asyncio.Task[bool]:
        self.killed = True
        return asyncio.ensure_future(asyncio.sleep(0, True))


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("proofs") / "queue.db"
    upgrade_in_child(path)
    return path


class Desk:
    """Proofs with a rig and a queue; a step at a time, at a time of the test's choosing."""

    def __init__(self, path: Path, **verify: str) -> None:
        self.bench = Bench(prove=False)
        self.database = Database(path)
        self.over: list[Over] = []
        settings = msgspec.structs.replace(settle(Config()), verify=VerifyConfig(**verify))
        self.proofs = Proofs(self.bench.rig, settings, simulate=None, epoch=0.0, post=self.over.append)
        saved = self.bench.cycle(report(0)).save
        with self.database.write() as conn:
            for record in saved:
                save_card(conn, record)

    def step(self, do: Callable[[Any, Work], object] = lambda *_: None, *, at: float = 1e9, jobs: tuple[int, ...] = ()):
        """What the loop does: one transaction, then the acts."""
        work = Work()
        with self.database.write() as conn:
            do(conn, work)
            for event in self.over:
                self.proofs.over(conn, event, work, at)
            self.proofs.run_schedule(conn, work, at)
            self.proofs.begin(conn, work, at, {CARD: jobs} if jobs else {})
        self.over.clear()
        self.proofs.act(work)
        if work.cards and not work.tests_left:
            return self.step(at=at, jobs=jobs)  # as the loop does when records have changed
        return work

    @property
    def record(self):
        return self.bench.rig.records[CARD]

    def stored(self):
        with self.database.read() as conn:
            return load_cards(conn)[CARD], store.tests(conn)

    async def finish(self, end: End, at: float = 1e9) -> None:
        """Let the test that runs end so, and the daemon take note."""
        self.proofs.running[CARD].tester.end(end)
        self.step(at=at)
        await asyncio.sleep(0.01)

    async def prove(self, at: float = 1e9) -> None:
        self.step(at=at)
        await self.finish(End(kind=EndKind.FINISHED, result=GOOD), at)


@pytest.fixture
def desk(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Desk]]:
    monkeypatch.setattr(proofs_module, "Tester", FakeTester)
    made: list[Desk] = []

    def make(**verify: str) -> Desk:
        path = tmp_path / "queue.db"
        if not made:
            shutil.copy(fresh, path)
        made.append(Desk(path, **verify))
        return made[-1]

    yield make
    for one in made:
        one.database.close()


def test_a_first_proof_is_written_before_it_starts_and_judged_in_one_piece(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk()
        work = d.step()
        assert [begun.uuid for begun in work.tests] == [CARD] and d.proofs.running[CARD].tester.config.uuid == CARD
        _, [row] = d.stored()
        assert (row.state, row.cause, row.depth) == ("running", "its memory was never tested", "quick")
        assert CARD in d.bench.rig.testing
        await d.finish(End(kind=EndKind.FINISHED, result=GOOD))
        card, [row] = d.stored()
        assert (
            (card.verdict, card.proven_bytes)
            == (Verdict.PROVEN, GOOD.tested_bytes)
            == (
                d.record.verdict,
                d.record.proven_bytes,
            )
        )
        assert (row.state, row.verdict, row.tested_bytes) == ("finished", "proven", GOOD.tested_bytes)
        assert card.proof is not None and card.proof.test_id == row.id and card.due is None
        assert not d.proofs.running and not d.bench.rig.testing
        # Nothing more to do.
        assert not d.step().tests

    asyncio.run(run())


def test_the_schedule_catches_up_once_and_forgets_an_old_one(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="0 4 * * *", depth="full")
        await d.prove()
        first = d.proofs.next_at
        assert first is not None and 1e9 < first <= 1e9 + 86400
        d.step(at=first - 1)
        assert d.record.due is None
        # A week late: one test, and the next time is ahead.
        d.step(at=first + 7 * 86400)
        assert d.proofs.running[CARD].due.depth == "full" and "schedule" in d.proofs.running[CARD].due.cause
        assert d.proofs.next_at is not None and d.proofs.next_at > first + 7 * 86400
        # A daemon that starts anew goes on with it; one with another schedule does not test for the old one.
        again = desk(schedule="0 4 * * *", depth="full")
        again.step(at=first + 7 * 86400 + 60)
        assert again.proofs.next_at == d.proofs.next_at
        other = desk(schedule="0 5 * * *", depth="full")
        other.step(at=first + 30 * 86400)
        assert other.record.due is None and other.proofs.next_at != d.proofs.next_at
        never = desk(schedule="")
        never.step(at=first + 60 * 86400)
        assert never.proofs.next_at is None and never.record.due is None

    asyncio.run(run())


def test_doubts_of_jobs_count_now_and_then(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        await d.prove()
        d.step(lambda conn, work: d.proofs.doubt(conn, work, CARD, "job 1 failed", 1e9 + 60), at=1e9 + 60)
        assert d.record.due is None and not d.proofs.running
        d.step(lambda conn, work: d.proofs.doubt(conn, work, CARD, "job 2 failed", 1e9 + 7200), at=1e9 + 7200)
        assert d.record.due is not None and d.proofs.running[CARD].due.cause == "job 2 failed"
        assert d.stored()[0].due == d.record.due

    asyncio.run(run())


def test_a_job_pushes_a_guest_aside_and_the_test_stays_due(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        await d.prove()
        d.step(lambda conn, work: d.proofs.doubt(conn, work, CARD, "why", 2e9), at=2e9)
        tester = d.proofs.running[CARD].tester
        work = d.step(lambda conn, work: d.proofs.interrupt(conn, work, CARD, 2e9), at=2e9, jobs=(7,))
        assert work.tests_left and not work.tests and tester.killed
        assert len(d.proofs.leaving([CARD])) == 1
        # Its own words come too late.
        tester.end(End(kind=EndKind.FINISHED, result=GOOD))
        await asyncio.sleep(0.01)
        d.step(at=2e9 + 1, jobs=(7,))
        _, rows = d.stored()
        assert rows[0].state == "preempted" and rows[0].verdict is None and d.record.due is not None
        assert "job 7" in d.proofs.waiting_because(CARD, [7])
        d.step(at=2e9 + 2)
        assert CARD in d.proofs.running

    asyncio.run(run())


def test_a_test_that_cannot_finish_is_a_verdict_but_not_one_that_was_killed(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        d.step()
        await d.finish(End(kind=EndKind.DIED, text="killed by signal 9", signal=9), 1e9)
        card, rows = d.stored()
        assert card.verdict is Verdict.UNVERIFIED and rows[0].state == "interrupted"
        d.step(at=1e9 + 1)
        assert not d.proofs.running, "a host without memory gets a rest"
        assert d.proofs.next_deadline(1e9 + 1) is not None
        d.step(at=1e9 + 60)
        await d.finish(End(kind=EndKind.HUNG, text="no word for 30 s: it hangs"), 1e9 + 90)
        card, rows = d.stored()
        assert card.verdict is Verdict.FAILED and card.proven_bytes is None
        assert rows[0].text == "no word for 30 s: it hangs" and d.bench.state()[0] == "suspect"

    asyncio.run(run())


def test_only_who_asked_clears_a_suspicion(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        await d.prove()
        d.bench.rig.records[CARD] = msgspec.structs.replace(d.record, suspect="XID 62")
        for by, left in ((None, "XID 62"), ("eva", None)):
            due = DueTest(cause="why", depth="quick", asked_at=3e9 + (by is not None), asked_by=by)
            d.step(lambda conn, work, due=due: d.proofs.ask(conn, work, CARD, due), at=3e9)
            d.step(at=3e9)
            await d.finish(End(kind=EndKind.FINISHED, result=GOOD), 3e9)
            assert d.record.suspect == left and d.record.due is None

    asyncio.run(run())


def test_a_request_that_came_meanwhile_is_served_by_another_test(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        d.step()
        later = DueTest(cause="asked for", depth="full", asked_at=2e9, asked_by="eva")
        d.step(lambda conn, work: d.proofs.ask(conn, work, CARD, later))
        await d.finish(End(kind=EndKind.FINISHED, result=GOOD))
        assert d.record.due == later and d.record.verdict is Verdict.PROVEN
        assert d.proofs.outcome(CARD, 2e9) is None
        d.step()
        assert d.proofs.running[CARD].due == later

    asyncio.run(run())


def test_a_bad_verdict_is_not_lifted_by_less_than_what_found_it(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        d.step()
        await d.finish(End(kind=EndKind.FINISHED, result=ALIASED))
        assert d.record.verdict is Verdict.ALIASED
        proof = d.record.proof
        # By itself, or with less of the memory: found good, recorded, and not believed.
        for by, result in ((None, GOOD), ("eva", THIN)):
            due = DueTest(cause="why", depth="quick", asked_at=4e9 + (by is not None), asked_by=by)
            d.step(lambda conn, work, due=due: d.proofs.ask(conn, work, CARD, due), at=4e9)
            await d.finish(End(kind=EndKind.FINISHED, result=result), 4e9)
            card, rows = d.stored()
            assert rows[0].verdict == "proven" and card.verdict is d.record.verdict is Verdict.ALIASED
            assert card.proof == proof and card.due is None
        due = DueTest(cause="asked for", depth="quick", asked_at=5e9, asked_by="eva")
        d.step(lambda conn, work: d.proofs.ask(conn, work, CARD, due), at=5e9)
        await d.finish(End(kind=EndKind.FINISHED, result=GOOD), 5e9)
        assert d.record.verdict is Verdict.PROVEN

    asyncio.run(run())


def test_memory_that_others_hold_is_no_fault_of_the_card(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        d.step()
        d.bench.alive.add(77)
        d.bench.cycle(report(0, used=7 << 30, processes=[(77, 7 << 30)]))
        full = Failure(text="cuCtxCreate_v2 failed: out of memory", call="cuCtxCreate_v2", code=2)
        await d.finish(End(kind=EndKind.FAILED, failure=full, text=full.text))
        card, rows = d.stored()
        assert card.verdict is Verdict.UNVERIFIED and rows[0].state == "interrupted" and "others hold" in rows[0].text
        d.step(at=1e9 + 100)
        assert not d.proofs.running and "others hold 7.0 GiB" in d.proofs.waiting_because(CARD, [])
        d.bench.cycle(report(0, processes=[]))
        d.step(at=1e9 + 101)
        assert CARD in d.proofs.running
        # Nobody else is there: then it is the card that has no memory.
        await d.finish(End(kind=EndKind.FAILED, failure=full, text=full.text), 1e9 + 102)
        assert d.record.verdict is Verdict.FAILED

    asyncio.run(run())


def test_what_the_daemon_wanted_deeper_is_still_wanted_after_a_shallow_request(desk: Callable[..., Desk]) -> None:
    async def run() -> None:
        d = desk(schedule="")
        await d.prove()
        wanted = DueTest(cause="XID 62", depth="full", asked_at=2e9)
        for depth, left in (("quick", wanted), ("thorough", None)):
            due = DueTest(cause="asked for", depth=depth, asked_at=3e9 + len(depth), asked_by="eva", before=wanted)
            d.step(lambda conn, work, due=due: d.proofs.ask(conn, work, CARD, due), at=3e9, jobs=(1,))
            d.step(at=3e9)
            await d.finish(End(kind=EndKind.FINISHED, result=GOOD), 3e9)
            assert d.record.due == left

    asyncio.run(run())
