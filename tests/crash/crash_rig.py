"""Daemons that die: forked from a nursery, killed by a signal or at a numbered point, started again in their folder."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import interposer

from p104d.api.client import Client
from p104d.core.errors import P104Error
from p104d.processes import identity

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: The longest that anything here may take on a loaded machine with two processors.
PATIENCE = 30.0
CARDS = 4
#: Nothing but kills may end a job here: sensors are given time, and no memory test comes by itself.
CONFIG = """
cpu_jobs = 2
interval = "500ms"
sensor_deadline = "10s"
missing_after = "60s"
stop_grace = "200ms"
gpu_appear = "60s"
log_limit = "64KiB"
launcher = "zygote"
telemetry_interval = "60s"
[verify]
schedule = ""
"""
T = TypeVar("T")


def eventually(condition: Callable[[], T], what: object = "", seconds: float = PATIENCE, every: float = 0.01) -> T:
    """The first true answer of ``condition``; AssertionError with ``what`` where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(every)
    return found


class Process(NamedTuple):
    """One process, which pid reuse cannot fake."""

    pid: int
    start: int
    parent: int
    command: str

    @property
    def is_shim_like(self) -> bool:
        """Zygote, shim, or a shim's child that has not executed yet: they share one command line."""
        return "p104d.processes" in self.command

    @property
    def is_sensor(self) -> bool:
        return "p104d.hardware.sensor" in self.command

    @property
    def is_server(self) -> bool:
        return "/llama-server --model" in self.command

    @property
    def is_runner(self) -> bool:
        return "p104d.engines.batch" in self.command


def process(pid: int) -> Process | None:
    """What /proc says of a living process; None of one that is gone, or a zombie."""
    start, parent = identity.start_time(pid), identity.parent(pid)
    if start is None or parent is None or not identity.alive(pid, start):
        return None
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None
    return Process(pid, start, parent, command)


class Keeper:
    """The test's end of a nursery."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        paths = [HERE, HERE.parent / "support", ROOT]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "nursery.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={
                    **{key: value for key, value in os.environ.items() if not key.startswith(("P104_", "XDG_"))},
                    **interposer.environment(),
                    "PYTHONPATH": os.pathsep.join(map(str, paths)),
                },
                cwd="/",
                start_new_session=True,
            )
        self._link.settimeout(PATIENCE)
        self._hear()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        self._link.send(json.dumps({"do": do, **request}).encode())
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        answer = self._link.recv(65536)
        assert answer, "the nursery died"
        return dict(json.loads(answer))

    def family(self) -> list[Process]:
        """All that lives below the nursery: daemons, sensors, zygotes, shims, jobs, and what escaped from them."""
        found = map(process, identity.descendants(self.pid))
        return [each for each in found if each is not None]

    def clear(self) -> None:
        """End all that lives below it, and what that still forks."""

        def none_left() -> bool:
            for each in self.family():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, signal.SIGKILL)
            return not self.family()

        eventually(none_left, self.family)

    def close(self) -> None:
        """Nothing below it outlives it."""
        try:
            self.clear()
        finally:
            self._link.close()
            self._process.wait(PATIENCE)


class Daemon:
    """One life of the daemon."""

    def __init__(self, keeper: Keeper, pid: int) -> None:
        self._keeper, self.pid = keeper, pid
        self._pidfd = os.pidfd_open(pid)
        self._code: int | None = None

    def is_dead(self, within_seconds: float = 0.0) -> bool:
        return self._code is not None or bool(select.select([self._pidfd], [], [], within_seconds)[0])

    @property
    def killed(self) -> bool:
        """Whether a signal ended it, as far as is known."""
        return self._code is not None and self._code < 0

    def kill(self) -> None:
        """SIGKILL to it alone; dead on return."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.wait()

    def terminate(self) -> int:
        """SIGTERM, where it lives; its exit code."""
        if self._code is None:
            signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        if self._code is None:
            assert self.is_dead(PATIENCE), f"daemon {self.pid} does not end"
            self._code = os.waitstatus_to_exitcode(self._keeper.ask("reap", pid=self.pid)["status"])
            os.close(self._pidfd)
        return self._code


