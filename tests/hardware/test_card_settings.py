"""What is set on cards: by the reader in this process, and through a sensor that may hang or die over it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import msgspec
import pynvml
import pytest
from hardware_rigs import Bench, fault, rig_of
from test_sensors import Ear, by_index, running

from p104d.core.units import GIB
from p104d.hardware import nvml as nvml_module
from p104d.hardware.messages import CLOCK_FREE, FAN_AUTOMATIC, CardSettings, Cycle, Refused, SettingResult
from p104d.hardware.rig import RigProcess
from p104d.hardware.setting_asks import SettingAsks

ALL = CardSettings(power_limit_watts=120.0, sm_clock_mhz=1500, memory_clock_mhz=4513, fan_percent=70, persistence=True)


def busy_bench(**card: Any) -> Bench:
    """One card under load, read once."""
    rig = msgspec.structs.replace(
        rig_of(1, **({"card0": card} if card else {})), processes=(RigProcess(card=0, memory=GIB, pid=5_000_000),)
    )
    bench = Bench(rig)
    bench.at(0)
    return bench


def put(bench: Bench, settings: CardSettings) -> dict[str, SettingResult]:
    """Set them on card 0; the answers by name."""
    return {result.name: result for result in bench.nvml.apply({bench.rig.cards[0].uuid: settings})}


def refused(results: dict[str, SettingResult]) -> dict[str, Refused | None]:
    return {name: result.refused for name, result in results.items()}


def test_what_is_set_shows_at_the_next_look() -> None:
    bench = busy_bench()
    before = bench.card(1, 0).reading
    assert (before.power_limit_watts, before.persistence, before.fan_manual) == (180.0, False, False)
    assert (before.sm_clock_mhz, before.memory_clock_mhz) == (1733, 5005)
    results = put(bench, ALL)
    assert refused(results) == dict.fromkeys(ALL.items())
    assert {name: result.value for name, result in results.items()} == ALL.items()
    # Power limit, fan and persistence are slow readings: they are asked at once after a change.
    after = bench.card(1.1, 0).reading
    assert (after.power_limit_watts, after.persistence, after.fan_manual, after.fan_percent) == (120.0, True, True, 70)
    assert (after.sm_clock_mhz, after.memory_clock_mhz) == (1473, 4513)
    clocks = CardSettings(sm_clock_mhz=CLOCK_FREE, memory_clock_mhz=CLOCK_FREE)
    free = clocks.merged(CardSettings(fan_percent=FAN_AUTOMATIC, persistence=False))
    assert set(refused(put(bench, free)).values()) == {None}
    again = bench.card(1.2, 0).reading
    assert (again.persistence, again.fan_manual, again.memory_clock_mhz) == (False, False, 5005)


def test_what_is_not_named_is_left_alone() -> None:
    bench = busy_bench()
    put(bench, ALL)
    put(bench, CardSettings(power_limit_watts=100.0))
    reading = bench.card(1, 0).reading
    assert (reading.power_limit_watts, reading.fan_percent, reading.persistence) == (100.0, 70, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (CardSettings(power_limit_watts=60.0), "90 to 217 W"),
        (CardSettings(power_limit_watts=218.0), "90 to 217 W"),
        (CardSettings(fan_percent=10), "30 to 100 %"),
        (CardSettings(sm_clock_mhz=100), "Invalid Argument"),
        (CardSettings(memory_clock_mhz=9000), "Invalid Argument"),
    ],
)
def test_what_the_card_does_not_allow_is_refused_with_its_bounds(settings: CardSettings, words: str) -> None:
    bench = busy_bench()
    (result,) = put(bench, settings).values()
    assert result.refused is Refused.OUT_OF_BOUNDS
    assert result.text is not None
    assert words in result.text
    assert bench.card(1, 0).reading.power_limit_watts == 180.0


def test_one_setting_that_is_not_supported_costs_no_other() -> None:
    bench = busy_bench(unsupported=("SetPowerManagementLimit",))
    results = put(bench, ALL)
    assert refused(results) == {**dict.fromkeys(ALL.items()), "power_limit_watts": Refused.NOT_SUPPORTED}
    assert results["power_limit_watts"].text == "Not Supported"
    assert bench.card(1, 0).reading.persistence is True


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (pynvml.NVML_ERROR_NO_PERMISSION, Refused.NO_PERMISSION),
        (pynvml.NVML_ERROR_UNKNOWN, Refused.FAILED),
        (pynvml.NVML_ERROR_GPU_IS_LOST, Refused.GONE),
        (pynvml.NVML_ERROR_UNINITIALIZED, Refused.GONE),
    ],
)
def test_why_a_driver_refuses_is_told_apart(code: int, why: Refused) -> None:
    bench = busy_bench()
    bench.nvmllib.__dict__["nvmlDeviceSetPowerManagementLimit"] = lambda *_: code
    nvml_module.use_library(bench.nvmllib)
    result = put(bench, CardSettings(power_limit_watts=100.0, persistence=True))
    assert refused(result) == {"persistence": None, "power_limit_watts": why}
    assert result["power_limit_watts"].text


#: Pascal cards have no locked clocks, but application clocks.
PASCAL = ("SetGpuLockedClocks", "ResetGpuLockedClocks", "SetMemoryLockedClocks", "ResetMemoryLockedClocks")


def test_where_clocks_cannot_be_locked_the_fastest_application_clock_below_is_taken() -> None:
    bench = busy_bench(unsupported=PASCAL)
    assert set(refused(put(bench, CardSettings(sm_clock_mhz=1500, memory_clock_mhz=4600))).values()) == {None}
    reading = bench.card(1, 0).reading
    assert 1496 < (reading.sm_clock_mhz or 0) <= 1500
    assert reading.memory_clock_mhz == 4513
    # A change of one leaves the other.
    assert refused(put(bench, CardSettings(memory_clock_mhz=CLOCK_FREE))) == {"memory_clock_mhz": None}
    reading = bench.card(2, 0).reading
    assert 1496 < (reading.sm_clock_mhz or 0) <= 1500
    assert reading.memory_clock_mhz == 5005
    assert refused(put(bench, CardSettings(sm_clock_mhz=CLOCK_FREE))) == {"sm_clock_mhz": None}
    assert (bench.card(3, 0).reading.sm_clock_mhz or 0) > 1600
    assert refused(put(bench, CardSettings(sm_clock_mhz=50))) == {"sm_clock_mhz": Refused.OUT_OF_BOUNDS}


def test_a_card_without_any_kind_of_clock_setting_says_so() -> None:
    bench = busy_bench(unsupported=(*PASCAL, "GetApplicationsClock", "SetApplicationsClocks"))
    assert refused(put(bench, CardSettings(sm_clock_mhz=1500))) == {"sm_clock_mhz": Refused.NOT_SUPPORTED}


def test_a_card_that_is_not_there_refuses_all() -> None:
    bench = Bench(rig_of(2, fault("gone")))
    bench.at(11)
    results = bench.nvml.apply({bench.rig.cards[1].uuid: CardSettings(persistence=True)})
    assert [result.refused for result in results] == [Refused.GONE]


def test_a_reloaded_driver_has_forgotten_and_tells_that_it_is_another() -> None:
    bench = Bench(rig_of(1, fault("driver_reload", card=None)))
    bench.at(1)
    opened = bench.nvml.opened_at
    put(bench, ALL)
    assert bench.card(9, 0).reading.power_limit_watts == 120.0
    assert bench.nvml.opened_at == opened
    reading = bench.card(11, 0).reading
    assert (reading.power_limit_watts, reading.persistence, reading.fan_manual) == (180.0, False, False)
    assert bench.nvml.opened_at != opened


def test_thresholds_of_heat_are_part_of_who_a_card_is() -> None:
    bench = Bench(rig_of(2, card1={"unsupported": ("GetTemperatureThreshold",)}))
    assert (bench.card(0, 0).identity.slowdown_celsius, bench.card(0, 0).identity.shutdown_celsius) == (96, 99)
    assert bench.card(0, 1).identity.slowdown_celsius is None


# --- through the sensor process --------------------------------------------------------------------------------


async def answered(ear: Ear, after: int = 0) -> Cycle:
    return await ear.until(lambda cycle: bool(cycle.settings), after=after)


def test_settings_are_answered_by_a_look_at_once_and_survive_the_sensor() -> None:
    async def scenario() -> None:
        rig = rig_of(2)
        uuid = rig.cards[1].uuid
        async with running(rig, interval=3600.0) as (sensors, ear):
            await ear.until(lambda cycle: True)
            sensors.apply({uuid: CardSettings(power_limit_watts=120.0, fan_percent=5)})
            told = await answered(ear)
            assert [(one.name, one.refused) for one in told.settings] == [
                ("power_limit_watts", None), ("fan_percent", Refused.OUT_OF_BOUNDS)
            ]  # fmt: skip
            assert by_index(told)[1].reading.power_limit_watts == 120.0
            assert by_index(told)[0].reading.power_limit_watts == 180.0
            assert sensors.pid is not None
            os.kill(sensors.pid, signal.SIGKILL)
            back = await ear.until(lambda cycle: bool(cycle.cards), after=told.sequence)
            assert by_index(back)[1].reading.power_limit_watts == 120.0
            assert back.opened_at != told.opened_at

    asyncio.run(scenario())


def test_a_card_that_hangs_over_a_setting_is_answered_for_and_the_others_are_read_on() -> None:
    async def scenario() -> None:
        rig = rig_of(2, fault("hang", at=1.0))
        uuids = [card.uuid for card in rig.cards]
        # The card is only touched to set something: no cycle is due within the test.
        async with running(rig, interval=3600.0) as (sensors, ear):
            first = await ear.until(lambda cycle: len(cycle.cards) == 2)
            await asyncio.sleep(1.05)  # the rig's own time has to pass: the fault begins at its first second
            sensors.apply({uuids[1]: CardSettings(persistence=True), uuids[0]: CardSettings(persistence=True)})
            told = await answered(ear, after=first.sequence)
            assert {(one.uuid, one.refused) for one in told.settings} == {
                (uuids[1], Refused.HANG), (uuids[0], Refused.INTERRUPTED)
            }  # fmt: skip
            assert by_index(told)[1].fault == "hang"
            assert by_index(told)[0].fault is None

    asyncio.run(scenario())


def test_a_question_that_dies_with_its_sensor_is_answered_as_interrupted() -> None:
    async def scenario() -> None:
        rig = rig_of(1)
        async with running(rig, interval=3600.0) as (sensors, ear):
            first = await ear.until(lambda cycle: True)
            assert sensors.pid is not None
            os.kill(sensors.pid, signal.SIGSTOP)  # it will not read the command any more
            sensors.apply({rig.cards[0].uuid: CardSettings(persistence=True)})
            os.kill(sensors.pid, signal.SIGKILL)
            told = await answered(ear, after=first.sequence)
            assert [one.refused for one in told.settings] == [Refused.INTERRUPTED]

    asyncio.run(scenario())


def test_an_answer_to_an_older_question_leaves_the_newer_one_open() -> None:
    asks = SettingAsks()
    asks.ask({"a": CardSettings(power_limit_watts=100.0)})
    asks.ask({"a": CardSettings(power_limit_watts=110.0)})
    asks.heard([SettingResult(uuid="a", name="power_limit_watts", value=100.0)])
    assert asks.applied == {"a": CardSettings(power_limit_watts=100.0)}
    asks.end()
    assert [(one.value, one.refused) for one in asks.take()] == [(110.0, Refused.INTERRUPTED)]
    assert asks.take() == ()


def test_a_command_that_never_arrived_is_not_waited_for_for_ever() -> None:
    asks = SettingAsks()
    asks.ask({"a": CardSettings(persistence=True)})
    for _ in range(2):
        asks.heard(())
        assert asks.take() == ()
    asks.heard(())
    assert [one.refused for one in asks.take()] == [Refused.INTERRUPTED]
