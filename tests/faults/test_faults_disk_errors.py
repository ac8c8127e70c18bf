"""A disk that fails: what was acknowledged is there and runs once, what is not stored is not acknowledged."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator

import interposer
import pytest
from daemon_rig import PATIENCE, Result, eventually
from fault_rig import FaultRig
from torture import amount

from p104d.core.errors import P104Error

pytestmark = pytest.mark.torture


@pytest.fixture(scope="module")
def shared_world() -> Iterator[FaultRig]:
    interposer.required()
    rig = FaultRig(2, world=True)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def world(shared_world: FaultRig) -> Iterator[FaultRig]:
    yield shared_world
    shared_world.fail_reads(0)
    shared_world.fail_sync(0)
    shared_world.fail_sync(0, of="attempts")
    shared_world.quiet()


class Customer:
    """Submits numbered jobs, each of which notes that it ran, and keeps what was promised."""

    def __init__(self, rig: FaultRig, name: str) -> None:
        self.rig, self.name = rig, name
        self.promised: dict[int, int] = {}
        self.asked = 0

    def submit(self) -> int | None:
        """One job; its id, or None where it was refused as it should be."""
        self.asked += 1
        command = f"echo {self.asked} >> {self.name}; exit {self.asked % 7}"
        text = f"name: {self.name}\ncards: 0\ncommand: '{command}'\n"
        answer = self.rig.ctl("submit", "--json", "-", stdin=text)
        if answer.code != 0:
            must_be_unavailable(answer)
            return None
        [job] = answer.json["jobs"]
        self.promised[job["id"]] = self.asked
        return int(job["id"])

    def settled(self) -> None:
        """All that was promised ended as it should; nothing ran twice, promised or not."""
        ended = self.rig.wait(*self.promised)
        assert {job["id"]: job["exit_code"] for job in ended} == {
            job: number % 7 for job, number in self.promised.items()
        }
        ran = Counter(int(line) for line in (self.rig.work / self.name).read_text().split())
        assert set(ran.values()) == {1}, ran
        assert set(self.promised.values()) <= set(ran)


def must_be_unavailable(answer: Result) -> None:
    """In one line that names the disk; or, where SQLite takes what it could not read for damage, or the daemon is just
    looking at its file anew, one that says so."""
    assert answer.code in (3, 4) and answer.out == "" and answer.err.count("\n") == 1, answer
    known = ("check the disk of", "the queue is damaged: ") if answer.code == 4 else ("no daemon answers", "closed")
    assert any(text in answer.err for text in known), answer


def test_a_sync_of_the_queue_that_fails(world: FaultRig) -> None:
    """At each of many syncs of a working daemon: the one behind a submission, a start, an end, a checkpoint; and one or
    two after it, those of closing the file, which would leave a commit that was refused in the log."""
    customer = Customer(world, "synced")
    for number in range(amount(9, 50)):
        before = world.failed_syncs()
        world.fail_sync(number % 3 + 1, more=number // 3 % 3)
        for _ in range(5):
            customer.submit()
            if world.failed_syncs() > before:
                break
        # The rest of a job's life goes on without its customer.
        eventually(lambda before=before: world.failed_syncs() > before, what="a sync failed")  # type: ignore[misc]
    customer.settled()
    world.kill()
    with sqlite3.connect(world.store / "queue.db") as database:
        stored = dict(database.execute("SELECT id, exit_code FROM jobs WHERE name = 'synced'"))
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
    database.close()
    assert {job: stored[job] for job in customer.promised} == {job: n % 7 for job, n in customer.promised.items()}
    world.start()
    customer.settled()


def test_a_sync_of_an_attempt_that_fails(world: FaultRig) -> None:
    """The shim's: its record is there, if not surely on the disk. It has the right code, or is lost; never twice."""
    rounds = amount(9, 50)
    outcomes = Counter[str]()
    for number in range(rounds):
        world.fail_sync(number % 3 + 1, of="attempts")
        # One that is over at once, one whose claim is made durable while it runs.
        for seconds in ("0", "0.2"):
            job = world.sh(f"echo {number}-{seconds} >> shims; sleep {seconds}; exit 5", cards=0)
            [ended] = world.wait(job)
            assert (ended["state"], ended["exit_code"]) in (("failed", 5), ("lost", None)), world.show(job)
            outcomes[ended["state"]] += 1
    assert world.failed_syncs("attempts") >= rounds // 2
    ran = Counter((world.work / "shims").read_text().split())
    assert len(ran) == 2 * rounds and set(ran.values()) == {1}
    assert outcomes["failed"] > outcomes["lost"]


