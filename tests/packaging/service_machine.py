"""systemd as PID 1 of namespaces of its own, with the service in it: root only, skipped where the host forbids it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from packaging_support import ROOT

#: A bound, not a wait: it takes 3 s on an idle machine.
BOOT_SECONDS = 60.0
STEP_SECONDS = 30.0
BOOT = Path(__file__).with_name("boot_systemd.sh")
SOCKET = "/run/p104d-simulated/p104d.sock"
#: The interpreter, in its own folders.
PYTHON = os.path.relpath(os.path.realpath(sys.executable), os.path.realpath(sys.base_prefix))


def why_not() -> str | None:
    """Why systemd cannot be booted here; None: try it."""
    if os.geteuid() != 0:
        return "only root may make the namespaces"
    if PYTHON.startswith(".."):
        return "this Python is apart from its own folders"
    needed = ("unshare", "nsenter", "/lib/systemd/systemd", "systemd-run", "usermod", "setpriv")
    missing = [name for name in needed if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None


def wait_for(what: Callable[[], Any], seconds: float) -> Any:
    """The first answer of ``what`` that is true. Fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain"
        time.sleep(0.05)
    return answer


class Machine:
    """A booted systemd."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", "-t", str(pid), "-m", "-p", "-i", "-u", "-C", "--"]

    def run(self, *command: str, user: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command inside."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user_group(user)}", "--init-groups"] if user else []
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": "/opt/source", "P104_SOCKET": SOCKET}
        return subprocess.run(
            [*self._enter, *become, *command], env=env, cwd="/", capture_output=True, text=True, check=False, timeout=60
        )

    def ctl(self, *arguments: str, user: str = "nobody") -> subprocess.CompletedProcess[str]:
        """Call p104ctl as ``user``."""
        return self.run("/opt/venv/bin/python", "-m", "p104d.cli.main", *arguments, user=user)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def answers(self) -> bool:
        """Whether the daemon does."""
        return self.ctl("status", "--json", user="root").returncode == 0


def user_group(user: str) -> str:
    """Debian's nobody has a group of another name."""
    return {"nobody": "nogroup"}.get(user, user)


def unit_under_test() -> str:
    """The unit as shipped, but for where it finds the program and which rig it has."""
    text = (ROOT / "systemd" / "p104d.service").read_text()
    command = "/opt/venv/bin/python -m p104d.daemon.main --system --simulate 2"
    text = text.replace("/opt/p104d/bin/p104d --system", command)
    text = text.replace("Directory=p104d\n", "Directory=p104d-simulated\n")
    return text.replace("[Service]\n", "[Service]\nEnvironment=PYTHONPATH=/opt/source\n")


def own_cgroup() -> Path:
    """A new control group for all of it. Skips where cgroup v2 is not mounted or not writable."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    found = next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)
    if found is None:
        pytest.skip("cgroup v2 is not mounted here")
    group = found / f"p104d-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    return group


def remove_cgroup(group: Path) -> None:
    """End what is left in it, and take it away."""
    (group / "cgroup.kill").write_text("1")
    wait_for(lambda: "populated 0" in (group / "cgroup.events").read_text(), STEP_SECONDS)
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def booted(outer: subprocess.Popen[bytes], folder: Path) -> int:
    """The pid, seen from here, of the systemd inside, once it manages units. Skips where it cannot."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    deadline = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < deadline and outer.poll() is None:
        pids = children.read_text().split()
        if pids and Machine(int(pids[0])).run("systemctl", "is-active", "test.target").stdout.strip() == "active":
            return int(pids[0])
        time.sleep(0.1)
    pytest.skip(f"systemd does not boot in namespaces here: {(folder / 'console').read_text()[-300:]}")


@contextmanager
def service(folder: Path) -> Iterator[Machine]:
    """systemd as PID 1 of its own namespaces, p104d started, nobody in group p104."""
    if reason := why_not():
        pytest.skip(reason)
    (folder / "root").mkdir()
    (folder / "p104d.service").write_text(unit_under_test())
    group = own_cgroup()
    command = ["unshare", "--pid", "--mount", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child", str(BOOT)]
    command += [str(folder / "root"), sys.base_prefix, PYTHON, sys.prefix, str(ROOT), str(folder / "p104d.service")]
    # Entered before the namespace is made: this group is what systemd inside takes for the root of all groups.
    enter = ["sh", "-c", f'echo 0 >"{group}/cgroup.procs" && exec "$@"', "sh"]
    with open(folder / "console", "wb") as console:
        outer = subprocess.Popen(
            enter + command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
        )
    try:
        machine = Machine(booted(outer, folder))
        machine.run("systemd-sysusers", "/opt/source/systemd/p104d.sysusers.conf")
        machine.run("usermod", "-aG", "p104", "nobody")
        # The group is looked up when the socket is made.
        machine.run("systemctl", "restart", "p104d.service")
        wait_for(machine.answers, BOOT_SECONDS)
        yield machine
    finally:
        outer.send_signal(signal.SIGKILL)
        outer.wait()
        remove_cgroup(group)
