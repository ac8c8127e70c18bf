"""Chunks: what goes in comes out, in few bytes, and what is damaged is known to be."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p104d.store.telemetry_chunks import Chunk, ChunkError, encode, in_order, joined

WHOLE = st.integers(-(2**62), 2**62 - 1)
NARROW = st.integers(-300, 300)
COLUMN = st.one_of(
    *(st.lists(st.one_of(st.none(), kind), min_size=1, max_size=300) for kind in (WHOLE, NARROW, st.integers(0, 1)))
)


@settings(max_examples=150, deadline=None)
@given(COLUMN, st.integers(1, 65535))
def test_any_column_comes_back(values: list[int | None], key: int) -> None:
    chunk = Chunk(encode({key: values}))
    assert chunk.rows == len(values)
    assert chunk.column(key) == values
    present = [value for value in values if value is not None]
    scaled, chart = chunk.scaled(key, 1, 10)
    assert scaled == [value / 10 for value in present]
    assert (bytes(value is not None for value in values) if chart is not None else bytes([1]) * len(values)) == bytes(
        value is not None for value in values
    )
    assert chunk.scaled(key, 7, 1)[0] == [value * 7 for value in present]
    assert chunk.scaled(key, 1, 1)[0] == present


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**36), st.lists(st.integers(-128, 127), min_size=1, max_size=300))
def test_times_are_exact_fractions_of_two(base: int, steps: list[int]) -> None:
    times = [base]
    for step in steps:
        times.append(times[-1] + step)
    assert Chunk(encode({5: times})).scaled(5, 1, 16)[0] == [tick / 16 for tick in times]


def test_a_column_that_is_not_there_is_absent_in_every_row() -> None:
    chunk = Chunk(encode({1: [1, 2], 2: [None, None]}))
    assert list(chunk.keys) == [1]
    assert chunk.column(2) == [None, None]
    assert chunk.scaled(2, 1, 1) == ([], bytes(2))


def test_what_stands_still_costs_its_head_and_what_wavers_little() -> None:
    still = len(encode({1: [180] * 3600}))
    assert still < 40
    dice = random.Random(1)
    wavering = encode({1: [60 + round(dice.gauss(0, 1.5)) for _ in range(3600)]})
    assert len(wavering) < 0.40 * 3600
    climbing = encode({1: list(range(1_000_000, 1_003_600))})
    assert len(climbing) < 80


@pytest.mark.parametrize("place", range(0, 200, 3))
def test_a_flipped_bit_anywhere_is_found(place: int) -> None:
    data = bytearray(encode({1: [value * value % 97 for value in range(150)], 2: [7, None] * 75}))
    data[place % len(data)] ^= 0x10
    with pytest.raises(ChunkError):
        Chunk(bytes(data))


@pytest.mark.parametrize("cut", [0, 1, 4, 10, 11, 40])
def test_a_chunk_cut_short_is_found(cut: int) -> None:
    with pytest.raises(ChunkError):
        Chunk(encode({1: list(range(100))})[:cut])


def test_a_chunk_of_a_later_release_or_of_a_liar_is_refused() -> None:
    def signed(body: bytes) -> bytes:
        return body + zlib.crc32(body).to_bytes(4, "little")

    good = encode({1: [value % 50 for value in range(200)]})[:-4]
    assert Chunk(signed(good)).rows == 200
    with pytest.raises(ChunkError, match="version 2"):
        Chunk(signed(b"\x02" + good[1:]))
    with pytest.raises(ChunkError, match="rows"):
        Chunk(signed(good[:1] + (2**31).to_bytes(4, "little") + good[5:]))
    # More rows than its body has: an error of the column, and no memory taken for it.
    liar = Chunk(signed(good[:1] + (201).to_bytes(4, "little") + good[5:]))
    with pytest.raises(ChunkError):
        liar.column(1)
    with pytest.raises(ChunkError):
        liar.scaled(1, 1, 1)


def test_rows_are_put_in_order_and_chunks_together() -> None:
    late = Chunk(encode({0: [30, 40], 1: [3, 4]}))
    early = Chunk(encode({0: [10, 30, 20], 1: [1, 33, 2], 2: [None, 9, None]}))
    found = joined([late, early], 0)
    assert found[0] == [10, 20, 30, 30, 40]
    assert found[1] == [1, 2, 3, 33, 4]
    assert found[2] == [None, None, None, 9, None]
    assert joined([], 0) == {}
    kept = {0: [1, 2], 1: [5, 6]}
    assert in_order(kept, 0) is kept
