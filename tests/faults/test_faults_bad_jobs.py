"""Jobs that behave badly: each is bounded, each ends when it is told to, and nobody else notices."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from daemon_rig import CONFIG, Rig, eventually
from fault_rig import MIB

from p104d.processes import attempt

pytestmark = pytest.mark.torture

LOG_LIMIT = 2 * MIB
MAX_PIDS = 40


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    rig = Rig(2, config=CONFIG.replace("64KiB", "2MiB").replace("cpu_jobs = 2", f"cpu_jobs = 4\nmax_pids = {MAX_PIDS}"))
    try:
        yield rig.start()
    finally:
        rig.close()


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    yield shared_rig
    shared_rig.quiet()


def bounded(rig: Rig, job: int, what: str) -> bool:
    """Whether a running job's cgroup bounds ``pids`` or ``memory`` on this machine."""
    group = attempt.look(str(rig.store / f"jobs/0/{job}-1")).group
    return group is not None and Path(group, f"{what}.max").exists()


def of_job(rig: Rig, job: int) -> list[psutil.Process]:
    """All that lives of a job, shims not counted."""
    launch = (rig.store / f"jobs/0/{job}-1/launch.json").read_text()
    token = launch.split('"token":"')[1].split('"')[0].encode()
    found = []
    for process in psutil.process_iter():
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if token in file.read() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        except (OSError, psutil.Error):
            continue
    return found


def others_are_served(rig: Rig) -> None:
    begun = time.monotonic()
    rig.status()
    assert rig.ends(rig.sh("true")) == "succeeded"
    assert time.monotonic() - begun < 10


def test_one_that_ignores_sigterm(rig: Rig) -> None:
    deaf = "trap '' TERM INT HUP; (trap '' TERM; echo up; while :; do sleep 1; done) & wait; wait"
    cancelled = rig.sh(deaf)
    limited = rig.sh(deaf, time_limit="1s")
    rig.reads(cancelled, "up")
    begun = time.monotonic()
    rig.json("cancel", cancelled)
    [ended] = rig.wait(cancelled)
    assert ended["state"] == "cancelled" and 0.9 < time.monotonic() - begun < 15  # its grace, and not more
    [ended] = rig.wait(limited)
    assert (ended["state"], ended["reason"]) == ("failed", "time limit")
    assert not of_job(rig, cancelled) and not of_job(rig, limited)


def pipe_rate(seconds: float) -> float:
    """Bytes a second that a reader which only reads takes from ``cat`` on this machine at this moment."""
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE, bufsize=0) as cat:
        assert cat.stdout is not None
        begun, taken = time.monotonic(), 0
        while time.monotonic() - begun < seconds:
            taken += len(cat.stdout.read(64 * 1024))
        cat.kill()
    return taken / (time.monotonic() - begun)


def disk_bytes(folder: Path, names: str) -> int:
    """What these files take, in a moment in which none of them is renamed."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return sum(path.stat().st_blocks * 512 for path in folder.glob(names))


def test_one_that_fills_its_log(rig: Rig, tell: Callable[[str], None]) -> None:
    """As fast as the machine can, hundreds of MB a second: neither disk nor memory nor the others pay for it."""
    possible = pipe_rate(0.5)
    assert rig.daemon is not None
    daemon = psutil.Process(rig.daemon.pid)
    before = daemon.memory_info().rss
    job = rig.sh("timeout 2 cat /dev/zero; echo; echo the end; exit 4")
    eventually(lambda: of_job(rig, job))
    [shim] = {process.ppid() for process in of_job(rig, job)} - {process.pid for process in of_job(rig, job)}
    most = 0
    while rig.state(job) not in ("failed", "succeeded"):
        assert disk_bytes(rig.store / f"jobs/0/{job}-1", "log*") <= LOG_LIMIT + 256 * 1024
        most = max(most, psutil.Process(shim).memory_info().rss)
        assert rig.ctl("status").code == 0
    [ended] = rig.wait(job)
    assert ended["exit_code"] == 4
    assert rig.show(job)["attempts"][0]["log_bytes"] < 50 * MIB
    output = rig.ctl("logs", job).out
    assert len(output) <= LOG_LIMIT + 64 * 1024 and output.endswith("the end\n")
    assert "bytes of output were not kept here" in output
    record = attempt.look(str(rig.store / f"jobs/0/{job}-1")).exit
    # It took it nearly as fast as one who does nothing but read; here it shares two processors with the daemon, whom we
    # ask all the time, and with what else runs.
    assert record is not None
    rate = record.dropped_bytes / 2
    tell(f"{rate / MIB:.0f} MiB/s of output; a pipe gives {possible / MIB:.0f}")
    assert rate > possible / 16 and rate > 50 * MIB, "it was not loud enough to prove anything"
    assert daemon.memory_info().rss - before < 24 * MIB
    assert most < 64 * MIB
    others_are_served(rig)


#: Grows to a hundred processes, and from there on each forks its successor and ends: no list of pids is ever right.
#: Bounded by time and number for the machine's sake, should the daemon ever fail to end it.
BOMB = """
import os, time
end = time.monotonic() + 60
refused = 0
for lineage in range(100):
    try:
        child = os.fork()
    except OSError:
        refused += 1
        continue
    if child == 0:
        os.setsid()
        while time.monotonic() < end:
            try:
                if os.fork():
                    os._exit(0)
            except OSError:
                time.sleep(0.01)
            time.sleep(0.02)
        os._exit(0)
