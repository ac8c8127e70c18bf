"""Kills while models are loaded, become ready, are used, evicted and unloaded: each request has one answer, each copy
an end, and no card two users."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import asking
import checker
import pytest
from crash_rig import CrashRig
from interposer import Point, read_trace
from model_story import ModelStory
from points import chosen, die_at_each
from storm import MODEL_VICTIMS, Storm
from torture import LONG, amount
from workload import MODELS

PARTS = amount(2, 8)
#: Every so many of the points that are chosen, with the other tests.
STRIDE = amount(8, 1)
#: Always: a copy is written down, and no shim was told of it; the folder of its socket; the word to the shim.
ALWAYS = ("kill:1:servers/0/1-1", "kill:1:models-", "kill:2:servers/0/2-1")
ROUND = amount(25, 100)


@pytest.fixture(scope="session")
def told() -> list[Point]:
    """The points to be killed at; counted once, by the first test that asks."""
    return []


def _of_models(points: list[Point]) -> list[Point]:
    """Where it begins to serve, from then on: what is before that is killed in other tests."""
    ready = next(point.number for point in points if point.path.endswith("/daemon.log"))
    later = [point for point in points if point.number > ready]
    return later if LONG else chosen(later)[::STRIDE]


def _count(make_rig: Callable[[], CrashRig], told: list[Point]) -> None:
    if told:
        return
    rig = make_rig()
    evidence = ModelStory(rig, "count").tell()
    assert checker.check(evidence) == []
    assert len(evidence.copies) >= 4
    told += _of_models(read_trace(str(rig.trace)))


@pytest.mark.torture
@pytest.mark.parametrize("part", range(PARTS))
def test_the_daemon_dies_at_points_of_a_story_of_models(
    part: int, make_rig: Callable[[], CrashRig], told: list[Point], tell: Callable[[str], None]
) -> None:
    _count(make_rig, told)
    begun, mine = time.monotonic(), told[part::PARTS]
    missed = die_at_each(mine, make_rig, lambda rig, rule: ModelStory(rig, rule).tell())
    seconds = time.monotonic() - begun
    tell(f"part {part}: {len(mine) - len(missed)} of {len(mine)} points, {seconds / len(mine):.2f} s each")
    # How often a server is asked whether it is well, and so how many points there are, depends on the machine's load.
    assert len(missed) <= len(mine) // 2, missed


@pytest.mark.parametrize("rule", ALWAYS)
def test_the_daemon_dies_between_a_load_and_its_launch(rule: str, rig: CrashRig) -> None:
    evidence = ModelStory(rig, rule).tell()
    assert checker.check(evidence) == []
    assert rig.deaths == 1


@pytest.mark.torture
@pytest.mark.parametrize("number", range(amount(1, 20)))
def test_nothing_is_lost_in_a_storm_over_models(
    number: int, make_rig: Callable[[], CrashRig], tell: Callable[[str], None]
) -> None:
    given = os.environ.get("P104_SEED")
    seed = int(given) if given else random.SystemRandom().randrange(2**32) if LONG else number
    rig = make_rig()
    asking.furnish(rig.folder / "work", rig.folder)
    storm = Storm(rig, random.Random(seed), ROUND, victims=MODEL_VICTIMS, kinds=MODELS)
    begun = time.monotonic()
    evidence = storm.run()
    seconds = time.monotonic() - begun
    broken = checker.check(evidence)
    tell(
        f"seed {seed}: {storm.killed} killed in {seconds:.0f} s, {len(evidence.acknowledged)} jobs acknowledged, "
        f"{len(evidence.copies)} copies, {len(broken)} broken"
    )
    for each in broken:
        tell(f"{each.check}: {each.text}")
    assert not broken, (f"seed {seed}", broken)
    assert all(storm.killed.values()) and len(evidence.copies) > 2, storm.killed
