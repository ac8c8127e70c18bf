"""The daemon dies, jobs do not: adoption, exit codes, order, what is owed."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator

import pytest
from daemon_rig import PATIENCE, Rig, eventually


@pytest.fixture
def own(start: Callable[..., Rig]) -> Rig:
    return start(2)


@pytest.mark.parametrize("how", ["kill -9", "SIGTERM"])
def test_jobs_outlive_their_daemon(own: Rig, how: str) -> None:
    wait = "echo before; while [ ! -e {0} ]; do sleep 0.02; done; echo after; exit {1}"
    meanwhile = own.sh(wait.format("one", 7))
    own.reads(meanwhile, "before")
    with own.process("run", "--name", "later", "--", "sh", "-c", wait.format("two", 8)) as patient:
        assert patient.stdout is not None
        assert patient.stdout.readline() == b"before\n"
        later = own.json("list", "--name", "later")["jobs"][0]["id"]
        waiting = [own.sh(f"echo {number} >> order", priority=number % 2) for number in range(4)]
        held = own.sh("true")
        own.json("hold", held)
        if how == "SIGTERM":
            assert own.terminate() == 0
            assert not own.socket.exists()
        else:
            own.kill()
        assert own.ctl("status").code == 3
        (own.work / "one").touch()
        eventually(lambda: b"after" in b"".join(path.read_bytes() for path in own.store.glob("jobs/0/1-1/log")))
        own.start()
        [ended] = own.wait(meanwhile)
        assert (ended["state"], ended["exit_code"]) == ("failed", 7)
        assert own.state(later) == "running" and own.show(later)["attempt_count"] == 1
        assert own.state(held) == "held"
        own.wait(*waiting)
        # Its card is still taken: all four took turns on the other, by priority, then age.
        assert (own.work / "order").read_text().split() == ["1", "3", "0", "2"]
        (own.work / "two").touch()
        out, err = patient.communicate(timeout=PATIENCE)
    # Whoever waited was told, over the restart.
    assert (patient.returncode, out) == (8, b"after\n"), err
    assert own.show(later)["exit_code"] == 8
    assert own.output(later) == own.output(meanwhile) == "before\nafter\n"


def test_following_goes_on_over_a_restart(own: Rig) -> None:
    job = own.sh("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two")
    with own.process("logs", "-f", job) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"one\n"
        own.kill()
        own.start()
        (own.work / "go").touch()
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"two\n"), err


def test_a_stop_that_was_committed_is_carried_out_by_the_next_daemon(own: Rig) -> None:
    """Intent before act: as if the daemon had died between its commit and the signal."""
    job = own.sh("echo up; exec sleep 60")
    own.reads(job, "up")
    own.kill()
    database = sqlite3.connect(own.store / "queue.db")
    with database:
        database.execute("UPDATE jobs SET state = 'stopping', reason = 'cancelled' WHERE id = ?", (job,))
        database.execute("UPDATE attempts SET stop_reason = 'cancelled' WHERE job_id = ?", (job,))
    database.close()
    own.start()
    [ended] = own.wait(job)
    assert (ended["state"], ended["reason"]) == ("cancelled", "cancelled")


def shim_of(rig: Rig, job: int) -> int:
    """The parent of the job's own process."""
    import psutil

    pid = int(rig.output(job).split()[0])
    parent = psutil.Process(pid).parent()
    assert parent is not None
    return parent.pid


@pytest.mark.parametrize("idempotent", [False, True])
@pytest.mark.parametrize("daemon_too", [False, True])
def test_a_job_whose_shim_died(own: Rig, idempotent: bool, daemon_too: bool) -> None:
    job = own.sh("echo $$ $P104_ATTEMPT; [ $P104_ATTEMPT = 2 ] || exec sleep 60", idempotent=idempotent)
    own.reads(job, " 1")
    shim = shim_of(own, job)
    if daemon_too:
        own.kill()
    os.kill(shim, signal.SIGKILL)
    if daemon_too:
        own.start()
    [ended] = own.wait(job)
    assert ended["state"] == ("succeeded" if idempotent else "lost"), own.show(job)
    assert own.show(job)["attempts"][0]["outcome"] == "lost"
    assert len(own.show(job)["attempts"]) == (2 if idempotent else 1)


@pytest.mark.parametrize("idempotent", [False, True])
def test_an_attempt_whose_claim_a_power_failure_took(own: Rig, idempotent: bool) -> None:
    """Executed, and nothing of that on the disk: the database alone knows that it was started under another boot."""
    job = own.sh("echo $$ $P104_ATTEMPT; [ $P104_ATTEMPT = 2 ] || exec sleep 60", idempotent=idempotent)
    own.reads(job, " 1")
    shim = shim_of(own, job)
    own.kill()
    os.kill(shim, signal.SIGKILL)
    [folder] = own.store.glob(f"jobs/0/{job}-1")
    for path in folder.iterdir():
        path.unlink()
    with sqlite3.connect(own.store / "queue.db") as database:
        database.execute("UPDATE attempts SET boot_id = 'another' WHERE job_id = ?", (job,))
    database.close()
    own.start()
    [ended] = own.wait(job)
    assert ended["state"] == ("succeeded" if idempotent else "lost"), own.show(job)
    assert own.show(job)["attempts"][0]["outcome"] == "lost"
    assert len(own.show(job)["attempts"]) == (2 if idempotent else 1)


