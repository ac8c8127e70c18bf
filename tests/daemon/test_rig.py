"""The cards as the daemon knows them, cycle by cycle, without a daemon around."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from p104d.core.card import CardIdentity, CardReading, CardReport, CardState, ProcessUse, Verdict, XidEvent
from p104d.core.job import JobState
from p104d.core.units import GIB, MIB
from p104d.daemon.rig import Rig
from p104d.daemon.sights import Changes, Onlooker
from p104d.daemon.watch import Appearances, over_vram
from p104d.hardware.messages import Cycle, DriverProblem
from p104d.policy.retry import Stop
from p104d.store.reads import OpenAttempt


class Bench:
    """A rig whose cycles are made by hand, a second apart. ``owners`` maps pids to our jobs; with ``prove`` every new
    card's memory is proven at once."""

    def __init__(self, *, prove: bool = True) -> None:
        self.prove = prove
        self.owners: dict[int, int] = {}
        self.alive: set[int] = set()
        self.locks: dict[str, str | None] = {}
        self.rig = Rig(
            {},
            missing_after=5.0,
            first_depth="quick",
            onlooker=Onlooker(self.owners.get, self.alive.__contains__),
            take_lock=lambda uuid: self.locks.get(uuid),
        )
        self.at = 0.0

    def cycle(
        self,
        *reports: CardReport,
        problem: DriverProblem | None = None,
        xids: tuple[XidEvent, ...] = (),
    ) -> Changes:
        self.at += 1.0
        found = self.rig.on_cycle(
            Cycle(at=1e9 + self.at, monotonic=self.at, sequence=int(self.at), cards=reports, problem=problem, xids=xids)
        )
        if self.prove:
            self._prove_all()
        return found

    def _prove_all(self) -> None:
        """What a memory test of every new card would come to."""
        for record in self.rig.records.values():
            if record.proven_bytes is None:
                good = record.verdict is Verdict.UNVERIFIED
                record.verdict = Verdict.PROVEN if good else record.verdict
                record.proven_bytes = record.identity.memory_total_bytes
        self.rig._conditions = {uuid: self.rig.condition(uuid, ()) for uuid in self.rig.records}

    def state(self, number: int = 0) -> tuple[CardState, str | None]:
        found = self.rig.condition(uuid(number), ())
        return found.state, found.note

    def closed(self, number: int = 0) -> str | None:
        return next(view.closed for view in self.rig.views(()) if view.uuid == uuid(number))

    def foreign(self, number: int = 0) -> int:
        return self.rig.sights[uuid(number)].foreign_bytes


def uuid(number: int) -> str:
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def report(
    number: int = 0,
    *,
    memory: int = 8 * GIB,
    used: int | None = 0,
    processes: Iterable[tuple[int, int | None]] | None = None,
    fault: str | None = None,
    index: int | None = None,
) -> CardReport:
    told = None if processes is None else tuple(ProcessUse(pid, size) for pid, size in processes)
    return CardReport(
        identity=CardIdentity(
            uuid=uuid(number),
            index=number if index is None else index,
            name="P104-100",
            device_id="10de:1b87",
            bus_id=f"00000000:0{number + 1}:00.0",
            memory_total_bytes=memory,
        ),
        reading=CardReading(memory_used_bytes=used, processes=told),
        fault=fault,
    )


def attempt(job: int, *holds: tuple[str, int, bool], started: float | None = 1e9) -> OpenAttempt:
    return OpenAttempt(
        job_id=job,
        number=1,
        state=JobState.RUNNING,
        name="job",
        uid=0,
        boot_id="boot",
        stop_reason=None,
        pid=None,
        placed_at=1e9,
        started_at=started,
        ends_by=None,
        ram_bytes=0,
        cards=len(holds),
        holds=list(holds),
        instance_id=None,
    )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_first_cycle_with_cards_counts_them(bench: Bench) -> None:
    none = DriverProblem(kind="no_driver", message="no driver", mend="install it")
    assert bench.cycle(problem=none).material and not bench.rig.counted
    changes = bench.cycle(report(0), report(1))
    assert bench.rig.counted and changes.material and len(changes.save) == 2
    assert not bench.cycle(report(0), report(1)).material, "nothing changed"


