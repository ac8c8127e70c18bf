"""Copies for ``p104ctl export``: who may have which, and how many of them lie on the disk at a time."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from p104d.api.service import Caller
from p104d.core.errors import NotAllowedError, UnavailableError
from p104d.daemon.service import DaemonService

ROOT, ANNA = Caller(0, "root", admin=True), Caller(1000, "anna", admin=False)


@pytest.fixture
def service(tmp_path: Path) -> DaemonService:
    """No more of it than an export needs."""
    made = DaemonService.__new__(DaemonService)
    made._facts = SimpleNamespace(user_mode=False)  # type: ignore[assignment]
    made._places = SimpleNamespace(state=tmp_path)  # type: ignore[assignment]
    made._copy = None

    async def copy(target: Path) -> None:
        target.write_bytes(b"readings")

    made.copy_telemetry = copy
    return made


def test_telemetry_is_for_everybody_the_queue_for_root(service: DaemonService, tmp_path: Path) -> None:
    path = asyncio.run(service.export(ANNA, "telemetry"))
    assert path.read_bytes() == b"readings" and path.parent == tmp_path and path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(NotAllowedError):
        asyncio.run(service.export(ANNA, "queue"))


def test_those_who_are_not_root_have_one_copy_on_the_disk(service: DaemonService) -> None:
    first = asyncio.run(service.export(ANNA, "telemetry"))
    with pytest.raises(UnavailableError):
        asyncio.run(service.export(ANNA, "telemetry"))
    asyncio.run(service.export(ROOT, "telemetry")).unlink()
    with pytest.raises(UnavailableError):
        asyncio.run(service.export(ANNA, "telemetry"))
    first.unlink()
    asyncio.run(service.export(ANNA, "telemetry"))


def test_a_copy_that_fails_leaves_nothing(service: DaemonService, tmp_path: Path) -> None:
    async def full(_target: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    service.copy_telemetry = full
    with pytest.raises(UnavailableError, match="disk is full"):
        asyncio.run(service.export(ANNA, "telemetry"))
    assert not [*tmp_path.iterdir()]
