"""What a pass over symbolic memory finds: each word against a pattern, without looking at each word.

Exact by construction. Contents that are the pattern itself are equal. Where both sides repeat, one period is looked at.
A pattern that never repeats (a hash of the index, a bijection) meets any other nowhere: all words differ, and a
sample shows which bits do. Bytes, planted bad bits and contrived cases are looked at word by word.
"""

from __future__ import annotations

from collections.abc import Callable

from p104d.hardware.symbolic_memory import Contents, SymbolicMemory
from p104d.hardware.symbolic_patterns import ALL_ONES, CYCLE, STRIDE, Bytes, Only, Pattern, Source, source

#: Words of which the flipped bits stand for those of many more. A bit of two hashes is 1 and 0 in a quarter of the
#: words; against a walking bit, in half of every CYCLE-th word. To miss one is less likely than 2**-64.
_SAMPLE, _SAMPLE_CYCLIC = 256, 64 * CYCLE
#: An inversion below this may be the index of a word somewhere, by a contrived choice of seeds: looked at closely, if
#: no more words than this many are concerned. Real seeds have 64 bits.
_NEAR = 2**40
_MOST_CLOSELY = 2**16


class Differences:
    """The bad words of one cell. ``ones``: bits read as 1 that should be 0; ``zeros`` the reverse; ``kept``: bits that
    did not flip in some bad word; ``first`` and ``last`` index; ``aliased``: words that hold what was written for
    another index below the total, from ``nearest`` to ``farthest`` words away (signed)."""

    __slots__ = ("aliased", "errors", "farthest", "first", "kept", "last", "nearest", "ones", "zeros")

    def __init__(self) -> None:
        self.errors = self.ones = self.zeros = self.kept = self.aliased = 0
        self.first, self.last = 2**64, -1
        self.nearest, self.farthest = 2**64, -(2**64)

    def add(self, observed: int, expected: int, first: int, last: int, times: int) -> None:
        """``times`` bad words of one observation between two indexes."""
        self.errors += times
        self.ones |= observed & ~expected
        self.zeros |= ~observed & expected
        self.kept |= ~(observed ^ expected) & ALL_ONES
        self.span(first, last)

    def merge(self, other: Differences, index: int) -> None:
        """Those of ``other``, its indexes counted from ``index``; aliases apart."""
        self.errors += other.errors
        self.ones |= other.ones
        self.zeros |= other.zeros
        self.kept |= other.kept
        self.span(other.first + index, other.last + index)

    def span(self, first: int, last: int) -> None:
        """Bad words lie from ``first`` to ``last``."""
        self.first, self.last = min(self.first, first), max(self.last, last)

    def alias(self, distance: int, times: int) -> None:
        """``times`` of the bad words belong ``distance`` words away."""
        self.aliased += times
        self.nearest, self.farthest = min(self.nearest, distance), max(self.farthest, distance)


