"""The service manager hears of the loop, not of the process: one that stands still falls silent."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from daemon_rig import PATIENCE
from fault_rig import FaultRig

pytestmark = pytest.mark.torture

#: As the manager has it; a loop that goes on is heard of three times as often.
WATCHDOG_SECONDS = 1.5


@pytest.fixture
def heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        link.bind(str(tmp_path / "notify"))
        link.settimeout(2 * WATCHDOG_SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_SECONDS * 1e6)))
        yield link


def falls_silent(link: socket.socket) -> bool:
    """Whether there comes a time without a word that is twice as long as the manager waits."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            link.recv(100)
        except TimeoutError:
            return True
    return False


def test_a_loop_that_stands_still_is_not_heard_of(make: Callable[..., FaultRig], heard: socket.socket) -> None:
    rig = make(1)
    rig.start()
    words = {heard.recv(100) for _ in range(5)}
    assert words == {b"READY=1", b"WATCHDOG=1"}
    rig.stuck.touch()
    assert falls_silent(heard)
    assert rig.daemon is not None and psutil.Process(rig.daemon.pid).status() != psutil.STATUS_STOPPED
    assert rig.daemon.poll() is None
    rig.stuck.unlink()
    assert heard.recv(100) == b"WATCHDOG=1"
    assert rig.ends(rig.sh("true")) == "succeeded"
