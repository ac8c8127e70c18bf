"""A real p104d on a simulated rig, and p104ctl against it, as a user has them; and proof that nothing is left.

The folder's name is short (AF_UNIX paths have 107 bytes) and unique: every process of the daemon bears it on its
command line or in its environment, every process of a job bears the token that its ``launch.json`` holds.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
from daemon_processes import bears, command_of, remove_cgroups

from p104d.api.client import Client
from p104d.cli.main import main as p104ctl
from p104d.core.errors import P104Error

ROOT = Path(__file__).resolve().parents[2]
#: The longest that anything here may take on a loaded machine with two processors.
PATIENCE = 30.0
ENDED = frozenset({"succeeded", "failed", "cancelled", "lost"})
#: Short enough for tests to wait for, each still far above what the thing itself takes.
CONFIG = """
cpu_jobs = 2
interval = "200ms"
sensor_deadline = "1s"
missing_after = "1s"
stop_grace = "1s"
gpu_appear = "2s"
log_limit = "64KiB"
launcher = "zygote"
"""

T = TypeVar("T")


class Result(NamedTuple):
    """What a call of p104ctl came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in (0, 1), self
        return json.loads(self.out)


def eventually(condition: Callable[[], T], seconds: float = PATIENCE, what: str = "") -> T:
    """The first true answer of ``condition``, asked again and again for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"did not come to hold within {seconds} s: {what or condition}"
        time.sleep(0.02)


class Rig:
    """One daemon with its folder. ``simulate`` is a number of cards or the text of a rig file."""

    def __init__(self, simulate: int | str, *, config: str = CONFIG, system: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="p104t-", dir="/tmp"))
        self.socket = self.folder / "s"
        self.store = self.folder / "state"
        self.work = self.folder / "work"
        self.work.mkdir()
        self.log = self.folder / "daemon.log"
        (self.folder / "config.toml").write_text(config)
        if isinstance(simulate, str):
            (self.folder / "rig.toml").write_text(simulate)
            simulate = str(self.folder / "rig.toml")
        self.arguments = ["--simulate", str(simulate), "--config", str(self.folder / "config.toml")]
        self.arguments += ["--state-dir", str(self.store), "--socket", str(self.socket)]
        self.prefix: list[str] = []
        self.system = system
        if system:
            self.arguments.append("--system")
        self.daemon: subprocess.Popen[bytes] | None = None
        self._tokens: set[str] = set()

    # --- the daemon's life -------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Nothing of whoever runs the tests, and runtime files in our folder."""
        found = {key: value for key, value in os.environ.items() if not key.startswith(("P104_", "XDG_", "PYTEST"))}
        return found | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(self.folder), "HOME": str(self.folder)}

    def spawn(self, *more: str) -> subprocess.Popen[bytes]:
        """A daemon's process, whatever becomes of it."""
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "p104d.daemon.main", *self.arguments, *more],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start(self, *, cards: bool = True) -> Rig:
        """Start it and wait until it answers (``cards``: and has counted and proven its cards)."""
        self.daemon = self.spawn()
        eventually(lambda: self._answers(cards), what=self.log.read_text)  # type: ignore[arg-type]
        return self

    def _answers(self, cards: bool) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, self.log.read_text()
        try:
            status = self.client.get("/v1/status", timeout=5)
        except P104Error:
            return False
        return not cards or (bool(status["cards"]) and all(card["state"] != "verifying" for card in status["cards"]))

    def terminate(self) -> int:
        """SIGTERM; its exit code."""
        assert self.daemon is not None
        self.daemon.terminate()
        return self.daemon.wait(PATIENCE)

    def kill(self) -> None:
        """kill -9 of the daemon alone."""
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(PATIENCE)

    @property
    def client(self) -> Client:
        return Client([str(self.socket)])

    # --- p104ctl -----------------------------------------------------------------------------------------------------

    def ctl(self, *arguments: object, stdin: str | bytes = "", cwd: Path | None = None) -> Result:
        """p104ctl in this process: the same code from parsing to printing, without the start of a Python."""
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        given = io.TextIOWrapper(io.BytesIO(stdin.encode() if isinstance(stdin, str) else stdin), "utf-8")
        before = sys.stdin
        sys.stdin = given
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.chdir(cwd or self.work):
                code = p104ctl(["--socket", str(self.socket), *map(str, arguments)])
        finally:
            sys.stdin = before
        return Result(code, *(each.buffer.getvalue().decode("utf-8", "replace") for each in (out, err)))  # type: ignore[attr-defined]

    def process(self, *arguments: object, prefix: Sequence[str] = (), **options: Any) -> subprocess.Popen[bytes]:
        """p104ctl as a process of its own, output piped; ``prefix`` comes before its command line."""
        given: dict[str, Any] = {
            "env": self.environment() | {"P104_SOCKET": str(self.socket)} | options.pop("env", {}),
            "cwd": self.work,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        command = [*prefix, sys.executable, "-m", "p104d.cli.main", *map(str, arguments)]
        return subprocess.Popen(command, **(given | options))

    def finished(self, *arguments: object, **options: Any) -> Result:
        """What p104ctl as a process of its own came to."""
        with self.process(*arguments, **options) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return Result(process.returncode, out.decode(), err.decode())

    def json(self, *arguments: object, **options: Any) -> Any:
        """What a verb prints with ``--json``; it must succeed."""
        result = self.ctl(*arguments, "--json", **options)
        assert result.code == 0, result
        return json.loads(result.out)

    def submit(self, *documents: Mapping[str, Any] | str, options: Sequence[object] = ()) -> list[int]:
        """Submit documents as one file on standard input; the ids."""
        text = "\n---\n".join(each if isinstance(each, str) else json.dumps(each) for each in documents)
        return [job["id"] for job in self.json("submit", *options, "-", stdin=text)["jobs"]]

    def sh(self, script: str, **keys: Any) -> int:
        """Submit one shell line; its id."""
        [job] = self.submit({"name": "sh", **keys, "command": script})
        return job

    def show(self, job: int) -> dict[str, Any]:
        return dict(self.json("show", job))

    def state(self, job: int) -> str:
        return str(self.client.post("/v1/jobs/wait", {"ids": [job], "timeout_seconds": 0})["jobs"][0]["state"])

    def wait(self, *jobs: int, seconds: float = PATIENCE) -> list[dict[str, Any]]:
        """How these ended; all must end in time."""
        answer = self.client.post("/v1/jobs/wait", {"ids": list(jobs), "timeout_seconds": seconds}, timeout=seconds + 5)
        for job in answer["jobs"]:
            assert job["state"] in ENDED, (job, self.client.post("/v1/jobs/show", {"ids": [job["id"]]}))
        return list(answer["jobs"])

    def ends(self, job: int) -> str:
        return str(self.wait(job)[0]["state"])

    def until(self, job: int, state: str) -> None:
        """Wait for a state that no verb waits for."""
        eventually(lambda: self.state(job) == state, what=f"job {job} {state}")

    def output(self, job: int, *options: object) -> str:
        result = self.ctl("logs", *options, job)
        assert result.code == 0, result
        return result.out

    def reads(self, job: int, text: str) -> None:
        """Wait until the job has printed ``text``."""
        eventually(lambda: text in self.ctl("logs", job).out, what=f"{text!r} in the log of job {job}")

    def refused(self, *arguments: object, code: int, **options: Any) -> str:
        """The one line with which a call is refused."""
        result = self.ctl(*arguments, **options)
        assert result.code == code, result
        assert result.err.endswith("\n") and result.err.count("\n") == 1, result
        assert result.out == "", result
        return result.err

    def status(self) -> dict[str, Any]:
        return dict(self.client.get("/v1/status"))

    def cards(self) -> list[dict[str, Any]]:
        return list(self.client.get("/v1/cards")["cards"])

    def card(self, which: int | str) -> dict[str, Any]:
        """By index, or by UUID: an index means another card once one before it is gone."""
        key = "index" if isinstance(which, int) else "uuid"
        return next(card for card in self.cards() if card[key] == which)

    def because(self, job: int) -> str:
        return str(self.json("explain", job)["waiting_because"])

    # --- its end -----------------------------------------------------------------------------------------------------

    def tokens(self) -> set[str]:
        """The marks of every attempt there ever was in this folder."""
        for path in self.folder.glob("state/*/*/*/launch.json"):
            with contextlib.suppress(OSError, ValueError):
                self._tokens.add(json.loads(path.read_bytes())["token"])
        return self._tokens

    def processes(self) -> list[psutil.Process]:
        """Everything alive that belongs to this rig: daemon, sensor, zygote, shims, jobs."""
        marks = [str(self.folder).encode(), *(token.encode() for token in self.tokens())]
        return [process for process in psutil.process_iter() if process.pid != os.getpid() and bears(process, marks)]

    def quiet(self) -> None:
        """Cancel what is still going, let the rig be as new: for daemons that several tests use in turn."""
        client = self.client
        client.post("/v1/resume", {})
        if cards := [card["uuid"] for card in self.cards()]:
            client.post("/v1/cards/drain", {"cards": cards, "undo": True})
        for schedule in client.get("/v1/schedules")["schedules"]:
            client.post("/v1/schedules/cancel", {"ids": [schedule["id"]]})
        while going := [job["id"] for job in client.get("/v1/jobs", {"state": "active", "limit": 1000})["jobs"]]:
            for job in going:
                with contextlib.suppress(P104Error):
                    client.post("/v1/jobs/cancel", {"ids": [job]})
            self.wait(*going)

    def close(self) -> None:
        """End jobs and daemon as an owner would; then nothing may be alive, and nothing stay on the disk."""
        left: list[str] = []
        try:
            if self.daemon is not None and self.daemon.poll() is None:
                self.quiet()
                assert self.terminate() == 0, self.log.read_text()
                with contextlib.suppress(AssertionError):
                    eventually(lambda: not self.processes(), 5)
                left = [command for process in self.processes() if (command := command_of(process))]
                assert "Traceback" not in self.log.read_text(), self.log.read_text()
        finally:
            self._destroy()
        assert not left, left

    def _destroy(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        remove_cgroups(self.store / "jobs")
        shutil.rmtree(self.folder, ignore_errors=True)