def test_reads_that_fail_are_answered_and_over(make: Callable[..., FaultRig]) -> None:
    """Some failed reads SQLite takes for damage: then the file is put aside and restored, and a person has to let the
    queue go on. Nothing that was promised is missing either way."""
    rig = make(1, world=True)
    rig.start()
    customer = Customer(rig, "read")
    refused = 0

    def a_read_failed(before: int) -> bool:
        # What was read before is in memory; a file that is opened anew is read anew. With every look at the cards the
        # daemon does that by itself, and that is nobody's request.
        rig.fail_sync(1)
        customer.submit()
        return rig.failed_reads > before

    def answers() -> bool:
        if rig.ctl("status").code != 0 or rig.ctl("list").code != 0:
            return False
        return rig.ctl("resume").code == 0

    for count in amount((1, 3, 8), tuple(range(1, 50))):
        before = rig.failed_reads
        rig.fail_reads(count)
        eventually(lambda before=before: a_read_failed(before), what="a read failed")  # type: ignore[misc]
        rig.fail_sync(0)
        for verb in ("status", "list", "schedules"):
            answer = rig.ctl(verb, "--json")
            if answer.code != 0:
                must_be_unavailable(answer)
                refused += 1
        customer.submit()
        rig.fail_reads(0)
        eventually(answers, what="the queue is read again")
        assert customer.submit() is not None
    assert rig.failed_reads >= 3 and refused
    customer.settled()
    assert "Traceback" not in rig.log.read_text(), rig.log.read_text()


#: By number of syncs from the daemon's first on: those of its migration, its opening, its first jobs.
STARTS = amount((2, 5, 14), tuple(range(1, 51)))


@pytest.mark.parametrize("number", STARTS)
def test_each_of_the_first_syncs(make: Callable[..., FaultRig], number: int) -> None:
    interposer.required()
    rig = make(1)
    trace = rig.folder / "trace"
    rig.rule, rig.trace = f"eio:fsync|fdatasync:{number}", str(trace)
    try:
        rig.start(cards=False)
    except AssertionError:
        # It may refuse to start: in one line, and the next start finds everything in order.
        assert rig.daemon is not None and rig.daemon.wait(PATIENCE) != 0, rig.log.read_text()
        assert "Traceback" not in rig.log.read_text() and "p104d: " in rig.log.read_text()
        rig.rule = ""
        rig.start(cards=False)
    customer = Customer(rig, "first")

    def failed() -> list[interposer.Point]:
        return [point for point in interposer.read_trace(str(trace)) if point.call == "failed"]

    # Until it has failed, and some that do not follow it.
    for _ in range(40):
        customer.submit()
        if failed():
            break
    assert failed(), "no sync was made to fail"
    for _ in range(3):
        customer.submit()
    eventually(lambda: customer.submit() is not None, what="a submission is taken")
    customer.settled()
    rig.kill()
    rig.rule = ""
    with sqlite3.connect(rig.store / "queue.db") as database:
        assert database.execute("PRAGMA quick_check").fetchone() == ("ok",)
        ended = dict(database.execute("SELECT id, exit_code FROM jobs WHERE ended_at IS NOT NULL"))
        twice = database.execute("SELECT count(*) FROM attempts WHERE number > 1 AND outcome <> 'revoked'").fetchone()
    database.close()
    assert {job: ended[job] for job in customer.promised} == {job: n % 7 for job, n in customer.promised.items()}
    assert twice == (0,)


def test_the_error_is_one_that_may_be_tried_again(world: FaultRig) -> None:
    """As programs see it: 503 and ``retry``, so that a script can tell it from a refusal."""
    for _ in range(20):
        world.fail_sync(1)
        try:
            world.client.post("/v1/pause", {})
        except P104Error as error:
            assert error.exit_code == 4 and error.mend and "disk" in error.mend
            break
    else:
        pytest.fail("no sync failed")
    world.fail_sync(0)
    world.client.post("/v1/resume", {})
