"""No descriptor is to be had just when something ends: it is asked again, and no end is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest
from process_rig import Rig, drive, eventually, is_alive
from starving import starved

from p104d.processes import attempt, identity
from p104d.processes.attempt import Key
from p104d.processes.events import Ended


def waits_for_go(rig: Rig, code: int) -> str:
    return f"while [ ! -e {rig.folder}/go ]; do sleep 0.02; done; exit {code}"


async def adopted(rig: Rig, script: str) -> tuple[Rig, Key]:
    """A job that was started by an earlier daemon, and the daemon that has found it."""
    earlier = Rig(rig.folder, token=rig.token)
    await rig.supervisor.close()
    await earlier.supervisor.start()
    key = earlier.sh(script)
    await earlier.running(key)
    await earlier.supervisor.close()
    await rig.supervisor.start()
    assert rig.supervisor.adopt(key)
    await rig.running(key)
    return earlier, key


async def end_starved(rig: Rig, key: Key) -> None:
    """The job ends, and its shim has told so, while nothing can be opened."""
    pid = next(event.pid for event in rig.events if event.key == key and hasattr(event, "pid"))
    with open(f"{rig.folder}/go", "w"):
        pass
    with starved():
        # A pid without a file: whether it lives is asked of the kernel.
        await eventually(lambda: not _exists(pid))
        await asyncio.sleep(0.3)  # what the shim tells is heard in this time, and cannot be followed up
        assert not [event for event in rig.events if isinstance(event, Ended) and event.key == key]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_end_that_cannot_be_read_is_asked_again_and_its_shim_is_free() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh(waits_for_go(rig, 7))
        await rig.running(key)
        shims = rig.shims()
        await end_starved(rig, key)
        assert (await rig.ended(key)).exit_code == 7
        assert (await rig.run("true"))[0].exit_code == 0
        assert set(rig.shims()) >= set(shims)  # none was lost to it

    drive(body)


def test_the_end_of_an_adopted_job_is_asked_again() -> None:
    async def body(rig: Rig) -> None:
        _, key = await adopted(rig, waits_for_go(rig, 8))
        await end_starved(rig, key)
        assert (await rig.ended(key)).exit_code == 8

    drive(body)


def test_a_shim_that_dies_unread_is_found_dead() -> None:
    async def body(rig: Rig) -> None:
        key = rig.sh("sleep 300")
        await rig.running(key)
        shim = rig.supervisor.look(key).pid
        assert shim is not None
        with starved():
            os.kill(shim, signal.SIGKILL)
            await asyncio.sleep(0.3)
            assert not [event for event in rig.events if isinstance(event, Ended)]
        await rig.until(Ended, key)
        assert await rig.supervisor.sweep(key) == 0

    drive(body)


def test_a_cancel_that_finds_no_descriptor_says_so_and_reaches_no_other_job() -> None:
    async def body(rig: Rig) -> None:
        first = rig.sh(waits_for_go(rig, 0))
        await rig.running(first)
        await end_starved(rig, first)
        with starved(), pytest.raises(OSError, match="open files"):
            rig.supervisor.stop(first)  # whose shim is free for others by now
        second = rig.sh("sleep 0.5; exit 3")
        await rig.ended(first)
        assert not rig.supervisor.stop(first)
        assert (await rig.ended(second)).exit_code == 3

    drive(body)


def test_who_cannot_be_asked_for_is_not_taken_for_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pidfd can be had, and then no descriptor more to look whose it is."""
    start = identity.start_time(os.getpid())
    assert start is not None

    def refused(_pid: int) -> list[bytes]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(identity, "_read_stat", refused)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match="open files"):
            identity.open_pidfd(os.getpid(), start)
        assert len(os.listdir("/proc/self/fd")) == before
    assert identity.open_pidfd(os.getpid(), start + 1) is None


def test_an_adopted_shim_that_cannot_be_read_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint of its end comes over the socket while the folder's disk fails."""
    real = attempt.look
    failing = True

    def look(folder: str) -> attempt.Look:
        if failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(folder)

    async def body(rig: Rig) -> None:
        nonlocal failing
        failing = False
        _, key = await adopted(rig, waits_for_go(rig, 9))
        shim = rig.supervisor.look(key).pid
        monkeypatch.setattr(attempt, "look", look)
        failing = True
        with open(f"{rig.folder}/go", "w"):
            pass
        await eventually(lambda: not is_alive(shim or 0))
        await asyncio.sleep(0.1)
        failing = False
        assert (await rig.ended(key)).exit_code == 9

    drive(body)
