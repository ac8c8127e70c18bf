"""Heat, clocks and XIDs, cycle by cycle, without a daemon around."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from p104d.core.card import CardIdentity, CardReading, CardReport, XidEvent
from p104d.daemon.care import Care
from p104d.daemon.clocks import ClockWatch
from p104d.daemon.config import Config, HeatConfig, PowerConfig, settle
from p104d.daemon.heat import HeatWatch
from p104d.daemon.xids import XidLog
from p104d.hardware.messages import CardSettings, Cycle
from p104d.policy.heat import Heat

START = 1e9


def uuid(number: int = 0) -> str:
    return f"GPU-{number:08d}-0000-0000-0000-000000000000"


def card(number: int = 0, fault: str | None = None, shutdown: int | None = 99, **reading: Any) -> CardReport:
    identity = CardIdentity(
        uuid=uuid(number),
        index=number,
        bus_id=f"00000000:0{number + 1}:00.0",
        power_limit_default_watts=180.0,
        shutdown_celsius=shutdown,
    )
    return CardReport(identity=identity, reading=CardReading(**reading), fault=fault)


def cycle(at: float, *cards: CardReport, xids: tuple[XidEvent, ...] = ()) -> Cycle:
    return Cycle(at=START + at, monotonic=at, sequence=int(at), cards=cards, xids=xids)


# --- heat --------------------------------------------------------------------------------------------------------


def test_a_hot_card_closes_and_a_hotter_one_stops_its_jobs_once() -> None:
    watch = HeatWatch(HeatConfig())
    stops = []
    for at, degrees in enumerate([60, 85, 90, 95, 97, 94, 88, 79, 78]):
        stops.append(watch.on_cycle(cycle(at, card(0, temperature_celsius=degrees), card(1, temperature_celsius=50))))
        closed = watch.closed_reason(uuid(0))
        assert (closed is None) == (at in (0, 8))
        if degrees == 97:
            assert closed == "hot (97 °C): takes jobs again below 79 °C"
            assert watch.warnings() == [
                "card 0 is hot (97 °C): takes jobs again below 79 °C, its jobs were stopped and queued again; "
                "clean its fan and heat sink, give it air"
            ]
    assert stops == [set(), set(), set(), {uuid(0)}, set(), set(), set(), set(), set()]
    assert watch.closed_reason(uuid(1)) is None and watch.warnings() == []


def test_a_card_that_went_silent_while_hot_stays_closed() -> None:
    watch = HeatWatch(HeatConfig())
    watch.on_cycle(cycle(0, card(temperature_celsius=97)))
    assert watch.on_cycle(cycle(1, card(fault="lost"))) == set()
    assert watch.on_cycle(cycle(2)) == set()
    assert watch.state(uuid()) is Heat.STOP
    assert watch.closed_reason("GPU-unknown") is None


def test_a_limit_that_the_driver_comes_before_is_told() -> None:
    watch = HeatWatch(HeatConfig(no_new_jobs=90, stop_jobs=99))
    watch.on_cycle(cycle(0, card(temperature_celsius=40), card(1, shutdown=None)))
    (warning,) = watch.warnings()
    assert "switches it off at 99 °C" in warning and "set heat.stop_jobs lower" in warning


# --- clocks ------------------------------------------------------------------------------------------------------


class Clocks:
    """Load at a clock, a second at a time."""

    def __init__(self, stored: dict[str, str] | None = None) -> None:
        self.wish = CardSettings()
        self.watch = ClockWatch(stored, lambda _: self.wish)
        self.at = 0.0

    def load(self, seconds: int, mhz: int, *, load: int = 99, limit: float | None = 180.0, **reading: Any) -> list[str]:
        for _ in range(seconds):
            self.at += 1.0
            report = card(2, sm_clock_mhz=mhz, utilization_percent=load, power_limit_watts=limit, **reading)
            self.watch.on_cycle(cycle(self.at, report))
        return self.watch.warnings()


def test_a_card_that_grows_slow_is_told_with_the_mend_and_until_it_is_not() -> None:
    clocks = Clocks()
    assert clocks.load(700, 1700) == []
    assert clocks.load(5, 1000) == [], "a moment is no drop"
    (warning,) = clocks.load(30, 1000, throttle=("hardware thermal slowdown",))
    assert warning.startswith("card 2: its SM clock under load is 1000 MHz, 41 % below its usual 1")
    assert "(hardware thermal slowdown); look at" in warning
    assert clocks.load(300, 139, load=0), "what idles shows nothing new"
    assert clocks.load(40, 1700) == []


def test_a_drop_within_the_usual_is_none() -> None:
    clocks = Clocks()
    clocks.load(700, 1700)
    assert clocks.load(60, 1480) == []
    assert clocks.load(60, 1400) != []


def test_a_drop_that_stays_is_told_for_hours_and_becomes_the_usual_in_days() -> None:
    clocks = Clocks()
    clocks.load(700, 1700)
    assert clocks.load(4 * 3600, 1300) != []


def test_little_load_is_no_history() -> None:
    clocks = Clocks()
    clocks.load(500, 1700)
    assert clocks.load(60, 800) == []
    fresh = Clocks()
    fresh.load(3000, 1700, load=80)
    assert fresh.load(60, 800) == [], "what was not loaded taught nothing"


def test_a_change_of_limits_is_no_drop_and_each_limit_has_its_own_history() -> None:
    clocks = Clocks()
    clocks.load(700, 1700)
    assert clocks.load(700, 1200, limit=100.0) == []
    clocks.wish = CardSettings(sm_clock_mhz=900)
    assert clocks.load(700, 900) == []
    clocks.wish = CardSettings()
    assert clocks.load(1, 1700) == [], "what was seen under another limit does not count"
    assert clocks.load(60, 1700) == []
    assert clocks.load(60, 1200) != []
    assert clocks.load(1, 1200, limit=100.0) == [], "the finding was one under the other limit"
    assert clocks.load(60, 1200, limit=100.0) == []


def test_a_chosen_power_limit_that_holds_the_clock_down_is_no_drop_but_the_cards_own_is() -> None:
    for limit, told in ((100.0, False), (180.0, True), (None, True)):
        clocks = Clocks()
        clocks.load(700, 1700, limit=limit)
        assert bool(clocks.load(60, 1000, limit=limit, throttle=("software power cap",))) is told


def test_histories_are_kept_over_a_restart_and_written_seldom() -> None:
    clocks = Clocks()
    clocks.load(700, 1700)
    assert clocks.watch.to_save(0.0) == {}
    assert clocks.watch.to_save(599.0) == {}
    stored = clocks.watch.to_save(600.0)
    assert list(stored) == [uuid(2)]
    assert clocks.watch.to_save(1300.0) == {}, "nothing has changed"
    again = Clocks(stored)
    assert again.load(60, 1000) != []
    assert list(again.watch.to_save(0.0, all_of_it=True)) == [uuid(2)]
    assert Clocks({uuid(2): "from a later release"}).load(60, 1000) == []


def test_histories_of_limits_seldom_used_are_forgotten() -> None:
    clocks = Clocks()
    clocks.load(100, 1700)
    for limit in range(100, 120):
        clocks.load(3, 1500, limit=float(limit))
    kept = msgspec.json.decode(clocks.watch.to_save(0.0, all_of_it=True)[uuid(2)])
    assert len(kept) == 8 and "180W/0/0" in kept and "119W/0/0" in kept


# --- XIDs --------------------------------------------------------------------------------------------------------


def xid(code: int, number: int | None = 0, pid: int | None = None) -> XidEvent:
    place = 8 if number is None else number
    return XidEvent(
        code=code, uuid=None if number is None else uuid(number), bus_id=f"00000000:0{place + 1}:00.0", pid=pid
    )


def test_each_xid_is_told_for_a_day_with_whose_fault_it_is() -> None:
    log = XidLog()
    log.on_cycle(cycle(0, card(0), card(1), xids=(xid(31, 1, pid=77),)))
    log.on_cycle(cycle(60, xids=(xid(79, 0), xid(31, 1, pid=78), xid(94, None))))
    told = log.warnings(START + 120)
    assert sorted(told) == [
        "card 0: XID 79 (fell off the bus), 1m00s ago: the card's fault; check its riser, power cable and power "
        "supply, then p104ctl undrain 0",
        "card 1: XID 31 (memory page fault), 2 times, 1m00s ago of process 78: the program's fault; look at the log of "
        "the job that ran there",
        "the card at 00000000:09:00.0: XID 94, 1m00s ago: nobody's for certain; look at dmesg, and test the card's "
        "memory if it comes again",
    ]
    assert log.warnings(START + 60 + 86_399) != []
    assert log.warnings(START + 60 + 86_400) == []


def test_an_xid_under_our_own_memory_test_is_the_cards_fault() -> None:
    log = XidLog(lambda each: each == uuid(1))
    log.on_cycle(cycle(0, card(0), card(1), xids=(xid(31, 0), xid(31, 1))))
    told = {text.partition(":")[0]: text for text in log.warnings(START)}
    assert "the program's fault" in told["card 0"]
    assert "the card's fault" in told["card 1"]


def test_an_xid_told_by_its_bus_address_alone_is_put_down_to_its_card() -> None:
    log = XidLog()
    event = XidEvent(code=31, bus_id="00000000:02:00.0")
    log.on_cycle(cycle(0, card(0), card(1), xids=(event,)))
    assert log.warnings(START)[0].startswith("card 1: XID 31")


# --- all together ------------------------------------------------------------------------------------------------


@pytest.fixture
def settings() -> Any:
    return settle(Config(power=PowerConfig(limit=120.0)))


def test_care_says_what_a_look_calls_for(settings: Any) -> None:
    asked = msgspec.json.encode(CardSettings(power_limit_watts=100.0)).decode()
    care = Care(settings, {"power:" + uuid(0): asked, "power:" + uuid(1): "{", "clocks:" + uuid(0): "{}"})
    first = care.on_cycle(cycle(0, card(0, temperature_celsius=40), card(1, temperature_celsius=40)))
    assert first.send == {
        uuid(0): CardSettings(power_limit_watts=100.0),
        uuid(1): CardSettings(power_limit_watts=120.0),
    }
    assert not first.material and not first.too_hot
    hot = care.on_cycle(cycle(1, card(0, temperature_celsius=96), card(1, temperature_celsius=40)))
    assert hot.material and hot.too_hot == {uuid(0)}
    assert care.closed_reason(uuid(0)) is not None and care.closed_reason(uuid(1)) is None
    still = care.on_cycle(cycle(2, card(0, temperature_celsius=94), xids=(xid(31),)))
    assert not still.material and not still.too_hot
    assert [text.split(":")[0] for text in care.warnings(START + 2)] == ["card 0 is hot (94 °C)", "card 0"]
    assert care.on_cycle(cycle(3, card(0, temperature_celsius=60))).material
    busy = {"utilization_percent": 99, "sm_clock_mhz": 1700}
    care.on_cycle(cycle(4, card(0, **busy)))
    assert list(care.close(5.0)) == ["clocks:" + uuid(0)]
    assert care.close(6.0) == {}
