"""Drives the kernels themselves through the host's driver library: no engine, no plan, one launch at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path
from typing import NamedTuple

from p104d.memtest import patterns

PTX = Path(patterns.__file__).parent / "kernels" / "memtest.ptx"
RECORD_WORDS = 9
NO_RECORD = (0,) * RECORD_WORDS
DELTA_ZERO = 1 << 62
ALL_ONES = (1 << 64) - 1
Value = c_int | c_uint | c_uint64 | c_size_t | c_void_p | c_char_p | c_float


class Pattern(NamedTuple):
    kind: int
    a: int
    b: int


class Piece(NamedTuple):
    base: int
    words: int
    first: int


class Cell(NamedTuple):
    """A record, read as what it means. ``deltas`` are the smallest and largest distance in words to where a bad word
    belongs, None where none of them belongs anywhere."""

    errors: int
    ones: int
    zeros: int
    flipped_and: int
    first: int
    last: int
    aliased: int
    deltas: tuple[int, int] | None


def cell_of(record: Iterable[int]) -> Cell:
    errors, ones, zeros, nand, inverted, last, aliased, largest, smallest = record
    deltas = (DELTA_ZERO - smallest, largest - DELTA_ZERO) if aliased else None
    return Cell(errors, ones, zeros, ~nand & ALL_ONES, ~inverted & ALL_ONES, last - 1, aliased, deltas)


class HostCard:
    """A card made of the host's memory. ``config`` is the library's (see host/hostcuda.cpp); all of what it maps is
    allocated in ``pieces`` (bytes each; None: one piece), whose words count from ``first``."""

    def __init__(
        self,
        library: Path,
        config: str,
        *,
        pieces: Iterable[int] | None = None,
        first: int = 0,
        cell_shift: int = 17,
        grid: tuple[int, int] = (32, 256),
    ) -> None:
        self.cuda = ctypes.CDLL(str(library))
        for name in ("host_launches", "host_allocations", "host_base"):
            getattr(self.cuda, name).restype = c_uint64  # by attribute, which is kept; an item is new each time
        self.cuda.host_reset()
        assert self.cuda.host_configure(c_char_p(config.encode())) == 0, config
        self.call("cuInit", c_uint(0))
        self.context = c_void_p()
        self.call("cuCtxCreate_v2", byref(self.context), c_uint(0), c_int(0))
        self.functions = self._load()
        self.cell_shift, self.grid = cell_shift, grid
        self.pieces: list[Piece] = []
        for size in (self.memory()[0],) if pieces is None else pieces:
            begin = self.pieces[-1].first + self.pieces[-1].words if self.pieces else first
            self.pieces.append(Piece(self.allocate(size), size // 8, begin))
        self.first, self.total_words = first, self.pieces[-1].first + self.pieces[-1].words
        self.cells = ((self.total_words - 1) >> cell_shift) + 1
        self.records = self.allocate(self.cells * RECORD_WORDS * 8)
        self.forget()

        if pieces is None:
            assert self.pieces[0].base == self.cuda.host_base(), "plain memory in the place of the card's: plain_below?"

    def address(self, i: int) -> int:
        """Where word ``i`` lies."""
        piece = next(piece for piece in self.pieces if piece.first <= i < piece.first + piece.words)
        return piece.base + (i - piece.first) * 8

    def call(self, name: str, *arguments: object) -> None:
        code = self.cuda[name](*arguments)
        assert code == 0, f"{name}: {code}"

    def _load(self) -> dict[str, c_void_p]:
        module = c_void_p()
        self.call("cuModuleLoadDataEx", byref(module), c_char_p(PTX.read_bytes()), c_uint(0), None, None)
        functions = {name: c_void_p() for name in ("fill", "check", "swap")}
        for name, function in functions.items():
            self.call("cuModuleGetFunction", byref(function), module, c_char_p(name.encode()))
        return functions

    def memory(self) -> tuple[int, int]:
        """Free and total bytes."""
        free, total = c_size_t(), c_size_t()
        self.call("cuMemGetInfo_v2", byref(free), byref(total))
        return free.value, total.value

    def allocate(self, size: int) -> int:
        pointer = c_uint64()
        self.call("cuMemAlloc_v2", byref(pointer), c_size_t(size))
        return pointer.value

    def launch_code(self, kernel: str, values: Iterable[Value]) -> int:
        held = list(values)
        parameters = (c_void_p * len(held))(*(ctypes.addressof(value) for value in held))
        sizes = (c_uint(self.grid[0]), c_uint(1), c_uint(1), c_uint(self.grid[1]), c_uint(1), c_uint(1), c_uint(0))
        return int(self.cuda.cuLaunchKernel(self.functions[kernel], *sizes, c_void_p(), parameters, None))

    def launch(self, kernel: str, values: Iterable[Value]) -> None:
        assert self.launch_code(kernel, values) == 0

    def _into(self) -> tuple[Value, ...]:
        return c_uint64(self.records), c_uint(self.cell_shift), c_uint64(self.total_words)

    def fill(self, pattern: Pattern, *pieces: Piece) -> None:
        for piece in pieces or self.pieces:
            self.launch("fill", (*_place(piece), *_pattern(pattern)))

    def check(self, pattern: Pattern, *pieces: Piece) -> None:
        for piece in pieces or self.pieces:
            self.launch("check", (*_place(piece), *_pattern(pattern), *self._into()))

    def swap(self, pattern: Pattern, pattern2: Pattern, *, descending: bool = False) -> None:
        for piece in reversed(self.pieces) if descending else self.pieces:
            values = (*_place(piece), *_pattern(pattern), *_pattern(pattern2), *self._into(), c_uint(descending))
            self.launch("swap", values)

    def forget(self) -> None:
        size = self.cells * RECORD_WORDS * 8
        self.call("cuMemsetD8Async", c_uint64(self.records), c_int(0), c_size_t(size), c_void_p())

    def read(self, address: int, words: int) -> list[int]:
        """Words at an address of the card."""
        buffer = (c_uint64 * words)()
        self.call("cuMemcpyDtoH_v2", buffer, c_uint64(address), c_size_t(words * 8))
        return list(buffer)

    def write(self, address: int, words: list[int]) -> None:
        buffer = (c_uint64 * len(words))(*words)
        self.call("cuMemcpyHtoD_v2", c_uint64(address), buffer, c_size_t(len(words) * 8))

    def found(self) -> dict[int, Cell]:
        """The cells with anything in their record, by number."""
        words = self.read(self.records, self.cells * RECORD_WORDS)
        records = (tuple(words[at : at + RECORD_WORDS]) for at in range(0, len(words), RECORD_WORDS))
        return {number: cell_of(record) for number, record in enumerate(records) if record != NO_RECORD}

    def close(self) -> None:
        self.cuda.host_reset()


def _place(piece: Piece) -> tuple[Value, ...]:
    return c_uint64(piece.base), c_uint64(piece.words), c_uint64(piece.first)


def _pattern(pattern: Pattern) -> tuple[Value, ...]:
    return c_uint(pattern.kind), c_uint64(pattern.a), c_uint64(pattern.b)
