"""A client of daemons that die: it writes down what it asks and what is acknowledged, and never trusts a silence."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import checker
from crash_rig import PATIENCE, CrashRig, eventually
from evidence import Evidence, gather
from workload import Ledger, kind_of, request

from p104d.core.errors import P104Error, UnreachableError

ENDED = frozenset(checker.ENDED)


class Customer:
    """Asks for things; ``jobs`` are the acknowledged ones by id. ``failing``: the disk may, and then it is refused."""

    def __init__(self, rig: CrashRig, *, failing: bool = False) -> None:
        self.rig, self._failing = rig, failing
        self.folder = rig.folder / "work"
        (self.folder / "locks").mkdir(exist_ok=True)
        self.ledger = Ledger(self.folder / "ledger")
        self.jobs: dict[int, str] = {}

    def submit(self, documents: Sequence[Mapping[str, Any]]) -> list[int]:
        """The ids; empty where there was no answer: the jobs may exist or not."""
        answer = self._ask("submit", request(documents, self.folder))
        if answer is None:
            return []
        made = {int(job["id"]): str(job["name"]) for job in answer["jobs"]}
        self.ledger.note(what="submitted", jobs={str(job): name for job, name in made.items()})
        self.jobs |= made
        return list(made)

    def cancel(self, job: int) -> bool:
        """Whether it was acknowledged."""
        self.ledger.note(what="cancel asked", job=job)
        if self._ask("jobs/cancel", {"ids": [job]}) is None:
            return False
        self.ledger.note(what="cancelled", job=job)
        return True

    def retry(self, job: int) -> bool:
        """Whether it was acknowledged; that it was asked is what allows the job to run once more."""
        self.ledger.note(what="retry asked", job=job)
        return self._ask("jobs/retry", {"ids": [job]}) is not None

    def do(self, verb: str, job: int) -> bool:
        """Hold or release; whether it was acknowledged."""
        return self._ask(f"jobs/{verb}", {"ids": [job]}) is not None

    def _ask(self, path: str, body: Mapping[str, Any]) -> Any:
        """None where nobody answered, or it was refused because the job's state is another by now."""
        try:
            return self.rig.client.post(f"/v1/{path}", body, timeout=PATIENCE)
        except UnreachableError:
            return None
        except P104Error as error:
            # A submission is never refused here but for the disk; a verb may be, when its job has gone on meanwhile.
            if path == "submit" and not (self._failing and _of_the_disk(error)):
                self.ledger.note(what="wrong", text=f"0: a submission was refused: {error.line()}")
            return None

    # --- looking ---------------------------------------------------------------------------------------------------

    def states(self) -> dict[int, str]:
        """All jobs that have not ended, by id. Raises P104Error."""
        answer = self.rig.client.get("/v1/jobs", {"state": "active", "limit": 5000}, timeout=PATIENCE)
        return {int(job["id"]): str(job["state"]) for job in answer["jobs"]}

    def names(self) -> dict[int, str]:
        """The same with their names. Raises P104Error."""
        answer = self.rig.client.get("/v1/jobs", {"state": "active", "limit": 5000}, timeout=PATIENCE)
        return {int(job["id"]): str(job["name"]) for job in answer["jobs"]}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition``, which may ask a daemon, holds, or the daemon died."""
        daemon = self.rig.daemon
        assert daemon is not None

        def holds() -> bool:
            with contextlib.suppress(UnreachableError):
                return daemon.is_dead() or condition()
            return False

        eventually(holds, lambda: f"{what}: {self.rig.tail()}", self.rig.patience)

    def ended(self, *jobs: int) -> bool:
        """Whether all of these have. Raises P104Error."""
        return not set(jobs) & set(self.states())

    def goes(self) -> bool:
        """Whether any job has not ended. Those that would not by themselves are helped: jobs of this client's whose
        submission, or release, nobody acknowledged among them. Raises P104Error."""
        states, names = self.states(), self.names()
        for job, name in names.items():
            if kind_of(name) == "cancelled":
                self.cancel(job)
            elif states.get(job) == "held":
                self.do("release", job)
        return bool(names)

    def finish(self) -> None:
        """Let everything come to its end, under a daemon that is not killed; what does not, the checker will see."""
        with contextlib.suppress(AssertionError):
            self.until(lambda: not self.goes(), "jobs do not end")

    # --- the end ---------------------------------------------------------------------------------------------------

    def settle(self) -> Evidence:
        """After ``finish``: stop the daemon as an owner would, and gather everything."""
        assert self.rig.daemon is not None
        code = self.rig.daemon.terminate()
        left = self._left()
        self.ledger.close()
        evidence = gather(self.ledger.path, self.folder / "effects", self.rig.store)
        evidence.left += left
        if code:
            evidence.left.append(f"0: the daemon ended with {code}")
        evidence.log = self.rig.log.read_text()
        return evidence

    def _left(self) -> list[str]:
        """What is there that should not: processes, cgroups, locks, sockets. What is dying has a moment."""
        keeper = self.rig.keeper
        deadline = time.monotonic() + 3.0
        while keeper.family() and time.monotonic() < deadline:
            time.sleep(0.01)
        keeper.ask("reap", pid=0)
        left = [f"process {each.pid}: {each.command[:200]}" for each in keeper.family()]
        left += [f"cgroup {path}" for path in self.rig.cgroups()]
        left += [f"the socket's folder {path}" for path in self.rig.folder.glob("models-*/*")]
        for path in self.rig.folder.rglob("*"):
            if path.is_socket() and _is_heard(str(path)):
                left.append(f"somebody listens on {path}")
        if self.rig.socket.exists():
            left.append(f"the socket {self.rig.socket}")
        left += [
            f"the lock {path}" for path in [*self.folder.glob("locks/*"), self.rig.store / "daemon.lock"] if _held(path)
        ]
        return [f"0: {each} is left" for each in left]


def _of_the_disk(error: P104Error) -> bool:
    return error.retry and "disk" in error.line()


def _is_heard(path: str) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as probe, contextlib.suppress(OSError):
            probe.connect(path)
            return True
    return False


def _held(path: os.PathLike[str]) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
