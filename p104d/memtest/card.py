"""The card in the hands of a test: its context, kernels, and as much of its memory as there is."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from ctypes import c_uint, c_uint64
from typing import NamedTuple, TypeVar

from p104d.core.units import MIB, format_size
from p104d.hardware.cuda import (
    MULTIPROCESSORS,
    OUT_OF_MEMORY,
    Argument,
    Block,
    Context,
    Cuda,
    CudaError,
    Held,
    HostBuffer,
    Kernel,
    Stream,
)

#: A map of the memory has this many cells at most: 1 MiB each up to 8 GiB.
MOST_CELLS = 8192
WORD_BYTES = 8
#: One record of findings a cell: nine words, see kernels/memtest.cu.
RECORD_WORDS = 9
_SMALLEST_CELL_SHIFT = 17  # of words: 1 MiB
#: The driver hands out memory in multiples of this.
_SMALLEST_BLOCK = 2 * MIB
_BLOCKS_PER_MULTIPROCESSOR = 8
THREADS = 256
#: Through the slowest link (0.16 GiB/s) one transfer of it takes a tenth of a second.
_HOST_BUFFER_BYTES = 16 * MIB
_SMALLEST_HOST_BUFFER = MIB
_SCRATCH_BYTES = 64 * 1024


_H = TypeVar("_H", bound=Held)


class CannotTestError(Exception):
    """There is nothing to be tested, and why, for people."""


class Piece(NamedTuple):
    """A part of the memory for one launch: ``first`` is the test index of its first word."""

    address: int
    words: int
    first: int


def _is_uuid(text: str) -> bool:
    """Whether it is one that CUDA can give back; a rig file may call its cards as it likes."""
    return re.fullmatch(r"GPU(-[0-9a-f]{4,12}){5}", text, re.IGNORECASE) is not None


class Card:
    """All that a test holds. Whatever it takes is given back by ``stack``. Raises CudaError, CannotTestError."""

    def __init__(self, cuda: Cuda, uuid: str, stack: ExitStack) -> None:
        self.cuda, self._stack = cuda, stack
        device = cuda.device()
        if _is_uuid(uuid) and (found := device.uuid()) != uuid.casefold().replace("gpu-", "GPU-", 1):
            raise CannotTestError(f"CUDA shows another card, {found}, in the place of {uuid}")
        self.total_bytes = device.total_bytes()
        self.grid = device.attribute(MULTIPROCESSORS) * _BLOCKS_PER_MULTIPROCESSOR
        self.context: Context = self._keep(device.context())
        module = self._keep(self.context.module(_kernels()))
        self.fill, self.check, self.swap = (module.kernel(name) for name in ("fill", "check", "swap"))
        self.stream: Stream = self._keep(self.context.stream())
        self.free_bytes = self.context.memory()[0]
        self.cell_shift = _cell_shift(self.free_bytes // WORD_BYTES)
        cells = -(-self.free_bytes // self.cell_bytes)
        self.records: Block = self._keep(self._allocate(cells * RECORD_WORDS * WORD_BYTES, "the records of findings"))
        self.host: HostBuffer = self._keep(self._host_buffer(self.records.size))
        self.blocks: list[Block] = []
        self.bases: list[int] = []  # the test address of each block, and of the end
        self._warm_up()

    @property
    def cell_bytes(self) -> int:
        """Of a cell of the map."""
        return WORD_BYTES << self.cell_shift

    @property
    def tested_words(self) -> int:
        """All that is held, in words."""
        return sum(block.size for block in self.blocks) // WORD_BYTES

    def take_all(self) -> None:
        """Hold all memory that the driver gives away, in pieces as large as can be. Raises CannotTestError where there
        is none."""
        step = max(_SMALLEST_BLOCK, self.cell_bytes)
        size = self._free(step)
        while size >= step:
            block = self.context.allocate(size)
            if block is None:
                # Given up slowly: few large pieces make a test address mean something.
                size -= max(size // 8 // step, 1) * step
            else:
                self.blocks.append(self._keep(block))
                size = min(size, self._free(step))
        if not self.blocks:
            raise CannotTestError(
                f"no memory to test: {format_size(self.free_bytes)} of {format_size(self.total_bytes)} are free"
            )
        self.blocks.sort(key=lambda block: block.address)
        self.bases = [0]
        for block in self.blocks:
            self.bases.append(self.bases[-1] + block.size)

    def _free(self, step: int) -> int:
        return self.context.memory()[0] // step * step

    def pieces(self, largest: int) -> list[Piece]:
        """All of the memory, in pieces of at most ``largest`` bytes (at least one cell) that begin at cells."""
        step = max(self.cell_bytes, largest // self.cell_bytes * self.cell_bytes)
        return [
            Piece(block.address + at, min(step, block.size - at) // WORD_BYTES, (base + at) // WORD_BYTES)
            for block, base in zip(self.blocks, self.bases, strict=False)
            for at in range(0, block.size, step)
        ]

    def device_address(self, test_address: int) -> tuple[int, int]:
        """Where on the device a byte of the test's addresses lies, and how many follow it in its allocation."""
        for block, base in zip(self.blocks, self.bases, strict=False):
            if base <= test_address < base + block.size:
                return block.address + test_address - base, base + block.size - test_address
        raise ValueError(f"{test_address:#x} is not tested")

    def launch(self, kernel: Kernel, arguments: list[Argument]) -> None:
        """Put a kernel into the stream, as many blocks as the card runs at once."""
        kernel.launch(self.stream, self.grid, THREADS, arguments)

    def _keep(self, held: _H) -> _H:
        self._stack.callback(held.close)
        return held

    def _allocate(self, size: int, what: str) -> Block:
        block = self.context.allocate(size)
        if block is None:
            raise CannotTestError(
                f"no memory for {what}: {format_size(self.free_bytes)} of {format_size(self.total_bytes)} are free"
            )
        return block

    def _host_buffer(self, smallest: int) -> HostBuffer:
        """Pinned memory is dear on a host with 4 GB: less will do, too."""
        size = max(_HOST_BUFFER_BYTES, smallest)
        while True:
            try:
                return self.context.host_buffer(size)
            except CudaError as error:
                size //= 2
                if error.code != OUT_OF_MEMORY or size < smallest:
                    raise

    def _warm_up(self) -> None:
        """Everything once, on a scrap: what the driver needs memory for, it takes now, before the test takes it all."""
        scratch = self._allocate(_SCRATCH_BYTES, "the kernels' first run")
        base, words = c_uint64(scratch.address), c_uint64(_SCRATCH_BYTES // WORD_BYTES)
        pattern: list[Argument] = [c_uint(0), c_uint64(1), c_uint64(0)]
        tail: list[Argument] = [c_uint64(self.records.address), c_uint(self.cell_shift), words]
        head: list[Argument] = [base, words, c_uint64(0)]
        self.stream.clear(self.records.address, self.records.size)
        self.launch(self.fill, [*head, *pattern])
        self.launch(self.check, [*head, *pattern, *tail])
        self.launch(self.swap, [*head, *pattern, *pattern, *tail, c_uint(0)])
        half = _SCRATCH_BYTES // 2
        self.stream.copy(scratch.address, scratch.address + half, half)
        self.stream.upload(scratch.address, self.host, half)
        self.stream.download(self.host, scratch.address, half)
        self.stream.synchronize()
        scratch.close()


def _kernels() -> bytes:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernels", "memtest.ptx")
    with open(path, "rb") as file:
        return file.read()


def _cell_shift(words: int) -> int:
    shift = _SMALLEST_CELL_SHIFT
    while words > MOST_CELLS << shift:
        shift += 1
    return shift
