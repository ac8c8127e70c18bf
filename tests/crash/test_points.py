"""Every numbered point between two writes, messages or forks of a daemon, and of a shim: killed there, all is kept."""

from __future__ import annotations

import time
from collections.abc import Callable

import checker
import pytest
import scenarios
from crash_rig import CrashRig, eventually
from interposer import Point, read_trace
from points import Story, chosen, die_at_each
from torture import LONG, amount

pytestmark = pytest.mark.torture

#: In how many tests the points are killed at, for as many workers.
PARTS = amount(4, 8)
#: How many of its points the daemon must have died at. The last of a story are not met where requests and ends happen
#: to share commits, and one that is missed of a few is a larger part than of hundreds.
LEAST_MET = amount(0.8, 0.95)
#: More than any attempt has points in its shim.
SHIM_POINTS = 24


@pytest.fixture(scope="session")
def told() -> list[Point]:
    """The points to be killed at; counted once, by the first test that asks."""
    return []


def _count(make_rig: Callable[[], CrashRig], told: list[Point]) -> None:
    if told:
        return
    rig = make_rig()
    assert checker.check(Story(rig, "count").tell()) == []
    # Two threads may take their numbers and write their lines in different orders.
    points = sorted(read_trace(str(rig.trace)))
    assert [point.number for point in points] == list(range(1, len(points) + 1)) and len(points) > 300
    if not LONG:
        # Until it is ready it dies in the test of relapses.
        ready = next(point.number for point in points if point.path.endswith("/daemon.log"))
        points = chosen([point for point in points if point.number > ready])
    told += points


@pytest.mark.parametrize("part", range(PARTS))
def test_the_daemon_dies_at_each_point_of_a_story(
    part: int, make_rig: Callable[[], CrashRig], told: list[Point], tell: Callable[[str], None]
) -> None:
    _count(make_rig, told)
    begun, mine = time.monotonic(), told[part::PARTS]
    missed = die_at_each(mine, make_rig, lambda rig, rule: Story(rig, rule).tell())
    seconds = time.monotonic() - begun
    tell(f"part {part}: {len(mine) - len(missed)} of {len(mine)} points, {seconds / len(mine):.2f} s each")
    assert len(mine) - len(missed) >= LEAST_MET * len(mine), missed


def test_the_daemon_dies_at_each_point_of_its_recovery(rig: CrashRig, tell: Callable[[str], None]) -> None:
    evidence, died = scenarios.relapses(rig, amount(5, 1))
    tell(f"{died} deaths during start and recovery, {len(evidence.jobs)} jobs")
    assert checker.check(evidence) == []
    assert died >= amount(15, 80)


def test_a_shim_dies_at_each_of_its_points(rig: CrashRig, tell: Callable[[str], None]) -> None:
    evidence, fates = scenarios.mortal_shims(rig, SHIM_POINTS, SHIM_POINTS * amount(3, 30))
    assert checker.check(evidence) == []
    # Each point up to the last that any shim has was died at, and there are fewer than were armed.
    last = max(fate.armed for fate in fates if fate.died)
    assert {fate.armed for fate in fates if fate.died} == set(range(1, last + 1)), fates
    assert last < SHIM_POINTS and all(fate.met < SHIM_POINTS for fate in fates), fates
    at_the_last = [fate for fate in fates if fate.armed == SHIM_POINTS]
    assert at_the_last and not any(fate.died for fate in at_the_last), at_the_last
    outcomes = [made.outcome for made in evidence.attempts.values()]
    counts = {kind: outcomes.count(kind) for kind in set(outcomes)}
    tell(f"{len(evidence.jobs)} jobs, {last} points: {counts}")
    # Before its claim, between claim and record, and after: all three were met.
    assert {"revoked", "lost", "succeeded"} <= set(outcomes)


@pytest.mark.parametrize("rule", ["eio:symlink:1:/jobs", "eio:fsync:1:/jobs"])
def test_a_folder_that_the_disk_refuses_keeps_no_daemon_from_its_work(rig: CrashRig, rule: str) -> None:
    """An attempt that nobody claimed cannot be taken back at first; it holds its card, and is asked for again."""
    story = Story(rig, "", "slow")
    there = rig.folder / "there"
    [job] = story.submit("ok")
    eventually(lambda: there.exists() and there.read_text(), rig.tail)
    assert rig.daemon is not None
    rig.daemon.kill()
    story.again(rule)
    assert rig.ready(), rig.tail()
    assert story.customer.states() == {job: "starting"} and "cannot be settled yet" in rig.log.read_text()
    (rig.folder / "go").touch()
    assert checker.check(story.end()) == []
