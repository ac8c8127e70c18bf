"""What a job uses of its cards, added up from looks at them: on paper, with a clock turned by hand."""

from __future__ import annotations

from typing import Any

import pytest

from p104d.core.card import CardIdentity, CardReading, CardReport, ProcessUse
from p104d.core.job import JobState, Measurement
from p104d.core.units import GIB
from p104d.daemon.sights import Sight
from p104d.daemon.usage import KEY, Usage
from p104d.engines.measure import RESERVED_NAMES
from p104d.hardware.messages import Cycle
from p104d.store.reads import OpenAttempt

TOKENS = Measurement(name="generation_tokens", value=1800.0, unit="tokens")


def attempt(job: int = 1, *holds: tuple[str, int, bool], number: int = 1, started: float | None = 1.0) -> OpenAttempt:
    return OpenAttempt(
        job_id=job, number=number, state=JobState.RUNNING, name="j", uid=0, boot_id="b", stop_reason=None, pid=9,
        placed_at=0.0, started_at=started, ends_by=None, ram_bytes=0, cards=1, holds=list(holds or [("A", 8, True)]),
            instance_id=None,
    )  # fmt: skip


def report(uuid: str = "A", fault: str | None = None, **reading: Any) -> CardReport:
    made = CardReading(**{"power_watts": 100.0, **reading})
    return CardReport(identity=CardIdentity(uuid=uuid, index=0), reading=made, fault=fault)


def look(
    usage: Usage, at: float, *reports: CardReport, attempts: list[OpenAttempt] | None = None,
    ours: dict[int, int] | None = None, foreign: int = 0,
) -> None:  # fmt: skip
    """One cycle at a monotonic second; the wall clock stands anywhere."""
    cards = reports or (report(),)
    sights = {each.identity.uuid: Sight(report=each, at=at, ours=ours or {}, foreign_bytes=foreign) for each in cards}
    usage.on_cycle(Cycle(at=0.0, monotonic=at, sequence=1, cards=cards), attempts or [attempt()], sights)


def figures(usage: Usage, *read: Measurement, job: int = 1, number: int = 1, whole: bool = True) -> dict[str, float]:
    return {each.name: each.value for each in usage.ended(job, number, read, whole=whole)}


def test_energy_is_the_trapezoid_of_power() -> None:
    usage = Usage()
    for at, watts in ((10, 100.0), (11, 200.0), (13, 100.0)):
        look(usage, at, report(power_watts=watts))
    found = figures(usage)
    assert found["energy_watt_hours"] == pytest.approx((150 + 300) / 3600)
    assert found["mean_power_watts"] == pytest.approx(150)
    assert found["peak_power_watts"] == 200
    assert figures(usage) == {}  # forgotten


@pytest.mark.parametrize("gap", [5.01, 3600.0, -50.0, 0.0])
def test_a_gap_is_not_bridged(gap: float) -> None:
    usage = Usage()
    for at in (10.0, 11.0, 11.0 + gap, 12.0 + gap):
        look(usage, at)
    found = figures(usage)
    assert found["energy_watt_hours"] == pytest.approx(100 * 2 / 3600)
    assert found["mean_power_watts"] == pytest.approx(100)


def test_a_reading_that_is_missing_is_a_gap() -> None:
    usage = Usage()
    for at, watts in ((10, 100.0), (11, None), (12, 100.0), (13, 100.0)):
        look(usage, at, report(power_watts=watts))
    assert figures(usage)["energy_watt_hours"] == pytest.approx(100 / 3600)
    for at, fault in ((10, None), (11, "lost"), (12, None), (13, None)):
        look(usage, at, report(fault=fault))
    assert figures(usage)["energy_watt_hours"] == pytest.approx(100 / 3600)


def test_a_card_without_power_readings_has_no_energy_at_all() -> None:
    usage = Usage(energy_price=0.3)
    both = attempt(1, ("A", 8, True), ("B", 8, True))
    for at in (10, 11, 12):
        look(usage, at, report("A"), report("B", power_watts=None, temperature_celsius=60), attempts=[both])
    found = figures(usage, TOKENS)
    assert not {"energy_watt_hours", "mean_power_watts", "peak_power_watts", "cost", "joules_per_token"} & set(found)
    assert found["mean_temperature_celsius"] == 60