print("lit", refused, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("verb", ["cancel", "time limit"])
def test_one_that_forks_without_end(rig: Rig, verb: str) -> None:
    (rig.work / "bomb.py").write_text(BOMB)
    limit = {"time_limit": "2s"} if verb == "time limit" else {}
    [job] = rig.submit({"name": "bomb", "command": [sys.executable, "-S", "-E", "bomb.py"], **limit})
    rig.reads(job, "lit")
    refused = int(rig.output(job).split()[1])
    if bounded(rig, job, "pids"):
        assert refused >= 100 - MAX_PIDS
    else:
        assert refused == 0  # nothing bounds it here but its end
    others_are_served(rig)
    if verb == "cancel":
        rig.json("cancel", job)
    [ended] = rig.wait(job)
    assert ended["state"] == ("cancelled" if verb == "cancel" else "failed")
    assert not of_job(rig, job)


def test_one_that_takes_all_memory(rig: Rig) -> None:
    greedy = "import time; held = bytearray(2**30); print(len(held)); time.sleep(60)"
    script = f"echo up; while [ ! -e eat ]; do sleep 0.02; done; exec {sys.executable} -S -c '{greedy}'"
    job = rig.sh(script, ram="64MiB", cards=0)
    rig.reads(job, "up")
    if not bounded(rig, job, "memory"):
        pytest.skip("no memory controller is to be had in this machine's cgroup v2")
    (rig.work / "eat").touch()
    [ended] = rig.wait(job)
    assert (ended["state"], ended["signal"]) == ("failed", 9)
    others_are_served(rig)


def test_one_that_closes_its_output(rig: Rig) -> None:
    job = rig.sh("echo before; exec >&- 2>&- <&-; while [ ! -e go ]; do sleep 0.02; done; exit 6")
    rig.reads(job, "before")
    others_are_served(rig)
    assert rig.state(job) == "running"  # the end of its output is not its end
    (rig.work / "go").touch()
    [ended] = rig.wait(job)
    assert (ended["state"], ended["exit_code"]) == ("failed", 6)
    assert rig.output(job) == "before\n"


#: The classic two forks with a session between them, output and input closed, away from its folder.
DAEMON = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
null = os.open("/dev/null", os.O_RDWR)
for number in range(3): os.dup2(null, number)
open(sys.argv[1], "w").write(str(os.getpid()))
time.sleep(60)
"""


def test_one_that_becomes_a_daemon(rig: Rig) -> None:
    """It may not outlive its job: its card is given to others."""
    (rig.work / "daemon.py").write_text(DAEMON)
    noted = rig.work / "daemon.pid"
    script = f"{sys.executable} -S daemon.py {noted}; while [ ! -s {noted} ]; do sleep 0.02; done; exit 0"
    job = rig.sh(script)
    assert rig.ends(job) == "succeeded"
    pid = int(noted.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not of_job(rig, job)
    noted.unlink()
    # Nor escape a cancel.
    job = rig.sh(f"{sys.executable} -S daemon.py {noted}; while :; do sleep 0.1; done")
    eventually(lambda: noted.exists() and noted.read_text())
    pid = int(noted.read_text())
    assert psutil.pid_exists(pid)
    rig.json("cancel", job)
    assert rig.ends(job) == "cancelled"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
