"""What a job finds around it: its submitter's account and limits, and nothing of the daemon's or of root's."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from access_rig import ALICE, BOB, EXTRA, P104, System, User, parsed, request, session_keyring
from daemon_rig import eventually

from p104d.processes import job

#: Told by the job itself, as JSON on one line.
LOOK = """
import json, os, resource, ctypes
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
limits = {name[7:].lower(): resource.getrlimit(getattr(resource, name)) for name in dir(resource)
          if name.startswith("RLIMIT_")}
keyctl = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1)
fds = {fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd")
       if os.path.exists("/proc/self/fd/" + fd)}
print(json.dumps({
    "status": {key: value.split() for key, value in status.items()},
    "environ": dict(entry.split("=", 1) for entry in open("/proc/self/environ").read().split("\\0") if entry),
    "fds": fds, "limits": limits, "cwd": os.getcwd(), "sid": os.getsid(0), "pid": os.getpid(), "pgid": os.getpgid(0),
    "ppid": os.getppid(), "oom": open("/proc/self/oom_score_adj").read().strip(),
    "tty": open("/proc/self/stat").read().rpartition(")")[2].split()[4],
    "keyring": ctypes.CDLL(None).syscall(keyctl, 0, -3, 0), "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "exe_of_parent": os.access("/proc/%d/exe" % os.getppid(), os.R_OK),
}))
"""
#: What the account is given, and what p104d says of the placement. Nothing else.
BUILT = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "P104_JOB_ID",
    "P104_ATTEMPT", "P104_CARDS", "P104_TOKEN",
}  # fmt: skip


def look(system: System, user: User, *options: object, **more: object) -> dict[str, object]:
    text = system.ran(user, *options, "--", sys.executable, "-I", "-S", "-c", LOOK, **more)
    return dict(json.loads(text))


def test_a_job_is_its_submitter_and_nobody_else(system: System) -> None:
    found = look(system, ALICE)
    status = found["status"]
    assert isinstance(status, dict)
    assert status["Uid"] == [str(ALICE.uid)] * 4 and status["Gid"] == [str(ALICE.gid)] * 4
    # The account's groups, not those of the process that submitted, and none of root's.
    assert {int(gid) for gid in status["Groups"]} == {ALICE.gid, P104, EXTRA}
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind][0], 16) == 0, (kind, status[kind])
    # The Python of this job handles SIGINT, which it would not if that came ignored, and ignores two, of its own.
    own = {"SigBlk": set(), "SigIgn": {signal.SIGPIPE, signal.SIGXFSZ}, "SigCgt": {signal.SIGINT}}
    for mask, numbers in own.items():
        found_in = int(status[mask][0], 16)
        assert {number for number in range(1, 65) if found_in >> (number - 1) & 1} == numbers, (mask, status[mask])
    assert found["sid"] == found["pid"] == found["pgid"], "a session of its own"
    assert found["tty"] == "0" and found["oom"] == "0" and found["nice"] == 0
    assert not found["exe_of_parent"], "its shim is root's"


def test_groups_are_the_accounts(system: System) -> None:
    """Who submits with groups of a colleague's shell (newgrp, a setgid program) gets no more than the account has."""
    more = BOB._replace(groups=(*BOB.groups, EXTRA, 0))
    status = look(system, more)["status"]
    assert isinstance(status, dict)
    assert {int(gid) for gid in status["Groups"]} == {BOB.gid, P104}


def test_the_environment_is_built(system: System) -> None:
    loud = {"SECRET_OF_CALLER": "x", "LD_PRELOAD": "/nonexistent.so", "P104_SOCKET": str(system.socket)}
    environ = look(system, ALICE, "--env", "OWN=1", env=loud)["environ"]
    assert isinstance(environ, dict)
    assert set(environ) == BUILT | {"OWN"}
    assert environ["HOME"].endswith(ALICE.name) and environ["USER"] == ALICE.name
    assert str(system.folder) not in json.dumps({k: v for k, v in environ.items() if k != "OWN"})


