"""Measurements by a user's own regular expression.

Python's ``re`` backtracks and cannot be interrupted, so a pattern is judged before it ever runs. ``check_pattern``
walks it from its end to its beginning, knowing at each repetition which characters may follow: where a repeated class
and what follows share none, giving characters back cannot help, and the repetition is harmless; where they do share
some, every one multiplies the work. A pattern whose estimate for a line of 512 bytes is too high is refused, as is what
cannot be estimated (repetitions within repetitions, back references, look-around, flags).
"""

from __future__ import annotations

import math
import re
import re._parser as parser  # type: ignore[import-not-found]  # typeshed has only its deprecated alias
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypeVar

from p104d.core.job import Measurement, UserPattern

T = TypeVar("T")

MAX_PATTERN_CHARS = 256
#: Of a line, what a pattern is shown.
MAX_LINE_BYTES = 512
#: A pattern that takes longer for one line is not tried again.
SLOW_SECONDS = 0.05
#: Steps for the worst line: three unbounded choices (one of them where to begin), well below a second.
MAX_STEPS = MAX_LINE_BYTES**3
#: A repetition of at most so many is counted by its choices, a longer one by the length of a line.
_SHORT = 32
#: All Latin-1 characters, and one bit for every other.
_ALL = (1 << 257) - 1
_OTHER = 1 << 256
#: Not a character: the end of a pattern that has an assertion (``$``) there, which may fail.
_END = 1 << 257
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}


class PatternReader:
    """The last number that the group ``value`` of a pattern matched. Lines are UTF-8, other bytes are replaced; of a
    line the first 512 bytes are looked at. ``given_up`` tells that the pattern was too slow for a line."""

    needles: ClassVar[tuple[tuple[bytes, bytes], ...]] = ()

    def __init__(self, measure: UserPattern, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ValueError for a pattern that ``check_pattern`` refuses."""
        check_pattern(measure.pattern)
        self._measure = measure
        self._pattern = _compiled(measure.pattern)
        self._clock = clock
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
        match = self._pattern.search(line[:MAX_LINE_BYTES].decode("utf-8", "replace"))
        self.given_up = self._clock() - began > SLOW_SECONDS
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


def check_pattern(pattern: str) -> None:
    """Raises ValueError, ``problem; mend``, for a pattern that is none, has no ``value``, or could take too long."""
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
        raise _unsupported("a flag such as (?i)", "write [Ll]oss for both cases")
    judge = _Judge()
    judge.first_of(parsed, 0)
    if judge.steps(anchored=_is_anchored(parsed)) > MAX_STEPS:
        raise ValueError("it could take too long on some line; use fewer .* and tell apart what follows a repetition")


def _compiled(pattern: str) -> re.Pattern[str]:
    return _quietly(re.compile, pattern)


def _quietly(call: Callable[[str], T], pattern: str) -> T:
    """Without the warning that ``[[`` may mean something else one day: anybody's would go to the daemon's log."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return call(pattern)


def _unsupported(what: str, mend: str = "describe the line more simply") -> ValueError:
    return ValueError(f"{what} is not supported in a pattern; {mend}")


def _is_anchored(parsed: Iterable[Any]) -> bool:
    op, argument = next(iter(parsed), (None, None))
    return str(op) == "AT" and str(argument) in ("AT_BEGINNING", "AT_BEGINNING_STRING")


class _Judge:
    """Adds up what a pattern may cost. A set of characters is an int with a bit for each."""

    def __init__(self) -> None:
        self._choices = 1
        self._unbounded = 0
        self._scans = False

    def steps(self, *, anchored: bool) -> int:
        """An upper estimate for the worst line."""
        factors = self._unbounded + self._scans + (not anchored)
        return int(self._choices * MAX_LINE_BYTES**factors)

    def first_of(self, items: Iterable[Any], follow: int, *, repeated: int = 0) -> int:
        """The characters that ``items``, followed by ``follow`` (0: by nothing), may begin with. ``repeated``: how
        often they are repeated, 0 for not at all."""
        for op, argument in reversed(list(items)):
            name = str(op)
            if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
                follow = _characters(name, argument)
            elif name == "SUBPATTERN":
                follow = self._group(argument, follow, repeated)
            elif name == "BRANCH":
                follow = self._branch(argument[1], follow, repeated)
            elif name in ("MAX_REPEAT", "MIN_REPEAT"):
                follow = self._repeat(argument, follow, repeated)
            elif name == "AT":
                follow = follow or _END
            else:
                raise _unsupported("a back reference, look-around or possessive repetition")
        return follow

    def _group(self, argument: Any, follow: int, repeated: int) -> int:
        _, added, removed, items = argument
        if added or removed:
            raise _unsupported("a flag such as (?i:...)", "write [Ll]oss for both cases")
        return self.first_of(items, follow, repeated=repeated)

    def _branch(self, branches: list[Any], follow: int, repeated: int) -> int:
        if repeated:
            raise _unsupported("a choice (|) inside a repetition")
        union = shared = 0
        for branch in branches:
            first = self.first_of(branch, follow)
            shared |= union & first
            union |= first
        if shared:
            self._choices *= len(branches)
        return union

    def _repeat(self, argument: Any, follow: int, repeated: int) -> int:
        low, high, items = int(argument[0]), int(argument[1]), argument[2]
        if repeated and low != high:
            raise _unsupported("a repetition inside a repetition")
        if (repeated or 1) * high > MAX_LINE_BYTES and low == high:
            raise _unsupported(f"a repetition of more than {MAX_LINE_BYTES}")
        optional = high <= 1
        times = repeated if optional else max(repeated, 1) * high
        first = self.first_of(items, follow if optional else 0, repeated=times)
        if not first & _ALL and not optional:
            raise _unsupported("a repetition of nothing")
        if low != high and follow:  # nothing can fail after the last one
            self._count(low, high, ambiguous=bool(first & follow))
        return first | follow if low == 0 else first

    def _count(self, low: int, high: int, *, ambiguous: bool) -> None:
        if ambiguous and high <= _SHORT:
            self._choices *= high - low + 1
        elif ambiguous:
            self._unbounded += 1
        elif high > _SHORT:
            self._scans = True


def _characters(name: str, argument: Any) -> int:
    """The set of characters that one item matches."""
    if name == "ANY":
        return _ALL
    if name == "LITERAL":
        return _bit(argument)
    if name == "NOT_LITERAL":
        return _ALL & ~_bit(argument) | _OTHER
    found, negated = 0, False
    for op, value in argument:
        kind = str(op)
        if kind == "NEGATE":
            negated = True
        elif kind == "LITERAL":
            found |= _bit(value)
        elif kind == "RANGE":
            found |= sum(_bit(code) for code in range(value[0], min(value[1], 255) + 1))
            found |= _OTHER if value[1] > 255 else 0
        else:
            found |= _category(str(value))
    return _ALL & ~found | _OTHER if negated else found


def _bit(code: int) -> int:
    return 1 << code if code < 256 else _OTHER


def _category(name: str) -> int:
    """The set of ``CATEGORY_DIGIT``, ``CATEGORY_NOT_SPACE`` and their like; beyond Latin-1 it may match anything."""
    word = name.removeprefix("CATEGORY_")
    inverse = word.startswith("NOT_")
    pattern = re.compile(_CATEGORIES[word.removeprefix("NOT_")])
    return sum(1 << code for code in range(256) if bool(pattern.match(chr(code))) != inverse) | _OTHER
