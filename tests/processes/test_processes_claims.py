"""The claim: whoever makes it owns the attempt, and the folder always says what is known."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from process_rig import Rig, drive

from p104d.processes import attempt, identity, record
from p104d.processes.attempt import Key, LaunchSpec, LookKind
from p104d.processes.events import LaunchFailed
from p104d.processes.holding import Holding, NotOursError

EXIT: record.ExitDict = {
    "version": 1, "exit_code": 3, "signal": None, "reason": None, "started_at": 1.5, "ended_at": 2.5,
    "wall_seconds": 1.0, "user_seconds": 0.1, "system_seconds": 0.2, "max_rss_bytes": 4096, "log_bytes": 7,
    "dropped_bytes": 0, "left_behind": 0,
}  # fmt: skip


@pytest.fixture
def folder() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        path = f"{root}/0/1-1"
        attempt.write_launch(
            LaunchSpec(id=1, number=1, argv=("true",), env={}, cwd="/", folder=path, events=f"{root}/events")
        )
        yield path


def test_the_life_of_a_folder(folder: str) -> None:
    assert attempt.look(folder).kind is LookKind.UNCLAIMED
    hold = Holding(folder)
    hold.take(None)
    found = attempt.look(folder)
    assert (found.kind, found.pid) == (LookKind.RUNNING, os.getpid())
    assert found.start == identity.start_time(os.getpid())
    hold.note("job 77 12.5")
    found = attempt.look(folder)
    assert (found.job_pid, found.started_at) == (77, 12.5)
    hold.write_exit(EXIT)
    assert attempt.look(folder).kind is LookKind.ENDED  # already while the shim is still alive
    hold.close()
    found = attempt.look(folder)
    assert found.kind is LookKind.ENDED and found.exit is not None
    assert (found.exit.exit_code, found.exit.ended_at) == (3, 2.5)


def test_a_shim_that_let_go_without_a_record_is_dead(folder: str) -> None:
    hold = Holding(folder)
    hold.take("/sys/fs/cgroup/some/job-1-1")
    hold.close()
    found = attempt.look(folder)
    assert (found.kind, found.group, found.boot) == (LookKind.DEAD, "/sys/fs/cgroup/some/job-1-1", identity.boot_id())


def test_looking_at_an_unclaimed_attempt_leaves_its_lock_alone(folder: str) -> None:
    descriptor = os.open(f"{folder}/exit", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # would be in the way of nobody but a taker
        attempt.look(folder)
        other = os.open(f"{folder}/exit", os.O_RDWR)
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(other)
        assert attempt.look(folder).kind is LookKind.UNCLAIMED
    finally:
        os.close(descriptor)


def test_a_late_shim_leaves_the_note_of_the_dead_one(folder: str) -> None:
    hold = Holding(folder)
    hold.take("/sys/fs/cgroup/some/job-1-1")
    hold.close()
    with pytest.raises(NotOursError):
        Holding(folder).take(None)
    assert attempt.look(folder).group == "/sys/fs/cgroup/some/job-1-1"


def test_revoked_is_revoked(folder: str) -> None:
    assert attempt.revoke(folder) is True
    assert attempt.revoke(folder) is True
    assert attempt.look(folder).kind is LookKind.REVOKED
    with pytest.raises(NotOursError):
        Holding(folder).take(None)
    assert attempt.look(folder).kind is LookKind.REVOKED


def test_revoking_where_nobody_ever_came() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as root:
        folder = attempt.folder_of(root, Key("job", 123456, 7))
        assert folder == f"{root}/123/123456-7"
        assert attempt.look(folder).kind is LookKind.UNCLAIMED
        assert attempt.revoke(folder) is True
        assert attempt.look(folder).kind is LookKind.REVOKED


def test_claimed_cannot_be_revoked(folder: str) -> None:
    hold = Holding(folder)
    hold.take(None)
    assert attempt.revoke(folder) is False
    hold.close()
    assert attempt.revoke(folder) is False  # not even when the shim is dead: the job may have run


def test_a_second_shim_steps_back(folder: str) -> None:
    hold = Holding(folder)
    hold.take(None)
    with pytest.raises(NotOursError):
        Holding(folder).take(None)
    assert attempt.look(folder).pid == os.getpid()
    hold.close()
    with pytest.raises(NotOursError):
        Holding(folder).take(None)
    assert attempt.look(folder).kind is LookKind.DEAD


RACER = """
import sys, time
sys.path.append(sys.argv[1])
from p104d.processes.holding import Holding, NotOursError
for line in sys.stdin:
    folder, wait = line.split()
    end = time.perf_counter() + float(wait)
    while time.perf_counter() < end:
        pass
    try:
        hold = Holding(folder)
        hold.take(None)
        print("mine", flush=True)
    except NotOursError:
        print("not", flush=True)
