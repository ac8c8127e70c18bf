"""One system daemon among real users for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from access_rig import System, need_others

if TYPE_CHECKING:
    from model_system import ModelSystem


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon of whoever runs the tests, no width or colour of their terminal."""
    for name in ("P104_SOCKET", "NO_COLOR", "COLUMNS", "XDG_RUNTIME_DIR", "_P104CTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def one_system() -> Iterator[System]:
    need_others()
    rig = System()
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def system(one_system: System) -> Iterator[System]:
    """Two cards, all free, the queue empty but for what has ended."""
    yield one_system
    one_system.quiet()


@pytest.fixture
def start() -> Iterator[Callable[..., System]]:
    """Starts daemons of a test's own."""
    need_others()
    with ExitStack() as closing:
        yield _starter(System, closing)


@pytest.fixture
def start_models() -> Iterator[Callable[..., ModelSystem]]:
    """Starts daemons of a test's own that serve models."""
    need_others()
    from model_system import ModelSystem

    with ExitStack() as closing:
        yield _starter(ModelSystem, closing)


def _starter(kind: Callable[..., Any], closing: ExitStack) -> Callable[..., Any]:
    """Makes and starts rigs of a kind, which ``closing`` ends."""

    def call(cards: int = 2, **options: object) -> Any:
        rig = kind(cards, **options)
        closing.callback(rig.close)
        rig.start()
        return rig

    return call


@pytest.fixture(scope="module")
def one_models() -> Iterator[ModelSystem]:
    need_others()
    from model_system import ModelSystem

    rig = ModelSystem()
    try:
        rig.start()
        yield rig
    finally:
        rig.close()


@pytest.fixture
def models(one_models: ModelSystem) -> Iterator[ModelSystem]:
    """Two cards, all free, no copy loaded."""
    yield one_models
    one_models.quiet()
