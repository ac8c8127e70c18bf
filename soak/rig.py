"""The daemon under load: twelve simulated cards that fail now and then, and everything that is measured of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.proc import memory_bytes
from p104d.api.client import Client
from p104d.core.errors import P104Error
from soak.faults import CARDS, planned, rig_file
from soak.processes import descriptors, family, living_in, own_bytes

ROOT = Path(__file__).resolve().parents[1]
_READY_SECONDS = 120.0
#: What idle shims need to see that their daemon is gone.
_LEAVE_SECONDS = 10.0
#: After a fault the cards are looked at anew, the sensor may be another.
_RECOVERY_SECONDS = 3.0
_CONFIG = """
cpu_jobs = 4
interval = "1s"
sensor_deadline = "2s"
missing_after = "3s"
stop_grace = "2s"
log_limit = "256KiB"
launcher = "zygote"
keep_logs = "64MiB"
"""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What there was at ``seconds`` since the start, ``jobs`` having been submitted.

    ``total_bytes`` is the proportional set size of all processes but the jobs'. The others are what each wrote to of
    its own: the daemon, the sensors, the zygote, and the largest shim. ``helper_descriptors`` are those of sensor and
    zygote together, ``shim_descriptors`` the most of one shim.
    """

    seconds: float
    jobs: int
    total_bytes: int
    daemon_bytes: int
    sensor_bytes: int
    zygote_bytes: int
    shim_bytes: int
    descriptors: int
    helper_descriptors: int
    shim_descriptors: int
    threads: int
    processes: int
    wal_bytes: int
    telemetry_wal_bytes: int
    database_bytes: int
    telemetry_bytes: int
    jobs_bytes: int
    log_bytes: int


class SoakRig:
    """A daemon in a folder of its own, as its owner runs it."""

    def __init__(self, minutes: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="p104s-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.state = self.folder / "state"
        self.work = self.folder / "work"
        self.work.mkdir()
        self.faults = planned(minutes * 60, minutes * 60 + _READY_SECONDS)
        (self.folder / "config.toml").write_text(_CONFIG)
        (self.folder / "rig.toml").write_text(rig_file(self.faults))
        command = [sys.executable, "-m", "soak.daemon", "--simulate", str(self.folder / "rig.toml")]
        command += ["--config", str(self.folder / "config.toml"), "--state-dir", str(self.state)]
        env = {key: value for key, value in os.environ.items() if not key.startswith(("P104_", "XDG_"))}
        env |= {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(self.folder)}
        self.log = self.folder / "daemon.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*command, "--socket", str(self.socket)],
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.client = Client([str(self.socket)])
        self.began = time.monotonic()

    def wait_until_ready(self) -> None:
        """Return when all cards are proven; some may have a fault by then. Raises RuntimeError with the log's end."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(P104Error):
                if [card["verdict"] for card in self.client.get("/v1/cards")["cards"]].count("proven") == CARDS:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"p104d did not become ready:\n{self.log.read_text()[-2000:]}")

    @property
    def seconds(self) -> float:
        """Since the start, as faults are counted: the daemon's own count begins a moment later."""
        return time.monotonic() - self.began

    def faults_between(self, begin: float, end: float) -> int:
        """How many began in these seconds."""
        return sum(begin <= fault.at < end for fault in self.faults)

    def calm(self) -> bool:
        """No card has a fault, or just had one, and none is being tested."""
        now = self.seconds
        if any(fault.at <= now < fault.at + fault.seconds + _RECOVERY_SECONDS for fault in self.faults):
            return False
        return all(card["state"] == "ready" for card in self.client.get("/v1/cards")["cards"])

    def submit(self, *documents: dict[str, Any]) -> list[int]:
        """Submit documents; the ids. Raises P104Error."""
        text = "\n---\n".join(msgspec.json.encode(each).decode() for each in documents)
        body = {"documents": [{"file": "soak.yaml", "text": text}], "set": [], "cwd": str(self.work), "keep_env": {}}
        return [job["id"] for job in self.client.post("/v1/submit", body)["jobs"]]

    def shims(self) -> list[int]:
        """The shims, by pid: what a kill -9 may hit at any time."""
        return family(self.process.pid).shims

    def strays(self) -> list[str]:
        """The processes that live in the jobs' folder, for people; at rest there is none."""
        return [_told(process) for process in living_in(self.work)]

    def sample(self, jobs: int) -> Sample:
        """What there is now. Raises psutil.Error where the daemon is gone."""
        daemon, found = psutil.Process(self.process.pid), family(self.process.pid)
        return Sample(
            seconds=self.seconds,
            jobs=jobs,
            total_bytes=memory_bytes(found.all),
            daemon_bytes=own_bytes([found.daemon]),
            sensor_bytes=own_bytes(found.sensors),
            zygote_bytes=own_bytes(found.zygotes),
            shim_bytes=max((own_bytes([pid]) for pid in found.shims), default=0),
            descriptors=daemon.num_fds(),
            helper_descriptors=descriptors([*found.sensors, *found.zygotes]),
            shim_descriptors=max((descriptors([pid]) for pid in found.shims), default=0),
            threads=daemon.num_threads(),
            processes=len(found.all),
            wal_bytes=_size(self.state / "queue.db-wal"),
            telemetry_wal_bytes=_size(self.state / "telemetry.db-wal"),
            database_bytes=_size(self.state / "queue.db"),
            telemetry_bytes=_size(self.state / "telemetry.db"),
            jobs_bytes=sum(_size(path) for path in self.state.glob("jobs/*/*/log*")),
            log_bytes=_size(self.log),
        )

    def close(self) -> list[str]:
        """End jobs and daemon; what was wrong with that."""
        problems: list[str] = []
        try:
            if self.process.poll() is None:
                self._cancel_all()
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(30)
        except (P104Error, subprocess.TimeoutExpired) as error:
            problems.append(f"it does not end: {error}")
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        if self.process.returncode != 0:
            problems.append(f"the daemon ended with {self.process.returncode}")
        return [*problems, *self._left()]

    def remove(self) -> None:
        """Remove the folder. Of tens of thousands of jobs that takes minutes on some disks."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _left(self) -> list[str]:
        """Nobody lives in our folder any more; whoever does is told of, and ended."""
        deadline = time.monotonic() + _LEAVE_SECONDS
        while (left := living_in(self.folder)) and time.monotonic() < deadline:
            time.sleep(0.1)
        told = [f"left behind: {_told(process)}" for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return told

    def _cancel_all(self) -> None:
        self.client.post("/v1/pause", {})
        while ids := [job["id"] for job in self.client.get("/v1/jobs", {"state": "active", "limit": 1000})["jobs"]]:
            for number in ids:
                try:
                    self.client.post("/v1/jobs/cancel", {"ids": [number]})
                except P104Error:
                    continue  # it has ended meanwhile, or is being stopped
            self.client.post("/v1/jobs/wait", {"ids": ids, "timeout_seconds": 30.0}, timeout=40)


def _told(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({' '.join(process.cmdline())[:120]})"
    except psutil.Error:
        return str(process.pid)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
