"""What the kernels' records of all passes say together: where, which bits, and what kind of fault it looks like."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from p104d.memtest.card import RECORD_WORDS, WORD_BYTES
from p104d.memtest.messages import MOST_ADDRESSES, MOST_RANGES, BadCell, BadRange
from p104d.memtest.patterns import ALL_ONES

#: Misplaced words from which on the memory is taken to be folded; one page of a card's memory. A few may also be a
#: write that went astray.
_FOLDED_WORDS = 512
#: Distances between aliases that differ by more than this many values are no pattern to name.
_MOST_DISTANCES = 8
_DELTA_ZERO = 1 << 62


@dataclass
class Cell:
    """What was found in one cell. ``first`` and ``last`` are indexes of words; ``distances`` (in words) hold how far
    the shortest and the longest misplaced word was from where it belongs."""

    errors: int
    ones: int
    zeros: int
    same: int  # bits that did not flip in some bad word
    first: int
    last: int
    aliased: int = 0
    distances: set[int] = field(default_factory=set)

    def merge(self, other: Cell) -> None:
        """Both together."""
        self.errors += other.errors
        self.ones |= other.ones
        self.zeros |= other.zeros
        self.same |= other.same
        self.first = min(self.first, other.first)
        self.last = max(self.last, other.last)
        self.aliased += other.aliased
        self.distances |= other.distances


class Findings:
    """Grows pass by pass. ``tested_words`` is all that is tested, a cell 2**``cell_shift`` words of it."""

    def __init__(self, tested_words: int, cell_shift: int) -> None:
        self._tested_words, self._shift = tested_words, cell_shift
        self.cells: dict[int, Cell] = {}
        self.errors = 0
        #: Records that cannot be true: what they were kept in does not hold either.
        self.broken_records = 0

    def add(self, records: memoryview, comparisons: int) -> int:
        """What a pass left in the records, which compared every word at most ``comparisons`` times; bad words found.

        A record that cannot be true counts as one: the memory it lies in did not keep it.
        """
        found = 0
        if not records.tobytes().strip(b"\0"):
            return 0  # as nearly always, and the others cost a slow processor some milliseconds
        for number in range(len(records) // RECORD_WORDS):
            record = records[number * RECORD_WORDS : (number + 1) * RECORD_WORDS]
            if not any(record):
                continue
            cell = self._cell(number, record.tolist(), comparisons)
            if cell is None:
                self.broken_records += 1
                found += 1
                continue
            found += cell.errors
            if number in self.cells:
                self.cells[number].merge(cell)
            else:
                self.cells[number] = cell
        self.errors += found
        return found

    def _cell(self, number: int, record: list[int], comparisons: int) -> Cell | None:
        errors, ones, zeros, same, first_inverted, last_plus1, aliased, longest, shortest = record
        begin = number << self._shift
        end = min(begin + (1 << self._shift), self._tested_words)
        first, last = first_inverted ^ ALL_ONES, last_plus1 - 1
        plausible = 0 < errors <= (end - begin) * comparisons and begin <= first <= last < end and aliased <= errors
        distances = {longest - _DELTA_ZERO, _DELTA_ZERO - shortest} if aliased else set()
        if not plausible or not ones | zeros or any(abs(one) >= self._tested_words for one in distances):
            return None
        return Cell(errors, ones, zeros, same, first, last, aliased, distances)

    @property
    def aliased(self) -> int:
        """Bad words that held what was written for another place."""
        return sum(cell.aliased for cell in self.cells.values())

    def folded(self) -> bool:
        """Whether the errors are those of memory that answers under several addresses. To be asked while only the hash
        passes were made: other patterns cannot tell."""
        return self.aliased >= _FOLDED_WORDS and 2 * self.aliased >= self.errors

    def alias_offset(self) -> int | None:
        """The distance in bytes between two addresses of the same memory, where there is one such distance.

        Memory folded more than once shows multiples of it; several parts of a card, folded otherwise: None.
        """
        distances = set().union(*(cell.distances for cell in self.cells.values()))
        sizes = {abs(distance) for distance in distances}
        step = math.gcd(*sizes)
        if not step or len(sizes) > _MOST_DISTANCES or step not in sizes:
            return None
        return (step if any(distance > 0 for distance in distances) else -step) * WORD_BYTES

    def masks(self) -> tuple[int, int]:
        """Bits read as 1 that should be 0, and the other way round."""
        ones = zeros = 0
        for cell in self.cells.values():
            ones |= cell.ones
            zeros |= cell.zeros
        return ones, zeros

    def always_flipped(self) -> int:
        """Bits that were wrong in every bad word."""
        same = 0
        for cell in self.cells.values():
            same |= cell.same
        return ~same & ALL_ONES if self.cells else 0

    def ranges(self) -> tuple[BadRange, ...]:
        """Bad cells beside each other, as one; the first of very many."""
        found: list[BadRange] = []
        previous = -2
        for number, cell in sorted(self.cells.items()):
            one = BadRange(
                start=cell.first * WORD_BYTES,
                end=(cell.last + 1) * WORD_BYTES,
                errors=cell.errors,
                ones=cell.ones,
                zeros=cell.zeros,
            )
            if number == previous + 1:
                found[-1] = _joined(found[-1], one)
            elif len(found) == MOST_RANGES:
                break
            else:
                found.append(one)
            previous = number
        return tuple(found)

    def addresses(self, located: Iterable[int]) -> tuple[int, ...]:
        """Of bad words, the lowest first: those that are known exactly, which are the first and the last of each cell
        and those that were ``located`` otherwise."""
        ends = {place for cell in self.cells.values() for place in (cell.first * WORD_BYTES, cell.last * WORD_BYTES)}
        return tuple(sorted(ends | set(located))[:MOST_ADDRESSES])

    def bad_cells(self) -> tuple[BadCell, ...]:
        """For the map."""
        return tuple(
            BadCell(cell=number, errors=cell.errors, flipped=cell.ones | cell.zeros)
            for number, cell in sorted(self.cells.items())
        )


def _joined(left: BadRange, right: BadRange) -> BadRange:
    return BadRange(
        start=left.start,
        end=right.end,
        errors=left.errors + right.errors,
        ones=left.ones | right.ones,
        zeros=left.zeros | right.zeros,
    )