def test_a_card_at_its_stock_size_is_locked_until_it_reports_more(bench: Bench) -> None:
    bench.cycle(report(memory=4042 * MIB))
    assert bench.rig.records[uuid(0)].verdict is Verdict.LOCKED
    changes = bench.cycle(report(memory=8192 * MIB))
    assert bench.rig.records[uuid(0)].verdict is Verdict.UNVERIFIED and changes.save


def test_memory_of_others_is_told_from_ours(bench: Bench) -> None:
    bench.owners[10] = 7
    bench.alive |= {10, 11}
    bench.cycle(report(processes=[(10, 3 * GIB), (11, 2 * GIB)], used=5 * GIB))
    assert bench.foreign() == 2 * GIB and bench.rig.sights[uuid(0)].ours == {7: 3 * GIB}
    bench.cycle(report(processes=None, used=5 * GIB))
    assert bench.foreign() == 2 * GIB, "not asked this time: as before"


def test_a_process_that_has_just_gone_is_nobodys(bench: Bench) -> None:
    bench.cycle(report(processes=[(12, 2 * GIB)]))
    assert bench.foreign() == 0
    bench.cycle(report(processes=[]))
    assert bench.foreign() == 0


def test_a_process_we_cannot_see_counts_once_the_driver_insists(bench: Bench) -> None:
    bench.cycle(report(processes=[(12, 2 * GIB)]))
    bench.cycle(report(processes=[(12, 2 * GIB)]))
    assert bench.foreign() == 2 * GIB


def test_a_foreign_process_of_unknown_size_takes_all_that_is_not_ours(bench: Bench) -> None:
    bench.owners[10] = 7
    bench.alive |= {10, 11}
    bench.cycle(report(processes=[(10, 3 * GIB), (11, None)], used=7 * GIB))
    assert bench.foreign() == 4 * GIB


def test_a_card_that_a_look_does_not_show_is_missing_at_once_and_gone_after_a_while(bench: Bench) -> None:
    bench.cycle(report(0), report(1))
    first = bench.cycle(report(0))
    assert bench.state(1)[0] is CardState.MISSING and first.material and not first.gone
    assert [bad.index for bad in first.bad] == [1]
    later = [bench.cycle(report(0)) for _ in range(8)]
    assert [changes.gone for changes in later if changes.gone] == [[uuid(1)]], "told once"
    back = bench.cycle(report(0), report(1))
    assert back.material and bench.closed(1) is None


def test_a_lost_card_is_missing_and_its_jobs_are_given_up(bench: Bench) -> None:
    bench.cycle(report(0))
    gone = [bench.cycle(report(0, fault="lost")).gone for _ in range(7)]
    assert [uuid(0)] in gone and bench.state()[0] is CardState.MISSING
    assert "fell off the bus" in (bench.closed() or "")


def test_a_problem_of_the_driver_is_the_note_of_every_missing_card(bench: Bench) -> None:
    bench.cycle(report(0), report(1))
    bench.cycle(problem=DriverProblem(kind="not_loaded", message="the driver is not loaded", mend="load it"))
    assert bench.state(0) == bench.state(1) == (CardState.MISSING, "the driver is not loaded")


def test_a_problem_of_one_card_is_not_the_others(bench: Bench) -> None:
    bench.cycle(report(0), report(1))
    problem = DriverProblem(kind="card_unreadable", message="the card at 00000000:02:00.0 is lost", mend="look")
    bench.cycle(report(0), problem=problem)
    assert bench.state(0)[0] is CardState.READY
    assert bench.state(1) == (CardState.MISSING, problem.message)


def test_a_card_that_answers_again_is_trusted_after_a_few_looks(bench: Bench) -> None:
    bench.cycle(report(0))
    assert bench.cycle(report(0, fault="hang")).bad[0].state == "suspect"
    bench.cycle(report(0))
    assert bench.state()[0] is CardState.SUSPECT and bench.closed() is not None
    bench.cycle(report(0))
    bench.cycle(report(0))
    assert bench.state() == (CardState.READY, None) and bench.closed() is None


