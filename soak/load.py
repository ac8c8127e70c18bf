"""What users do to it all the time: jobs of all kinds, questions, logs followed, cancels; and shims that are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable

from p104d.core.errors import P104Error
from soak.ends import Kind, Ledger
from soak.rig import SoakRig

#: Jobs that wait at most; more are not submitted until some have ended.
_MOST_WAITING = 100
_PAUSE_SECONDS = 0.1
#: A shim is killed about as often.
_KILL_SECONDS = 5.0
#: A request takes that long at most on a crowded machine.
_ANSWER_SECONDS = 60.0


def kinds(dice: random.Random) -> list[Kind]:
    """One of each, some of them with a length or a number of cards that the dice decide."""
    seconds, cards = dice.choice(["0", "0.2", "1", "4"]), dice.randint(1, 3)
    return [
        Kind(name="memory", document={"command": f"sleep {seconds}", "vram": "2GiB"}),
        Kind(name="cards", document={"command": f"sleep {seconds}", "cards": cards}),
        Kind(
            name="retries",
            document={"command": "echo it=1 | tr '=' ' '; exit 3", "cards": 0, "retries": 1},
            state="failed", reason="exit code 3", attempts=2,
        ),
        Kind(name="signal", document={"command": "kill -SEGV $$", "cards": 0}, state="failed", reason="signal 11"),
        Kind(name="strays", document={"command": "setsid sleep 300 & exit 0", "cards": 0}),
        Kind(
            name="limit",
            document={"command": "(setsid sleep 300 &); sleep 30", "vram": "1GiB", "time_limit": "1s"},
            state="failed", reason="time limit",
        ),
        Kind(name="output", document={"command": "seq 20000", "cards": 0}),
        Kind(
            name="matrix",
            document={"command": "exit $(( ${matrix.i} % 2 ))", "cards": 0, "matrix": {"i": list(range(8))}},
            odd_fails=True,
        ),
        # Very short ones, and many: a leak of some bytes a job shows by their number.
        Kind(name="many", document={"command": "true", "cards": 0, "matrix": {"i": list(range(40))}}),
        Kind(
            name="idempotent",
            document={"command": f"sleep {seconds}", "vram": "4GiB", "idempotent": True, "labels": {"kind": "soak"}},
        ),
        Kind(
            name="deaf",
            document={"command": "trap '' TERM; sleep 60", "cards": 0, "time_limit": "1s"},
            state="failed", reason="time limit",
        ),
    ]  # fmt: skip


_NEXT = Kind(name="next", document={"command": "true", "cards": 0, "after": ["a"]})


class Load:
    """Threads that work until told to stop; ``counts`` says how much of what they did."""

    def __init__(self, rig: SoakRig, seed: int) -> None:
        self._rig, self._seed = rig, seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._turn = threading.Condition()
        self._resting, self._at_work = False, 0
        self._threads: list[threading.Thread] = []
        self.ledger = Ledger()
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

    def rest(self) -> None:
        """Begin nothing any more, and wait until what was asked is answered."""
        with self._turn:
            self._resting = True
            self._turn.wait_for(lambda: not self._at_work, _ANSWER_SECONDS)

    def go_on(self) -> None:
        """After a rest."""
        with self._turn:
            self._resting = False
            self._turn.notify_all()

    def stop(self) -> None:
        """End, and wait for everybody."""
        self._stop.set()
        self.go_on()
        for thread in self._threads:
            thread.join(_ANSWER_SECONDS)

    def _repeat(self, work: Callable[[random.Random], None], dice: random.Random) -> None:
        while not self._stop.wait(_PAUSE_SECONDS * dice.random() * 2):
            with self._turn:
                self._turn.wait_for(lambda: not self._resting)
                self._at_work += 1
            try:
                self._careful(work, dice)
            finally:
                with self._turn:
                    self._at_work -= 1
                    self._turn.notify_all()

    def _careful(self, work: Callable[[random.Random], None], dice: random.Random) -> None:
        try:
            work(dice)
        except P104Error as error:
            self._count("refused", 1)
            if error.exit_code not in (4, 5):
                self.unexpected.append(error.line())
        except Exception as error:
            self.unexpected.append(repr(error))

    @property
    def _goes_on(self) -> bool:
        return not self._stop.is_set() and not self._resting

    def _submit(self, dice: random.Random) -> None:
        queue = self._rig.client.get("/v1/status")["queue"]
        if queue["queued"] >= _MOST_WAITING:
            return
        kind = dice.choice(kinds(dice))
        if dice.random() < 0.1:
            *ids, last = self._rig.submit({"name": "a", **kind.document}, {"name": "b", **_NEXT.document})
            self.ledger.submit(kind, ids)
            self.ledger.submit(_NEXT, [last], ids)
            self._count("jobs", len(ids) + 1)
        else:
            ids = self._rig.submit({"name": "soak", **kind.document})
            self.ledger.submit(kind, ids)
            self._count("jobs", len(ids))

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
            self.ledger.cancel(number)
            self._rig.client.post("/v1/jobs/cancel", {"ids": [number]})
            self._count("cancels", 1)

    def _follow(self, dice: random.Random) -> None:
        number = self._some_job(dice, "running")
        if number is not None:
            with self._rig.client.stream(f"/v1/jobs/{number}/log", {"follow": 1}) as answer:
                pieces = answer.pieces()
                while self._goes_on and (not answer.ready(0.2) or next(pieces, b"")):
                    pass
            self._count("logs followed", 1)

    def _kill(self, dice: random.Random) -> None:
        if self._stop.wait(_KILL_SECONDS) or not self._goes_on:
            return
        shims = self._rig.shims()
        if shims:
            self.ledger.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(shims), signal.SIGKILL)
            self._count("shims killed", 1)