class CrashRig:
    """A folder in which one daemon after the other lives. ``template`` is a state folder to begin with."""

    def __init__(self, keeper: Keeper, template: Path | None = None) -> None:
        self.keeper = keeper
        self.folder = Path(tempfile.mkdtemp(prefix="p104c-", dir="/tmp"))
        self.socket, self.store = self.folder / "s", self.folder / "state"
        self.log, self.trace = self.folder / "daemon.log", self.folder / "trace"
        self.daemon: Daemon | None = None
        self.starts = 0
        self._lives: list[Daemon] = []
        #: How long jobs may take to come to their end; a test of what never ends shortens it.
        self.patience = PATIENCE
        models = f'[models]\nllama_server = "{self.folder}/llama-server"\nload_timeout = "20s"\n'
        (self.folder / "config.toml").write_text(CONFIG + models)
        (self.folder / "work").mkdir()
        if template is not None:
            shutil.copytree(template, self.store)

    @property
    def client(self) -> Client:
        return Client([str(self.socket)])

    def start(self, rule: str = "", sabotage: str | None = None) -> Daemon:
        """Fork one; it is on its way."""
        argv = ["--simulate", str(CARDS), "--config", str(self.folder / "config.toml")]
        argv += ["--state-dir", str(self.store), "--socket", str(self.socket)]
        order = {
            "argv": argv,
            "log": str(self.log),
            "env": {"XDG_RUNTIME_DIR": str(self.folder), "HOME": str(self.folder)},
            "rule": rule,
            "trace": str(self.trace),
            "sabotage": sabotage,
        }
        self.starts += 1
        self.daemon = Daemon(self.keeper, self.keeper.ask("fork", **order)["pid"])
        self._lives.append(self.daemon)
        return self.daemon

    @property
    def deaths(self) -> int:
        """How many of its daemons were killed by a signal, as far as they were waited for."""
        return sum(each.killed for each in self._lives)

    def answers(self, cards: bool = False) -> bool:
        """Whether it serves (``cards``: and has looked at its cards)."""
        try:
            status = self.client.get("/v1/status", timeout=PATIENCE)
        except P104Error:
            return False
        return not cards or (
            len(status["cards"]) == CARDS and all(card["state"] in ("ready", "busy") for card in status["cards"])
        )

    def ready(self, cards: bool = False) -> bool:
        """Wait until it answers; False where it died first."""
        assert self.daemon is not None
        daemon = self.daemon
        eventually(lambda: daemon.is_dead() or self.answers(cards), self.tail, every=0.005)
        return not daemon.is_dead()

    def tail(self) -> str:
        """The end of the daemons' log."""
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    def cgroups(self) -> list[Path]:
        """The folders of this rig's control groups, if any."""
        name = f"p104d-{zlib.crc32(str(self.store / 'jobs').encode()):08x}"
        # Not glob(), which trips over what other tests remove meanwhile.
        return [Path(folder, name) for folder, names, _ in os.walk("/sys/fs/cgroup") if name in names]

    def close(self) -> None:
        """End whatever is there, and remove the folder."""
        try:
            if self.daemon is not None and not self.daemon.is_dead():
                self.daemon.kill()
            self.keeper.clear()
            for base in self.cgroups():
                for folder, _, _ in os.walk(base, topdown=False):
                    with contextlib.suppress(OSError):
                        os.rmdir(folder)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def make_template(keeper: Keeper) -> Path:
    """A state folder whose cards are proven already: the first test takes seconds, and verdicts are kept."""
    rig = CrashRig(keeper)
    try:
        daemon = rig.start()
        assert rig.ready(cards=True), rig.log.read_text()
        assert daemon.terminate() == 0, rig.log.read_text()
        kept = Path(tempfile.mkdtemp(prefix="p104c-", dir="/tmp"))
        shutil.copytree(rig.store, kept / "state")
    finally:
        rig.close()
    return kept / "state"


@contextlib.contextmanager
def nursery() -> Iterator[tuple[Keeper, Path]]:
    """A keeper and a template for the tests of one module."""
    keeper = Keeper()
    template: Path | None = None
    try:
        template = make_template(keeper)
        yield keeper, template
    finally:
        keeper.close()
        if template is not None:
            shutil.rmtree(template.parent, ignore_errors=True)
