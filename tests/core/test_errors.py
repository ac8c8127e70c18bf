"""Errors are one line, with the exit code and status that the design gives their kind."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p104d.core import errors
from p104d.core.clock import Clock, ManualClock
from p104d.core.errors import BY_EXIT_CODE, P104Error

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, P104Error)]


@given(kind=st.sampled_from(KINDS), message=st.text(), mend=st.none() | st.text())
def test_an_error_is_one_line(kind: type[P104Error], message: str, mend: str | None) -> None:
    line = kind(message, mend=mend).line()
    assert len(line.splitlines()) <= 1
    assert line.startswith(" ".join(message.split()))
    assert line.endswith(" ".join((mend or "").split())) and bool(mend) is (line != " ".join(message.split()))


def test_a_line_is_message_and_mend() -> None:
    error = P104Error("disk\n  full", mend="free\tspace\n")
    assert error.line() == "disk full; free space" and str(error) == "disk\n  full"
    assert P104Error("disk full").line() == "disk full"


def test_exit_codes_are_the_designs() -> None:
    codes = {kind.__name__: kind.exit_code for kind in KINDS}
    assert codes == {
        "P104Error": 1,
        "UsageError": 2,
        "UnreachableError": 3,
        "RefusedError": 4,
        "NotAllowedError": 4,
        "NotFoundError": 5,
        "UnavailableError": 4,
    }
    assert {code: kind.exit_code for code, kind in BY_EXIT_CODE.items()} == {code: code for code in range(1, 6)}


@pytest.mark.parametrize("kind", KINDS)
def test_statuses_are_of_errors_and_only_passing_ones_are_tried_again(kind: type[P104Error]) -> None:
    assert 400 <= kind.http_status < 600
    assert kind.retry is (kind.http_status == 503)
    assert kind.__doc__


def test_the_clock_of_tests() -> None:
    clock = ManualClock(100.0)
    kept: Clock = clock
    start = kept.monotonic()
    clock.advance(5)
    assert (kept.now(), kept.monotonic() - start) == (105.0, 5)
    clock.jump(-50)
    assert (kept.now(), kept.monotonic() - start) == (55.0, 5)
