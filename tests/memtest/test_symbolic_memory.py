"""Symbolic memory against a memory that has its bytes, word for word: the same writes, reads and findings."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.hardware.rig import BadBit, healthy_rig
from p104d.hardware.simulated import RESERVED_BYTES
from p104d.hardware.simulated_cuda_memory import CONTEXT_BYTES, DeviceMemory
from p104d.hardware.symbolic_compare import Comparison
from p104d.hardware.symbolic_memory import SymbolicMemory
from p104d.hardware.symbolic_patterns import ALL_ONES, LEFTOVER
from p104d.memtest import patterns, simulated_kernels
from p104d.memtest.simulated_kernels import DELTA_ZERO, KERNELS, RECORD, Hash, Rotate, _merged, pattern

EMPTY = (0,) * 9


class Bytewise:
    """The model: physical bytes, bad bits applied when a byte is read."""

    def __init__(self, physical: int, bad: list[BadBit]) -> None:
        self.size = physical
        self.bytes = bytearray(LEFTOVER.words(0, physical // 8))
        self.bad = [(one.address % physical, one.bit, one.stuck_at) for one in bad]
        self.stick()

    def stick(self) -> None:
        for at, bit, value in self.bad:
            self.bytes[at] = self.bytes[at] | 1 << bit if value else self.bytes[at] & ~(1 << bit)

    def read(self, address: int, size: int) -> bytes:
        start = address % self.size
        return bytes(self.bytes * ((start + size) // self.size + 1))[start : start + size]

    def write(self, address: int, data: bytes) -> None:
        for at, byte in enumerate(data):
            self.bytes[(address + at) % self.size] = byte
        self.stick()

    def word(self, at: int) -> int:
        place = at * 8 % self.size
        return int.from_bytes(self.bytes[place : place + 8], "little")

    def set_word(self, at: int, value: int) -> None:
        place = at * 8 % self.size
        self.bytes[place : place + 8] = value.to_bytes(8, "little")
        self.stick()

    def fill(self, word: int, count: int, first: int, kind: int, a: int, b: int) -> None:
        for k in range(count):
            if patterns.touches(kind, first + k, b):
                self.set_word(word + k, patterns.word(kind, first + k, a, b))

    def check(
        self, records: dict[int, list[int]], word: int, i: int, kind: int, a: int, b: int, shift: int, total: int
    ):
        observed, expected = self.word(word), patterns.word(kind, i, a, b)
        if observed == expected or not patterns.touches(kind, i, b):
            return
        record = records.setdefault(i >> shift, [0] * 9)
        record[0] += 1
        record[1] |= observed & ~expected
        record[2] |= ~observed & expected
        record[3] |= ~(observed ^ expected) & ALL_ONES
        record[4] = max(record[4], ~i & ALL_ONES)
        record[5] = max(record[5], i + 1)
        origin = patterns.unhash(observed, a, b)
        if kind == patterns.HASH and origin != i and origin < total:
            record[6] += 1
            record[7] = max(record[7], DELTA_ZERO + origin - i)
            record[8] = max(record[8], DELTA_ZERO - (origin - i))


# Few seeds, so that the same content meets itself elsewhere; small ones too, which contrive meetings of two hashes.
SEEDS = st.sampled_from([0, 1, 5, ALL_ONES, 0x5555555555555555, 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03])


@st.composite
def operands(draw: st.DrawFn) -> tuple[int, int, int]:
    kind = draw(
        st.sampled_from([patterns.HASH, patterns.HASH, patterns.ROTATE, patterns.MODULO_OWN, patterns.MODULO_REST])
    )
    b = draw(st.sampled_from([0, ALL_ONES]) if kind == patterns.HASH else st.integers(0, 3) | st.integers(0, 70))
    return kind, draw(SEEDS), b


@st.composite
def stories(draw: st.DrawFn) -> tuple[int, int, list[BadBit], list[tuple[Any, ...]]]:
    """Physical words, address words, bad bits, and what happens."""
    physical = draw(st.integers(3, 40) | st.integers(100, 300) | st.just(700))
    words = draw(st.integers(physical, physical * 3))
    bad = draw(
        st.lists(
            st.builds(
                BadBit,
                address=st.integers(0, words * 8 - 1),
                bit=st.integers(0, 7),
                stuck_at=st.integers(0, 1),
            ),
            max_size=3,
            unique_by=lambda one: (one.address % (physical * 8), one.bit),
        )
    )
    steps = draw(st.lists(step(words, physical), min_size=2, max_size=6))
    return physical, words, bad, steps


@st.composite
def step(draw: st.DrawFn, words: int, physical: int) -> tuple[Any, ...]:
    verb = draw(st.sampled_from(["fill", "fill", "swap", "check", "set", "copy", "write"]))
    start = draw(st.just(0) | st.integers(0, words - 1))
    count = draw(st.just(words - start) | st.integers(1, words - start))
    # Mostly the address itself, as the test does it; else so that what was written with one index is met with another.
    first = draw(st.just(start) | st.integers(0, 50).map(lambda more: start + more) | st.just(start + 2**32 - 7))
    if verb in {"fill", "check"}:
        return verb, start, count, first, draw(operands())
    if verb == "swap":
        return verb, start, count, first, draw(operands()), draw(operands()), draw(st.booleans())
    # Unaligned, and never all of the physical memory: what overlaps itself depends on the order of the bytes.
    size = draw(st.integers(0, min(count * 8, max(0, physical * 8 - 16))))
    address = draw(st.integers(start * 8, words * 8 - size))
    if verb == "set":
        return verb, address, draw(st.sampled_from([0, 0xFF, 0xA5])), size
    if verb == "write":
        data = draw(st.binary(min_size=1, max_size=9))
        return verb, address, (data * (size // len(data) + 1))[:size]
    return (
        verb,
        address,
        draw(
            st.integers(0, words * 8 - size) | st.integers(0, words - 1 - size // 8).map(lambda w: w * 8 + address % 8)
        ),
        size,
    )


def cells(comparison: Comparison) -> dict[int, tuple[int, ...]]:
    return {cell: tuple(_merged(EMPTY, found)) for cell, found in comparison.cells.items() if found.errors}


def comparison_of(memory: SymbolicMemory, what: tuple[int, int, int], shift: int, total: int) -> Comparison:
    return Comparison(memory, *pattern(*what), cell_shift=shift, total=total)


@settings(max_examples=150, deadline=None)
@given(stories(), st.sampled_from([1, 3, 7, 9, 12]))
def test_it_is_a_memory(story: tuple[Any, ...], shift: int) -> None:
    physical, words, bad, steps = story
    symbolic, real = SymbolicMemory(words * 8, physical * 8, bad), Bytewise(physical * 8, bad)
    for verb, *rest in steps:
        records: dict[int, list[int]] = {}
        found: dict[int, tuple[int, ...]] = {}
        if verb == "fill":
            start, count, first, what = rest
            real.fill(start, count, first, *what)
            content, only = pattern(*what)
            symbolic.fill(start, count, content, first, only)
        elif verb == "check":
            start, count, first, what = rest
            for k in range(count):
                real.check(records, start + k, first + k, *what, shift, words)
            comparison = comparison_of(symbolic, what, shift, words)
            comparison.add(start, count, first)
            found = cells(comparison)
        elif verb == "swap":
            start, count, first, what, new, descending = rest
            for k in reversed(range(count)) if descending else range(count):
                real.check(records, start + k, first + k, *what, shift, words)
                real.fill(start + k, 1, first + k, *new)
            found = swapped(symbolic, start, count, first, what, new, descending, shift, words)
        elif verb == "set":
            address, value, size = rest
            real.write(address, bytes([value]) * size)
            symbolic.set_bytes(address, value, size)
        elif verb == "write":
            real.write(*rest)
            symbolic.write(*rest)
        else:
            target, origin, size = rest
            real.write(target, real.read(origin, size))
            symbolic.copy(target, origin, size)
        assert found == {cell: tuple(record) for cell, record in records.items()}
        assert symbolic.read(0, words * 8) == real.read(0, words * 8)
        check_invariants(symbolic)


def swapped(symbolic, start, count, first, what, new, descending, shift, words):  # type: ignore[no-untyped-def]
    comparison = comparison_of(symbolic, what, shift, words)
    content, only = pattern(*new)
    runs = symbolic.runs(start, count)
    for offset, _, length in reversed(runs) if descending else runs:
        comparison.add(start + offset, length, first + offset)
        symbolic.fill(start + offset, length, content, first + offset, only)
    return cells(comparison)


def check_invariants(memory: SymbolicMemory) -> None:
    """Intervals in order, and no two neighbours alike: a long test must not leave thousands behind."""
    starts, contents = memory._starts, memory._contents
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < memory.physical_words
    assert len(starts) == len(contents)
    assert all(one != other for one, other in pairwise(contents))


def test_a_fold_of_gigabytes_is_found_whole_and_told_by_its_distance() -> None:
    words, fold = 2**30, 2**29
    memory = SymbolicMemory(words * 8, fold * 8)
    content = Hash(0x9E3779B97F4A7C15, 0)
    memory.fill(0, words, content, 0)
    comparison = Comparison(memory, content, None, cell_shift=17, total=words)
    comparison.add(0, words, 0)
    assert sorted(comparison.cells) == list(range(fold >> 17))
    first = comparison.cells[0]
    assert (first.errors, first.aliased, first.first, first.last) == (2**17, 2**17, 0, 2**17 - 1)
    assert first.nearest == first.farthest == fold
    assert (first.ones, first.zeros, first.kept) == (ALL_ONES,) * 3


def test_a_constant_is_blind_to_a_fold() -> None:
    words, fold = 2**30, 2**29
    memory = SymbolicMemory(words * 8, fold * 8)
    for value in (0, ALL_ONES, 0x5555555555555555):
        content, only = pattern(patterns.ROTATE, value, 0)
        memory.fill(0, words, content, 0, only)
        comparison = Comparison(memory, content, only, cell_shift=17, total=words)
        comparison.add(0, words, 0)
        assert comparison.cells == {}


@pytest.mark.parametrize("what", [Hash(3, ALL_ONES), Rotate(0x8000000000000001, 5), LEFTOVER])
def test_words_in_bulk_are_the_words(what: Any) -> None:
    for index, count in ((0, 1), (3, 200), (2**32 - 5, 10)):
        expected = struct.pack(f"<{count}Q", *[what.word(index + k) for k in range(count)])
        assert what.words(index, count) == expected


def test_large_buffers_of_one_value_are_not_kept() -> None:
    memory = SymbolicMemory(2**24, 2**24)
    memory.write(0, bytes(2**20))
    memory.write(2**20, bytes(range(256)) * 4096)
    assert memory.read(2**20 - 1, 3) == b"\0\0\1"
    assert memory.read(2**21 - 2, 2) == b"\xfe\xff"
    kept = [source for contents in memory._contents for source in contents if hasattr(source.pattern, "data")]
    assert all(len(source.pattern.data) <= 512 for source in kept)


@pytest.mark.parametrize("held", [(patterns.HASH, 2**63 + 5, 0), (patterns.ROTATE, 1, 1), (patterns.MODULO_OWN, 7, 3)])
@pytest.mark.parametrize(
    "wanted", [(patterns.HASH, 2**62 + 9, 0), (patterns.ROTATE, 9, 3), (patterns.MODULO_REST, 7, 3)]
)
def test_many_words_at_once_are_the_words_one_by_one(held: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    words, physical = 25_000, 20_000
    memory, records = SymbolicMemory(words * 8, physical * 8), {}
    real = Bytewise(physical * 8, [])
    for what in ((patterns.HASH, 2**61 + 3, ALL_ONES), held):
        content, only = pattern(*what)
        memory.fill(0, words, content, 0, only)
        real.fill(0, words, 0, *what)
    comparison = comparison_of(memory, wanted, 13, words)
    comparison.add(0, words, 0)
    for index in range(words):
        real.check(records, index, index, *wanted, 13, words)
    assert cells(comparison) == {cell: tuple(record) for cell, record in records.items()}


@pytest.mark.parametrize(("other", "ahead", "total"), [(1, 4, 2000), (0, 4, 2000), (1, 0, 2**20), (2, 600, 2000)])
def test_contrived_seeds_and_places_beyond_the_end(other: int, ahead: int, total: int) -> None:
    """Words of one hash that are another's elsewhere, and such that belong to no word that there is."""
    words = 3000
    memory, real, records = SymbolicMemory(words * 8, words * 8), Bytewise(words * 8, []), {}
    memory.fill(0, words, Hash(other, 0), ahead)
    real.fill(0, words, ahead, patterns.HASH, other, 0)
    comparison = comparison_of(memory, (patterns.HASH, 0, 0), 10, total)
    comparison.add(0, words, 0)
    for index in range(words):
        real.check(records, index, index, patterns.HASH, 0, 0, 10, total)
    assert cells(comparison) == {cell: tuple(record) for cell, record in records.items()}
    assert any(record[6] for record in records.values())


