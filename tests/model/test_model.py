"""The claim protocol as a Promela model, searched to the last state by spin; and its mutants, which it must find.

Each search is given what may go wrong: how often the daemon is killed, shims are, the host loses power. Every mutant is
given the least that brings it to light.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from torture import LONG, amount

MODEL = Path(__file__).with_name("claim.pml")
#: Bounds, not waits; a search that reaches one has not searched everything, and fails.
SEARCH_SECONDS = 3600 if LONG else 240
MOST_MEGABYTES = 12_000 if LONG else 2_500
DEEPEST = 1_000_000

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(shutil.which("spin") is None, reason="spin is not installed"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed"),
]


class Searched(NamedTuple):
    """What spin's verifier came to."""

    errors: int
    states: float
    whole: bool
    text: str


def search(folder: Path, defines: dict[str, int], *, cycles: bool = False) -> Searched:
    """Search the model with these ``-D``; ``cycles``: for any cycle instead of for assertions and dead ends."""
    options = [f"-D{name}={value}" for name, value in defines.items()]
    shutil.copy(MODEL, folder)
    made = subprocess.run(
        ["spin", "-a", *options, MODEL.name], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert made.returncode == 0, made.stdout + made.stderr
    # The verifier is one huge function: to optimize it takes longer than the short searches.
    kind = "-DNP" if cycles else "-DSAFETY"
    build = [
        "cc",
        "-O2" if LONG else "-O0",
        "-w",
        kind,
        "-DCOLLAPSE",
        f"-DMEMLIM={MOST_MEGABYTES}",
        "-o",
        "pan",
        "pan.c",
    ]
    subprocess.run(build, cwd=folder, check=True, timeout=SEARCH_SECONDS)
    arguments = ["-l"] if cycles else []
    done = subprocess.run(
        ["./pan", f"-m{DEEPEST}", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SEARCH_SECONDS,
    )
    return parsed(done.stdout)


def parsed(text: str) -> Searched:
    """The verifier's own summary."""
    errors, states = re.search(r"errors: (\d+)", text), re.search(r"([\d.e+]+) states, stored", text)
    assert errors is not None and states is not None, text[-2000:]
    whole = not re.search(r"Search not completed|max search depth too small|reached -DMEMLIM|out of memory", text)
    return Searched(int(errors[1]), float(states[1]), whole, text[:600])


def options(crashes: int, kills: int, reboots: int, **more: int) -> dict[str, int]:
    return {"CRASHES": crashes, "KILLS": kills, "REBOOTS": reboots, **more}


def searches() -> Iterator[dict[str, int]]:
    """Each kind of mishap at every step, also of a daemon and a shim that are both killed; in torture, any two and
    three of them."""
    yield options(0, 0, 0)  # a dead end that a crash mends is found only where there are none left
    yield options(1, 0, 0)
    yield options(0, 1, 0)
    yield options(0, 0, 1)
    yield options(1, 1, 0)
    if LONG:
        yield from (
            options(0, 0, 0, RETRIES=1),
            options(2, 0, 0),
            options(1, 0, 1),
            options(0, 1, 1),
            options(1, 1, 1),
        )


def name_of(defines: dict[str, int]) -> str:
    return "-".join(f"{name}{value}".lower() for name, value in defines.items() if value) or "nothing"


@pytest.mark.parametrize("defines", list(searches()), ids=name_of)
def test_nothing_runs_twice_and_nothing_is_forgotten(defines: dict[str, int], tmp_path: Path) -> None:
    found = search(tmp_path, defines)
    assert found.errors == 0, found.text
    assert found.whole, found.text
    assert found.states > 5_000  # a model that is stuck at its beginning has no errors either


#: Where a run that goes round in circles is looked for.
ENDLESS = amount(
    [options(0, 0, 0)],
    [options(0, 0, 0, RETRIES=1), options(1, 0, 0), options(0, 1, 0), options(0, 0, 1), options(1, 1, 0)],
)


@pytest.mark.parametrize("defines", ENDLESS, ids=name_of)
def test_every_run_comes_to_an_end(defines: dict[str, int], tmp_path: Path) -> None:
    """No cycle: with no invalid end state this means that every job gets to a final state, whoever is slow."""
    found = search(tmp_path, defines, cycles=True)
    assert found.errors == 0, found.text
    assert found.whole, found.text


MUTANTS = {
    "NO_EXCL": options(1, 0, 0),  # a shim claims whether or not the attempt was revoked
    "NO_FENCE": options(1, 0, 0),  # what nobody claimed is queued again without being revoked
    "NAIVE_REQUEUE": options(0, 1, 0),  # claimed and without a record: queued again
    "ACT_FIRST": options(1, 0, 0),  # the shim is started before the commit
    "ANSWER_FIRST": options(1, 0, 0),  # acknowledged before the commit
    "TOLD_FIRST": options(0, 0, 0),  # "ended" is told before the record is written
    "RUN_FIRST": options(1, 0, 0),  # the job is let go before the claim
    "STOP_DROPPED": options(0, 0, 0),  # a stop that comes before the claim is dropped
    "NO_SWEEP": options(0, 1, 0),  # what a dead shim left is not ended
    "NO_SETTLE": options(1, 1, 0),  # a dead shim's child that has not executed yet is not waited for
    "CHILD_WITHOUT_LOCK": options(0, 1, 0),  # and does not hold the lock until it has
    "RECORD_BEFORE_LOCK": options(1, 0, 0),  # a look asks for the record first, then for the lock
    "REBOOT_REVOKES": options(0, 0, 1),  # a claim that is not there after a power failure is believed
}


@pytest.mark.parametrize("mutant", sorted(MUTANTS))
def test_mutants_are_found(mutant: str, tmp_path: Path) -> None:
    assert f"ifdef {mutant}\n" in MODEL.read_text() or f"ifndef {mutant}\n" in MODEL.read_text()
    found = search(tmp_path, MUTANTS[mutant] | {mutant: 1})
    assert found.errors > 0, found.text


def test_every_mutant_of_the_model_is_tried() -> None:
    named = set(re.findall(r"#ifn?def (\w+)", MODEL.read_text()))
    assert named - {"CRASHES", "KILLS", "REBOOTS", "RETRIES"} == set(MUTANTS)
