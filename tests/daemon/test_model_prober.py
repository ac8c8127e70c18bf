"""Looks at models as the submitter: real children, real users where root runs the tests, and misbehaving ones."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from gguf_files import TINY

from p104d.daemon import model_prober
from p104d.daemon.accounts import Account, own_account
from p104d.daemon.model_prober import MOST_AT_ONCE, MOST_OF_ONE, MOST_STUCK, MOST_STUCK_OF_ONE, Probed, Prober
from p104d.engines.gguf import read_model
from p104d.processes import as_user
from p104d.processes.launchers import boot_argv

WITHIN_SECONDS = 30
NOBODY = pwd.getpwnam("nobody")
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
T = TypeVar("T")


def run(work: Callable[[Prober], Awaitable[T]], **options: Any) -> T:
    """What ``work`` does with a prober, bounded."""

    async def scenario() -> T:
        prober = Prober(**options)
        try:
            async with asyncio.timeout(WITHIN_SECONDS):
                return await work(prober)
        finally:
            await prober.close()

    return asyncio.run(scenario())


def probe(path: Path | str, source: Path | None = None, user: str | None = None, **options: Any) -> Probed:
    who = pwd.getpwnam(user) if user is not None else pwd.getpwuid(os.getuid())
    given = str(source) if source is not None else None
    found = run(
        lambda prober: prober.probe(str(path), given, uid=who.pw_uid, gid=who.pw_gid, user=who.pw_name), **options
    )
    assert (found.model is None) is (found.error is not None) and "\n" not in (found.error or "")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may pass through; pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        found = Path(name).resolve()
        found.chmod(0o755)
        yield found


@pytest.fixture
def model(folder: Path) -> Path:
    path = TINY.write(folder / "tiny.gguf")
    path.chmod(0o644)
    return path


def instead(monkeypatch: pytest.MonkeyPatch, *argv: str) -> None:
    """Run this, where a look at a model would be."""
    monkeypatch.setattr(model_prober, "boot_argv", lambda *_: list(argv))


# --- what is found ---


def test_own_files(model, folder):
    source = folder / "in.jsonl"
    source.write_text('{"body": {"input": "x"}}\n')
    found = probe(model, source)
    assert found.model is not None and found.model.label == "tiny"
    assert found.model.parts == read_model(str(model)).parts
    assert found.embeddings is True and found.error is None
    assert probe(model, folder / "not yet").embeddings is None


def test_world_readable(model, folder):
    if any(not parent.stat().st_mode & stat.S_IXOTH for parent in folder.parents):
        pytest.skip("the temporary folder is private")
    assert probe(model).world_readable is True
    model.chmod(0o600)
    assert probe(model).world_readable is False


def test_a_model_that_is_none(folder):
    (folder / "m.gguf").write_text("hello, world")
    found = probe(folder / "m.gguf")
    assert found.error == f"{folder}/m.gguf: is no GGUF file" and found.mend == "name a model in GGUF format"
    assert "no such file" in str(probe(folder / "no\nsuch").error)
    os.mkfifo(folder / "fifo")
    assert "is a FIFO" in str(probe(folder / "fifo").error)
    assert "not a file" in str(probe("/dev/zero").error)
    assert "null" in str(probe("a\0b").error)
    assert probe(folder / "${HOME}$x %n").error == f"{folder}/${{HOME}}$x %n: no such file or directory"
    assert probe("/" + "x" * 200_000).error is not None, "more than a command line takes"


def test_the_surroundings_are_bare(model, folder, monkeypatch):
    """Nothing of the daemon's: no environment, no folder, no input, no session, no descriptors."""
    monkeypatch.setenv("SECRET", "1")
    code = (
        "import json,os,sys; fds=[int(n) for n in os.listdir('/proc/self/fd')]; "
        "print(json.dumps({'env': sorted(os.environ), 'cwd': os.getcwd(), 'input': sys.stdin.read(), "
        "'leader': os.getsid(0)==os.getpid(), 'fds': sum(os.path.exists(f'/proc/self/fd/{n}') for n in fds)}))"
    )
    instead(monkeypatch, sys.executable, "-S", "-c", code)
    found = run(lambda prober: prober._ask({}, uid=os.getuid(), gid=0, user=""))
    assert set(found["env"]) <= {"PATH", "LANG", "LC_CTYPE"} and "PATH" in found["env"]
    assert (found["cwd"], found["input"], found["leader"], found["fds"]) == ("/", "", True, 3)


# --- as somebody else ---


