"""A shim or a zygote that somebody has stopped (SIGSTOP) hears nothing: what is asked of it is done all the same."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from process_rig import Rig, drive, eventually

from p104d.processes.attempt import Key, LookKind
from p104d.processes.events import Ended


async def running(rig: Rig, adopted: bool) -> tuple[Key, int]:
    """A job and its shim, which is this daemon's own or an earlier one's."""
    starter = rig
    if adopted:
        starter = Rig(rig.folder, token=rig.token)
        await rig.supervisor.close()
        await starter.supervisor.start()
    key = starter.sh("sleep 300", grace_seconds=0.2)
    await starter.running(key)
    if adopted:
        await starter.supervisor.close()
        await rig.supervisor.start()
        assert rig.supervisor.adopt(key)
        await rig.running(key)
    shim = rig.supervisor.look(key).pid
    assert shim is not None
    return key, shim


@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_stopped_shim_goes_on_to_end_its_job(how: str, adopted: bool) -> None:
    async def body(rig: Rig) -> None:
        key, shim = await running(rig, adopted)
        os.kill(shim, signal.SIGSTOP)
        assert getattr(rig.supervisor, how)(key)
        assert (await rig.ended(key)).reason == "stopped"

    drive(body)


@pytest.mark.parametrize("adopted", [False, True], ids=["own", "adopted"])
def test_a_shim_that_stays_deaf_is_killed(adopted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.processes.commands._DEAF_SECONDS", 0.3)
    monkeypatch.setattr("p104d.processes.commands._wake", lambda _watched: None)

    async def body(rig: Rig) -> None:
        key, shim = await running(rig, adopted)
        os.kill(shim, signal.SIGSTOP)
        assert rig.supervisor.stop(key)
        event = await rig.until(Ended, key)
        assert event.look.kind is LookKind.DEAD
        assert await rig.supervisor.sweep(key) == 0

    drive(body)


def test_a_shim_that_has_ended_its_job_in_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.processes.commands._DEAF_SECONDS", 0.3)

    async def body(rig: Rig) -> None:
        key, shim = await running(rig, False)
        assert rig.supervisor.stop(key)
        await rig.ended(key)
        next_one = rig.sh("sleep 1")
        assert (await rig.ended(next_one)).exit_code == 0
        assert shim in rig.shims()

    drive(body)


def test_a_zygote_that_stays_deaf_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p104d.processes.pool._DEAF_SECONDS", 0.5)

    async def body(rig: Rig) -> None:
        await rig.run("true")
        zygote = rig.supervisor._launcher.pid  # type: ignore[attr-defined]
        os.kill(zygote, signal.SIGSTOP)
        keys = [rig.sh("sleep 0.05") for _ in range(10)]
        for key in keys:
            assert (await rig.ended(key)).exit_code == 0
        await eventually(lambda: rig.supervisor._launcher.pid not in (None, zygote))  # type: ignore[attr-defined]
        await asyncio.sleep(0.8)  # and the next one, which has nothing to answer, stays
        again = rig.supervisor._launcher.pid  # type: ignore[attr-defined]
        await asyncio.sleep(0.8)
        assert rig.supervisor._launcher.pid == again  # type: ignore[attr-defined]

    drive(body)
