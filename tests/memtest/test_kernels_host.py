"""The tests' driver library behaves as a driver does where a test of it would otherwise prove nothing: what is not
allocated cannot be touched, errors stay, memory is counted truly, and planted faults are where they were planted."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from pathlib import Path

import pytest
from kernel_harness import HostCard, Pattern, Piece

from p104d.memtest import patterns

ZEROS = Pattern(patterns.ROTATE, 0, 0)
INVALID_VALUE, OUT_OF_MEMORY, NO_DEVICE, INVALID_PTX, NOT_FOUND, ILLEGAL_ADDRESS = 1, 2, 100, 218, 500, 700


@pytest.fixture
def card(host_library: Path) -> Iterator[HostCard]:
    card = HostCard(host_library, "memory 0 8M\nmap 0 0 8M\nreserve 1M", pieces=(1 << 20, 2 << 20))
    yield card
    card.close()


def fill_code(card: HostCard, piece: Piece) -> int:
    values = (c_uint64(piece.base), c_uint64(piece.words), c_uint64(piece.first), c_uint(1), c_uint64(0), c_uint64(0))
    return card.launch_code("fill", values)


def test_memory_is_given_from_below_and_counted(card: HostCard) -> None:
    base = int(card.cuda.host_base())
    assert [piece.base - base for piece in card.pieces] == [0, 1 << 20]
    assert card.memory() == (4 << 20, 8 << 20), "less the pieces and the driver's own"
    assert not base <= card.records < base + (8 << 20), "records lie elsewhere"
    pointer = c_uint64()
    assert card.cuda.cuMemAlloc_v2(byref(pointer), c_size_t((4 << 20) + 1)) == OUT_OF_MEMORY
    card.call("cuMemFree_v2", c_uint64(card.pieces[0].base))
    assert card.allocate(1 << 20) == base, "what was freed is given again"
    assert card.allocate(4 << 20) == base + (3 << 20)
    assert card.memory()[0] == 0


@pytest.mark.parametrize("change", [{"base": 16}, {"words": 2}, {"base": -16}])
def test_a_kernel_outside_of_an_allocation_breaks_the_context(card: HostCard, change: dict[str, int]) -> None:
    last = card.pieces[-1]
    wrong = last._replace(**{key: getattr(last, key) + value for key, value in change.items()})
    if change == {"base": -16}:
        card.call("cuMemFree_v2", c_uint64(card.pieces[0].base))
    assert fill_code(card, last) == 0
    assert fill_code(card, wrong) == ILLEGAL_ADDRESS
    assert fill_code(card, last) == ILLEGAL_ADDRESS, "as on a card, the error stays"
    assert card.cuda.cuCtxSynchronize() == ILLEGAL_ADDRESS


def test_records_must_be_allocated_for_all_cells(card: HostCard) -> None:
    card.cell_shift = 10  # a hundred times the records that there is room for
    values = (*(c_uint64(value) for value in card.pieces[-1]), c_uint(1), c_uint64(0), c_uint64(0))
    assert card.launch_code("check", (*values, *card._into())) == ILLEGAL_ADDRESS


def test_an_image_that_is_not_our_ptx_is_refused_with_a_log(card: HostCard) -> None:
    module, log = c_void_p(), ctypes.create_string_buffer(200)
    options = (c_int * 2)(5, 6)
    values = (c_void_p * 2)(ctypes.addressof(log), len(log))
    image = c_char_p(b".version 5.0\n.target sm_61\n.address_size 64\n.visible .entry fill(\n")
    assert card.cuda.cuModuleLoadDataEx(byref(module), image, c_uint(2), options, values) == INVALID_PTX
    assert b"lacks check" in log.value
    assert card.cuda.cuModuleGetFunction(byref(c_void_p()), module, c_char_p(b"gone")) == NOT_FOUND


def test_copies_move_bytes_and_stay_inside(card: HostCard) -> None:
    one, two = card.pieces
    card.write(one.base, [1, 2, 3])
    card.call("cuMemcpyDtoDAsync_v2", c_uint64(two.base), c_uint64(one.base), c_size_t(24), c_void_p())
    assert card.read(two.base, 4)[:3] == [1, 2, 3]
    host = c_void_p()
    card.call("cuMemHostAlloc", byref(host), c_size_t(1 << 16), c_uint(0))
    end = two.base + two.words * 8
    assert card.cuda.cuMemcpyHtoDAsync_v2(c_uint64(end - 8), host, c_size_t(8), c_void_p()) == 0
    assert card.cuda.cuMemcpyHtoDAsync_v2(c_uint64(end - 8), host, c_size_t(16), c_void_p()) == INVALID_VALUE
    assert card.cuda.cuMemsetD8Async(c_uint64(end), c_int(0), c_size_t(1), c_void_p()) == INVALID_VALUE
    card.call("cuMemFreeHost", host)


def test_a_stuck_bit_is_stuck_for_every_way_of_writing_and_every_alias(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 1M\nmap 0 0 1M\nmap 0 0 1M\nstick 0 16 2 1", pieces=(1 << 20, 1 << 20))
    for piece in card.pieces:
        card.fill(ZEROS, piece)
        assert card.read(piece.base, 4) == [0, 0, 4, 0]
        card.write(piece.base, [0, 0, 0])
        assert card.read(piece.base, 3) == [0, 0, 4]
        card.call("cuMemsetD8Async", c_uint64(piece.base), c_int(0), c_size_t(64), c_void_p())
        assert card.read(piece.base, 3) == [0, 0, 4]
    card.close()


def test_events_measure_time_and_launches_are_counted(card: HostCard) -> None:
    begin, end, milliseconds = c_void_p(), c_void_p(), c_float()
    for event in (begin, end):
        card.call("cuEventCreate", byref(event), c_uint(0))
    card.call("cuEventRecord", begin, c_void_p())
    before = card.cuda.host_launches()
    card.fill(ZEROS)
    assert card.cuda.host_launches() == before + 2
    card.call("cuEventRecord", end, c_void_p())
    card.call("cuEventElapsedTime", byref(milliseconds), begin, end)
    assert 0 < milliseconds.value < 60_000
    for event in (begin, end):
        card.call("cuEventDestroy_v2", event)


def test_a_call_fails_when_it_was_told_to(card: HostCard) -> None:
    assert card.cuda.host_configure(c_char_p(b"fail cuMemAlloc_v2 2 1")) == 0
    pointer = c_uint64()
    codes = [card.cuda.cuMemAlloc_v2(byref(pointer), c_size_t(4096)) for _ in range(3)]
    assert codes == [0, OUT_OF_MEMORY, OUT_OF_MEMORY]
    name = c_char_p()
    card.call("cuGetErrorName", c_int(2), byref(name))
    assert name.value == b"CUDA_ERROR_OUT_OF_MEMORY"
    assert card.cuda.cuGetErrorName(c_int(12345), byref(name)) == INVALID_VALUE


@pytest.mark.parametrize(
    "line",
    ["memory 0", "map 1 0 1M", "map 0 0 9M", "stick 0 8M 0 1", "stick 0 0 8 1", "fade 0 0 0 1", "no 1", "memory 0 1M"],
)
def test_a_wrong_line_is_told_by_its_number(card: HostCard, line: str) -> None:
    assert card.cuda.host_configure(c_char_p(f"# a comment\n{line}\n".encode())) == 2


def test_a_child_process_is_told_its_card_by_a_variable(host_library: Path) -> None:
    code = (
        "import ctypes, sys\n"
        "cuda, size = ctypes.CDLL(sys.argv[1]), ctypes.c_size_t()\n"
        "print(cuda.cuInit(ctypes.c_uint(0)))\n"
        "print(cuda.cuDeviceTotalMem_v2(ctypes.byref(size), ctypes.c_int(0)), size.value)\n"
    )
    answers = []
    for text in ("memory 0 3M\nmap 0 0 3M", ""):
        environment = {**os.environ, "P104_HOSTCUDA": text}
        command = [sys.executable, "-c", code, str(host_library)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answers.append(done.stdout.split())
    assert answers == [["0", "0", str(3 << 20)], [str(NO_DEVICE), "3", "0"]]
