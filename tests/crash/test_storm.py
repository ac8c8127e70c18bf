"""Kills at random moments: nothing acknowledged is lost, nothing runs twice, nothing is left."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import checker
import pytest
from crash_rig import CrashRig
from storm import Storm
from torture import LONG, amount

pytestmark = pytest.mark.torture

#: Each on a folder of its own, so that what is wrong is found soon, and the queue is small enough to be read.
ROUND = amount(50, 250)


def _seed(number: int) -> int:
    """The same with the other tests, another every time in torture; P104_SEED repeats a round."""
    given = os.environ.get("P104_SEED")
    if given is not None:
        return int(given)
    return random.SystemRandom().randrange(2**32) if LONG else number


@pytest.mark.parametrize("number", range(amount(100, 10_000) // ROUND))
def test_nothing_is_lost_in_a_storm_of_kills(
    number: int, make_rig: Callable[[], CrashRig], tell: Callable[[str], None]
) -> None:
    seed = _seed(number)
    _weathered(Storm(make_rig(), random.Random(seed), ROUND), f"round {number}, seed {seed}", tell)


@pytest.mark.parametrize("number", range(amount(1, 2_000 // ROUND)))
def test_nothing_is_lost_where_the_disk_fails_too(
    number: int, make_rig: Callable[[], CrashRig], tell: Callable[[str], None]
) -> None:
    """Daemons are killed as before; in most of their lives a write or a sync fails, or all from some moment on."""
    seed = _seed(number)
    storm = Storm(make_rig(), random.Random(seed), ROUND, failing=True)
    _weathered(storm, f"failing disk, round {number}, seed {seed}", tell)
    assert storm.refused_to_start, "no disk failed"


def _weathered(storm: Storm, name: str, tell: Callable[[str], None]) -> None:
    """Run it; nothing may be broken, and something must have happened."""
    begun = time.monotonic()
    evidence = storm.run()
    seconds = time.monotonic() - begun
    broken = checker.check(evidence)
    tell(
        f"{name}: {storm.killed} killed in {seconds:.0f} s ({ROUND / seconds:.1f}/s), "
        f"{len(evidence.acknowledged)} jobs acknowledged, {len(evidence.attempts)} attempts, {len(broken)} broken"
    )
    assert not broken, (name, broken)
    # A storm in which nothing happened has shown nothing.
    assert storm.killed["daemon"] >= ROUND // 3 and all(storm.killed.values()), storm.killed
    assert len(evidence.acknowledged) >= ROUND // 4 and len(evidence.starts) >= ROUND // 4
