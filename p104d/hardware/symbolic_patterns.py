"""What a stretch of symbolic memory can hold: patterns, functions of a word's index, and where they lie."""

from __future__ import annotations

import random
from typing import Protocol

import msgspec

WORD_BYTES = 8
ALL_ONES = 2**64 - 1
#: Partial fills touch some of every so many words, always the same ones.
STRIDE = 20
#: The period of every pattern that has one divides this.
CYCLE = 64


class Pattern(Protocol):
    """What is written to the word of index i, for any i: an immutable value, equal to others that write the same.

    ``period`` is after how many words it repeats, a divisor of CYCLE; None: never.
    """

    @property
    def period(self) -> int | None:
        """Words after which it repeats; None: never."""

    def word(self, index: int) -> int:
        """What is written there."""

    def words(self, index: int, count: int) -> bytes:
        """``count`` words from ``index`` on, little endian."""

    def origin(self, word: int) -> int | None:
        """The one index whose word this is; None where the pattern does not tell."""


class Only(msgspec.Struct, frozen=True):
    """Part of the words: those whose index leaves ``remainder`` by STRIDE, or (``others``) all but those."""

    remainder: int
    others: bool = False

    def takes(self, index: int) -> bool:
        """Whether word ``index`` is one of them."""
        return (index % STRIDE == self.remainder) is not self.others


class Constant(msgspec.Struct, frozen=True):
    """The same word everywhere."""

    value: int

    @property
    def period(self) -> int | None:
        return 1

    def word(self, index: int) -> int:  # noqa: ARG002
        return self.value

    def words(self, index: int, count: int) -> bytes:  # noqa: ARG002
        return self.value.to_bytes(8, "little") * count

    def origin(self, word: int) -> int | None:  # noqa: ARG002
        return None


class Table(msgspec.Struct, frozen=True):
    """CYCLE words over and over."""

    data: bytes

    @property
    def period(self) -> int | None:
        return CYCLE

    def word(self, index: int) -> int:
        """That of its place in the cycle."""
        start = index % CYCLE * WORD_BYTES
        return int.from_bytes(self.data[start : start + WORD_BYTES], "little")

    def words(self, index: int, count: int) -> bytes:
        """Cycles enough, cut to size."""
        start = index % CYCLE * WORD_BYTES
        tiled = self.data * (count // CYCLE + 2)
        return tiled[start : start + count * WORD_BYTES]

    def origin(self, word: int) -> int | None:  # noqa: ARG002
        return None


class Bytes:
    """Bytes as they were copied in; the index counts words from their beginning. Equal to itself alone."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    @property
    def period(self) -> int | None:
        return None

    def word(self, index: int) -> int:
        return int.from_bytes(self.data[index * WORD_BYTES : (index + 1) * WORD_BYTES], "little")

    def words(self, index: int, count: int) -> bytes:
        return self.data[index * WORD_BYTES : (index + count) * WORD_BYTES]

    def origin(self, word: int) -> int | None:  # noqa: ARG002
        return None


class Source(msgspec.Struct, frozen=True):
    """A pattern where it lies: physical word p holds ``pattern.word(p + shift)``."""

    pattern: Pattern
    shift: int

    def word(self, place: int) -> int:
        """The word at physical word ``place``."""
        return self.pattern.word(place + self.shift)


def source(pattern: Pattern, shift: int) -> Source:
    """``pattern`` with an equal shift for equal contents, so that neighbours become one interval."""
    return Source(pattern, shift % pattern.period if pattern.period else shift)


#: What memory holds that nothing was written to: of no pattern, and the same in every run.
LEFTOVER = Table(random.Random("leftover").randbytes(CYCLE * WORD_BYTES))  # noqa: S311
