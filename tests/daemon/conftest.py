"""One healthy rig of four cards for all tests that leave it as they found it; others start their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from daemon_rig import Rig

from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon of whoever runs the tests, no width or colour of their terminal."""
    for name in ("P104_SOCKET", "NO_COLOR", "COLUMNS", "XDG_RUNTIME_DIR", "_P104CTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared() -> Iterator[Rig]:
    rig = Rig(4)
    try:
        yield rig.start()
    finally:
        rig.close()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    """Four cards, all free, the queue empty but for what has ended."""
    yield shared
    shared.quiet()


@pytest.fixture
def start() -> Iterator[Callable[..., Rig]]:
    """Starts daemons of a test's own."""
    with ExitStack() as closing:

        def call(simulate: int | str, **options: object) -> Rig:
            rig = Rig(simulate, **options)  # type: ignore[arg-type]
            closing.callback(rig.close)
            return rig.start()

        yield call


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty queue, as the daemon makes it."""
    path = tmp_path_factory.mktemp("template") / "queue.db"
    upgrade_in_child(path)
    return path


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Iterator[Database]:
    """A queue without a daemon, of a test's own."""
    shutil.copy(template, tmp_path / "queue.db")
    opened = Database(tmp_path / "queue.db", synchronous="OFF")
    yield opened
    opened.close()
