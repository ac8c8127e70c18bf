"""A suite that cannot fail proves nothing: daemons that are broken on purpose, each caught, and by which check."""

from __future__ import annotations

import os
from collections.abc import Callable

import checker
import mutants
import pytest
import scenarios
from crash_rig import CrashRig
from evidence import Evidence

pytestmark = pytest.mark.torture

Scenario = Callable[[CrashRig, str], Evidence]

#: What is broken, where that shows, and the checks of which one at least must say so.
MUTANTS: list[tuple[str, Scenario, set[str]]] = [
    ("no fence", scenarios.slow_shim, {"once", "runs"}),
    ("no claim", scenarios.slow_shim, {"once", "runs"}),
    ("naive requeue", scenarios.restart_under_a_job, {"once", "runs"}),
    ("forgetful", scenarios.restart_under_a_job, {"final"}),
    ("no lock", scenarios.restart_under_a_job, {"codes"}),
    ("again after loss", scenarios.dead_shim, {"again", "runs"}),
    ("no sweep,no death signal", scenarios.dead_shim_of_a_long_job, {"gone"}),
    ("act first", scenarios.killed_at_the_commit, {"once", "final", "quiet"}),
    ("unguarded", scenarios.held_while_running, {"again", "runs", "final"}),
    ("no allocation", scenarios.full_disk, {"codes"}),
    ("no subreaper", scenarios.double_fork, {"gone"}),
]
SCENARIOS = list(dict.fromkeys(scenario for _, scenario, _ in MUTANTS))


def _possible(scenario: Scenario) -> None:
    """Skips where this machine forbids it."""
    if scenario is not scenarios.full_disk:
        return
    child = os.fork()
    if not child:
        try:
            mutants.mount_small("/mnt", "64k")
        except BaseException:
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        pytest.skip("a disk of 256 KiB cannot be mounted here: not root, or no mount namespaces")


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_nothing_is_wrong_where_nothing_is_broken(scenario: Scenario, rig: CrashRig) -> None:
    _possible(scenario)
    assert checker.check(scenario(rig, "")) == []


@pytest.mark.parametrize(("broken", "scenario", "caught_by"), MUTANTS, ids=[each[0] for each in MUTANTS])
def test_a_broken_daemon_is_caught(
    broken: str, scenario: Scenario, caught_by: set[str], rig: CrashRig, tell: Callable[[str], None]
) -> None:
    _possible(scenario)
    rig.patience = 3.0
    found = checker.check(scenario(rig, broken))
    by = sorted({each.check for each in found})
    tell(f"mutant {broken!r} ({scenario.__name__}): caught by {', '.join(by) or 'nothing'}")
    assert caught_by & set(by), found
