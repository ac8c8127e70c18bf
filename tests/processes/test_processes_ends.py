"""How attempts end, and what a job finds when it begins."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time

import pytest
from process_rig import PATH, Rig, drive, eventually

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_an_exit_code_is_kept(code: int) -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run("/bin/sh", "-c", f"exit {code}")
        assert (ended.exit_code, ended.signal, ended.reason) == (code, None, None)

    drive(body)


def test_a_signal_is_kept() -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run("/bin/sh", "-c", "kill -SEGV $$")
        assert (ended.exit_code, ended.signal, ended.reason) == (None, signal.SIGSEGV, None)

    drive(body)


def test_times_and_usage_are_measured() -> None:
    async def body(rig: Rig) -> None:
        before = time.time()
        ended, _ = await rig.run(sys.executable, "-c", "x = bytearray(60_000_000)\nfor i in range(3_000_000): pass")
        assert ended.started_at is not None
        assert before - 0.01 <= ended.started_at <= ended.ended_at <= time.time() + 0.01
        assert ended.wall_seconds == pytest.approx(ended.ended_at - ended.started_at, abs=0.1)
        assert 0.02 < ended.user_seconds + ended.system_seconds <= ended.wall_seconds * 2
        assert 60_000_000 < ended.max_rss_bytes < 200_000_000
        again, _ = await rig.run("true")  # the same shim: nothing of the first job may be counted again
        assert again.max_rss_bytes < 60_000_000

    drive(body)


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (("no-such-command",), 127, "command not found: no-such-command"),
        (("/no/such/file",), 127, "command not found: /no/such/file"),
        (("./no-such",), 127, "command not found: ./no-such"),
        (("/etc/passwd",), 126, "command cannot be executed: /etc/passwd: permission denied"),
        (("/tmp",), 126, "command cannot be executed: /tmp: permission denied"),
        (("",), 127, "command not found: (empty)"),
        (("true", "a\0b"), 126, "the command or its environment holds a NUL byte"),
    ],
)
def test_a_command_that_cannot_be_executed(argv: tuple[str, ...], code: int, reason: str) -> None:
    async def body(rig: Rig) -> None:
        ended, log = await rig.run(*argv)
        assert (ended.exit_code, ended.signal, ended.reason, ended.started_at) == (code, None, reason, None)
        assert log == f"p104d: {reason}\n"

    drive(body)


def test_a_missing_interpreter_is_named_as_that() -> None:
    async def body(rig: Rig) -> None:
        script = f"{rig.folder}/script"
        _script(script, "#!/no/such/interpreter\n")
        ended, _ = await rig.run(script)
        assert ended.exit_code == 126
        assert ended.reason == f"command cannot be executed: {script}: its interpreter does not exist"

    drive(body)


def test_a_script_without_an_interpreter_line_is_run_by_sh() -> None:
    async def body(rig: Rig) -> None:
        script = f"{rig.folder}/script"
        _script(script, "echo $1 $0")
        ended, log = await rig.run(script, "hello")
        assert (ended.exit_code, log) == (0, f"hello {script}\n")

    drive(body)


def test_the_jobs_own_path_is_searched_past_what_may_not_be_executed() -> None:
    async def body(rig: Rig) -> None:
        for folder, mode in (("first", 0o600), ("second", 0o755)):
            os.mkdir(f"{rig.folder}/{folder}")
            _script(f"{rig.folder}/{folder}/tool", f"#!/bin/sh\necho {folder}\n", mode)
        path = f"/nowhere:{rig.folder}/first:{rig.folder}/second"
        ended, log = await rig.run("tool", env={"PATH": path})
        assert (ended.exit_code, log) == (0, "second\n")

    drive(body)


@pytest.mark.parametrize(
    ("cwd", "reason"),
    [("/no/such", "cwd does not exist: /no/such"), ("/etc/passwd", "cwd is not a folder: /etc/passwd")],
)
def test_a_folder_that_cannot_be_entered(cwd: str, reason: str) -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run("true", cwd=cwd)
        assert (ended.exit_code, ended.reason) == (126, reason)
        fine, log = await rig.run("pwd", cwd="/usr")  # the same shim stands where it should again
        assert (fine.exit_code, log) == (0, "/usr\n")

    drive(body)


def test_a_relative_command_is_found_from_its_folder() -> None:
    async def body(rig: Rig) -> None:
        _script(f"{rig.folder}/here", "#!/bin/sh\nls /proc/$PPID/cwd -d >/dev/null; echo found\n")
        assert (await rig.run("./here", cwd=rig.folder))[1] == "found\n"

    drive(body)


def test_the_environment_is_exactly_as_given() -> None:
    async def body(rig: Rig) -> None:
        env = {"PATH": PATH, "A": "1", "UMLAUT": "grün", "LINES": "a\nb", "EMPTY": "", "LD_X": "x", "PYTHONHOME": ""}
        ended, log = await rig.run("/usr/bin/env", "-0", env=env)
        found = dict(entry.split("=", 1) for entry in log.split("\0") if entry)
        assert found == {**env, "P104_TOKEN": rig.token}
        assert ended.exit_code == 0

    drive(body)


LOOK_AROUND = """
import json, os, signal, resource
fds = sorted(int(n) for n in os.listdir('/proc/self/fd'))
fds = [n for n in fds if os.path.exists(f'/proc/self/fd/{n}')]
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print(json.dumps(dict(fds=fds, targets=[os.readlink(f'/proc/self/fd/{n}') for n in fds],
  pid=os.getpid(), sid=os.getsid(0), pgid=os.getpgid(0), umask=os.umask(0), cwd=os.getcwd(),
  ignored=int(status['SigIgn'], 16), blocked=int(status['SigBlk'], 16), groups=os.getgroups(),
  ids=[os.getresuid(), os.getresgid()], nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
  caps=status['CapEff'].strip())))
