"""The folder of the daemon's sockets goes away under it, as $XDG_RUNTIME_DIR does with the last logout."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator

import pytest
from daemon_rig import Rig, eventually


@pytest.fixture
def own() -> Iterator[Rig]:
    """Its socket is in a folder that can be taken away."""
    rig = Rig(1)
    rig.socket = rig.folder / "runtime" / "s"
    rig.arguments[rig.arguments.index("--socket") + 1] = str(rig.socket)
    try:
        yield rig.start()
    finally:
        rig.close()


def test_what_was_taken_away_is_made_again(own: Rig) -> None:
    job = own.sh("echo one; while [ ! -e go ]; do sleep 0.02; done; echo two; exit 5")
    own.until(job, "running")
    shims = own.folder / "p104d-simulated" / "shims"
    assert (shims / "events").exists()
    with own.process("logs", "-f", job) as following:
        assert following.stdout is not None and following.stdout.readline() == b"one\n"
        shutil.rmtree(own.socket.parent)
        shutil.rmtree(shims.parent)
        eventually(lambda: own.ctl("status").code == 0)
        for path, mode in ((own.socket, 0o600), (own.socket.parent, 0o700), (shims.parent, 0o700), (shims, 0o700)):
            assert stat.S_IMODE(os.lstat(path).st_mode) == mode, path
        assert (shims / "events").exists()
        (own.work / "go").touch()
        # Who is connected stays so.
        assert following.communicate(timeout=30)[0] == b"two\n"
    own.wait(job)
    assert own.show(job)["exit_code"] == 5
    assert own.ends(own.sh("true")) == "succeeded"


def test_a_folder_that_cannot_be_made_is_tried_again(own: Rig) -> None:
    shutil.rmtree(own.socket.parent)
    own.socket.parent.write_text("in the way")
    eventually(lambda: "the socket is gone" in own.log.read_text())
    own.socket.parent.unlink()
    eventually(lambda: own.ctl("status").code == 0)
    assert own.log.read_text().count("the socket is gone") == 1
