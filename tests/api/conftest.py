"""Fixtures: a server in a thread, closed whatever happens."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from server_rig import Served


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()