def test_an_xid_of_the_card_is_kept_until_somebody_undrains(bench: Bench) -> None:
    bench.cycle(report(0))
    changes = bench.cycle(report(0), xids=(XidEvent(code=79, bus_id="00000000:01:00.0"),))
    assert changes.save and "XID 79" in (bench.state()[1] or "")
    bench.cycle(report(0))
    assert bench.state()[0] is CardState.SUSPECT
    record = bench.rig.records[uuid(0)]
    bench.rig.records[uuid(0)] = msgspec.structs.replace(record, suspect=None)
    assert bench.state()[0] is CardState.READY


def test_an_application_s_xid_condemns_nothing(bench: Bench) -> None:
    bench.cycle(report(0))
    bench.cycle(report(0), xids=(XidEvent(code=31, uuid=uuid(0)),))
    assert bench.state()[0] is CardState.READY


def test_a_card_in_use_by_another_daemon_takes_nothing(bench: Bench) -> None:
    bench.locks[uuid(0)] = "in use by another p104d (pid 5)"
    bench.cycle(report(0))
    assert bench.closed() == "in use by another p104d (pid 5)"
    bench.locks[uuid(0)] = None
    bench.rig.release_locks()
    bench.cycle(report(0))
    assert bench.closed() is None


def test_over_vram_warns_and_stops_only_where_another_is_squeezed(bench: Bench) -> None:
    bench.owners |= {10: 1, 11: 2}
    jobs = [attempt(1, (uuid(0), 2 * GIB, False)), attempt(2, (uuid(0), 4 * GIB, False))]
    bench.cycle(report(processes=[(10, 3 * GIB), (11, 4 * GIB)], used=7 * GIB))
    warned = over_vram(jobs, bench.rig.sights, 256 * MIB)
    assert [(each.job_id, each.stop) for each in warned] == [(1, None)]
    bench.cycle(report(processes=[(10, 6 * GIB), (11, 1 * GIB)], used=7 * GIB))
    squeezed = over_vram(jobs, bench.rig.sights, 256 * MIB)
    assert [(each.job_id, each.stop) for each in squeezed] == [(1, Stop.OVER_VRAM)]
    bench.cycle(report(processes=[(10, 2 * GIB + 255 * MIB)], used=3 * GIB))
    assert over_vram(jobs, bench.rig.sights, 256 * MIB) == []


def test_a_job_counts_as_absent_only_after_enough_looks(bench: Bench) -> None:
    seen = Appearances()
    jobs = [attempt(1, (uuid(0), GIB, False))]
    for _ in range(2):
        bench.cycle(report(processes=[]))
        seen.note(jobs, bench.rig.sights)
    assert not seen.never(1)
    bench.cycle(report(processes=[]))
    seen.note(jobs, bench.rig.sights)
    assert seen.never(1) and [late.stop for late in seen.late(jobs, 1e9 + 61, 60)] == [Stop.NEVER_ON_CARD]
    assert seen.late(jobs, 1e9 + 59, 60) == []
    bench.owners[10] = 1
    bench.cycle(report(processes=[(10, GIB)]))
    seen.note(jobs, bench.rig.sights)
    assert not seen.never(1)


def test_looks_without_processes_prove_nothing(bench: Bench) -> None:
    seen = Appearances()
    for _ in range(9):
        bench.cycle(report(processes=None))
        seen.note([attempt(1, (uuid(0), GIB, False))], bench.rig.sights)
    assert not seen.never(1)


def test_a_changed_index_or_slot_is_the_same_card(bench: Bench) -> None:
    bench.cycle(report(0), report(1))
    moved = bench.cycle(report(1, index=0), report(0, index=1))
    assert moved.save and {view.uuid: view.index for view in bench.rig.views(())} == {uuid(0): 1, uuid(1): 0}


def test_an_unreadable_part_of_an_identity_is_kept_from_before(bench: Bench) -> None:
    bench.cycle(report(0))
    blind = report(0)
    bench.cycle(msgspec.structs.replace(blind, identity=msgspec.structs.replace(blind.identity, name=None)))
    assert bench.rig.records[uuid(0)].identity.name == "P104-100"
