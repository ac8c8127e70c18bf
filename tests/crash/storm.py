"""Kills at random moments while a client submits jobs of all kinds, cancels, holds and retries."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence

from crash_rig import CrashRig, Process, eventually
from customer import Customer
from evidence import Evidence
from workload import CHAINS, ORDINARY, Maker, kind_of

from p104d.core.errors import P104Error

#: Of each hundred kills. The daemon's death is the matter; the others' is what makes its recovery hard.
VICTIMS = {"daemon": 70, "shim": 20, "sensor": 5, "zygote": 5}
#: Of a storm over models.
MODEL_VICTIMS = {"daemon": 60, "server": 15, "runner": 10, "shim": 15}
#: What the client cancels now and then.
_STOPPED = ("cancelled", "asks")
#: The client does not run away from a rig that is dead most of the time.
_MOST_ACTIVE = 24
#: How a disk fails under a daemon, for the interposer: calls, and where. What a shim writes is not concerned: a record
#: that cannot be made durable may be a loss, which would say nothing here.
_WEATHER = (
    ("eio", "fsync|fdatasync", "queue.db"),
    ("eio", "fsync|fdatasync", "/jobs"),
    ("eio", "pwrite|write|ftruncate", "queue.db"),
    ("enospc", "pwrite|write|ftruncate|fallocate", "queue.db"),
    ("enospc", "create|mkdir|write|link|rename", "/jobs"),
)
#: The first so many calls of a kind: those of a start, of recovery and of a few jobs.
_MOST_CALLS = 60


def weather(source: random.Random) -> str:
    """A rule for the interposer: one call of a daemon's life fails, or every one from then on; now and then none."""
    if source.random() < 0.2:
        return ""
    kind, calls, path = source.choice(_WEATHER)
    return f"{kind}:{calls}:{source.randint(1, _MOST_CALLS)}{source.choice(['', '', '+'])}:{path}"


