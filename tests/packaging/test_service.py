"""The service under a real systemd, in namespaces of its own: root only, skipped where the host does not allow it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from packaging_support import ROOT
from service_machine import BOOT_SECONDS, SOCKET, STEP_SECONDS, Machine, service, wait_for


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with service(tmp_path_factory.mktemp("systemd")) as machine:
        yield machine


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
