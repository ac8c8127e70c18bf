"""One daemon a state folder, one a socket, also when two start in the same moment."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_rig import PATIENCE, eventually
from fault_rig import FaultRig
from torture import amount

from p104d.core.errors import P104Error
from p104d.daemon.listening import listen

pytestmark = pytest.mark.torture


def test_of_two_that_start_at_once_on_one_folder_one_serves(make: Callable[..., FaultRig]) -> None:
    rig = make(1)
    both = [rig.spawn(), rig.spawn()]
    try:
        eventually(lambda: any(each.poll() is not None for each in both), what="one gives up")
        [loser] = [each for each in both if each.poll() is not None]
        [rig.daemon] = [each for each in both if each is not loser]
        assert loser.returncode == 1
        eventually(lambda: rig.ctl("status").code == 0, what="the other serves")
    finally:
        if rig.daemon is None:
            for each in both:
                each.kill()
                each.wait()
    refusals = [line for line in rig.log.read_text().splitlines() if line.startswith("p104d: ")]
    assert len(refusals) == 1 and "another p104d" in refusals[0] and "--state-dir" in refusals[0], refusals
    assert rig.ends(rig.sh("true", cards=0)) == "succeeded"


def test_a_second_one_touches_nothing_of_the_first(make: Callable[..., FaultRig]) -> None:
    """Refused before it looks into the queue, whatever state that is in, and before it takes the socket away."""
    rig = make(1)
    rig.start()
    job = rig.sh("echo up; exec sleep 600", cards=0)
    rig.reads(job, "up")
    with rig.spawn("--socket", str(rig.folder / "t")) as second:
        assert second.wait(PATIENCE) == 1
    with rig.spawn("--state-dir", str(rig.folder / "other")) as third:
        assert third.wait(PATIENCE) == 1
    refusals = [line for line in rig.log.read_text().splitlines() if line.startswith("p104d: ")]
    assert [("uses" in line, "listens on" in line) for line in refusals] == [(True, False), (False, True)]
    assert rig.state(job) == "running" and not (rig.folder / "t").exists()
    assert len(rig.show(job)["attempts"]) == 1


def test_of_two_that_find_a_dead_daemons_socket_one_has_it() -> None:
    """Both see that nobody listens there; the later must not take away what the earlier has just made."""
    with tempfile.TemporaryDirectory(prefix="p104-", dir="/tmp") as folder:
        for _ in range(amount(200, 5000)):
            path = Path(folder) / "s"
            _leave_behind(path)
            assert _winners(path) == 1
            path.unlink()


def _leave_behind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def _winners(path: Path) -> int:
    """How many of two processes believe that the socket at ``path`` is theirs."""
    start, told, over = os.pipe(), os.pipe(), os.pipe()
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            _contend(path, start[0], told[1], over[0])
        children.append(child)
    os.write(start[1], b"..")
    answers = b"".join(os.read(told[0], 1) for _ in children)
    os.write(over[1], b"..")  # only now may they let go
    for child in children:
        os.waitpid(child, 0)
    for descriptor in (*start, *told, *over):
        os.close(descriptor)
    return answers.count(b"w")


def _contend(path: Path, start: int, tell: int, over: int) -> None:
    try:
        os.read(start, 1)
        held = None
        with contextlib.suppress(P104Error):
            held = listen(path, system=False)
        os.write(tell, b"l" if held is None else b"w")
        os.read(over, 1)
    finally:
        os._exit(0)