class Deck:
    """Kinds of victims in random order and in the proportions of ``weights``, whatever the seed: a rare one too has
    come up by the time that a small deck is through."""

    def __init__(self, source: random.Random, weights: Mapping[str, int]) -> None:
        smallest = math.gcd(*weights.values())
        self._random = source
        self._fresh = [kind for kind, weight in weights.items() for _ in range(weight // smallest)]
        self._left: list[str] = []

    def draw(self) -> str:
        if not self._left:
            self._left = list(self._fresh)
            self._random.shuffle(self._left)
        return self._left.pop()

    def put_back(self, kind: str) -> None:
        """There was none of it; it is one of the next."""
        self._left.insert(max(0, len(self._left) - self._random.randint(1, 3)), kind)


class Storm:
    """``kills`` SIGKILLs, chosen by ``source`` among ``victims``, while there are jobs of ``kinds``; with ``failing``,
    of daemons whose disk fails too."""

    def __init__(
        self,
        rig: CrashRig,
        source: random.Random,
        kills: int,
        *,
        failing: bool = False,
        victims: Mapping[str, int] = VICTIMS,
        kinds: Sequence[str] = (*ORDINARY, *CHAINS),
    ) -> None:
        self.rig, self._random, self._kills, self._failing = rig, source, kills, failing
        self._deck, self._kinds = Deck(source, victims), kinds
        self.customer = Customer(rig, failing=failing)
        self.refused_to_start = 0
        self.killed = dict.fromkeys(victims, 0)
        self._over = threading.Event()
        self._problem: BaseException | None = None

    def run(self) -> Evidence:
        """All of it, and what is found afterwards."""
        client = threading.Thread(target=self._client, args=(random.Random(self._random.random()),))
        self._start()
        client.start()
        try:
            while sum(self.killed.values()) < self._kills and self._problem is None:
                self._pause()
                self._kill()
        finally:
            self._over.set()
            client.join()
        if self._problem is not None:
            raise self._problem
        if self._failing:
            self._die()
            self.rig.start()
        assert self.rig.ready(), self.rig.tail()
        self.customer.finish()
        return self.customer.settle()

    def _pause(self) -> None:
        """Half of the kills come during the start and the recovery, which take about a tenth of a second; the others
        leave a daemon that serves some time, however slow this machine is."""
        if self._random.random() < 0.5:
            time.sleep(0.15 * self._random.random())
        elif self._failing:
            # Whose disk fails for good answers nobody, and lives.
            with contextlib.suppress(AssertionError):
                eventually(lambda: self.rig.daemon.is_dead() or self.rig.answers(), seconds=1.0)  # type: ignore[union-attr]
            time.sleep(0.4 * self._random.random())
        elif self.rig.ready():
            time.sleep(0.4 * self._random.random())

    # --- killing ---------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self.rig.start(weather(self._random) if self._failing else "")

    def _die(self) -> None:
        """Kill the daemon, where its disk did not let it start and it is dead already."""
        assert self.rig.daemon is not None
        if self._failing and self.rig.daemon.is_dead():
            self.refused_to_start += 1
            assert self.rig.daemon.wait() > 0, self.rig.tail()
        else:
            self.rig.daemon.kill()

    def _kill(self) -> None:
        kind = self._deck.draw()
        assert self.rig.daemon is not None
        if kind == "daemon":
            self._die()
            self._start()
        else:
            found = self._find(kind)
            if not found:
                self._deck.put_back(kind)
                return
            victim = self._random.choice(found)
            # Noted first: what dies of it may be seen before we come to write.
            self.customer.ledger.note(what="killed", pid=victim.pid, start=victim.start, kind=kind)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim.pid, signal.SIGKILL)
        self.killed[kind] += 1

    def _find(self, kind: str) -> list[Process]:
        assert self.rig.daemon is not None
        family = self.rig.keeper.family()
        if kind == "sensor":
            return [each for each in family if each.is_sensor]
        if kind in ("server", "runner"):
            return [each for each in family if (each.is_server if kind == "server" else each.is_runner)]
        zygotes = {each.pid for each in family if each.is_shim_like and each.parent == self.rig.daemon.pid}
        if kind == "zygote":
            return [each for each in family if each.pid in zygotes]
        # Not their children: one that has not executed yet is its job, and a job that is killed has just failed.
        parents = zygotes | {self.rig.keeper.pid}
        return [each for each in family if each.is_shim_like and each.parent in parents]

    # --- the client ------------------------------------------------------------------------------------------------

    def _client(self, source: random.Random) -> None:
        try:
            maker = Maker(self.customer.folder, source, self._kinds)
            chained: set[int] = set()
            while not self._over.is_set():
                try:
                    self._act(maker, source, chained)
                except P104Error:
                    self._over.wait(0.01)
        except BaseException as problem:
            self._problem = problem

    def _act(self, maker: Maker, source: random.Random, chained: set[int]) -> None:
        """Raises P104Error where nobody answers."""
        customer = self.customer
        active = customer.states()
        what = source.random()
        going = [job for job in active if kind_of(customer.jobs.get(job, "")) in _STOPPED]
        if going and what < 0.25:
            customer.cancel(source.choice(going))
        elif what < 0.30 and (
            over := [job for job in customer.jobs if job not in active and self._may_retry(job, chained)]
        ):
            customer.retry(source.choice(over))
        elif what < 0.40 and active:
            job = source.choice(list(active))
            customer.do("hold", job)
            while not customer.do("release", job) and customer.states().get(job) == "held":
                pass
        elif len(active) < _MOST_ACTIVE:
            made = customer.submit(maker.next())
            if len({customer.jobs[job] for job in made}) > 1:
                chained.update(made)
        else:
            self._over.wait(0.02)

    def _may_retry(self, job: int, chained: set[int]) -> bool:
        return job not in chained and kind_of(self.customer.jobs[job]) in ("ok", "code", "gang", "shared")
