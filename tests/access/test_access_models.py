"""Models in a system daemon: who may use which copy, as whom it runs, and what nobody gets out of it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("xllamacpp", reason="the extra `llama` is not installed")
pytest.importorskip("gguf", reason="the extra `llama` is not installed")

from access_rig import ALICE, BOB, CAROL, MALLORY, P104
from model_system import MODEL, ModelSystem, status_of

#: Told by whoever tries it, as one word a line.
CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    try:
        s.connect(sys.argv[1])
        s.sendall(b"GET %s HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n" % sys.argv[2].encode())
        print(s.recv(4096).split()[1].decode())
    except OSError as error:
        print(type(error).__name__)
"""
TAMPER = """
import ctypes, os, signal, sys
pid = int(sys.argv[1])
def told(name, act):
    try:
        act()
        print(name, "done")
    except OSError as error:
        print(name, error.strerror)
libc = ctypes.CDLL(None, use_errno=True)
def ptrace():
    if libc.ptrace(16, pid, 0, 0) != 0:  # PTRACE_ATTACH
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
told("signal", lambda: os.kill(pid, signal.SIGTERM))
told("ptrace", ptrace)
for name in ("mem", "environ", "maps"):
    told(name, lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
told("fd", lambda: os.listdir(f"/proc/{pid}/fd"))
told("limits", lambda: __import__("resource").prlimit(pid, 7, (1, 1)))
"""
READ = """
import sys
for path in sys.argv[1:]:
    try:
        open(path)
        print("open")
    except OSError as error:
        print(type(error).__name__)
"""
DENIED = "PermissionError"


def environ_of(pid: int) -> dict[str, str]:
    text = Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)  # type: ignore[misc]


#: What a server may have in its environment; nothing of the daemon's, of root's or of a submitter's.
BUILT = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "P104_TOKEN",
    "P104_CARDS", "PWD",
}  # fmt: skip


def runs_as(pid: int, uid: int, gid: int, groups: set[int]) -> None:
    """Through and through: no id, group, capability, variable or descriptor of anybody else's."""
    status = status_of(pid)
    assert status["Uid"] == [str(uid)] * 4 and status["Gid"] == [str(gid)] * 4
    assert {int(each) for each in status["Groups"]} == groups
    for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[kind][0], 16) == 0, (kind, status[kind])
    environ = environ_of(pid)
    assert {name for name in environ if not name.startswith("LLAMA_ARG_")} <= BUILT, environ
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_users_share_a_copy_of_a_model_that_all_can_read(models: ModelSystem) -> None:
    model = models.model("common")
    before = models.loads()
    # One after the other: for both at once a second copy may be loaded.
    models.done(models.batch(ALICE, model, "hers", env={"SECRET_OF": "alice"}))
    models.done(models.batch(BOB, model, "his", umask=0o077))
    copy = models.copy()
    assert copy["shared"] and models.loads() == before + 1
    runs_as(copy["pid"], MODEL.uid, MODEL.gid, {MODEL.gid})
    assert environ_of(copy["pid"])["USER"] == MODEL.name
    for user, name, mode in ((ALICE, "hers", 0o644), (BOB, "his", 0o600)):
        found = (models.home(user) / f"{name}.out").stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (user.uid, user.gid, mode)
        assert [each["custom_id"] for each in models.answers(user, name)] == [f"{name}-0", f"{name}-1"]


def test_a_private_model_has_a_copy_of_its_own(models: ModelSystem) -> None:
    model = models.model("private", ALICE, mode=0o600)
    models.done(models.batch(ALICE, model, "hers"))
    copy = models.copy()
    assert not copy["shared"] and copy["user"] == ALICE.name
    status = {int(each) for each in status_of(copy["pid"])["Groups"]}
    runs_as(copy["pid"], ALICE.uid, ALICE.gid, status)
    assert MODEL.gid not in status and 0 not in status and P104 in status
    # Somebody else's job on the same path: a reason, and nothing of the copy or the file.
    models.requests(BOB, "not-his")
    answer = models.post_batch(BOB, model, "not-his")
    assert "permission denied" in str(answer.body["warnings"]).lower(), answer
    reason = models.fails(int(answer.body["jobs"][0]["id"]))
    assert "permission denied" in reason.lower(), reason
    assert not (models.home(BOB) / "not-his.out").exists()
    assert [each["id"] for each in models.copies()] == [copy["id"]]


def test_one_path_for_two_users_is_two_copies_where_only_they_may_read(models: ModelSystem) -> None:
    """Readable by a group: the models' user is not in it, so each has a copy, and neither uses the other's."""
    model = models.model("grouped", mode=0o640)
    os.chown(model, 0, P104)
    models.done(models.batch(ALICE, model, "hers"))
    models.done(models.batch(BOB, model, "his"))
    copies = models.copies()
    assert sorted((each["user"], each["shared"]) for each in copies) == [(ALICE.name, False), (BOB.name, False)]


