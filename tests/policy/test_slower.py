"""A slow result is told from a scattered one, by the card's own history and by its siblings, with its likely cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.policy.slower import ENOUGH, SPEEDS, Conditions, Usual, cause, slower

SPEED = "generation_tokens_per_second"


def usual(median: float = 20.0, spread: float = 0.2, count: int = ENOUGH) -> Usual:
    return Usual(count=count, median=median, spread=spread)


@pytest.mark.parametrize(
    ("value", "own", "slow"),
    [
        (17.9, usual(), True),
        (18.1, usual(), False),  # 9.5 %
        (25.0, usual(), False),
        (17.9, usual(count=ENOUGH - 1), False),
        (15.0, usual(spread=3.0), False),  # within three times of how they scatter
        (13.0, usual(spread=3.0), True),
        (17.9, usual(spread=0.0), True),
        (1.0, None, False),
        (1.0, usual(median=0.0), False),
        (0.0, usual(), False),
    ],
)
def test_against_its_own_history(value: float, own: Usual | None, slow: bool) -> None:
    found = slower(SPEED, value, own)
    assert (found is not None) is slow
    if found is not None:
        assert not found.siblings and found.usual == own
        assert found.drop == pytest.approx(1 - value / 20)


def test_more_seconds_are_slower() -> None:
    assert slower("load_seconds", 9.0, usual(5.0)) is None  # from the disk once more
    found = slower("load_seconds", 44.0, usual(9.5))
    assert found is not None
    assert found.drop == pytest.approx(1 - 9.5 / 44)
    assert slower("load_seconds", 1.0, usual(9.5)) is None


@pytest.mark.parametrize("measure", ["energy_watt_hours", "peak_vram_bytes", "items", "score", "seconds_per_iteration"])
def test_only_speeds_are_compared(measure: str) -> None:
    assert slower(measure, 0.1, usual()) is None
    assert slower(measure, 1000.0, usual()) is None
    assert measure not in SPEEDS


def test_against_its_siblings() -> None:
    one, two = usual(20.0, count=3), usual(22.0, count=3)
    found = slower(SPEED, 17.0, None, [one, two])
    assert found is not None
    assert found.siblings and found.usual.median == 21.0 and found.usual.count == 6
    assert slower(SPEED, 18.2, None, [one, two]) is None  # 13 %: chips differ
    assert slower(SPEED, 17.0, None, [usual(20.0, count=2), usual(22.0, count=2)]) is None
    assert slower(SPEED, 17.0, None, [usual(17.0), usual(17.0), usual(60.0)]) is None  # one that shines is no measure


def test_its_own_history_is_named_first() -> None:
    found = slower(SPEED, 10.0, usual(20.0), [usual(30.0)])
    assert found is not None
    assert not found.siblings


BEFORE = Conditions(throttled=0.0, capped=0.1, temperature=70.0, sm_clock=1700.0, memory_clock=5005.0, lanes=4.0)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (Conditions(throttled=0.4, temperature=94.0, sm_clock=900.0), "slowed it down 40 % of the time at up to 94 °C"),
        (Conditions(lanes=1.0, sm_clock=1700.0), "link was x1 of x4"),
        (Conditions(memory_clock=4513.0), "memory clock was 4513 MHz, usually 5005"),
        (Conditions(capped=0.9, sm_clock=1300.0), "power limit held it back 90 % of the time"),
        (Conditions(sm_clock=1400.0), "SM clock was 1400 MHz, usually 1700"),
        (BEFORE, "nothing of its heat"),
        (Conditions(), "nothing of its heat"),
        (
            Conditions(capped=0.2, throttled=0.01, sm_clock=1690.0, memory_clock=5000.0, lanes=8.0),
            "nothing of its heat",
        ),
    ],
)
def test_the_likely_cause(now: Conditions, words: str) -> None:
    assert words in cause(now, BEFORE)
    found = slower(SPEED, 10.0, usual(), now=now, before=BEFORE)
    assert found is not None
    assert words in found.cause


def test_what_always_was_so_is_no_cause() -> None:
    always = Conditions(throttled=0.4, capped=0.9, sm_clock=900.0)
    assert "nothing of its heat" in cause(always, always)


@given(
    st.sampled_from(sorted(SPEEDS)),
    st.floats(1e-6, 1e9),
    st.builds(Usual, count=st.integers(0, 50), median=st.floats(0, 1e9), spread=st.floats(0, 1e9)),
)
def test_a_result_as_good_as_usual_is_never_slow(measure: str, value: float, own: Usual) -> None:
    found = slower(measure, value, own, [own])
    good = value >= own.median if SPEEDS[measure] else value <= own.median
    assert found is None or (not good and found.drop > 0 and own.count >= ENOUGH)