"""


def test_of_a_claim_and_a_revocation_exactly_one_wins() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(attempt.__file__))))
    claimed, patience = 0, 0.0
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        subprocess.Popen([sys.executable, "-S", "-c", RACER, root], stdin=-1, stdout=-1, text=True) as racer,
    ):
        assert racer.stdin is not None and racer.stdout is not None
        for number in range(300):
            path = f"{folder}/{number}"
            attempt.write_launch(LaunchSpec(id=1, number=1, argv=("true",), env={}, cwd="/", folder=path))
            racer.stdin.write(f"{path} {-patience}\n")
            racer.stdin.flush()
            begun = time.perf_counter()
            while time.perf_counter() - begun < patience:
                pass
            revoked = attempt.revoke(path)
            shim_has_it = racer.stdout.readline() == "mine\n"
            assert revoked != shim_has_it
            claimed += shim_has_it
            patience += -3e-5 if shim_has_it else 3e-5  # hover where both come at once
            assert attempt.look(path).kind is (LookKind.RUNNING if shim_has_it else LookKind.REVOKED)
        racer.stdin.close()
    assert 30 < claimed < 270  # both sides came to win, or nothing was raced


def test_a_revoked_attempt_never_runs() -> None:
    async def body(rig: Rig) -> None:
        spec = rig.spec("/bin/sh", "-c", "echo ran > proof", cwd=rig.folder)
        assert rig.supervisor.revoke(spec.key)
        rig.supervisor.launch(spec)
        assert isinstance(await rig.until(LaunchFailed, spec.key), LaunchFailed)
        ended, _ = await rig.run("true")  # whatever was to come of it has come by now
        assert ended.exit_code == 0
        assert not os.path.exists(f"{rig.folder}/proof")

    drive(body)


def test_a_launch_that_cannot_be_written_is_told_as_an_event() -> None:
    async def body(rig: Rig) -> None:
        with open(f"{rig.folder}/jobs/0", "w"):
            pass  # a file where the folder should be
        key = rig.launch("true")
        with pytest.raises(AssertionError):
            await rig.until(LaunchFailed, key, 0.3)  # it cannot be revoked there either: nothing may be promised yet
        os.unlink(f"{rig.folder}/jobs/0")
        failed = await rig.until(LaunchFailed, key)
        assert "cannot be written" in failed.text
        assert rig.supervisor.look(key).kind is LookKind.REVOKED

    drive(body)


@given(st.text(max_size=3000), st.one_of(st.none(), st.integers(0, 255)))
def test_any_exit_record_comes_back_as_it_was(reason: str, code: int | None) -> None:
    data = record.encode_exit({**EXIT, "reason": reason, "exit_code": code})
    assert len(data) == record.EXIT_BYTES
    back = record.decode_exit(data)
    assert back is not None
    assert back["exit_code"] == code
    assert reason.startswith(back["reason"][:300]) or "?" in back["reason"]


@given(st.integers(0, 400))
def test_a_record_written_in_part_is_none(kept: int) -> None:
    data = record.encode_exit(EXIT)
    whole = data.rstrip(b"\0")
    partial = whole[: min(kept, len(whole) - 1)].ljust(record.EXIT_BYTES, b"\0")
    assert record.decode_exit(partial) is None


@given(st.integers(0, 250), st.integers(1, 255))
def test_a_damaged_record_is_none(at: int, change: int) -> None:
    data = bytearray(record.encode_exit(EXIT))
    at %= len(data.rstrip(b"\0"))
    data[at] ^= change
    assert record.decode_exit(bytes(data)) is None


def test_what_was_never_written_is_none() -> None:
    assert record.decode_exit(b"") is None
    assert record.decode_exit(bytes(record.FILE_BYTES)) is None
    assert record.parse_note(bytes(record.FILE_BYTES)).owner == record.NOBODY
