"""The folders in which servers listen, with no more rights than the service's sandbox leaves to root."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from access_rig import ALICE, BOB, need_others
from daemon_rig import ROOT
from reach import way_in

#: Orders are lines of JSON: a method of ServerPlaces, its arguments. Answers: "done", or what went wrong.
PLACES = """
import json, os, sys
sys.path[:0] = json.loads(sys.argv[2])
os.umask(0o077)
from pathlib import Path
from p104d.daemon.accounts import Account
from p104d.daemon.server_launch import ServerPlaces
from p104d.engines.server_health import alive
import asyncio
places = ServerPlaces(Path(sys.argv[1]), Path(sys.argv[1]) / "state", system=True)
for line in sys.stdin:
    name, number, *rest = json.loads(line)
    try:
        if name == "make":
            said = places.make(number, Account(*rest[0], "who", "/", "/bin/sh"), shared=rest[1])
        elif name == "alive":
            said = asyncio.run(alive(places.socket(number), patience=10))
        else:
            said = getattr(places, name)(number)
    except OSError as error:
        said = error.strerror
    print(json.dumps(said), flush=True)
"""
#: Binds, then answers anybody who asks.
SERVE = """
import os, socket, sys
os.umask(0)
with socket.socket(socket.AF_UNIX) as s:
    s.bind(sys.argv[1])
    if len(sys.argv) > 2:
        os.mkdir(sys.argv[2], 0o700)
        open(sys.argv[2] + "/more", "w").close()
    s.listen()
    print("there", flush=True)
    while True:
        with s.accept()[0] as c:
            c.recv(65536)
            c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""
CONNECT = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"


def sandboxed() -> list[str]:
    """A prefix under which root has the capabilities of the unit, and no others."""
    unit = (ROOT / "systemd" / "p104d.service").read_text()
    found = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.MULTILINE)
    assert found
    kept = ",".join("+" + name.removeprefix("CAP_").lower() for name in found[1].split())
    prefix = [
        shutil.which("setpriv") or "setpriv",
        "--no-new-privs",
        f"--bounding-set=-all,{kept}",
        "--clear-groups",
        "--",
    ]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("capabilities cannot be taken away here")
    return prefix


class Sandboxed:
    """ServerPlaces of a process in the sandbox."""

    def __init__(self, runtime: Path) -> None:
        command = [*way_in(), *sandboxed(), sys.executable, "-I", "-c", PLACES, str(runtime), json.dumps([str(ROOT)])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, *order: object) -> object:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture
def runtime() -> Iterator[Path]:
    """As /run/p104d: root's, and everybody may pass."""
    need_others()
    folder = Path(tempfile.mkdtemp(prefix="p104t-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_made_reached_and_removed(runtime: Path, shared: bool) -> None:
    places = Sandboxed(runtime)
    try:
        assert places("make", 7, [ALICE.uid, ALICE.gid], shared) is None
        socket = str(places("socket", 7))
        folder = Path(socket).parent
        command = ALICE.acting(sys.executable, "-I", "-S", "-c", SERVE, socket, str(folder / "sub"))
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None and server.stdout.readline() == "there\n"
            assert places("alive", 7) is True
            tried = BOB.acting(sys.executable, "-I", "-S", "-c", CONNECT, socket)
            assert subprocess.run(tried, capture_output=True, check=False).returncode == 1, "not in the folder's group"
        finally:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()
        assert places("remove", 7) is None
        assert not Path(socket).exists()
        # What an owner has put beside the socket may stay, out of the way, until /run goes.
        assert places("make", 7, [ALICE.uid, ALICE.gid], shared) is None and os.listdir(folder) == []
        assert places("remove", 7) is None and not folder.exists()
    finally:
        places.close()
