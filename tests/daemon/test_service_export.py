"""Copies for ``p104ctl export``: who may have which, and how many of them lie on the disk at a time."""

from __future__ import annotations

import asyncio
import os
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
    made._copy, made._copying = None, False

    async def copy(target: Path) -> None:
        target.write_bytes(b"readings")

    made.copy_telemetry = copy
    return made


def test_telemetry_is_for_everybody_the_queue_for_root(service: DaemonService, tmp_path: Path) -> None:
    with asyncio.run(service.export(ANNA, "telemetry")) as file:
        assert file.read() == b"readings" and os.fstat(file.fileno()).st_mode & 0o777 == 0o600
        assert not [*tmp_path.iterdir()], "nothing is left on the disk, whatever becomes of the daemon"
    with pytest.raises(NotAllowedError):
        asyncio.run(service.export(ANNA, "queue"))


def test_those_who_are_not_root_have_one_copy_on_the_disk(service: DaemonService) -> None:
    first = asyncio.run(service.export(ANNA, "telemetry"))
    with pytest.raises(UnavailableError):
        asyncio.run(service.export(ANNA, "telemetry"))
    asyncio.run(service.export(ROOT, "telemetry")).close()
    with pytest.raises(UnavailableError):
        asyncio.run(service.export(ANNA, "telemetry"))
    first.close()
    asyncio.run(service.export(ANNA, "telemetry")).close()


def test_a_copy_that_is_being_made_counts(service: DaemonService) -> None:
    async def play() -> None:
        go = asyncio.Event()

        async def slow(target: Path) -> None:
            await go.wait()
            target.write_bytes(b"readings")

        service.copy_telemetry = slow
        first = asyncio.create_task(service.export(ANNA, "telemetry"))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await service.export(ANNA, "telemetry")
        go.set()
        (await first).close()

    asyncio.run(play())


def test_a_copy_that_fails_leaves_nothing(service: DaemonService, tmp_path: Path) -> None:
    async def full(_target: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    service.copy_telemetry = full
    with pytest.raises(UnavailableError, match="disk is full"):
        asyncio.run(service.export(ANNA, "telemetry"))
    assert not [*tmp_path.iterdir()]
    service.copy_telemetry = _empty
    asyncio.run(service.export(ANNA, "telemetry")).close()


async def _empty(_target: Path) -> None:
    """A copy of nothing."""
