"""Other ways to a shim: systemd's transient units; and what holds for all: no third party, no leak, any path."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from process_rig import Rig, drive, eventually, is_alive

from p104d.processes.attempt import Key, LookKind
from p104d.processes.events import LaunchFailed
from p104d.processes.launchers import boot_argv, systemd_argv, unit_of


def test_the_systemd_run_call() -> None:
    argv = systemd_argv(Key("job", 17, 2), "/var/lib/p104d/jobs/0/17-2")
    assert argv[0] == "systemd-run"
    assert unit_of(Key("job", 17, 2)) == "p104-job-17-2.service"
    assert "--unit=p104-job-17-2.service" in argv
    assert {"--no-block", "--collect", "--quiet"} <= set(argv)
    settings = {argv[at + 1] for at, word in enumerate(argv) if word == "-p"}
    assert {"Delegate=yes", "KillMode=process"} <= settings
    command = argv[argv.index("--") + 1 :]
    assert command[:3] == [sys.executable, "-I", "-S"]
    assert command[-1] == "/var/lib/p104d/jobs/0/17-2"


#: Starts what it is given, detached as systemd would, whatever its options are; says what it was called with.
FAKE = """#!/bin/sh
printf '%s\\n' "$@" > {folder}/called
[ -e {folder}/refuse ] && {{ echo 'Failed to start transient service unit: refused' >&2; exit 1; }}
while [ "$1" != -- ]; do shift; done
shift
setsid "$@" < /dev/null > /dev/null 2>&1 &
"""


@pytest.fixture
def fake_systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = f"{folder}/systemd-run"
        with open(path, "w") as file:
            file.write(FAKE.format(folder=folder))
        os.chmod(path, stat.S_IRWXU)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        # Where this is not a unit, "its own" cgroup would be the whole session's: the shims must do without.
        monkeypatch.setattr("p104d.processes.supervisor._UNIT_GROUP", None)
        yield folder


def test_attempts_as_transient_units(fake_systemd: str) -> None:
    async def body(rig: Rig) -> None:
        ended, log = await rig.run("/bin/sh", "-c", "echo hello; exit 11")
        assert (ended.exit_code, log) == (11, "hello\n")
        key = rig.sh("setsid sleep 300 & sleep 300", grace_seconds=1)
        running = await rig.running(key)
        assert rig.supervisor.owner_of(running.pid) == key
        shim = rig.supervisor.look(key).pid
        assert rig.supervisor.stop(key)
        assert (await rig.ended(key)).reason == "stopped"
        assert shim is not None
        await eventually(lambda: not is_alive(shim))
        with open(f"{fake_systemd}/called") as file:
            assert f"--unit={unit_of(key)}" in file.read().splitlines()

    drive(body, launcher="systemd", system=True)


def test_a_unit_killed_before_its_shim_told_anything_is_found(fake_systemd: str) -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("sleep 300")
        look = await eventually(lambda: _running(rig, key))
        os.kill(look.pid, 9)
        event = await rig.until(object, key)
        if not hasattr(event, "look"):
            event = await rig.until(type(rig.events[-1]), key)
        await eventually(lambda: rig.supervisor.look(key).kind is LookKind.DEAD)
        await rig.supervisor.sweep(key)

    drive(body, launcher="systemd", system=True, claim_seconds=1.0)


def _running(rig: Rig, key: Key) -> object:
    look = rig.supervisor.look(key)
    return look if look.kind is LookKind.RUNNING and look.job_pid else None


def test_a_unit_that_is_refused_is_a_failed_launch(fake_systemd: str) -> None:
    async def body(rig: Rig) -> None:
        with open(f"{fake_systemd}/refuse", "w"):
            pass
        key = rig.launch("true")
        failed = await rig.until(LaunchFailed, key)
        assert "Failed to start transient service unit: refused" in failed.text
        assert rig.supervisor.look(key).kind is LookKind.REVOKED

    drive(body, launcher="systemd", system=True)


def test_shims_load_nothing_but_the_standard_library() -> None:
    argv = boot_argv("shim", "None or 1", "x")
    code = (
        "import sys; sys.path.append(sys.argv[1]); before = set(sys.modules)\n"
        "from p104d.processes import shim, zygote\n"
        "print(' '.join(sorted({n.split('.')[0] for n in set(sys.modules) - before} - set(sys.stdlib_module_names))))"
    )
    at = argv.index("-c")
    found = subprocess.run([*argv[:at], "-c", code, argv[at + 2]], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["p104d"]


def test_no_descriptor_is_left_open_by_many_attempts() -> None:
    async def body(rig: Rig) -> None:
        for _ in range(3):
            await rig.run("true")
        # The descriptors of standard streams, signals and line, and three towards the child it keeps ahead; a shim
        # tells of an end before it closes its files.
        await eventually(lambda: all(_descriptors(pid) == 8 for pid in rig.shims()))
        before = _descriptors(os.getpid())
        for number in range(40):
            await rig.run("/bin/sh", "-c", f"echo {number}; exit {number % 3}")
            await rig.run("no-such-command")
            await rig.run("true", cwd="/no/such")
        await eventually(lambda: all(_descriptors(pid) == 8 for pid in rig.shims()))
        assert _descriptors(os.getpid()) == before

    drive(body)


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_folders_of_any_length_serve() -> None:
    async def body(rig: Rig) -> None:
        deep = f"{rig.folder}/{'d' * 120}"
        long = Rig(deep, token=rig.token)
        await long.supervisor.start()  # its sockets do not fit into 107 bytes
        try:
            ended, log = await long.run("echo", "hello")
            assert (ended.exit_code, log) == (0, "hello\n")
        finally:
            await long.supervisor.close()

    drive(body)


def test_idle_shims_are_kept_while_jobs_come_and_let_go_when_it_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.processes.pool._QUIET_SECONDS", 1.5)

    async def body(rig: Rig) -> None:
        for key in [rig.launch("true") for _ in range(8)]:
            await rig.ended(key)
        crowd = len(rig.shims())
        assert crowd > 1
        for _ in range(20):  # longer than the quiet time in all, but never quiet
            await asyncio.sleep(0.1)
            await rig.run("true")
        assert len(rig.shims()) == crowd
        await eventually(lambda: len(rig.shims()) == 1)

    drive(body)


def test_notifications_have_folders_of_their_own() -> None:
    async def body(rig: Rig) -> None:
        key = rig.launch("echo", "told", kind="notify", id=1)
        assert (await rig.ended(key)).exit_code == 0
        assert rig.supervisor.folder(key) == f"{rig.folder}/notify/0/1-1"
        elsewhere = rig.launch("echo", "told", kind="other", id=1, folder=f"{rig.folder}/elsewhere")
        assert (await rig.ended(elsewhere)).exit_code == 0
        assert os.path.exists(f"{rig.folder}/elsewhere/log")

    drive(body)


def test_many_at_once_all_end_with_their_own_code() -> None:
    async def body(rig: Rig) -> None:
        keys = [rig.sh(f"exit {number}") for number in range(100)]
        assert [(await rig.ended(key)).exit_code for key in keys] == list(range(100))

    drive(body)
