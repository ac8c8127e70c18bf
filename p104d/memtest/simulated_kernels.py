"""What the kernels of kernels/memtest.cu do, on symbolic memory: for the simulated CUDA driver.

The same parameters in the same order, the same records; patterns are those of ``patterns``. What a real kernel does in
parallel happens here in the order of the words.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import groupby

import msgspec

from p104d.hardware.simulated_cuda_memory import CudaFailure, DeviceMemory
from p104d.hardware.simulated_cuda_values import MISALIGNED_ADDRESS
from p104d.hardware.symbolic_compare import Comparison, Differences
from p104d.hardware.symbolic_patterns import ALL_ONES, CYCLE, WORD_BYTES, Constant, Only, Pattern
from p104d.memtest import patterns

#: errors, ones, zeros, nand, first_inverted, last_plus1, aliased, delta_max, delta_min
RECORD = struct.Struct("<9Q")
DELTA_ZERO = 2**62

_U64, _U32 = ctypes.c_uint64, ctypes.c_uint32
_PIECE = (_U64, _U64, _U64)
_PATTERN = (_U32, _U64, _U64)
_RECORDS = (_U64, _U32, _U64)


class Hash(msgspec.Struct, frozen=True):
    """Kind HASH: every index has a word of its own."""

    a: int
    b: int

    @property
    def period(self) -> int | None:
        return None

    def word(self, index: int) -> int:
        return patterns.word(patterns.HASH, index, self.a, self.b)

    def words(self, index: int, count: int) -> bytes:
        """Each of them worked out."""
        a, b, word = self.a, self.b, patterns.word
        return struct.pack(f"<{count}Q", *[word(patterns.HASH, one, a, b) for one in range(index, index + count)])

    def origin(self, word: int) -> int | None:
        return patterns.unhash(word, self.a, self.b)


class Rotate(msgspec.Struct, frozen=True):
    """Kind ROTATE, its ``b`` modulo 64."""

    a: int
    b: int

    @property
    def period(self) -> int | None:
        return CYCLE

    def word(self, index: int) -> int:
        return patterns.word(patterns.ROTATE, index, self.a, self.b)

    def words(self, index: int, count: int) -> bytes:
        """One cycle worked out, and repeated."""
        start = index % CYCLE
        cycle = struct.pack(f"<{CYCLE}Q", *[self.word(one) for one in range(CYCLE)])
        return (cycle * (count // CYCLE + 2))[start * WORD_BYTES : (start + count) * WORD_BYTES]

    def origin(self, word: int) -> int | None:  # noqa: ARG002
        return None


@lru_cache(maxsize=64)
def pattern(kind: int, a: int, b: int) -> tuple[Pattern, Only | None]:
    """The pattern of a kernel's operands, and which words it touches where not all."""
    if kind == patterns.HASH:
        return Hash(a, b), None
    if kind == patterns.ROTATE:
        return (Rotate(a, b % CYCLE) if b % CYCLE else Constant(a)), None
    return Constant(a), Only(b, others=kind == patterns.MODULO_REST)


class _Kernel:
    """A kernel as the simulated driver takes it."""

    def __init__(self, run: Callable[..., int], *parameters: tuple[type, ...]) -> None:
        self._run = run
        self.parameters: tuple[type, ...] = sum(parameters, ())

    def __call__(self, memory: DeviceMemory, *values: int) -> int:
        return self._run(memory, *values)


def _piece(memory: DeviceMemory, base: int, words: int, first: int) -> int:
    """The piece's address in words. Raises CudaFailure as a card would stumble."""
    if base % 16 or words % 2 or first % 2:
        raise CudaFailure(MISALIGNED_ADDRESS)
    return memory.locate(base, words * WORD_BYTES) // WORD_BYTES


def _fill(memory: DeviceMemory, base: int, words: int, first: int, kind: int, a: int, b: int) -> int:
    at = _piece(memory, base, words, first)
    what, only = pattern(kind, a, b)
    memory.symbolic.fill(at, words, what, first, only)
    return words * WORD_BYTES


def _check(
    memory: DeviceMemory, base: int, words: int, first: int, kind: int, a: int, b: int,
    records: int, cell_shift: int, total: int,
) -> int:  # fmt: skip
    at = _piece(memory, base, words, first)
    comparison = Comparison(memory.symbolic, *pattern(kind, a, b), cell_shift=cell_shift, total=total)
    comparison.add(at, words, first)
    _record(memory, records, comparison.cells)
    return words * WORD_BYTES


def _swap(
    memory: DeviceMemory, base: int, words: int, first: int, kind: int, a: int, b: int, kind2: int, a2: int, b2: int,
    records: int, cell_shift: int, total: int, descending: int,
) -> int:  # fmt: skip
    at = _piece(memory, base, words, first)
    comparison = Comparison(memory.symbolic, *pattern(kind, a, b), cell_shift=cell_shift, total=total)
    what, only = pattern(kind2, a2, b2)
    # Word by word matters where a piece lies over itself: each time round it meets what it wrote just before.
    runs = memory.symbolic.runs(at, words)
    for offset, _, length in reversed(runs) if descending else runs:
        comparison.add(at + offset, length, first + offset)
        memory.symbolic.fill(at + offset, length, what, first + offset, only)
    _record(memory, records, comparison.cells)
    return 2 * words * WORD_BYTES


def _record(memory: DeviceMemory, records: int, cells: dict[int, Differences]) -> None:
    """Merge findings into the records, which are the card's memory too: neighbouring cells in one go."""
    found = sorted(cell for cell, findings in cells.items() if findings.errors)
    for _, group in groupby(enumerate(found), key=lambda pair: pair[1] - pair[0]):
        numbers = [cell for _, cell in group]
        size = len(numbers) * RECORD.size
        address = memory.locate(records + numbers[0] * RECORD.size, size)
        old = RECORD.iter_unpack(memory.symbolic.read(address, size))
        merged = (_merged(record, cells[cell]) for record, cell in zip(old, numbers, strict=True))
        memory.symbolic.write(address, b"".join(RECORD.pack(*fields) for fields in merged))


def _merged(old: tuple[int, ...], new: Differences) -> Iterable[int]:
    aliased = (new.aliased, DELTA_ZERO + new.farthest, DELTA_ZERO - new.nearest) if new.aliased else (0, 0, 0)
    return (
        old[0] + new.errors & ALL_ONES,
        old[1] | new.ones,
        old[2] | new.zeros,
        old[3] | new.kept,
        max(old[4], ~new.first & ALL_ONES),
        max(old[5], new.last + 1),
        old[6] + aliased[0] & ALL_ONES,
        max(old[7], aliased[1]),
        max(old[8], aliased[2]),
    )


#: By name, for ``SimulatedCuda``.
KERNELS = {
    "fill": _Kernel(_fill, _PIECE, _PATTERN),
    "check": _Kernel(_check, _PIECE, _PATTERN, _RECORDS),
    "swap": _Kernel(_swap, _PIECE, _PATTERN, _PATTERN, _RECORDS, (_U32,)),
}
