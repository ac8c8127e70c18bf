"""The host's clock is set by an hour, ahead and back, while jobs run and wait: nothing is measured wrong, nothing ends
early, nothing waits an hour longer, and nobody spins."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import datetime

import psutil
import pytest
from daemon_rig import eventually
from fault_rig import FaultRig

pytestmark = pytest.mark.torture

HOUR = 3600
BOTH = pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["ahead", "back"])


@pytest.fixture(scope="module")
def shared_world() -> Iterator[FaultRig]:
    rig = FaultRig(4, world=True, telemetry_seconds=1)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def world(shared_world: FaultRig) -> Iterator[FaultRig]:
    yield shared_world
    shared_world.quiet()


def nudge(rig: FaultRig) -> None:
    """Wake the loop, which looks at the clock every minute by itself."""
    assert rig.ends(rig.sh("true", cards=0)) == "succeeded"


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def host_time(rig: FaultRig) -> float:
    """What the rig's clock says."""
    return time.time() + rig.ahead


@BOTH
def test_what_runs_neither_ends_early_nor_is_measured_wrong(world: FaultRig, jump: int) -> None:
    begun = time.monotonic()
    limited = world.sh("echo up; exec sleep 60", time_limit="3s")
    runs = world.sh(f"echo up; while [ ! -e over{jump} ]; do sleep 0.02; done", name=f"runs{jump}")
    for job in (limited, runs):
        world.reads(job, "up")
    world.jump(jump)
    nudge(world)
    [ended] = world.wait(limited)
    took = time.monotonic() - begun
    assert (ended["state"], ended["reason"]) == ("failed", "time limit")
    assert 2.9 < took < 20
    assert world.state(runs) == "running"
    (world.work / f"over{jump}").touch()
    assert world.ends(runs) == "succeeded"
    for job in (limited, runs):
        shown = world.show(job)
        for each in (shown, shown["attempts"][0]):
            assert 0 <= moment(each["ended_at"]) - moment(each["started_at"]) < 30, shown
            assert abs(moment(each["ended_at"]) - host_time(world)) < 30, shown
    # What a report adds up is the time that passed.
    with sqlite3.connect(world.store / "queue.db") as database:
        [spans] = database.execute("SELECT min(ended_at - started_at), max(ended_at - started_at) FROM attempts")
    database.close()
    assert spans[0] >= 0 and spans[1] < 60, spans


@BOTH
def test_a_next_try_comes_as_soon_as_it_was_to(world: FaultRig, jump: int) -> None:
    # The second failure is followed by a wait of up to two seconds: long enough to set the clock in it.
    job = world.sh('echo "$P104_ATTEMPT"; [ $P104_ATTEMPT = 3 ]', retries=2, cards=0)
    eventually(lambda: len(world.show(job)["attempts"]) == 2 and world.state(job) == "queued")
    begun = time.monotonic()
    world.jump(jump)
    nudge(world)
    waits = world.because(job)
    assert "tries again" in waits and "in 1 h" not in waits and "in 59" not in waits, waits
    assert world.ends(job) == "succeeded"
    assert 0.5 < time.monotonic() - begun < 20


def test_not_before_is_a_time_of_day(world: FaultRig) -> None:
    at = datetime.fromtimestamp(host_time(world) + 1.5 * HOUR).astimezone().isoformat()
    job = world.sh("true", not_before=at)
    world.jump(HOUR)
    nudge(world)
    assert world.state(job) == "queued"
    world.jump(-HOUR)
    nudge(world)
    assert world.state(job) == "queued"
    world.jump(2 * HOUR)
    nudge(world)
    assert world.ends(job) == "succeeded"
    world.jump(-HOUR)


def test_schedules_go_by_the_new_clock(world: FaultRig) -> None:
    text = "name: minutely\ncommand: 'true'\ncards: 0\nschedule: '* * * * *'\n"
    assert world.ctl("submit", "-", stdin=text).code == 0

    def next_run() -> float:
        [schedule] = world.json("schedules")["schedules"]
        return moment(schedule["next_run_at"]) - host_time(world) if schedule["next_run_at"] else -1

    eventually(lambda: 0 < next_run() <= 61)
    before = len(world.json("list", "--name", "minutely")["jobs"])
    world.jump(-HOUR)
    nudge(world)
    eventually(lambda: 0 < next_run() <= 61, what="the next minute, by the new clock")
    assert len(world.json("list", "--name", "minutely")["jobs"]) <= before + 1  # a minute may have begun meanwhile
    world.jump(HOUR)
    nudge(world)
    jobs = eventually(lambda: world.json("list", "--name", "minutely")["jobs"], what="what was missed, once")
    assert len(jobs) <= before + 3
    eventually(lambda: 0 < next_run() <= 61)


def test_after_a_start_with_the_clock_set_back_nothing_waits_for_the_old_time(world: FaultRig) -> None:
    """A battery that is empty: the daemon cannot know how wrong the clock is, only that nobody waits so long."""
    text = "name: hourly\ncommand: 'true'\ncards: 0\nschedule: '*/5 * * * *'\n"
    assert world.ctl("submit", "-", stdin=text).code == 0
    job = world.sh('echo "$P104_ATTEMPT"; [ $P104_ATTEMPT = 3 ]', retries=2, cards=0)
    eventually(lambda: len(world.show(job)["attempts"]) == 2 and world.state(job) == "queued")
    world.kill()
    world.jump(-10 * HOUR)
    world.start()

    def known() -> float | None:
        [schedule] = world.json("schedules")["schedules"]
        return schedule["next_run_at"] and moment(schedule["next_run_at"]) - host_time(world)

    assert 0 < eventually(known) <= 301  # type: ignore[operator]
    with sqlite3.connect(world.store / "queue.db") as database:
        [(eligible,)] = database.execute("SELECT eligible_at FROM jobs WHERE id = ?", (job,))
    database.close()
    assert eligible - host_time(world) <= 600
    world.jump(10 * HOUR)
    nudge(world)


@BOTH
def test_the_daemon_neither_spins_nor_stalls(world: FaultRig, jump: int) -> None:
    assert world.daemon is not None
    process = psutil.Process(world.daemon.pid)
    started = world.status()["daemon"]["started_at"]
    world.jump(jump)
    nudge(world)
    before, begun = process.cpu_times(), time.monotonic()
    # Cards are looked at, telemetry is written, memory is proven: all of it goes by a clock that nobody sets.
    with psutil.Popen(["sleep", "1"]) as pause:
        pause.wait()
    after, passed = process.cpu_times(), time.monotonic() - begun
    used = after.user + after.system - before.user - before.system
    assert used < 0.5 * passed, f"{used:.2f} s of processor time in {passed:.2f} s"
    assert all(card["state"] == "ready" and card["temperature_celsius"] for card in world.cards())
    assert not any("telemetry" in text for text in world.status()["warnings"])
    assert world.status()["daemon"]["started_at"] == started
    assert "Traceback" not in world.log.read_text()
