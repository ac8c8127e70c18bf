"""Who a caller is: the kernel's word at the moment of connecting, whatever the caller says or does afterwards."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable

import pytest
from access_rig import (
    ADMIN,
    AGENT,
    ALICE,
    BOB,
    CAROL,
    EXTRA,
    GHOST,
    MALLORY,
    P104,
    System,
    User,
    connection,
    parsed,
    request,
)
from daemon_rig import eventually
from reach import acting


def test_the_socket_is_for_group_p104(system: System) -> None:
    told = system.socket.stat()
    assert (stat.S_IMODE(told.st_mode), told.st_uid, told.st_gid) == (0o660, 0, P104)
    assert system.as_user(ALICE).get("/v1/status").status == 200
    refused = system.as_user(MALLORY).get("/v1/status")
    assert (refused.status, refused.text) == (0, "Permission denied")
    told = system.by(MALLORY, "status")
    assert told.code == 3 and "adduser" in told.err and "Traceback" not in told.err


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic cm9vdDo="},
        {"X_Forwarded_For": "127.0.0.1", "X_Forwarded_User": "root", "Remote_User": "root"},
        {"P104_User": "root", "P104_Uid": "0", "X_Remote_Uid": "0", "Cookie": "uid=0", "From": "root"},
    ],
)
def test_nothing_a_caller_says_makes_another_of_them(system: System, headers: dict[str, str]) -> None:
    job = system.submitted_by(ALICE, "--", "sleep", "60")
    assert system.as_user(BOB).ask("POST", "/v1/jobs/cancel", {"ids": [job]}, **headers).status == 403
    assert system.as_user(BOB).ask("POST", "/v1/pause", {}, **headers).status == 403
    assert system.as_user(BOB).ask("GET", f"/v1/jobs/{job}/log?user=root&uid=0", None, **headers).status == 403


@pytest.mark.parametrize("key", ["uid", "user", "gid", "admin", "caller", "submitter"])
def test_a_user_named_in_a_request_is_refused(system: System, key: str) -> None:
    document = {"file": "x.yaml", "text": "command: id -u"}
    body = {"documents": [document], "cwd": "/", key: 0}
    assert system.as_user(BOB).ask("POST", "/v1/submit", body).status == 400
    nested = {"documents": [{**document, key: 0}], "cwd": "/"}
    assert system.as_user(BOB).ask("POST", "/v1/submit", nested).status == 400
    assert system.as_user(BOB).post("/v1/jobs/cancel", ids=[1], **{key: 0}).status == 400
    inside = {"documents": [{"file": "x.yaml", "text": f"command: id\n{key}: root\n"}], "cwd": "/"}
    assert system.as_user(BOB).ask("POST", "/v1/submit", inside).status == 409


def test_a_job_of_a_uid_without_account_is_refused(system: System) -> None:
    assert system.as_user(GHOST).get("/v1/status").status == 200
    refused = system.by(GHOST, "run", "--", "true")
    assert refused.code == 4 and "no account" in refused.err


def test_a_connection_is_its_makers_whoever_writes_on_it(system: System) -> None:
    """Root is made to write on somebody's connection, as a setuid program's standard output would be."""
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
    with socket.socket(fileno=descriptor) as made:
        made.settimeout(10)
        made.sendall(request("POST", "/v1/pause", {}))
        answer = parsed(b"".join(iter(lambda: made.recv(65536), b"")))
    assert answer.status == 403 and not system.status()["daemon"]["paused"]


def test_root_in_a_namespace_of_ones_own_is_nobody_special(system: System) -> None:
    unshare = shutil.which("unshare")
    inside = BOB.acting(unshare or "unshare", "--user", "--map-root-user")
    probe = subprocess.run([*inside, "id", "-u"], capture_output=True, text=True, check=False)
    if unshare is None or probe.stdout != "0\n":
        pytest.skip("no user namespace to be had here")
    job = system.submitted_by(ALICE, "--", "sleep", "60")
    order = {"do": "send", "seconds": 10, "raw": ""}
    import base64

    order["raw"] = base64.b64encode(request("POST", "/v1/jobs/cancel", {"ids": [job]})).decode()
    done = subprocess.run(
        [*inside, sys.executable, "-I", "-S", str(AGENT), str(system.socket)],
        input=json.dumps(order) + "\n",
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert parsed(base64.b64decode(json.loads(done.stdout)["raw"])).status == 403
    assert system.state(job) in ("queued", "starting", "running")


def test_descriptors_sent_along_are_not_kept(system: System) -> None:
    assert system.daemon is not None
    folder = f"/proc/{daemon_pid(system)}/fd"
    before = len(os.listdir(folder))
    with open("/dev/zero") as file, connection(system) as made:
        rights = array.array("i", [file.fileno()] * 100)
        data = request("GET", "/v1/status")
        made.sendmsg([data[:20]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert len(os.listdir(folder)) <= before + 1
        made.sendall(data[20:])
        assert parsed(b"".join(iter(lambda: made.recv(65536), b""))).status == 200
    eventually(lambda: len(os.listdir(folder)) <= before)


def daemon_pid(system: System) -> int:
    return int(system.status()["daemon"]["pid"])


def test_admins_are_members_of_their_group(system: System) -> None:
    assert ADMIN in CAROL.groups and EXTRA in ALICE.groups
    for path, body in (
        ("/v1/pause", {}),
        ("/v1/resume", {}),
        ("/v1/cards/drain", {"cards": ["0"]}),
        ("/v1/cards/drain", {"cards": ["0"], "undo": True}),
        ("/v1/cards/verify", {"cards": ["0"], "stop": True}),
        ("/v1/cards/power", {"cards": ["0"], "power_limit_watts": 100}),
    ):
        refused = system.as_user(ALICE).ask("POST", path, body)
        assert refused.status == 403 and "p104-admin" in refused.text, (path, refused)
    assert system.as_user(CAROL).post("/v1/pause").status == 200
    assert system.status()["daemon"]["paused"]
    assert system.as_user(CAROL).post("/v1/resume").status == 200
    # An admin of the rig is not the owner of everybody's jobs.
    job = system.submitted_by(ALICE, "--", "sh", "-c", "echo secret; exec sleep 60")
    system.reads(job, "secret")
    for verb in ("cancel", "hold", "release", "retry"):
        assert system.as_user(CAROL).post(f"/v1/jobs/{verb}", ids=[job]).status == 403, verb
    assert system.as_user(CAROL).post("/v1/jobs/priority", ids=[job], priority=5).status == 403
    assert system.as_user(CAROL).get(f"/v1/jobs/{job}/log").status == 403
    # A member whose group is only in their process's list has been given it by root too late, or has lost it since:
    # what counts is the account.
    pretender = BOB._replace(groups=(P104, ADMIN))
    assert system.by(pretender, "pause").code == 4
    # Nor as the group that their process has at the moment, as under newgrp or a program that sets its group.
    assert system.finished("pause", prefix=acting(BOB.uid, ADMIN, (P104,))).code == 4
    assert not system.status()["daemon"]["paused"]


def test_who_has_the_group_as_the_accounts_own_is_admin(start: Callable[..., System]) -> None:
    dave = User("p104-dave", ADMIN)
    rig = start(also=[dave])
    passwd = rig.folder / "etc" / "passwd"
    assert f"{dave.name}:x:{ADMIN}:{ADMIN}:" in passwd.read_text()
    assert rig.as_user(dave).post("/v1/pause").status == 200
    elsewhere = rig.finished("resume", prefix=acting(dave.uid, P104, (P104,)))
    assert elsewhere.code == 0 and not rig.status()["daemon"]["paused"]
