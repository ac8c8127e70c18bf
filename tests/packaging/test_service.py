"""The service under a real systemd, in namespaces of its own: root only, skipped where the host does not allow it."""

from __future__ import annotations

import json
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


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """systemd as PID 1 of its own namespaces, p104d started, nobody in group p104."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("systemd")
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
def settings_of(machine: Machine, *settings: str) -> Iterator[None]:
    """The service with other settings, for a while."""
    folder = "/etc/systemd/system/p104d.service.d"
    machine.run("mkdir", "-p", folder)
    machine.run("sh", "-c", f"printf '%s\\n' '[Service]' \"$@\" >{folder}/other.conf", "sh", *settings)
    try:
        restarted(machine)
        yield
    finally:
        machine.run("rm", "-r", folder)
        restarted(machine)


def restarted(machine: Machine) -> None:
    """With the settings of now."""
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "p104d.service")
    wait_for(machine.answers, STEP_SECONDS)


def test_it_is_ready_watched_and_open_to_its_group(machine: Machine) -> None:
    assert machine.show("p104d.service", "ActiveState") == "active"
    assert machine.show("p104d.service", "WatchdogUSec") == "30s"
    assert machine.show("p104d.service", "WatchdogTimestampMonotonic") != "0"
    assert machine.run("stat", "-c", "%U:%G %a", SOCKET).stdout.strip() == "root:p104 660"
    assert machine.ctl("status", "--json").returncode == 0
    denied = machine.ctl("status", user="daemon")
    assert denied.returncode == 3
    assert "p104" in denied.stderr


def test_a_job_runs_as_its_user_outside_the_sandbox(machine: Machine) -> None:
    done = machine.ctl("run", "--vram", "1GiB", "--", "sh", "-c", "id -un; cat /proc/self/status; exit 7")
    assert done.returncode == 7, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "nobody"
    assert "NoNewPrivs:\t0" in lines
    assert "Seccomp:\t0" in lines


def test_jobs_of_root_are_refused(machine: Machine) -> None:
    assert machine.ctl("run", "--vram", "1GiB", "--", "true", user="root").returncode == 4


def test_jobs_survive_a_crash_and_a_stop(machine: Machine) -> None:
    fifo = "/run/lock/go-on"
    machine.run("mkfifo", "-m", "666", fifo)
    job = machine.ctl("run", "--detach", "--vram", "1GiB", "--", "sh", "-c", f"cat {fifo}; exit 5").stdout.strip()

    def state() -> str:
        shown = machine.ctl("show", "--json", job)
        return str(json.loads(shown.stdout)["state"]) if shown.returncode == 0 else ""

    wait_for(lambda: state() == "running", STEP_SECONDS)
    daemon = machine.show("p104d.service", "MainPID")
    machine.run("kill", "-KILL", daemon)
    wait_for(lambda: machine.show("p104d.service", "MainPID") not in ("0", daemon) and machine.answers(), STEP_SECONDS)
    assert state() == "running"

    machine.run("systemctl", "stop", "p104d.service")
    unit = f"p104-job-{job}-1.service"
    assert machine.show(unit, "ActiveState") == "active"
    machine.run("sh", "-c", f"echo over >{fifo}")
    wait_for(lambda: machine.show(unit, "ActiveState") == "inactive", STEP_SECONDS)
    machine.run("systemctl", "start", "p104d.service")
    wait_for(machine.answers, STEP_SECONDS)
    ended = json.loads(machine.ctl("show", "--json", job).stdout)
    assert (ended["state"], ended["exit_code"]) == ("failed", 5)
    assert machine.ctl("logs", job).stdout == "over\n"


def test_cancel_ends_the_whole_tree(machine: Machine) -> None:
    script = "setsid sleep 987654 & sleep 987654"
    job = machine.ctl("run", "--detach", "--vram", "1GiB", "--", "sh", "-c", script).stdout.strip()

    def sleepers() -> int:
        return machine.run("ps", "-eo", "stat,args").stdout.count("sleep 987654\n")

    wait_for(lambda: sleepers() >= 2, STEP_SECONDS)
    assert machine.ctl("cancel", job).returncode == 0
    assert machine.ctl("wait", "--timeout", "30s", job).returncode == 1
    wait_for(lambda: sleepers() == 0, STEP_SECONDS)


def test_a_loop_that_hangs_is_killed_and_its_jobs_run_on(machine: Machine) -> None:
    """The watchdog is fed by the loop alone: a daemon that stands still is replaced, and the jobs do not notice."""
    with settings_of(machine, "WatchdogSec=2s"):
        job = machine.ctl("run", "--detach", "--vram", "1GiB", "--", "sleep", "300").stdout.strip()
        unit = f"p104-job-{job}-1.service"
        wait_for(lambda: machine.show(unit, "ActiveState") == "active", STEP_SECONDS)
        daemon = machine.show("p104d.service", "MainPID")
        machine.run("kill", "-STOP", daemon)
        wait_for(lambda: machine.show("p104d.service", "MainPID") not in ("0", daemon), BOOT_SECONDS)
        wait_for(machine.answers, STEP_SECONDS)
        assert machine.show("p104d.service", "NRestarts") != "0"
        assert machine.show(unit, "ActiveState") == "active"
        assert json.loads(machine.ctl("show", "--json", job).stdout)["state"] == "running"
        assert machine.ctl("cancel", job).returncode == 0
        assert machine.ctl("wait", "--timeout", "30s", job).returncode == 1


def test_a_job_is_no_part_of_the_service(machine: Machine) -> None:
    """Its own control group, and what the sandbox hides from the daemon."""
    script = (
        "cat /proc/self/cgroup; ls -d /home /root >/dev/null && touch /var/lib/x-$$ 2>&1; grep CapBnd /proc/self/status"
    )
    done = machine.ctl("run", "--vram", "1GiB", "--", "sh", "-c", script)
    assert "p104-job-" in done.stdout and "p104d.service" not in done.stdout, done
    # Nobody's right to write there is missing, not the file system read-only as the daemon's is.
    assert "Permission denied" in done.stdout and "Read-only" not in done.stdout, done


def sandbox() -> list[str]:
    """The unit's restrictions, as properties of a transient one."""
    text = (ROOT / "systemd" / "p104d.service").read_text()
    text = text[text.index("# --- Devices") : text.index("[Install]")]
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return [part for line in lines for part in ("-p", line)]


