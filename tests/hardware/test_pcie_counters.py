"""The PCIe counters: asked seldom, since each answer takes the driver 20 ms, and absent where the driver has none."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from hardware_rigs import Bench, fault, rig_of

from p104d.core.units import GIB
from p104d.hardware.card_reader import PCIE_SECONDS
from p104d.hardware.rig import RigProcess


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counters asked for, in the order of the questions."""
    asked: list[int] = []
    real = pynvml.nvmlDeviceGetPcieThroughput

    def ask(handle: Any, counter: int) -> int:
        asked.append(counter)
        return int(real(handle, counter))

    monkeypatch.setattr(pynvml, "nvmlDeviceGetPcieThroughput", ask)
    return asked


def test_a_busy_card_receives_and_an_idle_one_does_not() -> None:
    rig = rig_of(2)
    process = RigProcess(card=1, memory=GIB, pid=1)
    bench = Bench(type(rig)(cards=rig.cards, processes=(process,)))
    idle, busy = bench.card(0, 0).reading, bench.card(0, 1).reading
    assert (idle.pcie_receive_bytes_per_second, idle.pcie_transmit_bytes_per_second) == (0, 0)
    assert busy.pcie_receive_bytes_per_second > busy.pcie_transmit_bytes_per_second > 0
    assert busy.pcie_receive_bytes_per_second == pytest.approx(rig.cards[1].host_to_device / 8, rel=0.01)


def test_they_are_asked_every_ten_seconds_and_cards_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    bench = Bench(rig_of(6))
    bench.at(0)
    assert len(asked) == 12
    each: list[int] = []
    for second in range(1, int(PCIE_SECONDS) * 3 + 1):
        before = len(asked)
        reports = bench.at(float(second))
        each.append(len(asked) - before)
        assert all(one.reading.pcie_receive_bytes_per_second == 0 for one in reports.values())
    assert sum(each) == pytest.approx(6 * 2 * 3, abs=2)
    assert max(each) <= 6, "not all cards in one cycle"


def test_a_card_without_them_is_asked_once_and_loses_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    bench = Bench(rig_of(1, card0={"unsupported": ("GetPcieThroughput",)}))
    for second in range(0, 60, 5):
        reading = bench.card(float(second), 0).reading
        assert reading.pcie_receive_bytes_per_second is None
        assert reading.pcie_transmit_bytes_per_second is None
        assert reading.fan_percent is not None
    assert len(asked) == 1


def test_a_lost_card_has_none() -> None:
    bench = Bench(rig_of(2, fault("lost")))
    assert bench.card(0, 1).reading.pcie_receive_bytes_per_second == 0
    assert bench.card(11, 1).reading.pcie_receive_bytes_per_second is None