def test_cards_of_a_gang_add_up() -> None:
    usage = Usage()
    both = attempt(1, ("A", 8, True), ("B", 8, True))
    for at, watts in ((10, 50.0), (11, 70.0), (12, 50.0)):
        cards = (report("A", power_watts=watts, memory_clock_mhz=5005, sm_clock_mhz=1700, temperature_celsius=50),
                 report("B", sm_clock_mhz=1500, memory_clock_mhz=4006, temperature_celsius=80))  # fmt: skip
        look(usage, at, *cards, attempts=[both])
    found = figures(usage)
    assert found["energy_watt_hours"] == pytest.approx((60 + 60 + 200) / 3600)
    assert found["mean_power_watts"] == pytest.approx(160)
    assert found["peak_power_watts"] == 170
    assert (found["mean_sm_clock_mhz"], found["mean_memory_clock_mhz"]) == (1500, 4006)
    assert (found["mean_temperature_celsius"], found["max_temperature_celsius"]) == (80, 80)


def test_a_shared_card_is_divided_by_what_was_reserved() -> None:
    usage = Usage()
    two = [attempt(1, ("A", 2, False)), attempt(2, ("A", 6, False)), attempt(3, ("A", 8, False), started=None)]
    for at in (10, 11):
        look(usage, at, attempts=two)
    look(usage, 12, attempts=two[:1])  # alone from here on
    first, second = figures(usage, job=1), figures(usage, job=2)
    assert second["energy_watt_hours"] == pytest.approx(75 / 3600)
    assert first["energy_watt_hours"] == pytest.approx((25 + (25 + 100) / 2) / 3600)
    assert figures(usage, job=3) == {}


def test_memory_is_the_jobs_own_where_the_driver_tells() -> None:
    usage = Usage()
    processes = (ProcessUse(9, 3 * GIB),)
    look(usage, 10, report(memory_used_bytes=7 * GIB, processes=processes), ours={1: 3 * GIB})
    look(usage, 11, report(memory_used_bytes=8 * GIB), ours={1: 5 * GIB})  # not told with this look: of before
    look(usage, 12, report(memory_used_bytes=7 * GIB, processes=processes), ours={1: 2 * GIB})
    assert figures(usage)["peak_vram_bytes"] == 3 * GIB


def test_memory_of_a_card_of_its_own_where_the_driver_does_not_tell() -> None:
    usage = Usage()
    unknown = (ProcessUse(9, None),)
    look(usage, 10, report(memory_used_bytes=7 * GIB, processes=unknown), ours={1: 0}, foreign=GIB)
    assert figures(usage)["peak_vram_bytes"] == 6 * GIB
    shared = attempt(1, ("A", 8, False))
    look(usage, 10, report(memory_used_bytes=7 * GIB, processes=unknown), attempts=[shared])
    assert "peak_vram_bytes" not in figures(usage)


def test_peak_memory_is_that_of_the_fullest_card() -> None:
    usage = Usage()
    both = attempt(1, ("A", 8, True), ("B", 8, True))
    look(usage, 10, report("A", memory_used_bytes=5 * GIB), report("B", memory_used_bytes=2 * GIB), attempts=[both])
    assert figures(usage)["peak_vram_bytes"] == 5 * GIB


def test_seconds_held_back() -> None:
    usage = Usage()
    hot, capped = ("hardware thermal slowdown",), ("software power cap", "idle")
    for at, throttle in ((10, hot), (11, hot), (12, capped), (14, capped), (20, hot), (21, ())):
        look(usage, at, report(throttle=throttle))
    found = figures(usage)
    assert (found["throttled_seconds"], found["power_capped_seconds"]) == (1, 3)


def test_the_link_is_what_it_showed_at_its_best() -> None:
    usage = Usage()
    for at, generation in ((10, 1), (11, 3), (12, 1)):
        look(usage, at, report(link_generation=generation, link_width=4))
    assert figures(usage)["link_lanes_gen1"] == 16


def test_what_follows_from_what_was_read() -> None:
    usage = Usage(energy_price=0.40, currency="CHF")
    for at in range(10, 47):
        look(usage, at)
    read = (TOKENS, Measurement(name="items", value=4.0, unit="images"),
            Measurement(name="iterations", value=120.0, unit="it"))  # fmt: skip
    told = usage.ended(1, 1, read)
    found = {each.name: (each.value, each.unit) for each in told}
    assert found["energy_watt_hours"] == (pytest.approx(1.0), "Wh")
    assert found["cost"] == (pytest.approx(0.0004), "CHF")
    assert found["joules_per_token"] == (pytest.approx(2.0), "J/token")
    assert found["watt_hours_per_1000_tokens"] == (pytest.approx(1 / 1.8), "Wh")
    assert found["watt_hours_per_item"] == (pytest.approx(0.25), "Wh")
    assert found["joules_per_iteration"] == (pytest.approx(30.0), "J/it")