"""
#: -I keeps Python from changing how it looks around; -S starts it faster.
LOOK = ("/usr/bin/env", "python3", "-I", "-S", "-c", LOOK_AROUND)


def test_a_job_inherits_nothing_but_its_three_descriptors() -> None:
    async def body(rig: Rig) -> None:
        for _ in range(2):  # by a fresh shim, and by one that ran a job before
            _, log = await rig.run(*LOOK, cwd="/usr", umask=0o027, rlimits={"nofile": (100, 200)})
            seen = json.loads(log)
            assert seen["fds"] == [0, 1, 2]
            assert seen["targets"][0] == "/dev/null"
            assert seen["targets"][1] == seen["targets"][2] and seen["targets"][1].startswith("pipe:")
            assert seen["sid"] == seen["pgid"] == seen["pid"]
            assert (seen["umask"], seen["cwd"], seen["nofile"]) == (0o027, "/usr", [100, 200])
            assert seen["blocked"] == 0
            python_itself = (1 << (signal.SIGPIPE - 1)) | (1 << (signal.SIGXFSZ - 1))
            assert seen["ignored"] & ~python_itself == 0

    drive(body)


def test_a_jobs_umask_is_not_its_logs() -> None:
    async def body(rig: Rig) -> None:
        key = rig.launch("echo", "hello", umask=0o777)
        await rig.ended(key)
        assert stat.S_IMODE(os.stat(f"{rig.supervisor.folder(key)}/log").st_mode) == 0o600

    drive(body)


def test_a_broken_pipe_ends_a_job_as_it_does_in_a_shell() -> None:
    async def body(rig: Rig) -> None:
        _, log = await rig.run("/bin/sh", "-c", "grep -E '^Sig(Ign|Blk)' /proc/self/status")
        assert set(log.split()) == {"SigIgn:", "SigBlk:", "0000000000000000"}

    drive(body)


def test_a_limit_that_does_not_exist_is_told() -> None:
    async def body(rig: Rig) -> None:
        ended, _ = await rig.run("true", rlimits={"nonsense": (1, 1)})
        assert ended.exit_code == 126 and ended.reason is not None
        assert ended.reason.startswith("cannot set the limit nonsense")

    drive(body)


@ROOT
def test_a_job_runs_as_its_submitter_and_nothing_else() -> None:
    async def body(rig: Rig) -> None:
        os.chmod(rig.folder, 0o711)
        own = f"{rig.folder}/own"
        os.mkdir(own, 0o700)
        os.chown(own, 65534, 65534)
        _, log = await rig.run(*LOOK, uid=65534, gid=65534, user="nobody", cwd=own)
        seen = json.loads(log)
        assert seen["ids"] == [[65534] * 3, [65534] * 3]
        assert seen["groups"] == [65534]
        assert int(seen["caps"], 16) == 0
        assert seen["cwd"] == own
        assert seen["fds"] == [0, 1, 2]
        key = rig.spec("true").key
        log_file = os.stat(f"{rig.supervisor.folder(key._replace(id=key.id - 1))}/log")
        assert (log_file.st_uid, stat.S_IMODE(log_file.st_mode)) == (0, 0o600)

    groups = os.getgroups()
    os.setgroups([0, 1, 2, 3])  # the daemon's own, which no job may keep
    try:
        drive(body)
    finally:
        os.setgroups(groups)


@ROOT
def test_a_folder_is_entered_with_the_submitters_rights() -> None:
    async def body(rig: Rig) -> None:
        private = f"{rig.folder}/private"
        os.mkdir(private, 0o700)
        ended, _ = await rig.run("true", uid=65534, gid=65534, user="nobody", cwd=private)
        assert (ended.exit_code, ended.reason) == (126, f"cwd cannot be entered (Permission denied): {private}")

    drive(body)


@ROOT
def test_a_job_of_another_user_can_be_stopped_and_cannot_stop_its_shim() -> None:
    async def body(rig: Rig) -> None:
        script = "kill -9 $PPID; trap '' TERM; echo up; while :; do sleep 1; done"
        key = rig.sh(script, uid=65534, gid=65534, user="nobody", grace_seconds=0.3)
        await eventually(lambda: "up" in rig.log(key))
        assert rig.supervisor.stop(key)
        ended = await rig.ended(key)
        assert (ended.signal, ended.reason) == (signal.SIGKILL, "stopped")
        assert "up" in rig.log(key)

    drive(body)


def test_a_folder_used_before_is_refused_without_running_anything() -> None:
    async def body(rig: Rig) -> None:
        spec = rig.spec("/bin/sh", "-c", "echo ran >> proof", cwd=rig.folder)
        rig.supervisor.launch(spec)
        await rig.ended(spec.key)
        rig.events.clear()
        rig.supervisor.launch(spec)
        ended = await rig.ended(spec.key)  # what is known of it is told again; it is not run again
        assert ended.exit_code == 0
        with open(f"{rig.folder}/proof") as proof:
            assert proof.read() == "ran\n"

    drive(body)


def _script(path: str, text: str, mode: int = 0o755) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
