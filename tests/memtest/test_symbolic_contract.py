"""One suite over both drivers of the tests: the simulated card, and the kernels' own code on the host's memory.

The same calls on the same fault give the same records and the same bytes.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec
import pytest
from host_library import host_library

from p104d.core.units import MIB
from p104d.hardware.cuda import Argument, Block, Context, Cuda, Stream
from p104d.hardware.rig import BadBit, healthy_rig
from p104d.hardware.simulated import RESERVED_BYTES
from p104d.hardware.simulated_cuda import SimulatedCuda
from p104d.hardware.simulated_cuda_memory import CONTEXT_BYTES
from p104d.memtest import patterns
from p104d.memtest.simulated_kernels import KERNELS, RECORD

__all__ = ["host_library"]  # a fixture

PTX = (Path(__file__).resolve().parents[2] / "p104d/memtest/kernels/memtest.ptx").read_bytes()
SIZE = 8 * MIB
#: Where the simulated card's records lie in its physical memory, and so what is not tested on either.
RECORDS = 64 * 1024
CELL_SHIFT = 13
CELLS = SIZE // 8 >> CELL_SHIFT
FOLDS = {"healthy": SIZE, "folded": SIZE // 2}
PIECES = [(0, SIZE // 2 - RECORDS), (SIZE // 2, SIZE // 2 - RECORDS)]
BITS = {
    "good": [],
    "stuck": [BadBit(address=MIB + 5, bit=2, stuck_at=1), BadBit(address=5 * MIB, bit=7, stuck_at=0)],
}
SEEDS = (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03)
HASH = (patterns.HASH, SEEDS[0], 0)
INVERSE = (patterns.HASH, SEEDS[1], patterns.ALL_ONES)
WALKING = (patterns.ROTATE, 1, 1)
CONSTANT = (patterns.ROTATE, 0xAAAA_5555_0F0F_3333, 0)
OWN = (patterns.MODULO_OWN, patterns.ALL_ONES, 7)
REST = (patterns.MODULO_REST, 0, 7)

Pattern = tuple[int, int, int]


class Bench:
    """A card under the real wrapper, with its kernels loaded and all memory of the test allocated."""

    def __init__(self, library: object) -> None:
        self.cuda = Cuda(library)
        self.context: Context = self.cuda.device().context()
        self.stream: Stream = self.context.stream()
        module = self.context.module(PTX)
        self.kernels = {name: module.kernel(name) for name in ("fill", "check", "swap")}
        self.records = self._block(CELLS * RECORD.size)
        self.memory = self._block(SIZE)
        self.clear()

    def _block(self, size: int) -> Block:
        block = self.context.allocate(size)
        assert block is not None
        return block

    def clear(self) -> None:
        self.stream.clear(self.records.address, self.records.size)

    def launch(self, name: str, *what: Pattern, descending: bool | None = None) -> None:
        tail: list[Argument] = []
        if name != "fill":
            tail = [ctypes.c_uint64(self.records.address), ctypes.c_uint(CELL_SHIFT), ctypes.c_uint64(SIZE // 8)]
        if descending is not None:
            tail.append(ctypes.c_uint(descending))
        for start, size in reversed(PIECES) if descending else PIECES:
            piece = [ctypes.c_uint64(one) for one in (self.memory.address + start, size // 8, start // 8)]
            operands = [kind(one) for p in what for kind, one in zip(
                (ctypes.c_uint, ctypes.c_uint64, ctypes.c_uint64), p, strict=True)]  # fmt: skip
            self.kernels[name].launch(self.stream, 4, 64, [*piece, *operands, *tail])
        self.stream.synchronize()

    def read(self, address: int, size: int) -> bytes:
        buffer = self.context.host_buffer(size)
        self.stream.download(buffer, address, size)
        self.stream.synchronize()
        data = bytes(buffer.view)
        buffer.view.release()
        buffer.close()
        return data

    def found(self) -> dict[int, tuple[int, ...]]:
        """Records of the cells with errors, and none for the next."""
        data = self.read(self.records.address, self.records.size)
        self.clear()
        return {cell: record for cell, record in enumerate(RECORD.iter_unpack(data)) if any(record)}


def simulated(fold: str, bits: str) -> Bench:
    card = msgspec.structs.replace(
        healthy_rig(1).cards[0],
        memory=SIZE * 2 + RESERVED_BYTES + CONTEXT_BYTES,
        physical_memory=SIZE * 2 if fold == "healthy" else FOLDS[fold],
        bad_bits=tuple(BITS[bits]),
    )
    rig = msgspec.structs.replace(healthy_rig(1), cards=(card,), speedup=1000.0)
    return Bench(SimulatedCuda(rig, card.uuid, 0.0, KERNELS))


def host(library: Path, fold: str, bits: str) -> Bench:
    own = ctypes.CDLL(str(library))
    own.host_reset()
    physical = FOLDS[fold]
    lines = [f"memory 0 {physical}", *[f"map 0 0 {physical}"] * (SIZE // physical)]
    lines += [f"stick 0 {one.address % physical} {one.bit} {one.stuck_at}" for one in BITS[bits]]
    assert own.host_configure("\n".join(lines).encode()) == 0
    return Bench(str(library))


def story(bench: Bench) -> list[dict[int, tuple[int, ...]]]:
    """A memory test in small; what each step found."""
    told = []
    for what in (HASH, INVERSE):
        bench.launch("fill", what)
        bench.launch("check", what)
        told.append(bench.found())
    bench.launch("swap", INVERSE, CONSTANT, descending=False)
    told.append(bench.found())
    bench.launch("swap", CONSTANT, WALKING, descending=True)
    told.append(bench.found())
    for what in (OWN, REST):
        bench.launch("fill", what)
    for what in (OWN, REST, WALKING):
        bench.launch("check", what)
        told.append(bench.found())
    return told


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("bits", BITS)
def test_both_find_the_same(host_library: Path, fold: str, bits: str) -> None:
    benches = [host(host_library, fold, bits), simulated(fold, bits)]
    told = [story(bench) for bench in benches]
    for number, (real, symbolic) in enumerate(zip(*told, strict=True)):
        assert symbolic == real, f"step {number}"
    hashes = told[1][:2]
    assert any(hashes) == (fold == "folded" or bits == "stuck")
    if fold == "folded":
        offset = 2**62 + FOLDS[fold] // 8
        assert {record[7] for record in hashes[0].values() if record[6]} == {offset}
    for bench in benches:
        bench.launch("fill", HASH)
        bench.stream.copy(bench.memory.address + MIB, bench.memory.address + 2 * MIB + 4, 1001)
    places = (0, MIB, MIB + 1001, SIZE // 2, SIZE // 2 + MIB)
    for place in places:
        data = [bench.read(bench.memory.address + place - place % 8, 4096) for bench in benches]
        assert data[0] == data[1], place
    for bench in benches:
        bench.context.close()
