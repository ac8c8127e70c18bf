"""The sampler: what a cycle leaves in the history, whatever the clock, the disk and the host do."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from p104d.core.card import CardIdentity, CardReading, CardReport
from p104d.core.clock import ManualClock
from p104d.core.errors import NotFoundError, UnavailableError
from p104d.core.units import MIB
from p104d.daemon import sampler as sampler_module
from p104d.daemon.host import HostReader
from p104d.daemon.sampler import HOST, Sampler, SamplerSettings
from p104d.hardware.messages import Cycle
from p104d.store import telemetry_file, telemetry_keeping
from p104d.store.telemetry import NewChunk, Telemetry

DAY0 = 1_760_054_400.0
CARD, OTHER = "GPU-00000000-aaaa", "GPU-00000001-bbbb"


def reading(degrees: int = 60, **more: Any) -> CardReading:
    return CardReading(temperature_celsius=degrees, **more)


class Bench:
    """A sampler and a clock that both of its ends go by."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.path = folder / "telemetry.db"
        self.clock = ManualClock(DAY0)
        self.sampler = Sampler(self.path, folder, SamplerSettings(**settings), self.clock)

    def cycle(self, *reports: CardReport, after: float = 1.0) -> None:
        """A look at the cards, ``after`` seconds after the last."""
        seen = reports or (self.report(),)
        now = self.clock.monotonic()
        self.sampler.on_cycle(Cycle(at=self.clock.now(), monotonic=now, sequence=int(now), cards=seen))
        self.clock.advance(after)

    @staticmethod
    def report(uuid: str = CARD, read: CardReading | None = None, fault: str | None = None) -> CardReport:
        identity = CardIdentity(uuid=uuid, index=0)
        return CardReport(identity=identity, reading=read or reading(), fault=fault)

    async def minutes(self, count: int, *reports: CardReport) -> None:
        """So many minutes of cycles, each written before the next."""
        for _ in range(count):
            for _ in range(60):
                self.cycle(*reports)
            await self.sampler.flush()

    async def raw(self, metric: str = "temperature_celsius", entity: str = CARD) -> dict[float, float]:
        found = await self.sampler.series(entity, metric, DAY0 - 9e5, DAY0 + 9e4, 1.0)
        assert len(found.times) == len(found.mean)
        return {at - DAY0: value for at, value in zip(found.times, found.mean, strict=True)}