class _Class:
    """The words of a chunk that are of one remainder by ``step``: physical words ``place``, ``place + step``, ..."""

    def __init__(self, place: int, end: int, step: int, remainder: int) -> None:
        self.place = place + (remainder - place) % step
        self.step = step
        self.count = max(0, (end - self.place + step - 1) // step)


class Comparison:
    """One pass: what memory holds against ``pattern``. Cells of ``2 ** cell_shift`` words are counted by index, in all
    ``total`` words. ``cells`` holds the findings, by cell."""

    def __init__(
        self, memory: SymbolicMemory, pattern: Pattern, only: Only | None, *, cell_shift: int, total: int
    ) -> None:
        self._memory, self._pattern, self._only = memory, pattern, only
        self._cell_shift, self._total = cell_shift, total
        self._samples: dict[tuple[Source, int, int], Differences] = {}
        self._periods: dict[tuple[Source, Source, int, int, int], Differences] = {}
        self.cells: dict[int, Differences] = {}

    def add(self, word: int, count: int, first: int) -> None:
        """Compare ``count`` words from address word ``word`` on."""
        for offset, place, length in self._memory.runs(word, count):
            shift = first + offset - place
            for start, end, contents in self._memory.pieces(place, place + length):
                self._piece(start, end, contents, shift)

    def _piece(self, start: int, end: int, contents: Contents, shift: int) -> None:
        expected = source(self._pattern, shift)
        pairs = self._unequal(contents, expected, shift)
        for bad in self._memory.bad_places(start, end):
            if pairs:
                self._chunks(start, bad, pairs, shift)
            start = bad + 1
            self._planted(bad, contents, shift)
        if pairs:
            self._chunks(start, end, pairs, shift)

    def _unequal(self, contents: Contents, expected: Source, shift: int) -> list[tuple[int, int, Source]]:
        """(remainder, step, observed) of the words that are not given as equal."""
        if len(contents) == 1 and self._only is None:
            return [] if contents[0] == expected else [(0, 1, contents[0])]
        sources = [contents[remainder % len(contents)] for remainder in range(STRIDE)]
        return [
            (remainder, STRIDE, held)
            for remainder, held in enumerate(sources)
            if held != expected and (self._only is None or self._only.takes(remainder + shift))
        ]

    def _planted(self, place: int, contents: Contents, shift: int) -> None:
        index = place + shift
        if self._only is None or self._only.takes(index):
            observed = self._memory.seen(place, contents[place % len(contents)].word(place))
            self._word(self._cell(index), observed, index)

    def _chunks(self, start: int, end: int, pairs: list[tuple[int, int, Source]], shift: int) -> None:
        """Cell by cell."""
        while start < end:
            border = (((start + shift) >> self._cell_shift) + 1 << self._cell_shift) - shift
            upto = min(end, border)
            cell = self._cell(start + shift)
            for remainder, step, held in pairs:
                words = _Class(start, upto, step, remainder)
                if words.count:
                    self._how(held)(cell, words, held, shift)
            if not cell.errors:
                del self.cells[start + shift >> self._cell_shift]
            start = upto

    def _cell(self, index: int) -> Differences:
        return self.cells.setdefault(index >> self._cell_shift, Differences())

    def _how(self, held: Source) -> Callable[[Differences, _Class, Source, int], None]:
        if isinstance(held.pattern, Bytes) or isinstance(self._pattern, Bytes):
            return self._each
        if held.pattern.period is not None and self._pattern.period is not None:
            return self._cyclic
        return self._scattered

    def _word(self, cell: Differences, observed: int, index: int) -> None:
        expected = self._pattern.word(index)
        if observed == expected:
            return
        cell.add(observed, expected, index, index, 1)
        origin = self._pattern.origin(observed)
        if origin is not None and origin != index and origin < self._total:
            cell.alias(origin - index, 1)

    def _each(self, cell: Differences, words: _Class, held: Source, shift: int) -> None:
        end = words.place + words.count * words.step
        for place in range(words.place, end, words.step):
            self._word(cell, held.word(place), place + shift)

    def _cyclic(self, cell: Differences, words: _Class, held: Source, shift: int) -> None:
        found = self._period(words, held, shift)
        if found.errors:
            cell.merge(found, words.place + shift)

    def _period(self, words: _Class, held: Source, shift: int) -> Differences:
        """What both sides being cyclic comes to, indexes counted from the first of the words."""
        wanted = source(self._pattern, shift)
        key = (held, wanted, words.place % CYCLE, words.step, words.count)
        if key not in self._periods:
            found = self._periods[key] = Differences()
            for turn in range(min(CYCLE, words.count)):
                place = words.place + turn * words.step
                observed, expected = held.word(place), wanted.word(place)
                if observed != expected:
                    times = (words.count - turn + CYCLE - 1) // CYCLE
                    first = turn * words.step
                    found.add(observed, expected, first, first + (times - 1) * CYCLE * words.step, times)
        return self._periods[key]

    def _scattered(self, cell: Differences, words: _Class, held: Source, shift: int) -> None:
        repeats = held.pattern.period is not None or self._pattern.period is not None
        sample = _SAMPLE_CYCLIC if repeats else _SAMPLE
        if words.count <= sample or self._near(words, held, shift):
            self._each(cell, words, held, shift)
            return
        first = words.place + shift
        cell.merge(self._sample(words, held, shift, sample), first)
        cell.errors += words.count - sample
        cell.span(first, first + (words.count - 1) * words.step)
        if held.pattern == self._pattern:
            distance = held.shift - shift
            times = _within(first + distance, words.step, words.count, self._total)
            if times:
                cell.alias(distance, times)

    def _near(self, words: _Class, held: Source, shift: int) -> bool:
        """Whether two different patterns may meet after all."""
        if held.pattern == self._pattern or words.count > _MOST_CLOSELY:
            return False
        for turn in range(CYCLE):
            place = words.place + turn * words.step
            origins = (
                self._pattern.origin(held.word(place)),
                held.pattern.origin(self._pattern.word(place + shift)),
            )
            if any(origin is not None and origin < _NEAR for origin in origins):
                return True
        return False

    def _sample(self, words: _Class, held: Source, shift: int, sample: int) -> Differences:
        """What some of many words, all bad, come to, indexes counted from the first of them."""
        key = (held, shift, words.step)
        if key not in self._samples:
            found = self._samples[key] = Differences()
            for turn in range(sample):
                place = words.place + turn * words.step
                found.add(held.word(place), self._pattern.word(place + shift), 0, 0, 1)
        return self._samples[key]


def _within(first: int, step: int, count: int, total: int) -> int:
    """How many of ``first``, ``first + step``, ... (``count`` of them) are at least 0 and below ``total``."""
    low = max(0, -(first // step)) if first < 0 else 0
    high = min(count, max(0, (total - first + step - 1) // step))
    return max(0, high - low)