@needs_root
def test_the_rights_are_the_submitters(model, folder):
    assert probe(model, user="nobody").model is not None
    for mode in (0o600, 0o640):  # root's group is not kept either
        model.chmod(mode)
        found = probe(model, user="nobody")
        assert found.error == f"{model}: permission denied" and "chmod" in str(found.mend)
    os.chown(model, NOBODY.pw_uid, -1)
    model.chmod(0o400)
    assert probe(model, user="nobody").model is not None
    source = folder / "in.jsonl"
    source.write_text('{"body": {"input": "x"}}\n')
    source.chmod(0o600)
    assert probe(model, source, user="nobody").embeddings is None


@needs_root
def test_nobody_can_alter_what_a_look_says(model, monkeypatch):
    """It is the submitter's process by its uid, but not to be traced by it."""
    code = "import json,os\ndef main(): print(json.dumps([os.getresuid(), os.getresgid(), os.getgroups(), dump()]))\n"
    code += "def dump():\n import ctypes\n return ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)\n"
    folder = model.parent / "modules"
    folder.mkdir()
    (folder / "look.py").write_text(code)
    boot = f"import sys; sys.path.append({str(folder)!r}); sys.path.append(sys.argv[1]); "
    boot += "from p104d.processes import as_user; as_user.main(sys.argv[2:])"
    root = str(Path(model_prober.__file__).parents[2])
    argv = as_user.arguments("look", "nobody", NOBODY.pw_uid, NOBODY.pw_gid)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", boot, root, *argv], capture_output=True, check=True)
    uids, gids, groups, dumpable = json.loads(done.stdout)
    assert (uids, gids) == ([NOBODY.pw_uid] * 3, [NOBODY.pw_gid] * 3)
    assert sorted(groups) == sorted(os.getgrouplist("nobody", NOBODY.pw_gid)) and dumpable != 1


@needs_root
def test_whether_an_account_can_read_it(model):
    parts = read_model(str(model)).parts
    nobody = Account(NOBODY.pw_uid, NOBODY.pw_gid, "nobody", "/", "/bin/sh")

    def readable(account: Account = nobody) -> bool | None:
        return run(lambda prober: prober.readable(parts, account))

    assert readable() and readable(own_account())
    model.chmod(0o600)
    assert not readable() and readable(own_account())
    model.chmod(0o644)
    os.utime(model)
    assert not readable(), "it is another one by now"
    assert run(lambda prober: prober.readable([], nobody)) is False


# --- children that misbehave ---


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("/no/such",), "No such file or directory"),
        (("echo", "junk"), "it ended without an answer"),
        (("echo", "[1]"), "it ended without an answer"),
        (("true",), "it ended without an answer"),
        (("sh", "-c", "echo one >&2; echo two words >&2; exit 3"), "two words"),
        (("sh", "-c", "kill -9 $$"), "it ended without an answer"),
        (("echo", '{"model": 5}'), "said nonsense"),
        (("echo", '{"error": {"message": "bad", "mend": null}}'), "bad"),
        (("head", "-c", "9000000", "/dev/zero"), "it ended without an answer"),
    ],
    ids=lambda one: " ".join(one)[:30],
)
def test_what_a_child_may_do(monkeypatch, argv, words):
    instead(monkeypatch, *argv)
    assert words in str(probe("/m.gguf").error)
    assert run(lambda prober: prober.readable([], own_account())) is None


def test_a_disk_that_does_not_answer(monkeypatch, folder):
    instead(monkeypatch, "sh", "-c", f"echo $$ >{folder}/pid; exec sleep 60")
    began = time.monotonic()
    found = probe("/m.gguf", patience_seconds=0.5)
    assert found.error == "/m.gguf: the model cannot be looked at: the disk did not answer within 0.5 s"
    assert time.monotonic() - began < 10
    gone((folder / "pid").read_text())


