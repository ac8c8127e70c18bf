"""The sensor process and its keeper: hanging cards, dying processes, and a daemon that is never held up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hardware_rigs import fault, rig_of

from p104d.core.card import CardReport
from p104d.core.units import GIB
from p104d.hardware.messages import Cycle, DriverProblem
from p104d.hardware.rig import Rig, load_rig
from p104d.hardware.sensors import Sensors

#: A bound for what should take a fraction of a second, on a machine that is busy with other tests.
PATIENCE = 30.0


class Ear:
    """Hears cycles and waits for one that has something to say."""

    def __init__(self) -> None:
        self.cycles: list[Cycle] = []
        self._news = asyncio.Event()

    def __call__(self, cycle: Cycle) -> None:
        self.cycles.append(cycle)
        self._news.set()

    async def until(self, said: Callable[[Cycle], bool], after: int = 0) -> Cycle:
        """The first cycle, of those numbered above ``after``, of which ``said`` is true."""
        seen = 0
        async with asyncio.timeout(PATIENCE):
            while True:
                for cycle in self.cycles[seen:]:
                    if cycle.sequence > after and said(cycle):
                        return cycle
                seen = len(self.cycles)
                self._news.clear()
                await self._news.wait()


@contextlib.asynccontextmanager
async def running(rig: Rig | None, **options: Any) -> AsyncIterator[tuple[Sensors, Ear]]:
    """Sensors with short deadlines on a simulated rig."""
    ear = Ear()
    settings: dict[str, Any] = {"interval": 0.05, "deadline": 1.0, "probe_seconds": (0.1, 0.4)}
    sensors = Sensors(simulate=rig, epoch=time.monotonic(), on_cycle=ear, **{**settings, **options})
    await sensors.start()
    try:
        yield sensors, ear
    finally:
        await sensors.close()


def by_index(cycle: Cycle) -> dict[int, CardReport]:
    return {card.identity.index: card for card in cycle.cards}


def faults(cycle: Cycle) -> dict[int, str | None]:
    return {index: card.fault for index, card in by_index(cycle).items()}


def gone(pid: int) -> bool:
    """Whether the process is dead (a zombie of somebody else's is)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while not gone(pid):
            await asyncio.sleep(0.01)


def test_a_card_that_hangs_is_told_and_the_others_go_on_and_it_comes_back() -> None:
    async def scenario() -> None:
        rig = rig_of(3, fault("hang", at=0.5, seconds=3.0))
        async with running(rig) as (sensors, ear):
            first = await ear.until(lambda cycle: len(cycle.cards) == 3)
            pid = sensors.pid
            hung = await ear.until(lambda cycle: faults(cycle) == {0: None, 1: "hang", 2: None})
            assert by_index(hung)[1].identity == by_index(first)[1].identity
            assert by_index(hung)[1].reading.temperature_celsius is None
            assert by_index(hung)[0].reading.temperature_celsius == 34
            assert sensors.restarts == 1
            await until_gone(pid)
            back = await ear.until(lambda cycle: not any(faults(cycle).values()), after=hung.sequence)
            assert by_index(back)[1].reading.temperature_celsius == 34
            # Nobody else left service meanwhile, and no cycle was lost or counted twice.
            assert all(faults(cycle)[0] is None and faults(cycle)[2] is None for cycle in ear.cycles)
            assert [cycle.sequence for cycle in ear.cycles] == list(range(1, len(ear.cycles) + 1))
            assert sensors.restarts == 1

    asyncio.run(scenario())


def test_while_a_card_hangs_the_event_loop_does_not_wait() -> None:
    async def scenario() -> None:
        rig = rig_of(2, fault("hang", at=1.0))
        longest = 0.0
        async with running(rig, deadline=3.0) as (_, ear):
            told = asyncio.ensure_future(ear.until(lambda cycle: faults(cycle).get(1) == "hang"))
            last = time.monotonic()
            while not told.done():
                await asyncio.sleep(0.005)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            await told
        assert longest < 1.5  # the deadline alone is longer: to wait for the child even once would show

    asyncio.run(scenario())


def test_two_cards_may_hang_one_after_the_other() -> None:
    async def scenario() -> None:
        rig = rig_of(3, fault("hang", at=1.0), fault("hang", at=1.0, card=2))
        async with running(rig) as (sensors, ear):
            await ear.until(lambda cycle: faults(cycle) == {0: None, 1: "hang", 2: "hang"})
            assert sensors.restarts == 2

    asyncio.run(scenario())


def test_a_card_that_hangs_from_the_start_is_a_problem_with_its_address() -> None:
    async def scenario() -> None:
        async with running(rig_of(2, fault("hang", at=0.0))) as (_, ear):
            cycle = await ear.until(lambda cycle: cycle.problem is not None)
            assert cycle.problem is not None
            assert cycle.problem.kind == "card_hangs"
            assert "00000000:02:00.0" in cycle.problem.message
            assert faults(cycle) == {0: None}

    asyncio.run(scenario())


def test_a_sensor_that_is_killed_is_started_anew_and_tells_no_xid_twice() -> None:
    async def scenario() -> None:
        xids = [fault("xid", at=at, code=code) for at, code in ((0.0, 31), (0.5, 62), (1.0, 79))]
        async with running(rig_of(2, *xids)) as (sensors, ear):
            await ear.until(lambda cycle: any(xid.code == 62 for xid in cycle.xids))
            assert sensors.pid is not None
            os.kill(sensors.pid, signal.SIGKILL)
            last = await ear.until(lambda cycle: any(xid.code == 79 for xid in cycle.xids))
            await ear.until(lambda cycle: True, after=last.sequence)
            assert [xid.code for cycle in ear.cycles for xid in cycle.xids] == [31, 62, 79]
            assert sensors.restarts == 1

    asyncio.run(scenario())


def test_a_sensor_that_keeps_dying_is_told_with_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named anything >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    async def scenario() -> None:
        async with running(rig_of(1)) as (sensors, ear):
            cycle = await ear.until(lambda cycle: cycle.problem is not None)
            assert cycle.problem is not None
            assert cycle.problem.kind == "sensor"
            assert "no module named anything" in cycle.problem.message
            assert cycle.cards == ()
            assert sensors.restarts >= 3

    asyncio.run(scenario())


def first_problem(rig: Rig | None) -> DriverProblem:
    """What the sensor process itself says is in the way."""

    async def scenario() -> DriverProblem:
        async with running(rig) as (_, ear):
            cycle = await ear.until(lambda cycle: cycle.problem is not None)
            assert cycle.problem is not None
            assert cycle.cards == ()
            return cycle.problem

    return asyncio.run(scenario())


def test_a_shadowed_pynvml_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml").mkdir()
    (tmp_path / "pynvml" / "__init__.py").write_text("class NVMLError(Exception): pass\ndef nvmlInit(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert first_problem(rig_of(1)).kind == "shadowed"


def test_a_pynvml_that_does_not_load_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('made for another Python')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    problem = first_problem(rig_of(1))
    assert problem.kind == "no_pynvml"
    assert "made for another Python" in problem.message


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a driver here")
def test_without_a_driver_there_are_no_cards_and_a_way_on() -> None:
    problem = first_problem(None)
    assert problem.kind == "no_driver"
    assert "--simulate" in problem.mend


def test_a_look_now_does_not_wait_for_the_interval() -> None:
    async def scenario() -> None:
        async with running(rig_of(1), interval=3600.0) as (sensors, ear):
            first = await ear.until(lambda cycle: True)
            sensors.look_now()
            second = await ear.until(lambda cycle: True, after=first.sequence)
            sensors.set_interval(0.05)
            third = await ear.until(lambda cycle: True, after=second.sequence + 2)
            assert third.monotonic - second.monotonic < PATIENCE

    asyncio.run(scenario())


def test_job_processes_are_on_their_cards_while_they_live_and_see_them() -> None:
    async def scenario() -> None:
        rig = rig_of(2)
        uuid = rig.cards[1].uuid
        plain = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        shown = subprocess.Popen(["sleep", "600"], env={**plain, "CUDA_VISIBLE_DEVICES": uuid})
        blind = subprocess.Popen(["sleep", "600"], env={**plain, "CUDA_VISIBLE_DEVICES": ""})
        try:
            async with running(rig) as (sensors, ear):
                sensors.set_processes([(shown.pid, uuid, 3 * GIB), (blind.pid, uuid, GIB)])
                used = await ear.until(lambda cycle: by_index(cycle)[1].reading.memory_used_bytes == 3 * GIB)
                processes = by_index(used)[1].reading.processes
                assert processes is not None
                assert [(one.pid, one.memory_bytes) for one in processes] == [(shown.pid, 3 * GIB)]
                assert by_index(used)[1].reading.utilization_percent
                assert by_index(used)[0].reading.memory_used_bytes == 0
                assert by_index(used)[0].reading.utilization_percent == 0
                shown.kill()  # not yet waited for: a zombie holds no memory
                freed = await ear.until(
                    lambda cycle: by_index(cycle)[1].reading.memory_used_bytes == 0, after=used.sequence
                )
                assert by_index(freed)[1].reading.processes == ()
        finally:
            for process in (shown, blind):
                process.kill()
                process.wait()

    asyncio.run(scenario())


def test_the_kernel_log_is_read_on_over_a_restart(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text("4,100,1,-;NVRM: Xid (PCI:0000:02:00): 79, pid=1, name=old, before the start\n")

    async def scenario() -> None:
        async with running(rig_of(2), kernel_log=str(log)) as (sensors, ear):
            first = await ear.until(lambda cycle: True)
            assert first.kernel_sequence == 100
            assert sensors.pid is not None
            os.kill(sensors.pid, signal.SIGKILL)
            with log.open("a") as file:
                file.write("4,101,2,-;NVRM: Xid (PCI:0000:02:00): 31, pid=77, name=python3, MMU Fault\n")
            cycle = await ear.until(lambda cycle: bool(cycle.xids))
            (xid,) = cycle.xids
            assert (xid.code, xid.pid, xid.uuid) == (31, 77, by_index(first)[1].identity.uuid)
            await ear.until(lambda cycle: True, after=cycle.sequence + 1)
            assert sum(len(cycle.xids) for cycle in ear.cycles) == 1

    asyncio.run(scenario())


def test_closing_ends_hung_sensors_and_probes_too() -> None:
    async def scenario() -> list[int]:
        async with running(rig_of(2, fault("hang", at=1.0)), probe_seconds=(0.01, 0.02)) as (_, ear):
            await ear.until(lambda cycle: faults(cycle).get(1) == "hang")
            await ear.until(lambda cycle: True, after=ear.cycles[-1].sequence + 3)
            return children()

    async def ended(found: list[int]) -> None:
        for pid in found:
            await until_gone(pid)

    before = set(children())
    found = [pid for pid in asyncio.run(scenario()) if pid not in before]
    assert found
    asyncio.run(ended(found))


def children() -> list[int]:
    """The processes of this process: its sensors, and what other tests may have left to it."""
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]


DAEMON = """
import asyncio, sys, time
from p104d.hardware.rig import load_rig
from p104d.hardware.sensors import Sensors
async def main():
    def told(cycle):
        print(sensors.pid, cycle.cards[-1].fault, flush=True)
    rig, epoch = load_rig(sys.argv[1]), time.monotonic()
    sensors = Sensors(simulate=rig, epoch=epoch, interval=0.05, deadline=600, on_cycle=told)
    await sensors.start()
    await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("hanging", [False, True])
def test_a_sensor_does_not_outlive_its_daemon(tmp_path: Path, hanging: bool) -> None:
    rig = tmp_path / "rig.toml"
    rig.write_text('[[card]]\n[[fault]]\ncard = 0\nkind = "hang"\nat = "' + ("400ms" if hanging else "1h") + '"\n')
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    daemon = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(rig)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with daemon:
        assert daemon.stdout is not None
        pid = int(daemon.stdout.readline().split()[0])
        if hanging:
            assert asyncio.run(blocked(pid))
        daemon.kill()
        daemon.wait()
    asyncio.run(until_gone(pid))


async def blocked(pid: int) -> bool:
    """Until the process blocks all signals, as the simulator's hanging call does."""
    async with asyncio.timeout(PATIENCE):
        while True:
            status = Path(f"/proc/{pid}/status").read_text()
            mask = next(line for line in status.splitlines() if line.startswith("SigBlk"))
            if int(mask.split()[1], 16) & 1 << (signal.SIGTERM - 1):
                return True
            await asyncio.sleep(0.01)


def test_cards_that_leave_are_absent_and_named_again_when_back(tmp_path: Path) -> None:
    path = tmp_path / "rig.toml"
    path.write_text('[[card]]\n[[card]]\n[[fault]]\ncard = 0\nkind = "gone"\nat = "300ms"\nfor = "300ms"\n')

    async def scenario() -> None:
        async with running(load_rig(str(path))) as (sensors, ear):
            both = await ear.until(lambda cycle: len(cycle.cards) == 2)
            one = await ear.until(lambda cycle: len(cycle.cards) == 1)
            assert by_index(one)[0].identity.uuid == by_index(both)[1].identity.uuid
            back = await ear.until(lambda cycle: len(cycle.cards) == 2, after=one.sequence)
            identities = [card.identity for card in back.cards]
            assert identities == [card.identity for card in both.cards]
            assert sensors.restarts == 0

    asyncio.run(scenario())


def test_everything_survives_the_way_between_the_processes() -> None:
    rig = rig_of(2, fault("moved", at=0.1, bus_id="00000000:0B:00.0"), fault("hot", at=0.1, card=0))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rig), type=Rig) == rig