def test_counts_of_a_part_of_the_output_make_no_ratio() -> None:
    usage = Usage()
    look(usage, 10)
    look(usage, 11)
    found = figures(usage, TOKENS, whole=False)
    assert "energy_watt_hours" in found and "joules_per_token" not in found and "cost" not in found


@pytest.mark.parametrize(("seconds", "joules"), [(10.0, 1000.0), (11.0, 1100.0), (8.0, 1000.0), (13.0, None)])
def test_energy_by_the_token_is_of_the_whole_time_or_none(seconds: float, joules: float | None) -> None:
    usage = Usage(energy_price=1.0)
    for at in range(10, 21):
        look(usage, at)
    found = {each.name: each.value for each in usage.ended(1, 1, [TOKENS], seconds=seconds)}
    assert found["energy_watt_hours"] == pytest.approx(1000 / 3600)
    assert found["cost"] == pytest.approx(1 / 3600)
    assert found.get("joules_per_token") == (None if joules is None else pytest.approx(joules / 1800))


def test_every_name_is_reserved() -> None:
    usage = Usage(energy_price=1.0)
    for at in (10, 11):
        look(usage, at, report(memory_used_bytes=5, temperature_celsius=1, sm_clock_mhz=1, memory_clock_mhz=1,
                               link_width=1, link_generation=1))  # fmt: skip
    read = (
        TOKENS,
        Measurement(name="items", value=4.0, unit="x"),
        Measurement(name="iterations", value=1.0, unit="it"),
    )
    assert set(figures(usage, *read)) < RESERVED_NAMES
    assert len(RESERVED_NAMES) == 8 + 17


def test_attempts_of_one_job_are_apart() -> None:
    usage = Usage()
    look(usage, 10)
    look(usage, 11, report(power_watts=500.0))
    look(usage, 12, report(power_watts=50.0), attempts=[attempt(number=2)])
    assert figures(usage, number=1)["peak_power_watts"] == 500
    assert figures(usage, number=2)["peak_power_watts"] == 50


def test_jobs_without_cards_and_the_never_seen_use_nothing() -> None:
    usage = Usage()
    processor = attempt(2)
    processor.holds = []
    look(usage, 10, attempts=[processor, attempt(3, started=None)])
    assert figures(usage, job=2) == figures(usage, job=3) == figures(usage, job=4) == {}
    assert usage.save() == {KEY: "{}"}


def test_a_restart_goes_on_and_makes_nothing_up() -> None:
    before = Usage()
    for at in (10, 11, 12):
        look(before, at, report(power_watts=200.0, temperature_celsius=70, throttle=("power brake slowdown",)))
    assert {each.name for each in before.so_far(1, 1)} >= {"energy_watt_hours", "peak_power_watts"}
    after = Usage()
    after.load(before.save()[KEY])
    for at in (13, 14):  # a moment later: still nobody looked in between
        look(after, at, report(throttle=("power brake slowdown",)))
    found = figures(after)
    assert found["energy_watt_hours"] == pytest.approx(500 / 3600)
    assert (found["peak_power_watts"], found["max_temperature_celsius"], found["throttled_seconds"]) == (200, 70, 3)


@pytest.mark.parametrize(
    "kept", [None, "", "]", "[]", '{"1-1": 5}', '{"x-y": {}, "7": {}, "-1-1": {}}', '{"1-1": {"cards": 5}}']
)
def test_what_cannot_be_understood_is_added_up_anew(kept: str | None) -> None:
    usage = Usage()
    usage.load(kept)
    assert usage.save() == {KEY: "{}"}


def test_what_nobody_asks_about_is_forgotten() -> None:
    usage = Usage()
    look(usage, 10)
    look(usage, 500, attempts=[attempt(2)])
    assert usage.so_far(1, 1)  # its end may still be asked about
    look(usage, 611, attempts=[attempt(2)])
    assert not usage.so_far(1, 1) and usage.so_far(2, 1)
