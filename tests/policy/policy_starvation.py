"""A queue that never runs dry against jobs that a greedy scheduler would never start.

``starves`` runs a world in virtual time: some jobs are there from the start, and behind them an endless stream of newer
ones takes every gap. Each of the first jobs must start within a time that is known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

import msgspec
from policy_worlds import FULL, LOCKED, NOW, Work, World, card, host, job

from p104d.core.job import Requirement
from p104d.core.plan import Plan
from p104d.core.snapshot import CardView, Snapshot, WaitingJob
from p104d.core.units import GIB
from p104d.policy import schedule
from p104d.policy.fit import impossible

LONGEST_RUN = 100.0
LONGEST_LIMIT = 150.0

#: What the stream of newer jobs asks: small enough to slip in everywhere.
SMALL = (
    Requirement(cards=1, vram_bytes=GIB),
    Requirement(cards=1, vram_bytes=2 * GIB, ram_bytes=GIB),
    Requirement(cards=0, ram_bytes=GIB),
    Requirement(cards=1),
)

#: What a greedy scheduler starves behind them.
LARGE = (
    Requirement(cards=1),
    Requirement(cards=3),
    Requirement(cards=2, vram_bytes=7 * GIB),
    Requirement(cards=1, vram_bytes=FULL, ram_bytes=7 * GIB),
    Requirement(cards=0, ram_bytes=8 * GIB),
    Requirement(cards=2, ram_bytes=8 * GIB),
    Requirement(cards=1, only=("GPU-0001",)),
    Requirement(cards=1, only=("GPU-0003",)),
)


def work(random: Random, number: int, req: Requirement) -> Work:
    """A job with a run time that keeps its limit, if it has one."""
    limit = random.choice([None, None, LONGEST_LIMIT, LONGEST_LIMIT / 4])
    run = random.uniform(1.0, min(LONGEST_RUN, limit or LONGEST_RUN))
    return Work(WaitingJob(id=number, priority=0, requirement=req, time_limit_seconds=limit), run)


def stream(random: Random) -> Iterator[Work]:
    number = 1000
    while True:
        yield work(random, number, random.choice(SMALL))
        number += 1


def rig(random: Random) -> tuple[CardView, ...]:
    """Three healthy cards, and one that a job may ask for in vain for a while."""
    odd = random.choice([card(3, closed="drained"), card(3, capacity_bytes=LOCKED), card(3, foreign_bytes=2 * GIB)])
    return card(0), card(1), card(2), odd


def could_ever(world: World, req: Requirement) -> bool:
    """Whether it fits on the rig when it is empty."""
    empty = Snapshot(now=NOW, paused=False, cards=world.cards, host=world.host, waiting=())
    if impossible(world.cards, world.host, req) is not None:
        return False
    alone = msgspec.structs.replace(empty, waiting=(job(1),))
    alone = msgspec.structs.replace(alone, waiting=(WaitingJob(id=1, priority=0, requirement=req),))
    return bool(schedule.plan(alone).starts)


def starves(seed: int, check: Callable[[Snapshot, Plan], None] | None = None) -> str | None:
    """The first job that did not start in its time in the world of ``seed``; None: all did.

    The bound: of the jobs before it each one is first in line at some time, and from then on its cards empty within the
    longest run of those without a limit, then (if limits made the choice move to other cards) within the longest limit.
    """
    random = Random(seed)
    world = World(cards=rig(random), host=host(), policy=lambda snap: schedule.plan(snap), check=check)
    world.fillers = stream(random)
    # The stream has the rig before anybody else comes.
    world.run_until_started({1003}, NOW + 10 * LONGEST_RUN)
    begin = world.now
    first = [work(random, number, random.choice(LARGE)) for number in range(1, random.randint(2, 6))]
    for each in first:
        world.queue[each.waiting.id] = each
    served = [each.waiting for each in first if could_ever(world, each.waiting.requirement)]
    for ahead, waiting in enumerate(served, start=1):
        deadline = begin + ahead * (LONGEST_RUN + LONGEST_LIMIT)
        if not world.run_until_started({waiting.id}, deadline) or world.started[waiting.id] > deadline:
            return f"seed {seed}: job {waiting.id} ({waiting.requirement}) waits beyond {deadline - begin:.0f} s"
    return None
