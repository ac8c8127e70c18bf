"""Fixtures: a migrated database made once, and copies of it, real files each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from p104d.store.engine import Database
from p104d.store.migrate import upgrade_in_child


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty queue at the head, as the daemon makes it."""
    path = tmp_path_factory.mktemp("template") / "queue.db"
    upgrade_in_child(path)
    return path


@pytest.fixture
def database(template: Path, tmp_path: Path) -> Iterator[Database]:
    """An empty queue of this test's own. NORMAL: these tests are not about losing power."""
    path = tmp_path / "queue.db"
    shutil.copy(template, path)
    opened = Database(path, synchronous="NORMAL")
    yield opened
    opened.close()