def test_a_model_is_looked_at_outside_the_sandbox(machine: Machine) -> None:
    """From within it no user can be changed and no home be seen; so PID 1 starts the look, which becomes the user."""
    machine.run("install", "-d", "-o", "nobody", "-m", "700", "/opt/private")
    python = "/opt/venv/bin/python"
    write = "import sys; sys.path.append('/opt/source/tests/support'); import gguf_files, pathlib; "
    machine.run(python, "-c", write + "gguf_files.TINY.write(pathlib.Path('/opt/private/${HOME} %n.gguf'))")
    machine.run("chown", "nobody", "/opt/private/${HOME} %n.gguf")
    code = (
        "import asyncio, os, pwd, sys; sys.path.append('/opt/source'); os.makedirs('/run/looks', exist_ok=True); "
        "from p104d.daemon.model_prober import Prober; who = pwd.getpwnam(sys.argv[1]); "
        "print(asyncio.run(Prober(units_in='/run/looks').probe('/opt/private/' + chr(36) + '{HOME} %n.gguf', None, "
        "uid=who.pw_uid, gid=who.pw_gid, user=who.pw_name)), os.listdir('/run/looks'))"
    )
    for user, words in (("nobody", "label='${HOME} %n'"), ("daemon", "permission denied")):
        path = f"/run/look-{user}"
        output = [f"StandardOutput=file:{path}", "StandardError=inherit", "Type=oneshot", "ReadWritePaths=/run"]
        properties = [part for line in output for part in ("-p", line)]
        machine.run("systemd-run", "--collect", "--quiet", *properties, *sandbox(), "--", python, "-c", code, user)
        said = machine.run("cat", path).stdout
        assert words in said and said.endswith(" []\n"), said
