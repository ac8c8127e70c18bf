"""What users do to it all the time: jobs of all kinds, questions, logs followed, cancels; and shims that are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from p104d.core.errors import P104Error
from soak.rig import SoakRig

#: Jobs that wait at most; more are not submitted until some have ended.
_MOST_WAITING = 200
_PAUSE_SECONDS = 0.1


def _documents(dice: random.Random) -> list[dict[str, Any]]:
    """One submission."""
    seconds = dice.choice(["0", "0.2", "1", "4"])
    kinds: list[dict[str, Any]] = [
        {"command": f"sleep {seconds}", "vram": "2GiB"},
        {"command": f"sleep {seconds}", "cards": dice.randint(1, 3)},
        {"command": "echo it=1 | tr '=' ' '; exit 3", "cards": 0, "retries": 1},
        {"command": "kill -SEGV $$", "cards": 0},
        {"command": "setsid sleep 300 & exit 0", "cards": 0},
        {"command": "(setsid sleep 300 &); sleep 30", "vram": "1GiB", "time_limit": "1s"},
        {"command": "seq 20000", "cards": 0},
        {"command": "exit $(( ${matrix.i} % 2 ))", "cards": 0, "matrix": {"i": list(range(8))}},
        {"command": f"sleep {seconds}", "vram": "4GiB", "idempotent": True, "labels": {"kind": "soak"}},
        {"command": "trap '' TERM; sleep 60", "cards": 0, "time_limit": "1s"},
    ]
    first = dice.choice(kinds)
    if dice.random() < 0.1:
        return [{"name": "a", **first}, {"name": "b", "command": "true", "cards": 0, "after": ["a"]}]
    return [{"name": "soak", **first}]


class Load:
    """Threads that work until told to stop; ``counts`` says how much of what they did."""

    def __init__(self, rig: SoakRig, seed: int) -> None:
        self._rig, self._seed = rig, seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []

    def _count(self, what: str, more: int) -> None:
        with self._lock:
            self.counts[what] += more

    def start(self) -> None:
        """Begin."""
        for number, work in enumerate((self._submit, self._submit, self._ask, self._cancel, self._follow, self._kill)):
            dice = random.Random(self._seed + number)  # noqa: S311 - a load, no secret
            thread = threading.Thread(target=self._repeat, args=(work, dice), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """End, and wait for everybody."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _repeat(self, work: Callable[[random.Random], None], dice: random.Random) -> None:
        while not self._stop.wait(_PAUSE_SECONDS * dice.random() * 2):
            try:
                work(dice)
            except P104Error as error:
                self._count("refused", 1)
                if error.exit_code not in (4, 5):
                    self.unexpected.append(error.line())
            except Exception as error:
                self.unexpected.append(repr(error))

    def _submit(self, dice: random.Random) -> None:
        queue = self._rig.client.get("/v1/status")["queue"]
        if queue["queued"] < _MOST_WAITING:
            self._count("jobs", len(self._rig.submit(*_documents(dice))))

    def _ask(self, dice: random.Random) -> None:
        path, query = dice.choice(
            [("/v1/status", {}), ("/v1/cards", {}), ("/v1/jobs", {"limit": 50}), ("/v1/schedules", {})]
        )
        self._rig.client.get(path, query)
        self._count("questions", 1)

    def _some_job(self, dice: random.Random, state: str) -> int | None:
        jobs = self._rig.client.get("/v1/jobs", {"state": state, "limit": 50})["jobs"]
        return int(dice.choice(jobs)["id"]) if jobs else None

    def _cancel(self, dice: random.Random) -> None:
        number = self._some_job(dice, "active")
        if number is not None and dice.random() < 0.2:
            self._rig.client.post("/v1/jobs/cancel", {"ids": [number]})
            self._count("cancels", 1)

    def _follow(self, dice: random.Random) -> None:
        number = self._some_job(dice, "running")
        if number is not None:
            with self._rig.client.stream(f"/v1/jobs/{number}/log", {"follow": 1}) as answer:
                pieces = answer.pieces()
                while not self._stop.is_set() and (not answer.ready(0.2) or next(pieces, b"")):
                    pass
            self._count("logs followed", 1)

    def _kill(self, dice: random.Random) -> None:
        if self._stop.wait(5):
            return
        shims = self._rig.shims()
        if shims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(shims), signal.SIGKILL)
            self._count("shims killed", 1)
