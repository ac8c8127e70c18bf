"""Fixtures: a fake daemon, and p104ctl called in this process or as one of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fake_daemon import FakeDaemon

from p104d.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon of whoever runs the tests, no width or colour of their terminal, one time zone."""
    for name in ("P104_SOCKET", "NO_COLOR", "COLUMNS", "XDG_RUNTIME_DIR", "_P104CTL_COMPLETE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    fake = FakeDaemon()
    yield fake
    fake.close()


@pytest.fixture
def ctl(daemon: FakeDaemon, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    def call(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(["--socket", daemon.path, *arguments])
        return Result(code, *capfd.readouterr())

    return call


def start(daemon: FakeDaemon, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """p104ctl as a process of its own, output piped."""
    command = [sys.executable, "-m", "p104d.cli.main", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "P104_SOCKET": daemon.path}
    return subprocess.Popen(
        command, env=environment, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    )


@pytest.fixture
def spawn(daemon: FakeDaemon) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def call(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        started.append(start(daemon, *arguments, **options))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