def gone(pid: str) -> None:
    """Wait until the process is no more; it has been killed."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while os.path.exists(f"/proc/{int(pid)}/exe") and state(pid) != "Z":
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


def state(pid: str) -> str:
    try:
        return Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_look_that_nobody_waits_for(monkeypatch, folder):
    instead(monkeypatch, "sh", "-c", f"echo $$ >{folder}/pid.new; mv {folder}/pid.new {folder}/pid; exec sleep 60")

    async def work(prober: Prober) -> None:
        task = asyncio.create_task(prober.probe("/m", None, uid=os.getuid(), gid=0, user=""))
        while not (folder / "pid").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)
    gone((folder / "pid").read_text())


def test_a_few_at_a_time(monkeypatch):
    now: list[int] = []
    most = 0

    async def end(_prober: Prober, _argv: list[str], output: int, _words: int, _uid: int) -> int:
        nonlocal most
        now.append(1)
        most = max(most, len(now))
        await asyncio.sleep(0.005)
        os.write(output, b'{"readable": true}')
        now.pop()
        return 0

    monkeypatch.setattr(Prober, "_end_of", end)

    async def work(prober: Prober, users: int) -> list[bool | None]:
        accounts = [Account(uid, uid, str(uid), "/", "/bin/sh") for uid in range(70_000, 70_000 + users)]
        return list(await asyncio.gather(*(prober.readable([], each) for each in accounts for _ in range(6))))

    for users, at_once in ((1, MOST_OF_ONE), (3, MOST_AT_ONCE)):
        most = 0
        assert run(lambda prober, users=users: work(prober, users)) == [True] * 6 * users and most == at_once


def test_where_killed_ones_do_not_die(monkeypatch, model):
    """Enough of them, and no more are started; until they do die."""

    async def work(prober: Prober) -> tuple[Probed, Probed]:
        stuck = [asyncio.create_task(asyncio.sleep(60, 0)) for _ in range(MOST_STUCK)]
        prober._leaving.update(dict.fromkeys(stuck, 70_000))
        asked = {"uid": os.getuid(), "gid": os.getgid(), "user": ""}
        before = await prober.probe(str(model), None, **asked)  # type: ignore[arg-type]
        for task in stuck:
            task.cancel()
        prober._leaving.clear()
        return before, await prober.probe(str(model), None, **asked)  # type: ignore[arg-type]

    before, after = run(work)
    assert "do not answer" in str(before.error) and after.model is not None


def test_what_it_may_print_is_bounded(folder):
    """json.tool stands for a module that prints what it is given."""
    (folder / "big.json").write_text(json.dumps("x" * (as_user.MOST_OUTPUT_BYTES + 10)))
    argv = boot_argv("as_user", "sys.argv[2:]", *as_user.arguments("json.tool", None, 0, 0, str(folder / "big.json")))
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(argv, stdout=output, stderr=subprocess.DEVNULL, timeout=WITHIN_SECONDS, check=False)
        assert done.returncode != 0 and os.fstat(output.fileno()).st_size <= as_user.MOST_OUTPUT_BYTES


# --- under systemd ---


def test_under_systemd_it_is_a_unit(model, folder, monkeypatch):
    """Its sandbox hides homes and lets no user be changed, so PID 1 starts it. A stand-in runs what follows ``--``."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    fake = bin_folder / "systemd-run"
    fake.write_text(
        f'#!/bin/sh\nfor o; do echo "$o" >>{folder}/said; done\n'
        'while [ "$1" != -- ]; do case "$1" in StandardOutput=file:*) out="${1#*:}";; esac; shift; done\n'
        'shift; echo from systemd-run >&2; exec "$@" >"$out" 2>&1\n'
    )
    fake.chmod(0o755)
    monkeypatch.setattr(model_prober.os, "defpath", f"{bin_folder}:{os.defpath}")
    answers = folder / "answers"
    answers.mkdir()
    found = probe(model, units_in=str(answers), patience_seconds=20)
    assert found.model is not None, found
    said = (folder / "said").read_text().splitlines()
    assert {"--system", "--collect", "Type=oneshot", "TimeoutStartSec=25"} <= set(said) and "--pipe" not in said
    instead(monkeypatch, "sh", "-c", "echo its own words; exit 1")
    assert "its own words" in str(probe(model, units_in=str(answers)).error)
    instead(monkeypatch, "sh", "-c", "exit 1")
    assert "from systemd-run" in str(probe(model, units_in=str(answers)).error)
    instead(monkeypatch, "sleep", "60")
    assert "did not answer" in str(probe(model, units_in=str(answers), patience_seconds=0.3).error)
    assert os.listdir(answers) == []
    assert "No such file" in str(probe(model, units_in=str(folder / "none")).error)
    (folder / "said").unlink()
    monkeypatch.undo()
    assert probe(model).model is not None
    assert not (folder / "said").exists(), "a daemon without a sandbox starts it itself"


def test_stuck_looks_of_one_user_cost_nobody_else(monkeypatch, model, folder):
    """Counted where they are: children that were killed, and units of systemd whose groups are still there."""
    monkeypatch.setattr("p104d.daemon.model_prober._UNIT_GROUPS", (str(folder),))
    (folder / "p104-look-1.service").mkdir()
    other = os.getuid() + 70_000

    async def work(prober: Prober) -> list[Probed]:
        prober._late_units = {"p104-look-1.service": other, "p104-look-gone.service": other}
        stuck = [asyncio.create_task(asyncio.sleep(60, 0)) for _ in range(MOST_STUCK_OF_ONE - 1)]
        prober._leaving.update(dict.fromkeys(stuck, other))
        try:
            theirs = await prober.probe(str(model), None, uid=other, gid=other, user="nobody")
            return [theirs, await prober.probe(str(model), None, uid=os.getuid(), gid=0, user="")]
        finally:
            prober._leaving.clear()
            for task in stuck:
                task.cancel()

    theirs, ours = run(work)
    assert "do not answer" in str(theirs.error) and ours.error is None
