"""Sizes, durations and times: what is written is read back, and nothing is guessed."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.core.units import (
    GIB,
    MAX_DURATION_SECONDS,
    MAX_SIZE_BYTES,
    MIB,
    format_duration,
    format_size,
    iso,
    parse_duration,
    parse_size,
)

UNITS = {
    "B": 1,
    "KiB": 2**10,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}


@given(number=st.integers(1, 999), unit=st.sampled_from(sorted(UNITS)), blank=st.sampled_from(["", " ", "\t"]))
def test_sizes_mean_what_their_unit_says(number: int, unit: str, blank: str) -> None:
    wanted = number * UNITS[unit]
    assert parse_size(f"{number}{blank}{unit}") == wanted
    assert parse_size(f" {number}{blank}{unit.lower()} ") == wanted


@pytest.mark.parametrize(("text", "size"), [("1.5GiB", 3 * GIB // 2), ("0.5KB", 500), ("8192MiB", 8 * GIB)])
def test_sizes_with_a_fraction(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "7500", "MiB", "-1MiB", "1e3MiB", "1,5GiB", "1 Mi B", "1.GiB", ".5GiB", "0B",
                                  "0.1B", "2048TiB", "9" * 400 + "TiB", "٣MiB", "1MiB\n1", "infGiB",
                                  "8Gib/s"])  # fmt: skip
def test_what_is_no_size_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a size|is out of range"):
        parse_size(text)


@given(size=st.integers(0, MAX_SIZE_BYTES))
def test_a_size_shown_is_the_size_within_its_last_digit(size: int) -> None:
    shown = format_size(size)
    assert len(shown) <= 13
    if size == 0:
        assert shown == "0 B"
        return
    number, unit = shown.split()
    back = float(number) * UNITS[unit]
    assert abs(back - size) <= UNITS[unit] * (0.0500001 if unit == "GiB" else 0.5)


DURATIONS = [("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400), ("w", 604800)]


@given(seconds=st.floats(0.001, MAX_DURATION_SECONDS), unit=st.sampled_from(DURATIONS))
def test_durations_mean_what_their_unit_says(seconds: float, unit: tuple[str, float]) -> None:
    text = f"{seconds / unit[1]:.6f}"
    if float(text) * unit[1] > MAX_DURATION_SECONDS or float(text) == 0:
        with pytest.raises(ValueError, match="out of range"):
            parse_duration(text + unit[0])
    else:
        assert parse_duration(text + unit[0]) == pytest.approx(seconds, rel=1e-9, abs=1e-6 * unit[1])


@pytest.mark.parametrize("text", ["", "90", "s", "-5m", "2 hours", "1h30m", "1e9s", "nan s", "infs", "0s", "600w",
                                  "9" * 400 + "s", "5M", "5m\n"[:-1] + "x"])  # fmt: skip
def test_what_is_no_duration_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration|is out of range"):
        parse_duration(text)


@pytest.mark.parametrize(("seconds", "shown"), [
    (None, "-"), (0, "0.0s"), (0.44, "0.4s"), (9.94, "9.9s"), (12.9, "12s"), (59.9, "59s"), (60, "1m00s"),
    (185, "3m05s"), (3599.9, "59m59s"), (3600, "1h00m"), (7620, "2h07m"), (86399, "23h59m"), (86400, "1d00h"),
    (273600, "3d04h"),
])  # fmt: skip
def test_durations_shown(seconds: float | None, shown: str) -> None:
    assert format_duration(seconds) == shown


@given(seconds=st.floats(0, 1e8))
def test_a_duration_shown_is_not_a_unit_off(seconds: float) -> None:
    total = 0.0
    number = ""
    for letter in format_duration(seconds):
        if letter in "smhd":
            total += float(number) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[letter]
            number = ""
        else:
            number += letter
    step = 0.051 if seconds < 10 else 1 if seconds < 3600 else 60 if seconds < 86400 else 3600
    assert abs(total - seconds) <= step


@pytest.mark.parametrize(
    ("size", "shown"), [(None, "-"), (1023, "1023 B"), (1024, "1 KiB"), (MIB, "1 MiB"), (GIB, "1.0 GiB")]
)
def test_sizes_shown(size: int | None, shown: str) -> None:
    assert format_size(size) == shown


@given(timestamp=st.floats(0, 4e9))
def test_times_are_utc_with_an_offset_and_milliseconds(timestamp: float) -> None:
    text = iso(timestamp)
    assert text is not None and text.endswith("+00:00") and len(text) == 29
    back = datetime.fromisoformat(text)
    assert back.utcoffset() == timedelta(0) and abs(back.timestamp() - timestamp) < 0.0011


def test_no_time_is_no_time() -> None:
    assert iso(None) is None and iso(0) == "1970-01-01T00:00:00.000+00:00"
