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

ROOT = Path(__file__).resolve().parents[1]
_READY_SECONDS = 120.0
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
    """What there was at ``seconds`` since the start. Memory is the proportional set size of daemon, sensor, zygote and
    idle shims."""

    seconds: float
    memory_bytes: int
    descriptors: int
    threads: int
    processes: int
    wal_bytes: int
    database_bytes: int
    telemetry_bytes: int
    jobs_bytes: int


class SoakRig:
    """A daemon in a folder of its own, as its owner runs it."""

    def __init__(self, minutes: float) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="p104s-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.state = self.folder / "state"
        self.work = self.folder / "work"
        self.work.mkdir()
        (self.folder / "config.toml").write_text(_CONFIG)
        self.faults = planned(minutes * 60, minutes * 60 + _READY_SECONDS)
        (self.folder / "rig.toml").write_text(rig_file(self.faults))
        command = [sys.executable, "-m", "p104d.daemon.main", "--simulate", str(self.folder / "rig.toml")]
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

    def submit(self, *documents: dict[str, Any]) -> list[int]:
        """Submit documents; the ids. Raises P104Error."""
        text = "\n---\n".join(msgspec.json.encode(each).decode() for each in documents)
        body = {"documents": [{"file": "soak.yaml", "text": text}], "set": [], "cwd": str(self.work), "keep_env": {}}
        return [job["id"] for job in self.client.post("/v1/submit", body)["jobs"]]

    def shims(self) -> list[int]:
        """The shims, by pid: what a kill -9 may hit at any time."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if process.ppid() != self.process.pid and "zygote" in " ".join(process.cmdline()):
                    found.append(process.pid)
            except psutil.Error:
                continue
        return found

    def sample(self) -> Sample:
        """What there is now."""
        daemon = psutil.Process(self.process.pid)
        own = [daemon, *(child for child in daemon.children(recursive=True) if _is_ours(child))]
        return Sample(
            seconds=time.monotonic() - self.began,
            memory_bytes=memory_bytes([process.pid for process in own]),
            descriptors=daemon.num_fds(),
            threads=daemon.num_threads(),
            processes=len(own),
            wal_bytes=_size(self.state / "queue.db-wal"),
            database_bytes=_size(self.state / "queue.db"),
            telemetry_bytes=_size(self.state / "telemetry.db"),
            jobs_bytes=sum(_size(path) for path in self.state.glob("jobs/*/*/log*")),
        )

    def close(self) -> int | None:
        """End jobs and daemon, remove everything; the daemon's exit code, None where it had to be killed."""
        code: int | None = None
        try:
            if self.process.poll() is None:
                self._cancel_all()
                self.process.send_signal(signal.SIGTERM)
                code = self.process.wait(30)
        except (P104Error, subprocess.TimeoutExpired) as error:
            print(f"soak: {error}", file=sys.stderr)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
        return code

    def _cancel_all(self) -> None:
        self.client.post("/v1/pause", {})
        while ids := [job["id"] for job in self.client.get("/v1/jobs", {"state": "active", "limit": 1000})["jobs"]]:
            for number in ids:
                try:
                    self.client.post("/v1/jobs/cancel", {"ids": [number]})
                except P104Error:
                    continue  # it has ended meanwhile, or is being stopped
            self.client.post("/v1/jobs/wait", {"ids": ids, "timeout_seconds": 30.0}, timeout=40)


def _is_ours(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return "p104d" in words or "zygote" in words


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
