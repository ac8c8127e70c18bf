"""What a regular expression may cost on its worst line, told from the expression alone.

Python's ``re`` backtracks: where a repetition is not followed by what must follow, it gives characters back and tries
again. A pattern is walked from its end to its beginning, with what follows at hand (``_Rest``). Where a repeated class
and what follows share no character, giving back cannot help, and the repetition costs its characters. Where they share
some, what follows is tried at every place at which it can begin: a word only so often as it finds room in a line.

Work is a polynomial in the line's length ``n``: ``work[k]`` counts ``n**k / k!``, since places of nested tries come in
order. One step is what trying a place takes (15 ns on a processor of today), and the fast loops of ``re`` take half of
it for a character.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any, NamedTuple

Work = tuple[float, ...]

#: For one character in a row of them, and for one turn of a repeated or optional group.
_CHARACTER, _TURN = 0.5, 4.0
#: A repetition of at most so many is counted by its choices, a longer one by the length of a line.
_SHORT = 32
#: Of what must come first, as much as is looked at for how far apart its places are.
_RUN = 32
#: Nested tries beyond this are too many whatever they are.
_DEEPEST = 4
#: All Latin-1 characters, and one bit for every kind of others: digits, the rest of \w, \s, and what is none of these.
_ALL = (1 << 260) - 1
_OTHER = 0b1111 << 256
_KINDS = {"DIGIT": 0b0001 << 256, "WORD": 0b0011 << 256, "SPACE": 0b0100 << 256}
#: Not a character: the end of a pattern that has an assertion (``$``) there, which may fail.
_END = 1 << 260
_CATEGORIES = {"DIGIT": r"\d", "SPACE": r"\s", "WORD": r"\w"}
_ONE = ("LITERAL", "NOT_LITERAL", "ANY", "IN")
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT")


class _Hopeless(Exception):
    """More nested tries than any line allows."""


class _Rest(NamedTuple):
    """The end of a pattern. Sets of characters are ints with a bit for each.

    ``first``: what it may begin with, 0 if it is empty; ``run``: the sets that come first for sure, one character each.
    ``work`` is done at a place where the run is found, ``miss`` where its first character is not. ``walk`` is work too,
    that of repetitions which follow the run, over text of ``walked``: once such text is ``fenced`` by a character
    before it that is none of these, no two places share any, and it is all the walking that there is on a line.
    ``sure``: it cannot fail.
    """

    first: int = 0
    run: tuple[int, ...] = ()
    work: Work = (0.0,)
    walk: Work = ()
    walked: int = 0
    fenced: bool = False
    miss: float = 1.0
    sure: bool = True

    def everywhere(self) -> Work:
        """The work of trying it at every place of a line."""
        # What begins like itself may be found in part at every place: "aaaab" in a line of a.
        parts = (self.run[:end] for end in range(1, len(self.run) + 1))
        in_part = max((len(part) / _apart(part) for part in parts), default=0.0)
        each = _times(1 / _apart(self.run), self.work if self.fenced else _plus(self.work, self.walk))
        work = _plus((self.miss + _CHARACTER * in_part,), each)
        if len(work) > _DEEPEST:
            raise _Hopeless
        return _plus((0.0, *work), self.walk if self.fenced else ())

    def after(self, found: int, miss: float) -> _Rest:
        """With one character of ``found`` before it."""
        fenced = self.fenced or bool(self.walk and not found & self.walked)
        run, work = (found, *self.run)[:_RUN], _plus(self.work, (_CHARACTER,))
        return self._replace(first=found, run=run, work=work, fenced=fenced, miss=miss, sure=False)

    def reach(self) -> int:
        """Every character that may be walked over."""
        return functools.reduce(operator.or_, self.run, self.walked)


def steps(parsed: Iterable[Any], *, length: int, anchored: bool) -> float:
    """An upper estimate for the worst line of ``length`` characters; ``anchored``: the pattern is tried at its
    beginning alone. Raises ValueError, ``problem; mend``, for what cannot be estimated."""
    try:
        rest = _before(parsed, _Rest(), length)
        # What cannot fail any more is done once.
        work = _plus((0.0, 1.0), _plus(rest.work, rest.walk) if anchored else rest.everywhere())
    except _Hopeless:
        return math.inf
    return sum(each * float(length) ** degree / math.factorial(degree) for degree, each in enumerate(work))


def unsupported(what: str, mend: str = "describe the line more simply") -> ValueError:
    """What to raise for a part that cannot be judged."""
    return ValueError(f"{what} is not supported in a pattern; {mend}")


def _plus(*works: Work) -> Work:
    return tuple(sum(each) for each in zip_longest(*works, fillvalue=0.0))


def _most(*works: Work) -> Work:
    return tuple(max(each) for each in zip_longest(*works, fillvalue=0.0))


def _times(factor: float, work: Work) -> Work:
    return tuple(factor * each for each in work)


def _apart(run: tuple[int, ...]) -> int:
    """The least distance of two places at which ``run`` can be found: ``loss`` 4, ``aa`` 1."""
    shifts = (at for at in range(1, len(run)) if all(one & two for one, two in zip(run, run[at:], strict=False)))
    return next(shifts, max(1, len(run)))


def _before(items: Iterable[Any], rest: _Rest, length: int, *, repeated: int = 0) -> _Rest:
    """``items``, followed by ``rest``. ``repeated``: how often they are repeated, 0 for not at all."""
    for op, argument in reversed(list(items)):
        name = str(op)
        if name in _ONE:
            rest = rest.after(_characters(name, argument), _CHARACTER if name == "LITERAL" else 1.0)
        elif name == "SUBPATTERN":
            rest = _group(argument, rest, length, repeated)
        elif name == "BRANCH":
            rest = _branch(argument[1], rest, length, repeated)
        elif name in _REPEATS:
            rest = _repeat(argument, rest, length, repeated)
        elif name == "AT":
            rest = rest._replace(first=rest.first or _END, sure=False)
        else:
            raise unsupported("a back reference, look-around or possessive repetition")
    return rest


def _group(argument: Any, rest: _Rest, length: int, repeated: int) -> _Rest:
    number, added, removed, items = argument
    if added or removed:
        raise unsupported("a flag such as (?i:...)", "write [Ll]oss for both cases")
    found = _before(items, rest, length, repeated=repeated)
    return found if number is None else found._replace(miss=1.0)


def _branch(branches: list[Any], rest: _Rest, length: int, repeated: int) -> _Rest:
    if repeated:
        raise unsupported("a choice (|) inside a repetition")
    found = [_before(branch, rest, length) for branch in branches]
    union = shared = 0
    for each in found:
        shared |= union & each.first
        union |= each.first
    walked = functools.reduce(operator.or_, (each.reach() for each in found))
    works = [_plus(each.work, (float(len(branches)),)) for each in found]
    worst = _plus(*works) if shared else _most(*works)
    return _Rest(union, work=worst, walk=_plus(*(each.walk for each in found)), walked=walked, sure=False)


def _repeat(argument: Any, rest: _Rest, length: int, repeated: int) -> _Rest:
    low, high, items = int(argument[0]), int(argument[1]), list(argument[2])
    if repeated and low != high:
        raise unsupported("a repetition inside a repetition")
    if (repeated or 1) * high > length and low == high:
        raise unsupported(f"a repetition of more than {length}")
    optional = high <= 1
    times = repeated if optional else max(repeated, 1) * high
    item = _before(items, _Rest(rest.first, sure=False) if optional else _Rest(), length, repeated=times)
    if not item.first & _ALL and not optional:
        raise unsupported("a repetition of nothing")
    turn = _plus(item.work, (_CHARACTER if len(items) == 1 and str(items[0][0]) in _ONE else _TURN,))
    first = item.first | rest.first if low == 0 else item.first
    if rest.sure:
        return _Rest(first, work=_times(low, turn), sure=low == 0)
    walked = item.reach() | rest.reach()
    ambiguous = bool(item.first & rest.first)
    if high <= _SHORT or low == high:
        again = high - low + 1 if ambiguous else 1
        work = _plus(_times(high, turn), _times(again, _plus(rest.work, (rest.miss,))))
        return _Rest(first, work=work, walk=_plus(item.walk, _times(again, rest.walk)), walked=walked, sure=False)
    turns = (0.0, *_plus(turn, (_CHARACTER,)))
    if ambiguous:
        return _Rest(first, walk=_plus(turns, rest.everywhere()), walked=item.reach(), sure=False)
    # The longer one of two walks, the less of the line is left for the other.
    return _Rest(first, work=rest.work, walk=_most(turns, rest.walk), walked=walked, sure=False)


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
            found |= max(0, (1 << min(value[1], 255) + 1) - (1 << min(value[0], 256)))
            found |= _OTHER if value[1] > 255 else 0
        else:
            found |= _category(str(value))
    return _ALL & ~found | _OTHER if negated else found


def _bit(code: int) -> int:
    return 1 << code if code < 256 else _OTHER


@functools.cache
def _category(name: str) -> int:
    """The set of ``CATEGORY_DIGIT``, ``CATEGORY_NOT_SPACE`` and their like."""
    word = name.removeprefix("CATEGORY_")
    kind = word.removeprefix("NOT_")
    pattern = re.compile(_CATEGORIES[kind])
    found = sum(1 << code for code in range(256) if pattern.match(chr(code))) | _KINDS[kind]
    return _ALL & ~found if word.startswith("NOT_") else found
