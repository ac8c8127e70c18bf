"""Measurements by a user's own regular expression.

Python's ``re`` backtracks and cannot be interrupted, so a pattern is judged before it ever runs (``measure_judge``):
one whose worst line of 512 bytes could take longer than some milliseconds is refused, as is what cannot be estimated
(repetitions within repetitions, back references, look-around, flags). What all lines take is bounded by who reads them.
"""

from __future__ import annotations

import functools
import math
import re
import re._parser as parser  # type: ignore[import-not-found]  # typeshed has only its deprecated alias
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from p104d.core.job import Measurement, UserPattern
from p104d.engines import measure_judge

T = TypeVar("T")

MAX_PATTERN_CHARS = 256
#: Of a line, what a pattern is shown.
MAX_LINE_BYTES = 512
#: A pattern that takes longer, for one line or for all of an output, is not tried again.
SLOW_SECONDS, SLOW_IN_ALL_SECONDS = 0.05, 0.2
#: Steps for the worst line, 10 ms: a number with parts, sought at each place of a line, takes nearly as many. Two
#: ``.*`` and a choice of where to begin take a hundred times that.
MAX_STEPS = 5 * MAX_LINE_BYTES**2 // 2


class PatternReader:
    """The last number that the group ``value`` of a pattern matched. Lines are UTF-8, other bytes are replaced; of a
    line, which has no end of a line in it, the first 512 bytes are looked at. ``given_up`` tells that the pattern was
    too slow."""

    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = ()

    def __init__(self, measure: UserPattern, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError for a pattern that ``check_pattern`` refuses."""
        anchored = check_pattern(measure.pattern)
        self._measure = measure
        pattern = _compiled(measure.pattern)
        self._find = pattern.match if anchored else pattern.search
        self._clock = clock
        self._spent = 0.0
        self._value: float | None = None
        self.given_up = False

    def __deepcopy__(self, memo: dict[int, Any]) -> PatternReader:
        twin = PatternReader.__new__(PatternReader)
        twin.__dict__.update(self.__dict__)
        return twin

    def read_line(self, line: bytes) -> None:
        """Take one line."""
        if self.given_up:
            return
        began = self._clock()
        match = self._find(line[:MAX_LINE_BYTES].decode("utf-8", "replace"))
        took = self._clock() - began
        self._spent += took
        self.given_up = took > SLOW_SECONDS or self._spent > SLOW_IN_ALL_SECONDS
        if match is None:
            return
        try:
            value = float(match["value"] or "")
        except ValueError:
            return
        if math.isfinite(value):
            self._value = value

    def result(self) -> list[Measurement]:
        """Nothing, or the last value."""
        if self._value is None:
            return []
        return [Measurement(name=self._measure.name, value=self._value, unit=self._measure.unit)]


@functools.lru_cache(maxsize=512)
def check_pattern(pattern: str) -> bool:
    """Whether it need be tried at the beginning of a line alone.

    Raises ValueError, ``problem; mend``, for a pattern that is none, has no ``value``, or could take too long.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"longer than {MAX_PATTERN_CHARS} characters; shorten it")
    try:
        groups = _compiled(pattern).groupindex
        parsed = _quietly(parser.parse, pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression ({error})") from None
    if "value" not in groups:
        raise ValueError("no group named value; write the number as (?P<value>[0-9.]+)")
    if parsed.state.flags & ~re.UNICODE:
        raise measure_judge.unsupported("a flag such as (?i)", "write [Ll]oss for both cases")
    anchored = _is_anchored(parsed)
    if measure_judge.steps(parsed, length=MAX_LINE_BYTES, anchored=anchored) > MAX_STEPS:
        mend = "use fewer .*, have a word before and after each, and tell apart what follows a repetition"
        raise ValueError(f"it could take too long on some line; {mend}")
    return anchored


def _compiled(pattern: str) -> re.Pattern[str]:
    return _quietly(re.compile, pattern)


def _quietly(call: Callable[[str], T], pattern: str) -> T:
    """Without the warning that ``[[`` may mean something else one day: anybody's would go to the daemon's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return call(pattern)


def _is_anchored(parsed: Iterable[Any]) -> bool:
    """Whether no place but the first need be tried: where ``.*`` and what follows it are not found there, they are
    nowhere."""
    op, argument = next(iter(parsed), (None, None))
    if argument is not None and str(op) in ("MAX_REPEAT", "MIN_REPEAT"):
        low, high, items = argument
        return int(low) == 0 and high == parser.MAXREPEAT and [str(one) for one, _ in items] == ["ANY"]
    return str(op) == "AT" and str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING")
