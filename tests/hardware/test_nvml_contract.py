"""What a reader of cards owes the daemon, whatever driver is beneath it: the simulated one, and a real one if any."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hardware_rigs import healthy_rig

from p104d.core.units import MIB
from p104d.hardware.nvml import Nvml
from p104d.hardware.simulated_nvml import SimulatedNvml


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def reader(request: pytest.FixtureRequest) -> Iterator[Nvml]:
    import time

    library = SimulatedNvml(healthy_rig(3), time.monotonic()) if request.param == "simulated" else None
    nvml = Nvml(library=library)
    nvml.cycle()
    if request.param == "real" and nvml.problem is not None:
        pytest.skip(nvml.problem.message)
    yield nvml
    nvml.close()


def test_every_card_says_who_it_is(reader: Nvml) -> None:
    reports = reader.cycle()
    assert reports
    assert [report.identity.index for report in reports] == list(range(len(reports)))
    for report in reports:
        identity = report.identity
        assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", identity.uuid)
        assert re.fullmatch(r"[0-9A-F]{8}:[0-9A-F]{2}:[0-9A-F]{2}\.0", identity.bus_id or "")
        assert re.fullmatch(r"10de:[0-9a-f]{4}", identity.device_id or "")
        assert identity.name
        assert identity.memory_total_bytes
        assert identity.memory_total_bytes > 1000 * MIB
        assert report.fault is None
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", reader.driver_version or "")


def test_readings_are_within_reason(reader: Nvml) -> None:
    for report in reader.cycle():
        reading = report.reading
        assert reading.memory_used_bytes is not None
        assert report.identity.memory_total_bytes is not None
        assert 0 <= reading.memory_used_bytes <= report.identity.memory_total_bytes
        assert reading.temperature_celsius is None or 0 < reading.temperature_celsius < 110
        assert reading.utilization_percent is None or 0 <= reading.utilization_percent <= 100
        assert reading.power_watts is None or 0 < reading.power_watts < 2000


def test_closed_it_opens_again_with_the_same_cards(reader: Nvml) -> None:
    before = [report.identity for report in reader.cycle()]
    reader.close()
    assert reader.reopen() is None
    assert [report.identity for report in reader.cycle()] == before


def test_no_event_is_no_event(reader: Nvml) -> None:
    assert reader.events() == []