SPACE = 4 * 2**20
OLD, NEW = (patterns.HASH, 2**63 + 77, 0), (patterns.HASH, 2**62 + 99, ALL_ONES)


def device(physical: int, bad: list[BadBit]) -> DeviceMemory:
    """A card of SPACE bytes to be had."""
    card = healthy_rig(1).cards[0]
    size = SPACE + RESERVED_BYTES + CONTEXT_BYTES
    return DeviceMemory(
        msgspec.structs.replace(card, memory=size, physical_memory=min(physical, size), bad_bits=tuple(bad))
    )


def test_records_add_up_over_launches_and_cells_apart() -> None:
    bad = [BadBit(address=place, bit=bit, stuck_at=bit & 1) for place in (8, 70_000, 100_000) for bit in range(8)]
    words, size = 16384, 16 * RECORD.size
    memory, real, found = device(2**40, bad), Bytewise(SPACE, bad), {}
    base, records = memory.allocate(2**20, SPACE), memory.allocate(size, SPACE)
    memory.symbolic.set_bytes(memory.locate(records, size), 0, size)
    KERNELS["fill"](memory, base, words, 0, *OLD)
    real.fill(0, words, 0, *OLD)
    for number in range(3):
        expected = OLD if number < 2 else NEW
        KERNELS["check"](memory, base, words, 0, *expected, records, 10, words)
        for k in range(words):
            real.check(found, k, k, *expected, 10, words)
        data = memory.symbolic.read(memory.locate(records, size), size)
        told = {cell: record for cell, record in enumerate(RECORD.iter_unpack(data)) if any(record)}
        assert told == {cell: tuple(record) for cell, record in found.items()}
        assert len(told) == (3 if number < 2 else 16)


@pytest.mark.parametrize("descending", [False, True])
def test_a_swap_meets_what_it_wrote_before(descending: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Memory that lies over itself has no place for records: they are taken from the kernel's hands.
    told: dict[int, tuple[int, ...]] = {}
    monkeypatch.setattr(
        simulated_kernels,
        "_record",
        lambda _memory, _records, cells: told.update({cell: tuple(_merged(EMPTY, one)) for cell, one in cells.items()}),
    )
    physical, words, found = 2**16, 3 * 2**13 - 100, {}
    memory, real = device(physical, []), Bytewise(physical, [])
    base = memory.allocate(2**20, SPACE)
    KERNELS["fill"](memory, base, words, 0, *OLD)
    real.fill(0, words, 0, *OLD)
    assert KERNELS["swap"](memory, base, words, 0, *OLD, *NEW, 0, 11, words, descending) == 2 * words * 8
    for k in reversed(range(words)) if descending else range(words):
        real.check(found, k, k, *OLD, 11, words)
        real.fill(k, 1, k, *NEW)
    assert told == {cell: tuple(record) for cell, record in found.items()}
    assert memory.symbolic.read(0, words * 8) == real.read(0, words * 8)
