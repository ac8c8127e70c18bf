"""Heat: the limits, and that a card at a limit does not go in and out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.policy.heat import Heat, Thresholds, heat_state

LIMITS = Thresholds(no_new=85, stop=95, hysteresis=6)


@pytest.mark.parametrize(
    ("before", "temperature", "after"),
    [
        (Heat.OK, 84, Heat.OK),
        (Heat.OK, 85, Heat.NO_NEW),
        (Heat.OK, 94, Heat.NO_NEW),
        (Heat.OK, 95, Heat.STOP),
        (Heat.NO_NEW, 79, Heat.NO_NEW),
        (Heat.NO_NEW, 78, Heat.OK),
        (Heat.NO_NEW, 94, Heat.NO_NEW),
        (Heat.NO_NEW, 95, Heat.STOP),
        (Heat.STOP, 89, Heat.STOP),
        (Heat.STOP, 88, Heat.NO_NEW),
        (Heat.STOP, 79, Heat.NO_NEW),
        (Heat.STOP, 78, Heat.OK),
    ],
)
def test_limits_and_their_hysteresis(before, temperature, after) -> None:
    assert heat_state(before, temperature, LIMITS) is after


@pytest.mark.parametrize("before", list(Heat))
def test_a_card_that_falls_silent_stays_what_it_was(before) -> None:
    assert heat_state(before, None, LIMITS) is before


def test_without_hysteresis_the_limits_are_the_limits() -> None:
    bare = Thresholds(no_new=80, stop=80, hysteresis=0)
    assert heat_state(Heat.STOP, 79, bare) is Heat.OK
    assert heat_state(Heat.OK, 80, bare) is Heat.STOP


@given(st.lists(st.integers(20, 110), max_size=60))
def test_it_leaves_service_and_comes_back_only_over_the_whole_hysteresis(temperatures) -> None:
    states = list(itertools.accumulate(temperatures, lambda b, t: heat_state(b, t, LIMITS), initial=Heat.OK))
    for before, now, degrees in zip(states, states[1:], temperatures, strict=False):
        if before is Heat.OK and now is not Heat.OK:
            assert degrees >= LIMITS.no_new
        if before is not Heat.OK and now is Heat.OK:
            assert degrees < LIMITS.no_new - LIMITS.hysteresis
        if now is Heat.STOP and before is not Heat.STOP:
            assert degrees >= LIMITS.stop
        if degrees >= LIMITS.stop:
            assert now is Heat.STOP
