"""What cards suffer, and that each keeps it to itself. Time is turned by hand."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

import msgspec
import pynvml
import pytest
from hardware_rigs import Bench, fault, rig_of

from p104d.core.units import GIB, MIB
from p104d.hardware import nvml as nvml_module
from p104d.hardware import simulated_nvml
from p104d.hardware.driver_problem import diagnose, missing_module
from p104d.hardware.messages import Place
from p104d.hardware.rig import RigProcess

OTHERS = (0, 2)


def healthy(bench: Bench, seconds: float, *positions: int) -> bool:
    """Whether these cards are all read in full at that time."""
    reports = bench.at(seconds)
    found = [reports[bench.rig.cards[position].uuid] for position in positions]
    return all(one.fault is None and one.reading.temperature_celsius is not None for one in found)


@pytest.mark.parametrize("kind", ["lost", "unknown"])
def test_a_card_that_fails_keeps_its_name_and_costs_nobody_else(kind: str) -> None:
    bench = Bench(rig_of(3, fault(kind, seconds=30.0)))
    before = bench.card(0, 1)
    failed = bench.card(11, 1)
    assert failed.fault == kind
    assert failed.fault_text
    assert failed.identity == before.identity
    assert failed.reading.temperature_celsius is None
    assert failed.reading.memory_used_bytes is None
    assert healthy(bench, 12, *OTHERS)
    back = bench.card(41, 1)
    assert back.fault is None
    assert back.reading.power_limit_watts == before.reading.power_limit_watts
    assert back.reading.processes == ()


def test_a_card_lost_over_a_reopening_is_known_by_its_bus_address() -> None:
    bench = Bench(rig_of(3, fault("lost")))
    known = bench.card(0, 1).identity
    bench.at(11)
    bench.nvml.reopen()
    assert bench.card(12, 1).identity == known
    assert bench.card(12, 1).fault == "lost"
    assert healthy(bench, 13, *OTHERS)


def test_a_card_lost_before_it_was_ever_seen_is_a_problem_beside_the_others() -> None:
    bench = Bench(rig_of(3, fault("lost", at=0.0, seconds=30.0)))
    assert healthy(bench, 1, *OTHERS)
    assert bench.card(1, 1) is None
    assert bench.nvml.problem.kind == "card_unreadable"
    assert "00000000:02:00.0" in bench.nvml.problem.message
    assert bench.card(41, 1).fault is None
    assert bench.nvml.problem is None


def test_a_card_that_leaves_and_comes_back_at_another_address_is_the_same_card() -> None:
    moved = fault("moved", at=20.0, bus_id="00000000:0A:00.0")
    bench = Bench(rig_of(3, fault("gone", seconds=10.0), moved))
    assert bench.card(0, 1).identity.index == 1
    gone = bench.at(11)
    assert sorted(report.identity.index for report in gone.values()) == [0, 1]
    assert bench.rig.cards[1].uuid not in gone
    assert bench.card(11, 2).identity.index == 1
    back = bench.card(21, 1).identity
    assert (back.index, back.bus_id, back.name) == (2, "00000000:0A:00.0", "P104-100")
    assert healthy(bench, 22, 0, 1, 2)


def test_a_driver_reload_costs_one_cycle_at_most() -> None:
    bench = Bench(rig_of(2, fault("driver_reload", card=None)))
    assert healthy(bench, 9, 0, 1)
    assert healthy(bench, 11, 0, 1)
    assert bench.nvml.problem is None


def test_while_the_driver_is_away_there_are_no_cards_and_a_problem() -> None:
    bench = Bench(rig_of(2, fault("driver_reload", card=None, seconds=20.0)))
    assert healthy(bench, 9, 0, 1)
    assert bench.at(11) == {}
    assert bench.nvml.problem.kind == "not_loaded"
    assert "modprobe" in bench.nvml.problem.mend
    assert bench.at(20) == {}
    assert healthy(bench, 33, 0, 1)
    assert bench.nvml.problem is None


def test_heat_and_power_caps_are_told_with_their_names() -> None:
    bench = Bench(rig_of(3, fault("hot"), fault("slow", card=2)))
    bench.nvmllib.rig.set_processes([])
    cool = bench.card(9, 1).reading
    assert (cool.throttle, cool.temperature_celsius) == ((), 34)
    hot = bench.card(11, 1).reading
    assert "hardware thermal slowdown" in hot.throttle
    assert hot.temperature_celsius > 90
    assert bench.card(11, 2).reading.throttle == ("software power cap",)
    assert bench.card(11, 0).reading.throttle == ()


def test_an_xid_is_told_once_with_its_card_also_to_a_listener_that_comes_late() -> None:
    bench = Bench(rig_of(2, fault("xid", code=79), fault("xid", at=0.0, card=0, code=31)))
    bench.at(1)
    assert [(one.code, one.uuid) for one in bench.nvml.events()] == [(31, bench.rig.cards[0].uuid)]
    bench.at(9)
    assert bench.nvml.events() == []
    bench.nvml.reopen()
    bench.at(12)
    (event,) = bench.nvml.events()
    assert (event.code, event.uuid, event.bus_id) == (79, bench.rig.cards[1].uuid, "00000000:02:00.0")
    assert bench.nvml.events() == []


UNSUPPORTED = {
    "GetFanSpeed": "fan_percent",
    "GetPowerUsage": "power_watts",
    "GetTemperature": "temperature_celsius",
    "GetUtilizationRates": "utilization_percent",
    "GetClockInfo": "sm_clock_mhz",
    "GetPersistenceMode": "persistence",
    "GetCurrPcieLinkWidth": "link_width",
    "GetPowerManagementLimit": "power_limit_watts",
    "GetComputeRunningProcesses_v3": "processes",
}


@pytest.mark.parametrize("function", UNSUPPORTED)
def test_one_reading_that_is_not_supported_is_null_and_nothing_else_is(function: str) -> None:
    bench = Bench(rig_of(2, card0={"unsupported": (function,)}))
    reports = bench.at(0)
    lacking, whole = (msgspec.to_builtins(reports[card.uuid].reading) for card in bench.rig.cards)
    missing = {key for key in whole if lacking[key] is None}
    also = {"sm_clock_mhz": {"memory_clock_mhz"}, "utilization_percent": {"memory_utilization_percent"}}
    assert missing == {UNSUPPORTED[function]} | also.get(UNSUPPORTED[function], set())
    assert reports[bench.rig.cards[0].uuid].fault is None


def wrap(bench: Bench, name: str, answer: Callable[..., int]) -> None:
    """Have the driver's function ``name`` answer otherwise."""
    bench.nvmllib.__dict__[name] = answer


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NO_PERMISSION, 4242])
def test_one_reading_that_fails_now_is_asked_again(code: int) -> None:
    bench = Bench(rig_of(1))
    real = bench.nvmllib.nvmlDeviceGetPowerUsage
    wrap(bench, "nvmlDeviceGetPowerUsage", lambda *_: code)
    report = bench.card(0, 0)
    assert (report.reading.power_watts, report.fault) == (None, None)
    assert report.reading.temperature_celsius == 34
    wrap(bench, "nvmlDeviceGetPowerUsage", real)
    nvml_module.use_library(bench.nvmllib)
    assert bench.card(1, 0).reading.power_watts == 8.0