def recorded(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM chunks").fetchone()[0])
    finally:
        connection.close()


def test_every_reading_of_a_card_is_recorded_in_its_unit(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        whole = CardReading(
            temperature_celsius=61,
            fan_percent=70,
            power_watts=143.26,
            power_limit_watts=180.0,
            sm_clock_mhz=1733,
            memory_clock_mhz=5005,
            utilization_percent=98,
            memory_utilization_percent=61,
            memory_used_bytes=4321 * MIB + 5,
            throttle=("software power cap",),
            link_generation=1,
            link_width=4,
            pcie_receive_bytes_per_second=123_456_789,
            pcie_transmit_bytes_per_second=0,
        )
        bench.cycle(bench.report(read=whole))
        expected = {
            "temperature_celsius": 61,
            "fan_percent": 70,
            "power_watts": 143.3,
            "power_limit_watts": 180.0,
            "sm_clock_mhz": 1733,
            "memory_clock_mhz": 5005,
            "utilization_percent": 98,
            "memory_utilization_percent": 61,
            "memory_used_bytes": 4321 * MIB,
            "link_generation": 1,
            "link_width": 4,
            "pcie_receive_bytes_per_second": 123_457_000,
            "pcie_transmit_bytes_per_second": 0,
        }
        for _ in range(2):  # in memory, then in the file
            assert {name: list((await bench.raw(name)).values()) for name in expected} == {
                name: [value] for name, value in expected.items()
            }
            flags = await bench.sampler.series(CARD, "throttle_bits", DAY0, DAY0 + 9, 1.0)
            assert flags.minimum == [4]
            await bench.sampler.flush()
        assert await bench.sampler.entities() == [CARD, HOST]
        with pytest.raises(NotFoundError):
            await bench.raw("warmth")
        await bench.sampler.close()

    asyncio.run(run())


def test_a_minute_is_written_when_it_is_over(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        for _ in range(60):
            bench.cycle()
        assert not bench.path.exists()
        bench.cycle()
        task = bench.sampler._task
        assert task is not None
        await task
        assert recorded(bench.path) == 2  # the card's minute and the host's
        assert len(await bench.raw()) == 61
        await bench.sampler.close()
        assert recorded(bench.path) == 4
        kept = Telemetry(bench.path)
        assert len(kept.series(CARD, "temperature_celsius", DAY0, DAY0 + 99, 1.0).times) == 61
        kept.close()

    asyncio.run(run())


def test_faults_missing_cards_and_absent_readings_are_gaps(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.cycle(bench.report(), bench.report(OTHER))
        bench.cycle(bench.report(fault="hang", read=reading(99)), bench.report(OTHER))
        bench.cycle(bench.report(OTHER))
        bench.cycle(bench.report(read=reading(62, power_watts=9.0)), bench.report(OTHER, CardReading()))
        for _ in range(2):
            assert await bench.raw() == {0: 60, 3: 62}
            assert await bench.raw("power_watts") == {3: 9.0}
            assert await bench.raw(entity=OTHER) == {0: 60, 1: 60, 2: 60}
            assert await bench.raw("throttle_bits", OTHER) == {}
            await bench.sampler.flush()
        await bench.sampler.close()

    asyncio.run(run())


@pytest.mark.parametrize(("interval", "count"), [(1.0, 60), (2.0, 30), (5.0, 12)])
def test_the_interval_is_kept_and_other_looks_are_not_recorded(tmp_path: Path, interval: float, count: int) -> None:
    async def run() -> None:
        bench = Bench(tmp_path, interval=interval)
        late = 0.02
        for second in range(60):
            bench.cycle(after=0.3 if second % 9 == 4 else 1.0 + late)
            if second % 9 == 4:
                bench.cycle(after=0.7)
            late = -late
        assert abs(len(await bench.raw()) - count) <= 1
        await bench.sampler.close()

    asyncio.run(run())


@pytest.mark.parametrize("jump", [-86400.0, -7.0, 7.0, 86400.0, -DAY0 - 10])
def test_a_clock_that_jumps_loses_no_sample_and_raises_nothing(tmp_path: Path, jump: float) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        for _ in range(30):
            bench.cycle()
        bench.clock.jump(jump)
        for _ in range(100):
            bench.cycle()
        await bench.sampler.flush()
        await bench.sampler.maintain()
        found = await bench.sampler.series(CARD, "temperature_celsius", DAY0 - 9e4, DAY0 + 9e4, 1.0)
        other = await bench.sampler.series(CARD, "temperature_celsius", -1e5, 1e5, 1.0)
        assert len(found.times) + len(other.times) == 130
        assert bench.sampler.warnings() == []
        await bench.sampler.close()

    asyncio.run(run())


def test_a_clock_that_stands_still_is_written_all_the_same(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        for _ in range(61):
            bench.cycle()
            bench.clock.jump(-1.0)
        assert bench.sampler._task is not None
        await bench.sampler._task
        assert recorded(bench.path) == 2
        await bench.sampler.close()

    asyncio.run(run())


def test_a_full_disk_is_one_warning_and_no_sample_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_store: Telemetry, _chunks: Sequence[NewChunk]) -> None:
        raise UnavailableError("telemetry cannot be written: disk is full", mend="free space")

    async def run() -> None:
        bench = Bench(tmp_path)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(Telemetry, "append", full)
            await bench.minutes(3)
            assert len(await bench.raw()) == 180
        assert bench.sampler.warnings() == ["telemetry cannot be written: disk is full; free space"]
        assert len(caplog.records) == 1
        await bench.minutes(1)
        assert bench.sampler.warnings() == []
        assert len(await bench.raw()) == 240
        await bench.sampler.close()
        kept = Telemetry(bench.path)
        assert len(kept.series(CARD, "temperature_celsius", DAY0, DAY0 + 999, 1.0).times) == 240
        kept.close()

    asyncio.run(run())


def test_memory_is_bounded_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_store: Telemetry, _chunks: Sequence[NewChunk]) -> None:
        raise ValueError("a fault of our own")

    async def run() -> None:
        bench = Bench(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(Telemetry, "append", broken)
            patch.setattr(sampler_module, "_MOST_WAITING_BYTES", 2000)
            await bench.minutes(9)
        held = sum(len(chunk.data) for chunk in bench.sampler._waiting)
        assert 0 < held <= 2000
        assert held == bench.sampler._waiting_bytes
        assert any("minutes of samples were lost" in text for text in bench.sampler.warnings())
        # The newest are those that are kept.
        assert max(await bench.raw()) == 539
        await bench.sampler.close()

    asyncio.run(run())


def test_a_disk_that_hangs_holds_up_neither_loop_nor_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, began = threading.Event(), threading.Event()
    real = Telemetry.append

    def hanging(store: Telemetry, chunks: Sequence[NewChunk]) -> None:
        began.set()
        assert goes_on.wait(20)
        real(store, chunks)

    async def run() -> None:
        monkeypatch.setattr(Telemetry, "append", hanging)
        bench = Bench(tmp_path)
        for _ in range(61):
            bench.cycle()
        assert await asyncio.to_thread(began.wait, 20)
        for _ in range(60 * 9):
            bench.cycle()
        assert len(bench.sampler._minutes) == 5
        assert bench.sampler.warnings() == [
            "telemetry: 4 minutes of samples were lost while the disk did not take them"
        ]
        goes_on.set()
        await bench.sampler.flush()
        assert len(await bench.raw()) == 601 - 4 * 60
        await bench.sampler.close()

    asyncio.run(run())


def test_a_file_of_a_later_release_is_a_warning_and_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        Telemetry(bench.path).close()
        connection = sqlite3.connect(bench.path)
        connection.execute(f"PRAGMA user_version={len(telemetry_file.UPGRADES) + 1}")
        connection.close()
        before = bench.path.read_bytes()
        await bench.minutes(2)
        await bench.sampler.maintain()
        (warning,) = bench.sampler.warnings()
        assert "which this p104d does not know" in warning
        await bench.sampler.close()
        assert bench.path.read_bytes() == before

    asyncio.run(run())


def test_a_damaged_file_is_told_and_recording_goes_on(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        bench.path.write_bytes(b"damaged" * 5000)
        await bench.minutes(1)
        (warning,) = bench.sampler.warnings()
        assert "telemetry was damaged" in warning
        assert len(await bench.raw()) == 60
        await bench.sampler.close()

    asyncio.run(run())


def test_hours_are_compacted_by_maintenance(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.minutes(61)
        before = await bench.raw()
        await bench.sampler.maintain()
        assert recorded(bench.path) == 2 * 2 + 2  # an hour's two chunks and the present minute, of card and host
        assert await bench.raw() == before
        await bench.sampler.close()

    asyncio.run(run())


def test_what_is_being_written_is_not_counted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()
    real = Telemetry.append

    def slow(store: Telemetry, chunks: Sequence[NewChunk]) -> None:
        real(store, chunks)
        began.set()
        assert goes_on.wait(20)

    async def run() -> None:
        bench = Bench(tmp_path)
        monkeypatch.setattr(Telemetry, "append", slow)
        for _ in range(70):
            bench.cycle()
        assert await asyncio.to_thread(began.wait, 20)
        asked = asyncio.create_task(bench.sampler.series(CARD, "temperature_celsius", DAY0, DAY0 + 99, 1.0))
        await asyncio.sleep(0)
        goes_on.set()
        assert (await asked).times == [DAY0 + second for second in range(70)]
        await bench.sampler.close()

    asyncio.run(run())


def test_a_disk_that_hangs_is_an_answer_to_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        monkeypatch.setattr(sampler_module, "_PATIENCE_SECONDS", 0.05)
        with bench.sampler._lock:
            with pytest.raises(UnavailableError, match="does not answer"):
                await bench.raw()
            await bench.sampler.maintain()
        assert "does not answer" in bench.sampler.warnings()[0]
        await bench.sampler.close()

    asyncio.run(run())


def test_closing_ends_maintenance_at_its_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, goes_on = threading.Event(), threading.Event()
    steps: list[int] = []

    async def run() -> None:
        bench = Bench(tmp_path)
        for _ in range(3):
            await bench.minutes(1)
            bench.clock.advance(3600)
        real = telemetry_keeping._hour

        def step(*arguments: Any) -> None:
            steps.append(arguments[-1])
            began.set()
            assert goes_on.wait(20)
            real(*arguments)

        monkeypatch.setattr(telemetry_keeping, "_hour", step)
        task = asyncio.create_task(bench.sampler.maintain())
        assert await asyncio.to_thread(began.wait, 20)
        bench.sampler._closing.set()
        goes_on.set()
        await bench.sampler.close()
        await task
        await bench.sampler.maintain()

    asyncio.run(run())
    assert len(steps) == 1


# --- the host ------------------------------------------------------------------------------------------------------


def test_the_host_is_read_every_few_seconds(tmp_path: Path) -> None:
    async def run() -> None:
        bench = Bench(tmp_path)
        await bench.minutes(1)
        for name in ("cpu_percent", "memory_used_bytes", "memory_available_bytes", "disk_free_bytes"):
            found = await bench.raw(name, HOST)
            assert 12 <= len(found) <= 13, name
            assert min(found.values()) >= 0
        # Rates need a time before: one fewer.
        assert 11 <= len(await bench.raw("network_receive_bytes_per_second", HOST)) <= 12
        free = (await bench.raw("disk_free_bytes", HOST)).popitem()[1]
        assert free == pytest.approx(psutil.disk_usage(str(tmp_path)).free, rel=0.2)
        await bench.sampler.close()

    asyncio.run(run())


def test_rates_are_of_the_time_between_and_of_counters_that_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([1_000_000, 6_000_000, 2_000_000, 4_000_000])
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: SimpleNamespace(read_bytes=next(counts), write_bytes=0))
    host = HostReader(tmp_path)
    assert [host.read(now).get(43) for now in (0.0, 5.0, 10.0, 20.0)] == [None, 1000, None, 200]


def test_a_host_that_tells_nothing_is_absent_and_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing(*_: object, **__: object) -> None:
        raise PermissionError(13, "no")

    for name in ("cpu_percent", "virtual_memory", "disk_usage", "net_io_counters"):
        monkeypatch.setattr(psutil, name, nothing)
    monkeypatch.setattr(psutil, "disk_io_counters", lambda: None)
    host = HostReader(tmp_path)
    assert [host.read(1.0), host.read(2.0)] == [{}, {}]
    assert len(caplog.records) == 4