def test_who_can_connect(models: ModelSystem) -> None:
    """To a shared copy whoever may use the rig; to one's own nobody else; what others ask is not told."""
    shared, private = models.model("common"), models.model("private", ALICE)
    models.done(models.batch(ALICE, shared, "one"))
    models.done(models.batch(ALICE, private, "two"))
    sockets = {copy["shared"]: models.socket_of(copy) for copy in models.copies()}
    for user, common, own in (
        (ALICE, "200", "200"),
        (BOB, "200", "PermissionError"),
        (CAROL, "200", "PermissionError"),
    ):
        assert models.tries(user, CONNECT, sockets[True], "/health") == common
        assert models.tries(user, CONNECT, sockets[False], "/health") == own
    for copy in (True, False):
        assert models.tries(MALLORY, CONNECT, sockets[copy], "/health") == DENIED
        assert models.tries(MODEL._replace(groups=()), CONNECT, sockets[False], "/health") == DENIED
    assert models.tries(BOB, CONNECT, sockets[True], "/slots") in ("501", "404"), "prompts of others"
    # Nor can anybody put a socket of their own in its place.
    for path in sockets.values():
        done = models.tries(BOB, "import os, sys; os.rename(sys.argv[1], sys.argv[1] + '.gone')", path)
        assert "PermissionError" in done


@pytest.mark.parametrize("user", [ALICE, BOB, MALLORY], ids=lambda user: user.name)
def test_a_shared_server_is_nobodys(models: ModelSystem, user: object) -> None:
    assert isinstance(user, type(ALICE))
    models.done(models.batch(ALICE, models.model("common"), "one"))
    told = models.tries(user, TAMPER, models.copy()["pid"]).splitlines()
    assert len(told) == 7 and not [line for line in told if line.endswith("done")], told


def test_a_server_cannot_read_what_its_jobs_may(models: ModelSystem) -> None:
    """Inputs and outputs go through the job's own process: the model's user has no way to them."""
    models.done(models.batch(ALICE, models.model("common"), "one"))
    own = [
        models.home(ALICE) / "one.jsonl",
        models.home(ALICE) / "one.out",
        models.store,
        models.folder / "state" / "queue.db",
    ]
    told = models.tries(MODEL, READ, *own)
    assert told.split() == ["PermissionError"] * 4


def test_others_do_not_learn_paths(models: ModelSystem) -> None:
    shared, private = models.model("common"), models.model("private", ALICE)
    models.done(models.batch(ALICE, shared, "one"))
    models.done(models.batch(ALICE, private, "two"))
    missing = models.batch(ALICE, models.home(ALICE) / "secret-name.gguf", "three")
    models.wait(missing)
    absent = int(models.post_batch(ALICE, shared, "secret-input").body["jobs"][0]["id"])
    models.wait(absent)
    assert "secret-name" in str(models.show(missing)["reason"]) and "secret-input" in str(models.show(absent)["reason"])
    for user in (BOB, CAROL):
        found = models.as_user(user).get("/v1/models").body
        assert [each["path"] for each in found["models"]] == [None, None]
        assert {each["path"] for each in found["load_times"]} == {None}
        seen = [found, models.as_user(user).get("/v1/status").body]
        seen += [
            models.as_user(user).post(f"/v1/jobs/{verb}", ids=[missing, absent]).body for verb in ("show", "explain")
        ]
        seen.append(models.as_user(user).post("/v1/jobs/wait", ids=[missing, absent], timeout_seconds=0).body)
        seen.append(models.as_user(user).get("/v1/jobs?state=all").body)
        text = json.dumps(seen)
        assert "secret-name" not in text and "secret-input.jsonl" not in text, text
    # Nor while such a job waits: those who ask why, and when.
    assert models.as_user(CAROL).post("/v1/pause").status == 200
    waiting = models.batch(ALICE, models.home(ALICE) / "secret-name.gguf", "four")
    for user, told in ((BOB, False), (ALICE, True)):
        asks = models.as_user(user)
        seen = [asks.post(f"/v1/jobs/{verb}", ids=[waiting]).body for verb in ("show", "explain")]
        assert all(("secret-name" in json.dumps(each)) == told for each in seen), seen
        assert "cannot be used" in seen[1]["jobs"][0]["waiting_because"], seen
        assert "secret-name" not in json.dumps(asks.get("/v1/plan").body)
    assert models.as_user(CAROL).post("/v1/resume").status == 200
    hers = models.as_user(ALICE).get("/v1/models").body["models"]
    assert str(private) in [each["path"] for each in hers]


def test_pins_are_for_admins(models: ModelSystem) -> None:
    models.done(models.batch(ALICE, models.model("common"), "one"))
    for verb in ("pin", "unpin", "unload"):
        for user in (ALICE, BOB):
            done = models.by(user, "models", verb, "common")
            assert done.code == 4 and "p104-admin" in done.err, done
    assert [models.by(CAROL, "models", verb, "common").code for verb in ("pin", "unpin", "unload")] == [0, 0, 0]
