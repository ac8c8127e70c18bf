"""A small story of a few jobs, told to the end whatever becomes of the daemon; and the points at which it may die."""

from __future__ import annotations

import contextlib
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import checker
from crash_rig import CrashRig
from customer import Customer
from evidence import Evidence
from interposer import Point
from workload import Maker

#: A daemon that nobody kills starts at once; one that a test kills now and then, after a few tries.
_MOST_STARTS = 20


class Story:
    """Submit, run, fail and try again, wait for another, hold, cancel, stop. ``rule`` is what the interposer does to
    the first daemon; those after it live."""

    def __init__(self, rig: CrashRig, rule: str, sabotage: str | None = None) -> None:
        self.rig, self.customer = rig, Customer(rig)
        self._sabotage = sabotage
        self._maker = Maker(self.customer.folder, random.Random(0))
        rig.start(rule, sabotage)

    def up(self) -> None:
        """A daemon that answers."""
        for _ in range(_MOST_STARTS):
            if self.rig.ready():
                return
            assert self.rig.daemon is not None
            self.rig.daemon.wait()
            self.again()
        raise AssertionError(f"it does not start: {self.rig.tail()}")

    def again(self, rule: str = "") -> None:
        """Another daemon, which nobody kills; ``rule`` is the interposer's."""
        self.rig.start(rule, sabotage=self._sabotage)

    def until(self, action: Callable[[], bool]) -> None:
        """Do it until it is acknowledged, by one daemon or the next."""
        for _ in range(5):
            self.up()
            if action():
                return
        raise AssertionError(f"refused again and again: {self.rig.tail()}")

    def submit(self, kind: str) -> list[int]:
        """The ids of a submission that was acknowledged; one that was not may have been taken too."""
        made: list[int] = []

        def ask() -> bool:
            made[:] = self.customer.submit(self._maker.next(kind))
            return bool(made)

        self.until(ask)
        return made

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Until ``condition`` holds, by one daemon or the next. It may raise P104Error."""
        met = False

        def holds() -> bool:
            nonlocal met
            met = condition()
            return met

        while not met:
            self.up()
            self.customer.until(holds, what)

    def tell(self) -> Evidence:
        """All of it, and what is found afterwards."""
        customer = self.customer
        first = self.submit("ok")
        self.wait(lambda: customer.ended(*first), "the first ends")
        self.submit("retried")
        [long] = self.submit("cancelled")
        self.submit("then")
        [held] = self.submit("cpu")
        customer.do("hold", held)
        self.wait(lambda: customer.states().get(long) == "running", "the long one runs")
        self.wait(lambda: customer.cancel(long) or long not in customer.states(), "the long one is cancelled")
        self.wait(lambda: customer.states().get(held) != "held" or customer.do("release", held), "it is released")
        return self.end()

    def end(self) -> Evidence:
        """Let all end, stop, and look at what there is; what does not end, the checker will see."""
        with contextlib.suppress(AssertionError):
            self.wait(lambda: not self.customer.goes(), "all end")
        assert self.rig.daemon is not None
        if self.rig.daemon.terminate() != 0:  # its point was in its own end
            self.again()
            self.up()
        return self.customer.settle()


def classes(points: Sequence[Point]) -> dict[tuple[str, str], list[int]]:
    """The numbers of the points by what is done to what."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for point in points:
        name = re.sub(r"[0-9]+", "#", re.sub(r"/tmp/[^/]*", "", point.path))
        found[point.call, re.sub(r"/#?[a-z0-9_#]{8}$", "/@", name)].append(point.number)
    return dict(found)


def chosen(points: Sequence[Point]) -> list[Point]:
    """Some of each class, more of those that come often: the first, and of those that come eight times the last."""
    numbers: set[int] = set()
    for found in classes(points).values():
        count = max(1, int(math.log2(len(found))) - 1)
        numbers |= {found[round(at * (len(found) - 1) / max(1, count - 1))] for at in range(count)}
    return [point for point in points if point.number in numbers]


def die_at_each(
    points: Sequence[Point], make_rig: Callable[[], CrashRig], tell_story: Callable[[CrashRig, str], Evidence]
) -> list[Point]:
    """Kill the daemon at each of these points, in a story of its own on a rig of its own. Nothing may be broken after
    any of them. Returns those that were not met: how many there are depends on how requests and ends happen to share
    commits."""
    missed = []
    for point in points:
        rig = make_rig()
        broken = checker.check(tell_story(rig, f"kill:{point.number}"))
        assert not broken, (f"killed at point {point.number}: {rig.trace.read_text().splitlines()[-1:]}", broken)
        if not rig.deaths:
            missed.append(point)
    return missed
