"""A card's memory without its bytes: what was written last is kept as what it was, and evaluated where it is read.

A fill of 8 GiB is one entry: which pattern, and how far its index is from the word's own. Physical words (8 bytes) are
divided into intervals, each with its contents; addresses above the physical size fold onto it, and planted bad bits
override whatever is read from their word. So a verdict over simulated memory is computed from it, never told.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

from p104d.hardware.rig import BadBit
from p104d.hardware.symbolic_patterns import (
    CYCLE,
    LEFTOVER,
    STRIDE,
    WORD_BYTES,
    Bytes,
    Constant,
    Only,
    Pattern,
    Source,
    Table,
    source,
)

#: Of an interval: one source for all its words, or one for each remainder of the word's place by STRIDE.
Contents = tuple[Source, ...]


class SymbolicMemory:
    """``size`` bytes of address space (from 0) over ``physical`` bytes of memory; ``bad_bits`` never change.

    Sizes are rounded down to whole words. Addresses and counts are not checked: that is the driver's work.
    """

    def __init__(self, size: int, physical: int, bad_bits: Iterable[BadBit] = ()) -> None:
        self.physical_words = max(1, min(physical, size) // WORD_BYTES)
        self._starts = [0]
        self._contents: list[Contents] = [(source(LEFTOVER, 0),)]
        ones: dict[int, int] = {}
        zeros: dict[int, int] = {}
        for bad in bad_bits:
            place = bad.address // WORD_BYTES % self.physical_words
            stuck = ones if bad.stuck_at else zeros
            stuck[place] = stuck.get(place, 0) | 1 << (bad.address % WORD_BYTES * 8 + bad.bit)
        self.planted = {place: (ones.get(place, 0), zeros.get(place, 0)) for place in {*ones, *zeros}}
        self._places = sorted(self.planted)

    def runs(self, word: int, count: int) -> list[tuple[int, int, int]]:
        """``count`` words from address word ``word`` on as physical runs, in ascending order:
        (offset in words, first physical word, words)."""
        found, offset = [], 0
        while offset < count:
            place = (word + offset) % self.physical_words
            length = min(count - offset, self.physical_words - place)
            found.append((offset, place, length))
            offset += length
        return found

    def pieces(self, place: int, end: int) -> Iterator[tuple[int, int, Contents]]:
        """The intervals of physical words ``place`` to ``end``: (from, to, contents)."""
        at = bisect_right(self._starts, place) - 1
        while place < end:
            following = self._starts[at + 1] if at + 1 < len(self._starts) else self.physical_words
            yield place, min(end, following), self._contents[at]
            place, at = following, at + 1

    def bad_places(self, place: int, end: int) -> list[int]:
        """The physical words with a planted bit from ``place`` to ``end``."""
        if not self._places:
            return []
        return self._places[bisect_left(self._places, place) : bisect_left(self._places, end)]

    def seen(self, place: int, stored: int) -> int:
        """What is read from a physical word that was given ``stored``."""
        ones, zeros = self.planted.get(place, (0, 0))
        return (stored | ones) & ~zeros

    def fill(self, word: int, count: int, pattern: Pattern, first: int, only: Only | None = None) -> None:
        """Write ``pattern``, its index ``first`` at address word ``word``; ``only`` some of the words."""
        for offset, place, length in self.runs(word, count):
            shift = first + offset - place
            new = source(pattern, shift)
            if only is None:
                self._assign(place, place + length, (new,))
                continue
            for start, end, old in list(self.pieces(place, place + length)):
                self._assign(start, end, _overlaid(old, new, only, shift))

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes from ``address`` on."""
        word = address // WORD_BYTES
        count = (address + size + WORD_BYTES - 1) // WORD_BYTES - word
        data = bytearray()
        for _, place, length in self.runs(word, count):
            base = len(data)
            for start, end, contents in self.pieces(place, place + length):
                data += _words(contents, start, end)
            for bad in self.bad_places(place, place + length):
                at = base + (bad - place) * WORD_BYTES
                stored = int.from_bytes(data[at : at + WORD_BYTES], "little")
                data[at : at + WORD_BYTES] = self.seen(bad, stored).to_bytes(WORD_BYTES, "little")
        skip = address % WORD_BYTES
        return bytes(data[skip : skip + size])

    def write(self, address: int, data: bytes) -> None:
        """Store ``data`` from ``address`` on."""
        head, tail = address % WORD_BYTES, -(address + len(data)) % WORD_BYTES
        if head:
            data = self.read(address - head, head) + data
            address -= head
        if tail:
            data += self.read(address + len(data), tail)
        for offset, place, length in self.runs(address // WORD_BYTES, len(data) // WORD_BYTES):
            part = data[offset * WORD_BYTES : (offset + length) * WORD_BYTES]
            self._assign(place, place + length, (_stored(part, place),))

    def set_bytes(self, address: int, value: int, size: int) -> None:
        """Store the byte ``value`` ``size`` times."""
        head = min(size, -address % WORD_BYTES)
        middle = (size - head) // WORD_BYTES
        if head:
            self.write(address, bytes([value]) * head)
        if middle:
            self.fill((address + head) // WORD_BYTES, middle, Constant(value * 0x0101_0101_0101_0101), 0)
        done = head + middle * WORD_BYTES
        if done < size:
            self.write(address + done, bytes([value]) * (size - done))

    def copy(self, target: int, origin: int, size: int) -> None:
        """Store at ``target`` what is read from ``origin`` on; where both are the same place, what was there before.

        Addresses that do not differ by whole words are copied byte by byte: not for gigabytes.
        """
        if (target - origin) % WORD_BYTES:
            self.write(target, self.read(origin, size))
            return
        head = min(size, -origin % WORD_BYTES)
        count = (size - head) // WORD_BYTES
        done = head + count * WORD_BYTES
        first, last = self.read(origin, head), self.read(origin + done, size - done)
        moved = self._snapshot((origin + head) // WORD_BYTES, count)
        if head:
            self.write(target, first)
        base = (target + head) // WORD_BYTES
        for (offset, contents), (following, _) in pairwise([*moved, (count, ())]):
            for skipped, place, length in self.runs(base + offset, following - offset):
                self._assign(place, place + length, _moved(contents, place - (offset + skipped)))
        if last:
            self.write(target + done, last)

    def _snapshot(self, word: int, count: int) -> list[tuple[int, Contents]]:
        """What is read from address word ``word`` on, as (offset, contents as if offset were the place)."""
        found: list[tuple[int, Contents]] = []
        for offset, place, length in self.runs(word, count):
            for start, end, contents in self.pieces(place, place + length):
                moved = _moved(contents, offset - place)
                found.append((offset + start - place, moved))
                for bad in self.bad_places(start, end):
                    at = offset + bad - place
                    seen = self.seen(bad, contents[bad % len(contents)].word(bad))
                    found.append((at, (Source(Constant(seen), 0),)))
                    if bad + 1 < end:
                        found.append((at + 1, moved))
        return found

    def _assign(self, start: int, end: int, contents: Contents) -> None:
        """Physical words ``start`` to ``end`` hold ``contents`` from now on."""
        starts, held = self._starts, self._contents
        low = bisect_left(starts, start)
        high = bisect_left(starts, end)
        after = held[high - 1]
        new_starts, new_contents = [start], [contents]
        if low > 0 and held[low - 1] == contents:
            new_starts, new_contents = [], []
        following = starts[high] if high < len(starts) else self.physical_words
        if following != end and after != contents:
            new_starts.append(end)
            new_contents.append(after)
        elif following == end and high < len(starts) and held[high] == contents:
            high += 1
        starts[low:high] = new_starts
        held[low:high] = new_contents


def _overlaid(old: Contents, new: Source, only: Only, shift: int) -> Contents:
    """``old`` with ``new`` in the words that ``only`` takes."""
    mixed = tuple(new if only.takes(remainder + shift) else old[remainder % len(old)] for remainder in range(STRIDE))
    return mixed[:1] if mixed.count(mixed[0]) == STRIDE else mixed


def _moved(contents: Contents, distance: int) -> Contents:
    """``contents`` as they are ``distance`` words higher."""
    count = len(contents)
    olds = (contents[(remainder - distance) % count] for remainder in range(count))
    return tuple(source(old.pattern, old.shift - distance) for old in olds)


def _words(contents: Contents, start: int, end: int) -> bytes:
    """Physical words ``start`` to ``end`` of one interval, as bytes, planted bits apart."""
    if len(contents) == 1:
        return contents[0].pattern.words(start + contents[0].shift, end - start)
    words = (contents[place % STRIDE].word(place) for place in range(start, end))
    return b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)


def _stored(data: bytes, place: int) -> Source:
    """Bytes written at physical word ``place``: kept as they are, unless they repeat (large buffers of one value)."""
    cycle = data[: CYCLE * WORD_BYTES]
    if len(data) <= 2 * len(cycle) or not data.startswith(cycle, len(cycle)):
        return Source(Bytes(data), -place)
    if (cycle * (len(data) // len(cycle) + 1))[: len(data)] != data:
        return Source(Bytes(data), -place)
    word = cycle[:WORD_BYTES]
    constant = word * CYCLE == cycle
    return Source(Constant(int.from_bytes(word, "little")), 0) if constant else source(Table(cycle), -place)