def test_values_that_cannot_be_are_null() -> None:
    bench = Bench(rig_of(1))

    def absurd(_handle: object, *rest: object) -> int:
        rest[-1]._obj.value = 0xFFFFFFFF
        return 0

    for name in ("nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetFanSpeed",
                 "nvmlDeviceGetCurrPcieLinkWidth", "nvmlDeviceGetClockInfo"):  # fmt: skip
        wrap(bench, name, absurd)
    reading = bench.card(0, 0).reading
    assert [reading.temperature_celsius, reading.power_watts, reading.fan_percent, reading.link_width] == [None] * 4
    assert reading.sm_clock_mhz is None
    assert reading.memory_used_bytes == 0


def test_a_card_that_wants_a_reset_says_so() -> None:
    bench = Bench(rig_of(2))
    bench.at(0)
    real = bench.nvmllib.nvmlDeviceGetMemoryInfo_v2

    def answer(handle: object, *rest: object) -> int:
        first = bench.nvmllib._by_token(handle) is bench.nvmllib.rig.cards[0]
        return pynvml.NVML_ERROR_RESET_REQUIRED if first else real(handle, *rest)

    wrap(bench, "nvmlDeviceGetMemoryInfo_v2", answer)
    nvml_module.use_library(bench.nvmllib)
    assert bench.card(1, 0).fault == "reset_required"
    assert bench.card(1, 1).fault is None


