"""Telemetry as it is asked for: steps, gaps, jumps of the clock, points that are exactly what the samples come to."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from telemetry_rig import CARD, DAY0, MEMORY, POWER, TEMPERATURE, THROTTLE, kinds, raw, record, rows, temperature

from p104d.core.errors import NotFoundError
from p104d.core.units import MIB
from p104d.policy.health import throttle_names
from p104d.store.telemetry import Samples, Telemetry, pack
from p104d.store.telemetry_keeping import compact
from p104d.store.telemetry_kinds import Kind
from p104d.store.telemetry_metrics import ALL_METRICS, CARD_METRICS, HOST, HOST_METRICS, metric_of, throttle_bits


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Telemetry]:
    opened = Telemetry(tmp_path / "telemetry.db")
    yield opened
    opened.close()


def settled(store: Telemetry) -> None:
    """Everything compacted that can be."""
    compact(store, DAY0 + 30 * 86400)


# --- samples -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_samples_come_back_as_they_were_taken(store: Telemetry, compacted: bool) -> None:
    record(store, DAY0 + 0.25, 7300)
    if compacted:
        settled(store)
        assert kinds(store) == {Kind.SAMPLES_HOUR: 3, Kind.MINUTES_DAY: 1}
    found = raw(store, DAY0, DAY0 + 86400)
    assert found == {DAY0 + second + 0.25: temperature(DAY0 + second) for second in range(7300)}
    part = raw(store, DAY0 + 3590.5, DAY0 + 3605)
    assert list(part) == [DAY0 + second + 0.25 for second in range(3591, 3605)]


def test_units_are_those_of_the_metric(store: Telemetry) -> None:
    values = {POWER: [1173, None], MEMORY: [4096, 8191], THROTTLE: [0x4, 0x41]}
    store.append(pack(Samples(CARD, [DAY0, DAY0 + 1], values)))
    for _ in range(2):
        assert raw(store, DAY0, DAY0 + 9, "power_watts") == {DAY0: 117.3}
        assert raw(store, DAY0, DAY0 + 9, "memory_used_bytes") == {DAY0: 4096 * MIB, DAY0 + 1: 8191 * MIB}
        flags = store.series(CARD, "throttle_bits", DAY0, DAY0 + 9, 1.0)
        assert (flags.minimum, flags.mean) == ([4, 0x41], [1.0, 1.0])
        settled(store)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("step", [5, 60, 300, 3600, 7200, 86400])
def test_points_are_exactly_what_the_samples_come_to(store: Telemetry, step: int, compacted: bool) -> None:
    record(store, DAY0, 3600 * 3 + 130)
    if compacted:
        settled(store)
    found = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 86400, step)
    samples = [(DAY0 + second, temperature(DAY0 + second)) for second in range(3600 * 3 + 130)]
    starts = sorted({at // step * step for at, _ in samples})
    assert found.times == starts
    for place, start in enumerate(starts):
        values = [value for at, value in samples if start <= at < start + step]
        assert found.minimum[place] == min(values)
        assert found.maximum[place] == max(values)
        # Minutes keep a tenth of a unit of their mean.
        assert found.mean[place] == pytest.approx(statistics.fmean(values), abs=0.051)


@pytest.mark.parametrize("compacted", [False, True])
def test_flags_come_to_always_ever_and_how_long(store: Telemetry, compacted: bool) -> None:
    # The power cap all the time, heat for a quarter of it, idle in the minute after.
    record(store, DAY0, 60, metric=THROTTLE, value=lambda at: 0x44 if at < DAY0 + 15 else 0x4)
    record(store, DAY0 + 60, 60, metric=THROTTLE, value=lambda at: 0x1)
    if compacted:
        settled(store)
    minutes = store.series(CARD, "throttle_bits", DAY0, DAY0 + 3600, 60)
    assert (minutes.minimum, minutes.maximum, minutes.mean) == ([4, 1], [0x44, 1], [1.0, 0.0])
    hour = store.series(CARD, "throttle_bits", DAY0, DAY0 + 3600, 3600)
    assert (hour.minimum, hour.maximum, hour.mean) == ([0], [0x45], [0.5])


def test_chunks_that_are_not_written_yet_are_seen(store: Telemetry) -> None:
    record(store, DAY0, 60)
    times = [DAY0 + 60.0 + second for second in range(30)]
    fresh = pack(Samples(CARD, times, {TEMPERATURE: [77] * 30})) + pack(
        Samples("GPU-x", times, {TEMPERATURE: [1] * 30})
    )
    found = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3600, 1.0, fresh)
    assert len(found.times) == 90
    assert set(found.mean[60:]) == {77}
    assert store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3600, 60, fresh).maximum[-1] == 77


def test_what_is_not_known(store: Telemetry) -> None:
    assert store.series("GPU-never", "power_watts", DAY0, DAY0 + 9, 1.0).times == []
    assert store.series("GPU-never", "power_watts", DAY0, DAY0 + 9, 3600).times == []
    with pytest.raises(NotFoundError, match="there is no metric warmth"):
        store.series(CARD, "warmth", DAY0, DAY0 + 9, 1.0)
    with pytest.raises(NotFoundError):
        store.series(HOST, "temperature_celsius", DAY0, DAY0 + 9, 1.0)
    assert store.series(CARD, "power_watts", DAY0 + 9, DAY0, 1.0).times == []


# --- gaps and clocks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_gaps_are_gaps(store: Telemetry, compacted: bool) -> None:
    record(store, DAY0, 100, value=lambda at: None if DAY0 + 20 <= at < DAY0 + 30 else 50)
    record(store, DAY0 + 4000, 60, value=lambda at: 60)
    record(store, DAY0 + 2 * 86400, 60, value=lambda at: None)
    if compacted:
        settled(store)
    found = raw(store, DAY0, DAY0 + 3 * 86400)
    assert set(found) == {DAY0 + at for at in (*range(20), *range(30, 100), *range(4000, 4060))}
    for step in (60, 3600, 86400):
        series = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3 * 86400, step)
        assert set(series.minimum) <= {50, 60}
        assert series.times == sorted({at // step * step for at in found})


def test_a_clock_that_goes_back_costs_nothing_and_invents_nothing(store: Telemetry) -> None:
    record(store, DAY0, 3700, value=lambda at: 50)
    settled(store)
    record(store, DAY0 + 1800, 120, value=lambda at: 90)  # the same half hour again, after it was compacted
    before = raw(store, DAY0, DAY0 + 7200)
    twice = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 7200, 1.0).times
    assert len(twice) == 3820
    assert twice == sorted(twice)
    settled(store)
    assert raw(store, DAY0, DAY0 + 7200) == before
    assert kinds(store)[Kind.SAMPLES_HOUR] == 2
    assert Kind.SAMPLES_MINUTE not in kinds(store)
    hour = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 3600, 3600)
    assert hour.mean == [pytest.approx((3600 * 50 + 120 * 90) / 3720)]
    minutes = store.series(CARD, "temperature_celsius", DAY0 + 1740, DAY0 + 1980, 60)
    assert minutes.mean == [50, 70, 70, 50]
    times = store.series(CARD, "temperature_celsius", DAY0, DAY0 + 7200, 1.0).times
    assert times == sorted(times)


def test_clocks_far_away_are_no_error(store: Telemetry) -> None:
    for start in (-7200.0, 0.0, 30.0, DAY0, 4_102_444_800.0):
        record(store, start, 90)
        compact(store, start)
    settled(store)
    places = ((-7200, 90), (0, 120), (DAY0, 90), (4_102_444_800, 90))  # 0 and 30 overlap by a minute
    assert [len(raw(store, start - 99, start + 999)) for start, _ in places] == [count for _, count in places]
    for step in (60, 3600, 86400):
        assert store.series(CARD, "temperature_celsius", -1e9, 1e10, step).times


def test_a_minute_of_samples_that_are_out_of_order_is_put_in_order(store: Telemetry) -> None:
    store.append(pack(Samples(CARD, [DAY0 + 5, DAY0 + 70, DAY0 + 4], {TEMPERATURE: [5, 70, 4]})))
    assert list(raw(store, DAY0, DAY0 + 99).items()) == [(DAY0 + 4, 4), (DAY0 + 5, 5), (DAY0 + 70, 70)]
    assert kinds(store) == {Kind.SAMPLES_MINUTE: 2}


# --- compaction ----------------------------------------------------------------------------------------------------


def test_the_present_hour_and_day_are_left_alone(store: Telemetry) -> None:
    record(store, DAY0, 3600)
    assert compact(store, DAY0 + 3599) == 0
    assert compact(store, DAY0 + 3600) == 1
    assert kinds(store) == {Kind.SAMPLES_HOUR: 1, Kind.MINUTES_HOUR: 1}
    assert compact(store, DAY0 + 3600) == 0
    record(store, DAY0 + 600, 60)
    assert compact(store, DAY0 + 3601) == 1
    assert kinds(store) == {Kind.SAMPLES_HOUR: 1, Kind.MINUTES_HOUR: 1}
    assert compact(store, DAY0 + 86400) == 1
    assert kinds(store) == {Kind.SAMPLES_HOUR: 1, Kind.MINUTES_DAY: 1}


def test_points_for_sql(store: Telemetry) -> None:
    record(store, DAY0, 7200, metric=POWER, value=lambda at: 1000 if at < DAY0 + 3600 else 2000)
    settled(store)
    found = rows(
        store, "SELECT seconds, start, count, minimum, mean, maximum FROM history WHERE metric = 'power_watts'"
    )
    assert sorted(found) == [
        (3600, DAY0, 3600, 100.0, 100.0, 100.0),
        (3600, DAY0 + 3600, 3600, 200.0, 200.0, 200.0),
        (86400, DAY0, 7200, 100.0, 150.0, 200.0),
    ]


# --- the table of metrics ------------------------------------------------------------------------------------------


def test_numbers_and_scales_of_metrics_are_for_good() -> None:
    """They are in people's files: this list may grow, and no line of it may change."""
    assert [(each.number, each.name, each.times, each.parts) for each in ALL_METRICS] == [
        (1, "temperature_celsius", 1, 1),
        (2, "fan_percent", 1, 1),
        (3, "power_watts", 1, 10),
        (4, "power_limit_watts", 1, 10),
        (5, "sm_clock_mhz", 1, 1),
        (6, "memory_clock_mhz", 1, 1),
        (7, "utilization_percent", 1, 1),
        (8, "memory_utilization_percent", 1, 1),
        (9, "memory_used_bytes", MIB, 1),
        (10, "throttle_bits", 1, 1),
        (11, "link_generation", 1, 1),
        (12, "link_width", 1, 1),
        (13, "pcie_receive_bytes_per_second", 1000, 1),
        (14, "pcie_transmit_bytes_per_second", 1000, 1),
        (40, "cpu_percent", 1, 10),
        (41, "memory_used_bytes", MIB, 1),
        (42, "memory_available_bytes", MIB, 1),
        (43, "disk_read_bytes_per_second", 1000, 1),
        (44, "disk_write_bytes_per_second", 1000, 1),
        (45, "disk_free_bytes", MIB, 1),
        (46, "network_receive_bytes_per_second", 1000, 1),
        (47, "network_transmit_bytes_per_second", 1000, 1),
    ]
    assert metric_of(HOST, "memory_used_bytes") in HOST_METRICS
    assert metric_of(CARD, "memory_used_bytes") in CARD_METRICS


@pytest.mark.parametrize("mask", [0, 0x1, 0x4, 0x48, 0x1FF, 0x4 | 0x1000])
def test_throttle_names_are_the_bits_they_came_from(mask: int) -> None:
    assert throttle_bits(throttle_names(mask)) == mask
    assert throttle_bits(("a reason of tomorrow",)) == 0
