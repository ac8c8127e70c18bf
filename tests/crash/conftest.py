"""A nursery for the tests of one module, and a rig for each test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import interposer
import pytest
from crash_rig import CrashRig, Keeper, nursery


@pytest.fixture(scope="session")
def _nursery() -> Iterator[tuple[Keeper, Path]]:
    interposer.required()
    with nursery() as found:
        yield found


@pytest.fixture()
def make_rig(_nursery: tuple[Keeper, Path]) -> Iterator[Callable[[], CrashRig]]:
    """Makes a rig whose cards are proven; one at a time, since whatever lives below the nursery is its own."""
    made: list[CrashRig] = []

    def make() -> CrashRig:
        while made:
            made.pop().close()
        made.append(CrashRig(*_nursery))
        return made[-1]

    try:
        yield make
    finally:
        for rig in made:
            rig.close()


@pytest.fixture()
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says a line on the terminal, whatever pytest captures and however many workers there are: a worker's standard
    error is the terminal's, its standard output is not."""

    def say(line: str) -> None:
        with capfd.disabled():
            print(f"\n{line}", end="", file=sys.stderr, flush=True)

    return say


@pytest.fixture()
def rig(make_rig: Callable[[], CrashRig]) -> CrashRig:
    """One rig."""
    return make_rig()