def test_foreign_processes_and_memory_are_seen_when_they_come_and_go() -> None:
    rig = msgspec.structs.replace(
        rig_of(1), processes=(RigProcess(card=0, memory=2 * GIB, at=3.0, seconds=5.0, pid=5_000_000),)
    )
    bench = Bench(rig)
    assert bench.card(0, 0).reading.processes == ()
    assert bench.card(1, 0).reading.processes is None
    came = bench.card(3, 0).reading
    assert came.memory_used_bytes == 2 * GIB
    assert [(one.pid, one.memory_bytes) for one in came.processes] == [(5_000_000, 2 * GIB)]
    assert bench.card(4, 0).reading.processes is None
    assert bench.card(8, 0).reading.processes == ()
    assert bench.card(17, 0).reading.processes is None
    assert bench.card(18.5, 0).reading.processes == ()


def test_only_and_skip_leave_other_cards_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched() -> None:
        raise AssertionError("a call into the hung card")

    monkeypatch.setattr(simulated_nvml, "never_return", touched)
    rig = rig_of(3, fault("hang", at=0.0))
    place = Place(index=1, bus_id=rig.cards[1].bus_id)
    assert sorted(Bench(rig, skip=(place,)).at(1)) == sorted(rig.cards[position].uuid for position in OTHERS)
    first = Place(index=0, bus_id=rig.cards[0].bus_id)
    assert list(Bench(rig, only=(first,)).at(1)) == [rig.cards[0].uuid]


def test_the_shadowing_package_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = SimpleNamespace(__file__="/usr/lib/python3/dist-packages/pynvml/__init__.py", nvmlInit=lambda: None)
    monkeypatch.setattr(nvml_module, "pynvml", shadow)
    problem = nvml_module.Nvml().open()
    assert problem.kind == "shadowed"
    assert shadow.__file__ in problem.message
    assert "pip uninstall pynvml" in problem.mend
    assert missing_module(pynvml) is None


@pytest.mark.parametrize(
    ("code", "kind", "mend"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no_driver", "--simulate"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not_loaded", "modprobe"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "no_permission", "/dev/nvidia"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "version_mismatch", "reboot"),
        (pynvml.NVML_ERROR_UNKNOWN, "driver_error", "dmesg"),
    ],
)
def test_each_reason_why_a_driver_does_not_start_has_its_mend(code: int, kind: str, mend: str) -> None:
    problem = diagnose(pynvml, pynvml.NVMLError(code))
    assert problem.kind == kind
    assert mend in problem.mend
    assert problem.message


def test_no_driver_library_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "CDLL", lambda _: (_ for _ in ()).throw(OSError("no such library")))
    nvml_module.use_library(None)
    reader = nvml_module.Nvml()
    assert reader.cycle() == ()
    assert reader.problem.kind == "no_driver"


def test_setters_keep_within_their_bounds_and_are_read_back() -> None:
    bench = Bench(rig_of(1))
    bench.at(0)
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    pynvml.nvmlDeviceSetPowerManagementLimit(handle, 90_000)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(handle) == 90_000
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, 60_000)
    pynvml.nvmlDeviceSetPersistenceMode(handle, 1)
    assert pynvml.nvmlDeviceGetPersistenceMode(handle) == 1
    pynvml.nvmlDeviceSetFanSpeed_v2(handle, 0, 70)
    assert pynvml.nvmlDeviceGetFanSpeed(handle) == 70
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetFanSpeed_v2(handle, 0, 5)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceSetGpuLockedClocks(handle, 100, 9000)


def test_what_a_580_driver_lacks_is_absent_and_what_the_card_lacks_is_not_supported() -> None:
    bench = Bench(rig_of(1))
    bench.at(0)
    handle = pynvml.nvmlDeviceGetHandleByUUID(bench.rig.cards[0].uuid.encode())
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTotalEccErrors(handle, 0, 0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    with pytest.raises(AttributeError):
        _ = bench.nvmllib.nvmlDeviceGetMemoryLimits_v1
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(ctypes.cast(0, pynvml.c_nvmlDevice_t))


def test_memory_of_the_older_kind_counts_the_drivers_reserve() -> None:
    bench = Bench(rig_of(1, card0={"unsupported": ("GetMemoryInfo_v2",)}))
    report = bench.card(0, 0)
    assert report.identity.memory_total_bytes == 8 * GIB
    assert 50 * MIB < report.reading.memory_used_bytes < 200 * MIB
