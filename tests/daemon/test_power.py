"""Cards are kept at what somebody wished, and are not touched where nobody wished anything."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pynvml
import pytest
from power_bench import PowerBench

from p104d.core.card import CardIdentity
from p104d.daemon.config import CardConfig, PowerConfig
from p104d.daemon.power_wishes import matches
from p104d.hardware import nvml as nvml_module
from p104d.hardware.messages import CLOCK_FREE, FAN_AUTOMATIC, CardSettings, Refused, SettingResult
from p104d.hardware.rig import RigFault


@pytest.fixture(autouse=True)
def real_library() -> Iterator[None]:
    yield
    nvml_module.use_library(None)


LIMIT = PowerConfig(limit=120.0)


def test_nothing_wished_is_nothing_sent_whatever_happens() -> None:
    faults = (
        RigFault(at=5.0, kind="lost", card=0, seconds=5.0),
        RigFault(at=20.0, kind="driver_reload"),
        RigFault(at=30.0, kind="gone", card=1, seconds=5.0),
        RigFault(at=50.0, kind="moved", card=1, bus_id="00000000:0A:00.0"),
    )
    bench = PowerBench(2, *faults)
    bench.ticks(30)
    bench.card(0).power_limit = 100.0  # somebody else's doing is none of ours
    bench.ticks(40)
    assert bench.sent == []
    assert bench.keeper.warnings() == []


def test_the_configuration_is_applied_at_start_once_and_only_where_it_is_not_so() -> None:
    power = PowerConfig(limit=120.0, sm_clock=1500, memory_clock=4513, fan=60, persistence=True)
    bench = PowerBench(2, power=power)
    bench.card(1).power_limit, bench.card(1).persistence = 120.0, True
    whole = CardSettings(
        power_limit_watts=120.0, sm_clock_mhz=1500, memory_clock_mhz=4513, fan_percent=60, persistence=True
    )
    rest = CardSettings(sm_clock_mhz=1500, memory_clock_mhz=4513, fan_percent=60)
    assert bench.tick() == {bench.uuids[0]: whole, bench.uuids[1]: rest}
    assert bench.ticks(30) == 0
    for position in (0, 1):
        card = bench.card(position)
        assert (card.power_limit, card.persistence, card.fan_percent) == (120.0, True, 60)
        assert (card.locked_clock_mhz, card.locked_memory_mhz) == (1500, 4513)
    assert bench.keeper.warnings() == []


def test_later_tables_of_cards_win_and_a_person_wins_over_all() -> None:
    bench = PowerBench(3)
    tables = (
        CardConfig(match="P104-100", limit=150.0, fan="auto"),
        CardConfig(match="1", limit=140.0),
        CardConfig(match=bench.uuids[2][4:12], limit=130.0),
    )
    asked = {bench.uuids[1]: CardSettings(power_limit_watts=110.0)}
    bench = PowerBench(3, power=PowerConfig(limit=160.0, persistence=True), cards=tables, asked=asked)
    bench.ticks(3)
    assert [bench.card(position).power_limit for position in range(3)] == [150.0, 110.0, 130.0]
    assert all(bench.card(position).persistence for position in range(3))


@pytest.mark.parametrize(
    ("text", "meant"),
    [("2", True), ("12", False), ("gpu-3f", True), ("3f00", True), ("GPU-3F00-11", True), ("3f01", False),
     ("gpu-", False), ("NVIDIA P104-100", True), ("p104-100", True), ("P106-100", False), ("", False)],
)  # fmt: skip
def test_what_match_means(text: str, meant: bool) -> None:
    identity = CardIdentity(uuid="GPU-3f00-11-22", index=2, name="NVIDIA P104-100", device_id="10de:1b87")
    assert matches(text, identity) is meant


@pytest.mark.parametrize(
    "fault",
    [
        RigFault(at=10.0, kind="driver_reload"),
        RigFault(at=10.0, kind="driver_reload", seconds=5.0),
    ],
    ids=["reload", "long reload"],
)
def test_a_reloaded_driver_is_told_again(fault: RigFault) -> None:
    power = PowerConfig(limit=120.0, sm_clock=1500, persistence=True)
    bench = PowerBench(2, fault, power=power)
    bench.ticks(8)
    assert len(bench.sent) == 1
    bench.ticks(20)
    assert len(bench.sent) == 2
    assert (bench.card().power_limit, bench.card().locked_clock_mhz, bench.card().persistence) == (120.0, 1500, True)


@pytest.mark.parametrize("kind", ["lost", "gone", "unknown"])
def test_a_card_that_was_away_is_told_again_what_cannot_be_read(kind: str) -> None:
    fault = RigFault(at=10.0, kind=kind, card=1, seconds=5.0)
    bench = PowerBench(2, fault, power=PowerConfig(limit=120.0, sm_clock=1500))
    bench.ticks(8)
    bench.sent.clear()
    bench.ticks(25)
    # The power limit reads as wished and is left alone; whether the clock is still locked nobody can tell. (A card that
    # leaves the bus has the reader open the driver anew, and then it is asked of all.)
    clock = CardSettings(sm_clock_mhz=1500)
    assert {name for sent in bench.sent for settings in sent.values() for name in settings.items()} == {"sm_clock_mhz"}
    assert [sent[bench.uuids[1]] for sent in bench.sent if bench.uuids[1] in sent] == [clock]
    assert kind == "gone" or bench.sent == [{bench.uuids[1]: clock}]


def test_a_card_that_moved_is_told_again() -> None:
    fault = RigFault(at=10.0, kind="moved", card=1, bus_id="00000000:0A:00.0")
    bench = PowerBench(2, fault, power=PowerConfig(sm_clock=1500))
    bench.ticks(8)
    bench.sent.clear()
    bench.ticks(15)
    assert {uuid for sent in bench.sent for uuid in sent} >= {bench.uuids[1]}


def test_what_somebody_else_changed_is_put_back() -> None:
    bench = PowerBench(1, power=LIMIT)
    bench.ticks(3)
    bench.card().power_limit = 180.0
    assert bench.ticks(10) == 1
    assert bench.card().power_limit == 120.0


def test_a_card_that_does_not_keep_what_it_took_is_told_and_not_asked_for_ever() -> None:
    bench = PowerBench(1, power=LIMIT)
    bench.library.__dict__["nvmlDeviceSetPowerManagementLimit"] = lambda *_: 0
    assert bench.ticks(40) == 1
    (warning,) = bench.keeper.warnings()
    assert warning.startswith("card 0: power limit 120 W was set, but the card does not keep it")


def test_the_cards_own_bounds_are_checked_before_anything_is_sent() -> None:
    bench = PowerBench(1, power=PowerConfig(limit=60.0, persistence=True))
    assert bench.tick() == {bench.uuids[0]: CardSettings(persistence=True)}
    bench.ticks(10)
    assert len(bench.sent) == 1
    (warning,) = bench.keeper.warnings()
    assert warning == (
        "card 0: power limit 60 W is refused (the card allows 90 to 217 W); choose limit within the card's bounds"
    )


def test_without_permission_it_is_tried_once_and_the_mend_is_said() -> None:
    bench = PowerBench(1, power=LIMIT)
    bench.break_setter("nvmlDeviceSetPowerManagementLimit", pynvml.NVML_ERROR_NO_PERMISSION)
    assert bench.ticks(30) == 1
    (warning,) = bench.keeper.warnings()
    assert "CAP_SYS_ADMIN" in warning and "systemctl edit p104d" in warning
    assert bench.keeper.refusals(bench.uuids[0])["power_limit_watts"].refused is Refused.NO_PERMISSION


def test_a_refused_setting_is_tried_again_when_the_card_or_driver_has_changed_or_it_is_asked_anew() -> None:
    reload = RigFault(at=10.0, kind="driver_reload")
    bench = PowerBench(1, reload, power=PowerConfig(fan=60), unsupported=("SetFanSpeed",))
    assert bench.ticks(8) == 1
    assert bench.ticks(12) == 1
    assert "leave fan out" in bench.keeper.warnings()[0]
    bench.keeper.ask(bench.uuids[0], CardSettings(fan_percent=60))
    assert bench.ticks(5) == 1
    bench.keeper.ask(bench.uuids[0], CardSettings(fan_percent=50))
    assert bench.ticks(5) == 1


def test_a_setting_over_which_the_sensor_dies_is_given_up_after_a_second_try() -> None:
    bench = PowerBench(1, power=LIMIT)
    lost = SettingResult(
        uuid=bench.uuids[0], name="power_limit_watts", value=120.0, refused=Refused.INTERRUPTED, text="it ended"
    )
    assert bench.tick()
    assert bench.keeper.pending(bench.uuids[0])
    bench.card().power_limit = 180.0
    assert bench.tick(results=[lost])
    bench.card().power_limit = 180.0
    assert not bench.tick(results=[lost])
    assert not bench.keeper.pending(bench.uuids[0])
    assert bench.ticks(10) == 0
    assert "is not tried again" in bench.keeper.warnings()[0]


def test_a_setting_over_which_the_card_hangs_waits_for_the_card_and_is_tried_once_more() -> None:
    hang = RigFault(at=3.5, kind="unknown", card=0, seconds=3.0)
    again = RigFault(at=13.5, kind="unknown", card=0, seconds=3.0)
    bench = PowerBench(1, hang, again, power=PowerConfig(sm_clock=1500))
    hung = [SettingResult(uuid=bench.uuids[0], name="sm_clock_mhz", value=1500, refused=Refused.HANG, text="hangs")]
    assert bench.tick()
    assert not bench.tick(results=hung)
    assert not bench.tick(results=[])
    assert bench.ticks(3) == 0
    assert bench.tick() == {bench.uuids[0]: CardSettings(sm_clock_mhz=1500)}
    assert not bench.tick(results=hung)
    assert bench.ticks(20) == 0
    assert "is not tried again" in bench.keeper.warnings()[0]


def test_an_answer_to_an_older_question_says_nothing_of_the_newer() -> None:
    bench = PowerBench(1, power=LIMIT)
    bench.tick()
    bench.keeper.ask(bench.uuids[0], CardSettings(power_limit_watts=100.0))
    old = SettingResult(uuid=bench.uuids[0], name="power_limit_watts", value=120.0, refused=Refused.FAILED)
    assert bench.tick(results=[]) == {bench.uuids[0]: CardSettings(power_limit_watts=100.0)}
    bench.tick(results=[old])
    assert bench.keeper.pending(bench.uuids[0])
    assert bench.keeper.warnings() == []
    bench.tick(results=[msgspec.structs.replace(old, value=100.0)])
    assert not bench.keeper.pending(bench.uuids[0])
    assert "power limit 100 W is refused" in bench.keeper.warnings()[0]


def test_a_fan_that_stands_at_some_speed_is_set_to_the_wished_one() -> None:
    bench = PowerBench(2, power=PowerConfig(fan=60))
    bench.card(0).fan_percent = 90
    bench.ticks(3)
    assert [bench.card(position).fan_percent for position in (0, 1)] == [60, 60]
    cool = PowerBench(1, power=PowerConfig(fan="auto"))
    assert cool.ticks(3) == 0


def test_a_person_takes_back_what_they_asked_and_the_card_goes_back() -> None:
    looks: list[int] = []
    bench = PowerBench(2, cards=(CardConfig(match="0", limit=150.0),))
    bench.keeper.look = lambda: looks.append(1)
    bench.ticks(2)
    wish = CardSettings(power_limit_watts=100.0, sm_clock_mhz=1500, fan_percent=70, persistence=True)
    for uuid in bench.uuids:
        bench.keeper.ask(uuid, wish)
    bench.ticks(3)
    assert [bench.card(position).power_limit for position in (0, 1)] == [100.0, 100.0]
    bench.keeper.ask(bench.uuids[0], CardSettings())
    bench.keeper.ask(bench.uuids[1], CardSettings())
    assert looks == [1] * 4
    sent = bench.tick()
    back = CardSettings(sm_clock_mhz=CLOCK_FREE, fan_percent=FAN_AUTOMATIC)
    assert sent[bench.uuids[0]] == back.merged(CardSettings(power_limit_watts=150.0))
    assert sent[bench.uuids[1]] == back.merged(CardSettings(power_limit_watts=180.0))
    assert bench.ticks(10) == 0
    card = bench.card(1)
    assert (card.power_limit, card.locked_clock_mhz, card.fan_percent, card.persistence) == (180.0, None, None, True)
    card.power_limit = 130.0  # nobody's wish any more
    assert bench.ticks(10) == 0


def test_a_default_that_could_not_be_restored_is_told() -> None:
    bench = PowerBench(1)
    bench.tick()
    bench.keeper.ask(bench.uuids[0], CardSettings(power_limit_watts=100.0))
    bench.ticks(2)
    bench.break_setter("nvmlDeviceSetPowerManagementLimit", pynvml.NVML_ERROR_NO_PERMISSION)
    bench.keeper.ask(bench.uuids[0], CardSettings())
    bench.ticks(3)
    assert "power limit 180 W is refused" in bench.keeper.warnings()[0]
