"""What a test of each depth does, as data: passes of operations, each over all of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from p104d.memtest.messages import Depth
from p104d.memtest.patterns import ALL_ONES, HASH, MODULO_OWN, MODULO_REST, MODULUS, ROTATE

#: How many new hashes the random pass writes. With all the rest a full test moves an 8 GB card's memory some 1300
#: times: a minute at what a P104-100 keeps up (200-250 GB/s).
RANDOM_ROUNDS = 200
#: How often a thorough test repeats the full one: with two holds of half an hour about two hours for 8 GB.
THOROUGH_ROUNDS = 60
#: Halves, pairs, quads, ... of equal bits, each with its complement: neighbours in every distance differ.
_CONSTANTS = (
    0x0000000000000000,
    0x5555555555555555,
    0x3333333333333333,
    0x0F0F0F0F0F0F0F0F,
    0x00FF00FF00FF00FF,
    0x0000FFFF0000FFFF,
    0x00000000FFFFFFFF,
)
_WORD_BITS = 64

#: The names of the passes of ``quick``.
HASHES = ("hash", "hash, complement")


class Pattern(NamedTuple):
    """What every word holds: see patterns.py."""

    kind: int
    a: int
    b: int = 0


class Fill(NamedTuple):
    """Write it everywhere."""

    pattern: Pattern

    def moved(self, size: int) -> int:
        """Bytes read and written where ``size`` bytes are tested."""
        if self.pattern.kind == MODULO_OWN:
            return size // MODULUS
        return size - size // MODULUS if self.pattern.kind == MODULO_REST else size


class Check(NamedTuple):
    """Read all and compare."""

    pattern: Pattern

    def moved(self, size: int) -> int:
        """Bytes read and written where ``size`` bytes are tested."""
        return size


class Swap(NamedTuple):
    """Word by word, upwards or downwards: compare with one pattern, write the other."""

    before: Pattern
    after: Pattern
    descending: bool = False

    def moved(self, size: int) -> int:
        """Bytes read and written where ``size`` bytes are tested."""
        return 2 * size


class Hold(NamedTuple):
    """Leave the memory alone: does it keep what was written?"""

    seconds: float

    def moved(self, size: int) -> int:  # noqa: ARG002 - one interface with the others
        """Nothing."""
        return 0


Operation = Fill | Check | Swap | Hold


class Pass(NamedTuple):
    """A part of a test with a result of its own. ``name`` is documented; ``label`` what people see while it runs."""

    name: str
    label: str
    operations: tuple[Operation, ...]


def passes(depth: Depth, seed: int, *, hold_seconds: float = 1800.0, rounds: int = THOROUGH_ROUNDS) -> tuple[Pass, ...]:
    """All that a test of this depth does, in order. Same ``seed``, same patterns. The last two are for ``thorough``."""
    seeds = _seeds(seed)
    if depth is Depth.QUICK:
        return tuple(_quick(seeds))
    if depth is Depth.FULL:
        return tuple(_full(seeds))
    found = []
    for number in range(1, rounds + 1):
        found += [one._replace(label=f"{one.label}, round {number} of {rounds}") for one in _full(seeds)]
        if number == 1:
            found.append(_fade(seeds, hold_seconds))
    return tuple(found)


def _seeds(seed: int) -> Iterator[int]:
    """Endless 64-bit numbers that have nothing to do with each other (SplitMix64, Steele, Lea and Flood 2014)."""
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & ALL_ONES
        mixed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & ALL_ONES
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & ALL_ONES
        yield mixed ^ mixed >> 31


def _hash(seed: int) -> Pattern:
    return Pattern(HASH, seed)


def _complement(pattern: Pattern) -> Pattern:
    if pattern.kind == HASH:
        return pattern._replace(b=pattern.b ^ ALL_ONES)
    return pattern._replace(a=pattern.a ^ ALL_ONES)


def _pass(name: str, *operations: Operation) -> Pass:
    return Pass(name, name, operations)


def _quick(seeds: Iterator[int]) -> list[Pass]:
    """Everything is written before anything is read: what memory that is not there was given is overwritten by then,
    and no cache holds it. The second seed is written as its complement and as it is: each bit was seen as 0 and as 1,
    so that a stuck one shows itself."""
    first, second = _hash(next(seeds)), _hash(next(seeds))
    inverse = _complement(second)
    return [
        _pass(HASHES[0], Fill(first), Check(first)),
        _pass(HASHES[1], Fill(inverse), Check(inverse), Fill(second), Check(second)),
    ]


def _full(seeds: Iterator[int]) -> list[Pass]:
    return [
        *_quick(seeds),
        _moving_inversions(seeds),
        _walking("walking ones", 0),
        _walking("walking zeros", ALL_ONES),
        _modulo(seeds),
        _random(seeds),
    ]


def _moving_inversions(seeds: Iterator[int]) -> Pass:
    """Upwards and downwards each word is read beside neighbours that hold the complement already, or still."""
    found: list[Operation] = []
    for pattern in [*(Pattern(ROTATE, constant) for constant in _CONSTANTS), _hash(next(seeds))]:
        inverse = _complement(pattern)
        up, down = Swap(pattern, inverse), Swap(inverse, pattern, descending=True)
        found += [Fill(pattern), up, down, Check(pattern)]
    return _pass("moving inversions", *found)


def _walking(name: str, invert: int) -> Pass:
    """One bit unlike all others, at each of the 64 places; it walks from word to word, so that neighbours differ."""
    patterns = [Pattern(ROTATE, 1 << bit ^ invert, 1) for bit in range(_WORD_BITS)]
    found: list[Operation] = [Fill(patterns[0])]
    for bit in range(1, _WORD_BITS):
        found.append(Swap(patterns[bit - 1], patterns[bit], descending=bool(bit % 2)))
    return _pass(name, *found, Check(patterns[-1]))


def _modulo(seeds: Iterator[int]) -> Pass:
    """Each twentieth word, then its complement to all others: finds writes that disturb other places, and no cache or
    row of memory has a length that twenty words divide."""
    found: list[Operation] = []
    pattern = next(seeds)
    for value in (pattern, pattern ^ ALL_ONES):
        for rest in range(MODULUS):
            own, others = Pattern(MODULO_OWN, value, rest), Pattern(MODULO_REST, value ^ ALL_ONES, rest)
            found += [Fill(own), Fill(others), Check(own), Check(others)]
    return _pass("modulo 20", *found)


def _random(seeds: Iterator[int]) -> Pass:
    """New hashes and their complements, over and over: the most work, and heat, for the memory."""
    pattern = _hash(next(seeds))
    found: list[Operation] = [Fill(pattern)]
    for _ in range(RANDOM_ROUNDS):
        inverse, following = _complement(pattern), _hash(next(seeds))
        found += [Swap(pattern, inverse, descending=True), Swap(inverse, following)]
        pattern = following
    return _pass("random", *found, Check(pattern))


def _fade(seeds: Iterator[int], seconds: float) -> Pass:
    """A cell that loses its charge slowly passes everything else. With the complement, for it may lose to 0 or to 1."""
    pattern = _hash(next(seeds))
    found: list[Operation] = []
    for one in (pattern, _complement(pattern)):
        found += [Fill(one), Hold(seconds), Check(one)]
    return _pass("bit fade", *found)
