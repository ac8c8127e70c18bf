"""Who is let in and as whom: the kernel's word for real processes of other users."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from server_rig import Served

from p104d.api import access
from p104d.api.access import Gate, is_admin, peer, user_name

NOBODY = 65534
#: Above 2**31: a signed reading of the kernel's answer would make it negative. It has no account anywhere.
FAR = 3_000_000_011

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def system() -> Iterator[Served]:
    made = Served(user_mode=False)
    yield made
    made.close()


def ask_as(served: Served, uid: int, gid: int, path: str = "/v1/status") -> tuple[int, Any]:
    """(status, body) of a request by a process of ``uid``."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Nothing of this process's threads is here: plain system calls, and out.
        try:
            os.setgroups([])
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(served.path)
                connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                while chunk := connection.recv(65536):
                    os.write(writing, chunk)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        head, _, body = pipe.read().partition(b"\r\n\r\n")
    os.waitpid(child, 0)
    return int(head.split()[1]), json.loads(body)


def test_a_users_own_daemon_serves_that_user(served: Served) -> None:
    assert served.ask("GET", "/v1/status").status == 200
    ((_, caller),) = served.service.calls
    assert (caller.uid, caller.user, caller.admin) == (os.getuid(), pwd.getpwuid(os.getuid()).pw_name, True)


@as_root
@pytest.mark.parametrize("path", ["/v1/status", "/v1/jobs/1/log", "/v1/nowhere"])
def test_a_users_own_daemon_turns_strangers_away(served: Served, path: str) -> None:
    status, body = ask_as(served, NOBODY, NOBODY, path)
    assert (status, body["error"]["exit_code"]) == (403, 4)
    assert "serves root alone" in body["error"]["message"] and body["error"]["mend"]
    assert served.service.calls == []


@as_root
def test_a_users_own_daemon_serves_root_too(served: Served) -> None:
    gate = Gate(user_mode=True)
    gate._own = NOBODY
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert gate.caller(ours).uid == 0 and gate.caller(ours).admin


@as_root
@pytest.mark.parametrize("uid", [NOBODY, FAR])
def test_the_systems_daemon_knows_its_callers(system: Served, uid: int) -> None:
    assert ask_as(system, uid, uid)[0] == 200
    ((_, caller),) = system.service.calls
    assert (caller.uid, caller.user, caller.admin) == (uid, user_name(uid), False)


@as_root
def test_root_is_admin_of_the_systems_daemon(system: Served) -> None:
    assert system.ask("GET", "/v1/status").status == 200
    assert system.service.calls[0][1].admin


def test_the_kernel_tells_who_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        assert peer(ours) == (os.getuid(), os.getgid())


def test_ids_are_unsigned() -> None:
    class Connection:
        def getsockopt(self, *_arguments: int) -> bytes:
            return struct.pack("iII", 1, FAR, 2**32 - 2)

    assert peer(Connection()) == (FAR, 2**32 - 2)  # type: ignore[arg-type]


def test_an_account_that_is_not_there_is_called_by_its_number() -> None:
    assert user_name(FAR) == str(FAR) and user_name(0) == "root"


def group(name: str, gid: int) -> grp.struct_group:
    return grp.struct_group((name, "x", gid, []))


def test_admins_are_root_and_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_group(name: str) -> grp.struct_group:
        raise KeyError(name)

    nobody = pwd.getpwuid(NOBODY)
    monkeypatch.setattr(access.grp, "getgrnam", no_group)
    assert is_admin(0) and not is_admin(NOBODY)
    monkeypatch.setattr(access.grp, "getgrnam", lambda name: group(name, 4711))
    assert not is_admin(NOBODY) and not is_admin(FAR)
    monkeypatch.setattr(access.os, "getgrouplist", lambda user, gid: [gid, 4711] if user == nobody.pw_name else [gid])
    assert is_admin(NOBODY) and not is_admin(FAR)
    monkeypatch.undo()
    monkeypatch.setattr(access.grp, "getgrnam", lambda name: group(name, nobody.pw_gid))
    assert is_admin(NOBODY), "the primary group of the account"