def test_descriptors_are_three(system: System) -> None:
    found = look(system, ALICE)
    fds = found["fds"]
    assert isinstance(fds, dict)
    assert set(fds) == {"0", "1", "2"}, fds
    assert fds["0"] == "/dev/null" and fds["1"] == fds["2"] and fds["1"].startswith("pipe:")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_the_umask_is_the_submitters(system: System, umask: int) -> None:
    status = look(system, ALICE, preexec_fn=lambda: os.umask(umask))["status"]
    assert isinstance(status, dict) and int(status["Umask"][0], 8) == umask


LOWER = {"nofile": (200, 300), "nproc": (4000, 4001), "core": (0, 0), "fsize": (1 << 30, 1 << 31)}


def lower() -> None:
    """Give this process, and what becomes of it, less than it had."""
    for name, values in LOWER.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), values)


def test_limits_are_the_submitters(system: System) -> None:
    limits = look(system, ALICE, preexec_fn=lower)["limits"]
    assert isinstance(limits, dict)
    assert {name: tuple(limits[name]) for name in LOWER} == LOWER
    others = look(system, BOB)["limits"]
    assert isinstance(others, dict)
    assert tuple(others["nofile"]) == resource.getrlimit(resource.RLIMIT_NOFILE)


def test_a_notification_has_the_limits_of_its_job(system: System) -> None:
    told = system.home(ALICE) / "told-limit"
    text = f"command: 'false'\nnotify: {{on: [failed], command: 'ulimit -n > {told}.new; mv {told}.new {told}'}}\n"
    done = system.by(ALICE, "submit", "-", stdin=_piped(text), preexec_fn=lower)
    assert done.code == 0, done
    eventually(told.exists)
    assert told.read_text() == "200\n"


def test_limits_above_what_root_may_give_are_as_near_as_can_be(system: System) -> None:
    """What was stored by hand, or on a host with more: the job runs, with the most there is."""
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    child = os.fork()
    if child == 0:
        try:
            job._limit("nofile", most * 2, most * 2)
            os._exit(0 if resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= most else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_who_connected_must_still_be_there_to_submit(system: System) -> None:
    """A process hands its connection on and ends: its limits cannot be told any more, so nothing is taken."""
    script = (
        "import socket, sys\n"
        f"with socket.socket(socket.AF_UNIX) as s:\n    s.connect({str(system.socket)!r})\n"
        "    with socket.socket(fileno=int(sys.argv[1])) as line:\n"
        "        socket.send_fds(line, [b'x'], [s.fileno()])\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            BOB.acting(sys.executable, "-I", "-S", "-c", script, str(theirs.fileno())),
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _, [descriptor], _, _ = socket.recv_fds(ours, 1, 1)
    body = {"documents": [{"file": "x", "text": "command: 'true'"}], "cwd": "/"}
    with socket.socket(fileno=descriptor) as made:
        made.settimeout(10)
        made.sendall(request("POST", "/v1/submit", body))
        answer = parsed(b"".join(iter(lambda: made.recv(65536), b"")))
    assert answer.status == 403 and "gone" in answer.text, answer


def test_jobs_share_no_keyring(system: System) -> None:
    """Neither with one another nor with the daemon, whose starter may have keys there."""
    ours = session_keyring()
    if ours is None:
        pytest.skip("this kernel has no keyrings for us")
    first, second = look(system, ALICE)["keyring"], look(system, BOB)["keyring"]
    assert len({ours, first, second, -1}) == 4


def test_the_command_line_of_a_webhook_is_no_secret(system: System) -> None:
    """Everybody on a host can read command lines: addresses of hooks are not in them."""
    text = "command: exit 1\nnotify: {on: [failed], webhook: 'http://127.0.0.1:9/hook-with-a-secret'}\n"
    done = system.by(ALICE, "submit", "-", stdin=_piped(text))
    assert done.code == 0, done
    eventually(lambda: _webhooks(system))
    assert all(b"hook-with-a-secret" not in line for line in _webhooks(system))


def _piped(text: str) -> int:
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return reading


def _webhooks(system: System) -> list[bytes]:
    found = []
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if b"webhook.py" in line:
                    assert os.stat(f"/proc/{pid}").st_uid == ALICE.uid
                    found.append(line)
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
