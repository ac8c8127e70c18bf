"""Daemons that meet faults; nothing of one may be left after its test."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from fault_rig import FaultRig


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon of whoever runs the tests, no width or colour of their terminal."""
    for name in ("P104_SOCKET", "NO_COLOR", "COLUMNS", "XDG_RUNTIME_DIR", "_P104CTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def make() -> Iterator[Callable[..., FaultRig]]:
    """Makes rigs that end with the test; the caller starts them."""
    with ExitStack() as closing:

        def call(simulate: int | str, **options: object) -> FaultRig:
            rig = FaultRig(simulate, **options)  # type: ignore[arg-type]
            closing.callback(rig.close)
            return rig

        yield call


@pytest.fixture
def tell(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Says a line on the terminal, whatever pytest captures: a worker's standard error is the terminal's."""

    def say(line: str) -> None:
        with capfd.disabled():
            print(f"\n{line}", end="", file=sys.stderr, flush=True)

    return say
