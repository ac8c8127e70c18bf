"""The daemon's end of a test: whatever its process does, the end is told once, and nothing waits for it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from engine_rig import rig_with, simulated_config

from p104d.core.units import GIB, MIB
from p104d.hardware.rig import Rig, RigFault
from p104d.memtest import child
from p104d.memtest import tester as module
from p104d.memtest.messages import Depth, Failure, Fault, Progress
from p104d.memtest.tester import EndKind, child_environment
from p104d.memtest.tester import TestEnd as End
from p104d.memtest.tester import Tester as Keeper  # what is called Test... pytest takes for a test

PATIENCE = 30.0


class Witness:
    """One test's keeper, with what it told."""

    def __init__(self, config: Any, **options: Any) -> None:
        self.progress: list[Progress] = []
        self.ends: list[End] = []
        self._news = asyncio.Event()
        self.keeper = Keeper(config, on_progress=self._heard, on_end=self._ended, **options)

    def _heard(self, progress: Progress) -> None:
        self.progress.append(progress)
        self._news.set()

    def _ended(self, end: End) -> None:
        self.ends.append(end)
        self._news.set()

    async def until(self, said: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not said():
                self._news.clear()
                await self._news.wait()

    async def end(self) -> End:
        await self.until(lambda: bool(self.ends))
        return self.ends[0]

    async def begun(self) -> None:
        await self.until(lambda: any(progress.step == "walking ones" for progress in self.progress))


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def watch(config: Any, scenario: Callable[[Witness], Awaitable[None]], **options: Any) -> Witness:
    """Runs a scenario; its test is over afterwards, and has told its end once."""

    async def run() -> Witness:
        witness = Witness(config, **options)
        try:
            await scenario(witness)
        finally:
            await witness.keeper.close()
        assert len(witness.ends) == 1
        assert witness.keeper.pid is None or gone(witness.keeper.pid)
        return witness

    return asyncio.run(run())


def slow_rig(*faults: RigFault) -> Rig:
    """A full test of it takes 42 seconds."""
    return rig_with(speedup=1.0, faults=faults)


def test_a_test_that_ends_well_brings_its_result() -> None:
    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.kind is EndKind.FINISHED and end.gone and end.text == ""
        assert end.result is not None and end.result.errors == 0 and end.result.tested_bytes > 8000 * MIB

    witness = watch(simulated_config(rig_with()), scenario)
    assert witness.progress[0].fraction == 0 and witness.progress[-1].fraction == 1


def test_a_result_full_of_errors_arrives_whole() -> None:
    """Seven thousand bad cells, of 8192 that a map may have."""

    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.result is not None, end.text
        assert end.result.fault is Fault.ALIASING and end.result.alias_offset == GIB
        assert len(end.result.cells) > 6900

    watch(simulated_config(rig_with(physical_memory=GIB)), scenario)


def test_a_test_that_is_killed_leaves_the_card_at_once() -> None:
    async def scenario(witness: Witness) -> None:
        await witness.begun()
        pid, begun = witness.keeper.pid, time.monotonic()
        assert pid is not None and not gone(pid)
        task = witness.keeper.kill()
        assert witness.keeper.kill() is task and not witness.ends
        assert await asyncio.wait_for(task, PATIENCE) is True
        assert gone(pid) and time.monotonic() - begun < 5
        end = await witness.end()
        assert (end.kind, end.gone, end.text) == (EndKind.KILLED, True, "interrupted")
        said = len(witness.progress)
        assert witness.keeper.kill() is task and len(witness.progress) == said

    watch(simulated_config(slow_rig(), Depth.FULL), scenario)


def test_a_test_may_be_killed_before_it_has_begun() -> None:
    async def scenario(witness: Witness) -> None:
        assert await asyncio.wait_for(witness.keeper.kill(), PATIENCE)
        assert (await witness.end()).kind is EndKind.KILLED

    assert watch(simulated_config(slow_rig()), scenario).progress == []


def test_a_card_that_hangs_under_the_test_is_hung() -> None:
    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.kind is EndKind.HUNG and end.result is None and end.gone
        assert "no word from the test for 1.5s: it hangs" in end.text

    rig = slow_rig(RigFault(at=3.0, kind="hang", card=0))
    witness = watch(simulated_config(rig, Depth.FULL), scenario, stall_seconds=1.5, start_seconds=PATIENCE)
    assert witness.progress


def test_a_card_that_hangs_before_the_first_word_has_the_time_to_start() -> None:
    async def scenario(witness: Witness) -> None:
        begun = time.monotonic()
        end = await witness.end()
        assert end.kind is EndKind.HUNG and time.monotonic() - begun >= 0.9

    rig = slow_rig(RigFault(at=0.0, kind="hang", card=0))
    watch(simulated_config(rig), scenario, start_seconds=1.0, stall_seconds=0.2)


def test_a_test_over_its_time_limit_is_hung() -> None:
    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.kind is EndKind.HUNG and "time limit of 2.0s" in end.text

    assert watch(simulated_config(slow_rig(), Depth.FULL), scenario, time_limit=2.0).progress


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_dies_says_by_what(number: signal.Signals) -> None:
    async def scenario(witness: Witness) -> None:
        await witness.begun()
        assert witness.keeper.pid is not None
        os.kill(witness.keeper.pid, number)
        end = await witness.end()
        assert end.kind is EndKind.DIED and end.gone and f"killed by signal {int(number)}" in end.text

    watch(simulated_config(slow_rig(), Depth.FULL), scenario)


def test_a_driver_that_refuses_is_a_failure() -> None:
    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.kind is EndKind.FAILED and end.failure is not None and end.text == end.failure.text
        assert end.failure.call == "cuInit"

    watch(simulated_config(slow_rig(RigFault(at=0.0, kind="gone", card=0))), scenario)


def test_a_fault_of_our_own_is_a_failure_too(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr("p104d.memtest.run.attempt", wrong)
    packet = child._test(simulated_config(slow_rig()), voice=child._Voice.__new__(child._Voice))
    assert isinstance(packet, Failure)
    assert packet.text == "the memory test went wrong: ValueError: a mistake"
    assert "Traceback" in capsys.readouterr().err


def test_a_ctrl_c_at_the_terminal_is_not_for_the_test() -> None:
    async def scenario(witness: Witness) -> None:
        await witness.begun()
        assert witness.keeper.pid is not None
        os.kill(witness.keeper.pid, signal.SIGINT)
        said = len(witness.progress)
        await witness.until(lambda: len(witness.progress) > said + 2)
        assert not witness.ends

    watch(simulated_config(slow_rig(), Depth.FULL), scenario)


def test_a_hold_is_not_silence() -> None:
    """The daemon takes silence for a hang: through all of a hold there is a word at least every two seconds."""

    async def scenario(witness: Witness) -> None:
        end = await witness.end()
        assert end.kind is EndKind.FINISHED, end.text
        assert sum(progress.step == "bit fade" for progress in witness.progress) > 4

    rig = rig_with(speedup=1000.0)
    config = simulated_config(rig, Depth.THOROUGH, rounds=1, hold_seconds=3000.0)  # three of ours
    watch(config, scenario, stall_seconds=2.5, start_seconds=PATIENCE)


def test_the_event_loop_is_never_held_up() -> None:
    async def scenario(witness: Witness) -> None:
        longest, last = 0.0, time.monotonic()
        while not witness.ends:
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert longest < 1.0  # the stall alone is longer: to wait for the child even once would show

    rig = slow_rig(RigFault(at=2.0, kind="hang", card=0))
    watch(simulated_config(rig, Depth.FULL), scenario, stall_seconds=2.0)


def test_the_process_sees_its_card_alone_and_nothing_else_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_OF_OURS", "1")
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "2")

    async def scenario(witness: Witness) -> None:
        await witness.begun()
        with open(f"/proc/{witness.keeper.pid}/environ", "rb") as file:
            names = {entry.partition(b"=")[0] for entry in file.read().split(b"\0") if entry}
        assert names <= {b"PATH", b"LD_LIBRARY_PATH", b"CUDA_DEVICE_MAX_CONNECTIONS", b"CUDA_VISIBLE_DEVICES"}
        assert b"CUDA_DEVICE_MAX_CONNECTIONS" in names
        with open(f"/proc/{witness.keeper.pid}/comm", encoding="ascii") as file:
            assert file.read().strip() == "p104d-memtest"

    watch(simulated_config(slow_rig(), Depth.FULL), scenario)
    kept = child_environment({"PATH": "/bin", "LD_LIBRARY_PATH": "/opt", "HOME": "/root", "CUDA_X": "1"})
    assert kept == {"PATH": "/bin", "LD_LIBRARY_PATH": "/opt", "CUDA_X": "1"}


_ORPHAN = """
import asyncio, sys, msgspec
from p104d.memtest.messages import TestConfig
from p104d.memtest.tester import Tester

async def main():
    config = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=TestConfig)
    tester = Tester(config, on_progress=lambda progress: print(tester.pid, flush=True), on_end=lambda end: None)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_test_dies_with_its_daemon() -> None:
    config = msgspec.msgpack.encode(simulated_config(slow_rig(), Depth.FULL))
    with subprocess.Popen([sys.executable, "-c", _ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdin is not None and daemon.stdout is not None
        daemon.stdin.write(config)
        daemon.stdin.close()
        pid = int(daemon.stdout.readline())
        descriptor = os.pidfd_open(pid)
        daemon.kill()
    try:
        assert select.select([descriptor], [], [], PATIENCE)[0]
    finally:
        os.close(descriptor)


class _FakeChild:
    """A process to play with, in the place of a real one."""

    made: _FakeChild
    pid, exit_status = 1 << 22, None

    def __init__(self, module: str, *, on_packet: Any, on_closed: Any, **more: Any) -> None:
        _FakeChild.made = self
        self.on_packet, self.on_closed = on_packet, on_closed
        self.released = asyncio.Event()
        self.reaped: asyncio.Task[bool] | None = None

    def finish(self) -> None:
        self.reaped = asyncio.get_running_loop().create_task(self.released.wait())  # type: ignore[arg-type]

    def abandon(self) -> None:
        return None


def test_a_process_that_cannot_die_is_told_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ChildProcess", _FakeChild)
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.05)

    async def scenario() -> None:
        witness = Witness(simulated_config(slow_rig()))
        task = witness.keeper.kill()
        end = await witness.end()
        assert (end.kind, end.gone) == (EndKind.KILLED, False) and not task.done()
        _FakeChild.made.released.set()
        assert await task is True  # now a job may start
        await witness.keeper.close()
        assert len(witness.ends) == 1

    asyncio.run(scenario())


def test_what_is_not_understood_ends_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ChildProcess", _FakeChild)

    async def scenario() -> None:
        witness = Witness(simulated_config(slow_rig()))
        _FakeChild.made.on_packet(b"\xc1\xff\x00")
        _FakeChild.made.released.set()
        end = await witness.end()
        assert end.kind is EndKind.DIED and "not understood" in end.text

    asyncio.run(scenario())


def test_where_no_process_can_be_started_the_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module, "ChildProcess", refuse)

    async def scenario(witness: Witness) -> None:
        assert witness.keeper.pid is None and not witness.ends
        end = await witness.end()
        assert (end.kind, end.gone) == (EndKind.DIED, True)
        assert end.text == "the test's process cannot be started: Resource temporarily unavailable"

    watch(simulated_config(slow_rig()), scenario)