def test_many_kills_lose_nothing_and_run_nothing_twice(own: Rig) -> None:
    jobs: list[int] = []
    for round_ in range(4):
        text = {"name": f"r{round_}", "matrix": {"n": [*range(8)]}, "vram": "1GiB"}
        command = 'echo "$P104_JOB_ID $P104_ATTEMPT" >> ran; exit $((P104_JOB_ID % 3))'
        jobs += own.submit({**text, "command": command})
        own.kill()
        own.start()
    ended = own.wait(*jobs)
    assert [job["exit_code"] for job in ended] == [job["id"] % 3 for job in ended]
    ran = [int(line.split()[0]) for line in (own.work / "ran").read_text().splitlines()]
    assert sorted(ran) == jobs


def test_paused_and_drained_stay_so(own: Rig) -> None:
    own.json("drain", 1)
    own.json("pause")
    own.kill()
    own.start()
    eventually(lambda: own.card(1)["state"] == "drained")
    assert own.status()["daemon"]["paused"]


def test_a_second_daemon_on_the_same_state_is_refused(own: Rig) -> None:
    before = own.log.stat().st_size
    assert own.daemon is not None
    with own.spawn() as second:
        assert second.wait(PATIENCE) == 1
    said = own.log.read_text()[before:]
    assert said.count("\n") == 1
    assert f"another p104d (pid {own.daemon.pid}) uses {own.store}" in said and "--state-dir" in said
    # And one with a state of its own does not take the socket away.
    with own.spawn("--state-dir", str(own.folder / "other")) as third:
        assert third.wait(PATIENCE) == 1
    assert "another daemon listens on" in own.log.read_text()
    assert own.ends(own.sh("true")) == "succeeded"


def test_after_downtime_a_schedule_catches_up_once(own: Rig) -> None:
    own.ctl("submit", "-", stdin="name: nightly\ncommand: 'true'\ncards: 0\nschedule: '0 3 * * *'\n")
    eventually(lambda: own.json("schedules")["schedules"][0]["next_run_at"])
    assert own.terminate() == 0
    # As if three nights had passed.
    with sqlite3.connect(own.store / "queue.db") as database:
        database.execute("UPDATE schedules SET next_run_at = ?", (time.time() - 3 * 86400,))
    database.close()
    own.start()
    [job] = eventually(lambda: own.json("list", "--name", "nightly")["jobs"])
    assert own.ends(job["id"]) == "succeeded"
    [schedule] = own.json("schedules")["schedules"]
    assert schedule["last_job_id"] == job["id"] == own.json("list")["jobs"][0]["id"]
    assert job["schedule_id"] == schedule["id"]


def test_bad_starts_are_one_line(own: Rig) -> None:
    cases = {
        ("--simulate", "0"): "simulated",
        ("--simulate", "nothing.toml"): "nothing.toml",
        ("--config", "nothing.toml"): "nothing.toml",
        ("--nonsense",): "--nonsense",
    }
    for arguments, word in cases.items():
        before = own.log.stat().st_size
        with own.spawn(*arguments) as process:
            assert process.wait(PATIENCE) == 2
        said = own.log.read_text()[before:]
        assert word in said and said.count("\n") == 1 and said.startswith("p104d: "), said


@pytest.fixture
def at_a_terminal() -> Iterator[Rig]:
    """One that hears SIGHUP, which whoever runs the tests may ignore (nohup)."""
    rig = Rig(1)
    rig.prefix = ["env", "--default-signal=HUP"]
    try:
        yield rig.start()
    finally:
        rig.close()


def test_a_terminal_that_closes_ends_it_in_order(at_a_terminal: Rig) -> None:
    own = at_a_terminal
    job = own.sh("while [ ! -e go ]; do sleep 0.02; done; exit 5", cards=0)
    own.until(job, "running")
    assert own.daemon is not None
    for number in (signal.SIGUSR1, signal.SIGUSR2):  # these are nothing to it
        own.daemon.send_signal(number)
    assert own.status()["daemon"]["pid"] == own.daemon.pid
    own.daemon.send_signal(signal.SIGHUP)
    assert own.daemon.wait(PATIENCE) == 0
    assert not own.socket.exists()
    own.start()
    (own.work / "go").touch()
    own.wait(job)
    assert own.show(job)["exit_code"] == 5


def test_after_nohup_it_stays() -> None:
    rig = Rig(1)
    rig.prefix = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    try:
        rig.start()
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGHUP)
        assert rig.status()["daemon"]["pid"] == rig.daemon.pid
    finally:
        rig.close()
