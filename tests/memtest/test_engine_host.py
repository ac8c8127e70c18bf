"""The whole test on real memory of this host, through the tests' driver library: each fault is found, named, placed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from engine_rig import MIB, Heard, HostCard, failed, finished, on_host

from p104d.memtest import steps
from p104d.memtest.messages import Depth, Fault, StuckBit
from p104d.memtest.messages import TestResult as Result


@pytest.fixture(autouse=True)
def fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The random pass is two thirds of a full test, and the host's two cores are no card."""
    monkeypatch.setattr(steps, "RANDOM_ROUNDS", 10)


def errors_by_pass(result: Result) -> dict[str, int]:
    return {one.name: one.errors for one in result.passes}


def test_a_healthy_card_passes_and_nearly_all_of_it_is_tested(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 200M", "map 0 0 200M", "reserve 1M")
    heard = Heard()
    result = finished(on_host(card, heard=heard))
    assert result.errors == 0 and result.fault is None and result.cells == () and result.flipped_and == 0
    assert result.cuda_total_bytes == 200 * MIB and result.cuda_free_bytes == 199 * MIB
    assert result.tested_bytes >= 0.98 * result.cuda_total_bytes
    assert [one.name for one in result.passes] == ["hash", "hash, complement"]
    assert [one.bytes_moved for one in result.passes] == [2 * result.tested_bytes, 4 * result.tested_bytes]
    assert all(one.seconds > 0 for one in result.passes)
    speeds = (result.write_bytes_per_second, result.read_bytes_per_second, result.copy_bytes_per_second)
    links = (result.host_to_device_bytes_per_second, result.device_to_host_bytes_per_second)
    assert all(10e6 < speed < 1e12 for speed in (*speeds, *links))
    assert heard.steps() == ["taking the memory", "measuring the speed", "hash", "hash, complement"]


def test_what_was_taken_is_given_back(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 8M", "map 0 0 8M")
    finished(on_host(card))
    assert card.allocations == 0


def test_progress_only_grows_and_ends_at_all(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M")
    heard = Heard()
    result = finished(on_host(card, Depth.FULL, heard))
    fractions = [progress.fraction for progress in heard.progress]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1.0
    assert all(fraction < 1.0 for fraction in fractions[:-1])
    tested = [progress.tested_bytes for progress in heard.progress]
    assert tested == sorted(tested) and tested[-1] == result.tested_bytes
    assert heard.progress[-1].seconds_left == 0.0
    assert result.errors == 0


@pytest.mark.parametrize("depth", list(Depth))
def test_memory_that_answers_twice_is_folded_at_that_distance(host_library: Path, depth: Depth) -> None:
    card = HostCard(host_library, "memory 0 16M", "map 0 0 16M", "map 0 0 16M")
    heard = Heard()
    result = finished(on_host(card, depth, heard, hold_seconds=0.05, rounds=1))
    assert result.fault is Fault.ALIASING
    assert result.alias_offset == 16 * MIB
    assert result.aliased == result.errors == 3 * 16 * MIB // 8
    assert result.ranges[0].start == 0 and result.ranges[0].end == 16 * MIB
    assert result.addresses == (0,)
    assert [cell.cell for cell in result.cells] == list(range(16))
    # What is folded fails all other passes for the same reason: they are not made.
    assert errors_by_pass(result) == {"hash": 16 * MIB // 8, "hash, complement": 2 * 16 * MIB // 8}
    assert heard.progress[-1].fraction == 1.0


def test_memory_folded_several_times_has_one_distance(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 8M", *["map 0 0 8M"] * 3, "map 0 0 4M")
    result = finished(on_host(card))
    # The last window that was written lies 8 or 16 MiB above; half of the first has been written three times since.
    assert result.alias_offset == 8 * MIB and result.fault is Fault.ALIASING


def test_the_upper_part_alone_may_be_folded(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 24M", "map 0 0 24M", "map 0 0 8M")
    result = finished(on_host(card))
    assert (result.fault, result.alias_offset) == (Fault.ALIASING, 24 * MIB)
    assert (result.ranges[0].start, result.ranges[0].end) == (0, 8 * MIB)


def test_folded_memory_is_seen_although_the_findings_lie_in_it(host_library: Path) -> None:
    card = HostCard(host_library, "plain_below 0", "memory 0 64M", "map 0 0 64M", "map 0 0 64M")
    result = finished(on_host(card))
    assert result.fault is Fault.ALIASING and result.alias_offset == 64 * MIB
    assert result.broken_records == 0 and all(errors_by_pass(result).values())
    assert result.errors > 0.95 * 3 * 64 * MIB // 8


def test_a_stuck_bit_is_named_and_so_is_its_place(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M", "stick 0 0x23456 3 1", "stick 0 0x134567 0 0")
    result = finished(on_host(card, Depth.FULL))
    assert result.fault is Fault.STUCK
    assert result.stuck == (
        StuckBit(address=0x23456, bit=3, stuck_at=1),
        StuckBit(address=0x134567, bit=0, stuck_at=0),
    )
    assert result.addresses == (0x23450, 0x134560)
    assert [(one.start, one.end) for one in result.ranges] == [(0x23450, 0x134568)]  # cells beside each other
    assert (result.ones, result.zeros) == (1 << (6 * 8 + 3), 1 << (7 * 8))
    assert result.flipped_or == result.ones | result.zeros and result.flipped_and == 0
    assert all(errors for name, errors in errors_by_pass(result).items() if name != "hash")


def test_every_stuck_bit_is_seen_by_the_quick_test(host_library: Path) -> None:
    """Whatever the seed: each bit was written as 0 and as 1."""
    lines = [f"stick 0 {0x1000 + 4096 * number} {number % 8} {number // 8 % 2}" for number in range(32)]
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M", *lines)
    result = finished(on_host(card))
    assert [(bit.address, bit.bit, bit.stuck_at) for bit in result.stuck] == [
        (0x1000 + 4096 * number, number % 8, number // 8 % 2) for number in range(32)
    ]
    assert errors_by_pass(result)["hash, complement"] == 32


@pytest.mark.parametrize("value", [0, 1])
def test_all_bits_of_a_dead_word_are_named(host_library: Path, value: int) -> None:
    lines = [f"stick 0 {0x200000 + bit // 8} {bit % 8} {value}" for bit in range(64)]
    card = HostCard(host_library, "memory 0 4M", "map 0 0 4M", *lines)
    result = finished(on_host(card))
    assert errors_by_pass(result) == {"hash": 1, "hash, complement": 2}
    assert [(8 * (bit.address - 0x200000) + bit.bit, bit.stuck_at) for bit in result.stuck] == [
        (bit, value) for bit in range(64)
    ]


def test_a_bit_that_flips_once_is_soft(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M", "flip 0 0x100010 5 120")
    result = finished(on_host(card, Depth.FULL))
    assert result.fault is Fault.SOFT and result.stuck == ()
    assert result.addresses == (0x100010,) and result.errors == 1
    assert result.flipped_or == result.flipped_and == 1 << 5


def test_a_bit_that_fades_is_found_by_the_hold(host_library: Path) -> None:
    """One loses its charge to 0, one to 1: each is seen once, by the pattern or by its complement."""
    lines = ("memory 0 2M", "map 0 0 2M", "fade 0 0x80 1 0 800", "fade 0 0x1088 2 1 800")
    heard = Heard()
    result = finished(on_host(HostCard(host_library, *lines), Depth.THOROUGH, heard, hold_seconds=1.2, rounds=1))
    assert errors_by_pass(result)["bit fade"] == 2
    assert set(result.addresses) == {0x80, 0x1088}
    assert (result.fault, result.ones, result.zeros) == (Fault.SOFT, 1 << 2, 1 << 1)
    assert heard.steps()[-2:] == ["bit fade", "reading the bad places again"]


def test_the_rounds_of_a_thorough_test_are_told_and_added_up(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 2M", "map 0 0 2M", "stick 0 0x100 0 1")
    heard = Heard()
    result = finished(on_host(card, Depth.THOROUGH, heard, hold_seconds=0.01, rounds=2))
    names = [one.name for one in result.passes]
    assert len(names) == len(set(names)) == 8 and "bit fade" in names
    assert result.passes[0].bytes_moved == 2 * 2 * result.tested_bytes  # two rounds, written and read
    assert "hash, round 1 of 2" in heard.steps() and "random, round 2 of 2" in heard.steps()
    assert errors_by_pass(result)["modulo 20"] == 2 * 20  # of two times twenty patterns half want a 0 there
    assert sum(one.errors for one in result.passes) == result.errors


def test_many_allocations_are_one_range_of_addresses(host_library: Path) -> None:
    """Somebody's memory in the midst: what is left is held in pieces, and a test address counts through them."""
    card = HostCard(host_library, "memory 0 64M", "map 0 0 64M", "stick 0 0x2800000 7 1")  # at 40 MiB
    library = card.library
    assert not library.cuInit(0) and not library.cuCtxCreate_v2(ctypes.byref(ctypes.c_void_p()), 0, 0)
    blocks = [ctypes.c_uint64() for _ in range(3)]
    for block, size in zip(blocks, (20 * MIB, 10 * MIB, 34 * MIB), strict=True):
        assert not library.cuMemAlloc_v2(ctypes.byref(block), ctypes.c_size_t(size))
    for block in (blocks[0], blocks[2]):
        assert not library.cuMemFree_v2(block)
    result = finished(on_host(card))
    assert result.cuda_free_bytes == 54 * MIB
    assert result.tested_bytes == 54 * MIB
    assert [bit.address for bit in result.stuck] == [30 * MIB]  # ten of the forty before it are not ours
    assert [cell.cell for cell in result.cells] == [30]


def test_a_card_without_free_memory_cannot_be_tested(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 16M", "map 0 0 16M", "reserve 15M")
    failure = failed(on_host(card))
    assert failure.text == "no memory to test: 1 MiB of 16 MiB are free"
    assert failure.call is None and card.allocations == 0


def test_another_card_is_not_tested(host_library: Path) -> None:
    card = HostCard(host_library, "memory 0 4M", "map 0 0 4M", "uuid ffffffffffffffffffffffffffffffff")
    failure = failed(on_host(card))
    assert "another card, GPU-ffffffff-ffff-ffff-ffff-ffffffffffff" in failure.text
    assert not card.library.host_launches()
