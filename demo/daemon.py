"""A daemon for the length of the demo: its own folder, its own socket, and nothing left of it afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
#: llama.cpp on the processor, under llama-server's name and options, and what goes with it.
LLAMA = HERE / "llama"
#: Migrating an empty database and the first look at the cards take a second or two; an old Celeron is given time.
READY_WITHIN_SECONDS = 30.0
#: A cancelled job has 10 s to go by itself.
GONE_WITHIN_SECONDS = 20.0
ENDED = ("succeeded", "failed", "cancelled", "lost")


def driver_found() -> bool:
    """Whether an NVIDIA driver is loaded and its library is there."""
    if not os.path.exists("/dev/nvidiactl"):
        return False
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return True


class DemoDaemon:
    """``p104d`` in a temporary folder. Use it in a ``with``: leaving it ends the jobs, the daemon and the folder."""

    def __init__(self, *, simulated: bool) -> None:
        self.simulated = simulated
        self.folder = Path(tempfile.mkdtemp(prefix="p104d-demo-", dir="/tmp"))
        self.work = self.folder / "work"
        self.socket = self.folder / "p104d.sock"
        self.log = self.folder / "p104d.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> DemoDaemon:
        self.work.mkdir()
        for name in os.listdir(HERE):
            if name.endswith((".yaml", ".py", ".jsonl", ".toml")):
                shutil.copy(HERE / name, self.work / name)
        self._configure()
        return self

    def _configure(self) -> None:
        """Name the llama-server that models are served with: this host's own where it has one and cards for it."""
        own = None if self.simulated else shutil.which("llama-server")
        if own is None:
            command = self.folder / "llama-server"
            command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{LLAMA / "llama_server.py"}" "$@"\n')
            command.chmod(0o755)
            own = str(command)
        config = self.folder / "config" / "p104d" / "config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f"[models]\nllama_server = {json.dumps(own)}\n")

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def arguments(self) -> list[str]:
        """The command line, as anybody could type it."""
        rig = ["--simulate", "rig.toml"] if self.simulated else []
        return ["p104d", *rig, "--state-dir", str(self.folder / "state"), "--socket", str(self.socket)]

    def environment(self) -> dict[str, str]:
        """What p104d and p104ctl are called with: this Python's commands first, no configuration of the user's."""
        found = {key: value for key, value in os.environ.items() if not key.startswith("P104_")}
        found["PATH"] = os.path.dirname(sys.executable) + os.pathsep + found.get("PATH", os.defpath)
        found["P104_SOCKET"] = str(self.socket)
        found["XDG_CONFIG_HOME"] = str(self.folder / "config")
        found["XDG_RUNTIME_DIR"] = str(self.folder)
        return found

    def start(self) -> None:
        """Start it and wait until ``p104ctl status`` answers. Raises RuntimeError with its last words otherwise."""
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C in the terminal is the demo's to handle, so that jobs end before the daemon.
            self._process = subprocess.Popen(
                self.arguments,
                cwd=self.work,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"p104d did not become ready:\n{self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)

    def _ready(self) -> bool:
        """Whether it answers and has taken in its first card (or says, by a warning, that there is none)."""
        status = self.ask("status")
        return status is not None and bool(status["cards"] or status["warnings"])

    def ctl(self, *arguments: str, quiet: bool = False) -> int:
        """Call p104ctl as a person would, its output on ours. Returns its exit code."""
        output = subprocess.DEVNULL if quiet else None
        return self._run(["p104ctl", *arguments], stdout=output, stderr=output).returncode

    def ask(self, *arguments: str) -> Any:
        """The JSON that ``p104ctl ARGUMENTS --json`` prints; None where it fails."""
        answer = self._run(["p104ctl", *arguments, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def _run(self, command: list[str], *, stdout: int | None, stderr: int | None) -> subprocess.CompletedProcess[bytes]:
        """Run a command of ours where Ctrl-C does not reach it: the demo ends it and then tidies up."""
        return subprocess.run(
            command,
            cwd=self.work,
            env=self.environment(),
            stdout=stdout,
            stderr=stderr,
            check=False,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End what still runs: jobs by asking, then the daemon, then whatever should have gone and did not."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._cancel_jobs()
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(GONE_WITHIN_SECONDS)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for process in self.leftovers():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def _cancel_jobs(self) -> None:
        """Cancel one by one, as a job that ends meanwhile refuses it, and wait for the last."""
        listed = self.ask("list", "--limit", "1000") or {"jobs": []}
        going = [str(job["id"]) for job in listed["jobs"] if job["state"] not in ENDED]
        for job in going:
            self.ctl("cancel", job, quiet=True)
        if going:
            self.ctl("wait", "--timeout", f"{GONE_WITHIN_SECONDS:.0f}s", *going, quiet=True)

    def leftovers(self) -> list[psutil.Process]:
        """Processes that still work in our folder or were started for it."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid == os.getpid():
                    continue
                places = [process.cwd(), *process.cmdline()]
                if any(str(self.folder) in place for place in places):
                    found.append(process)
        return found
