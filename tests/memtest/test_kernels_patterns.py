"""The patterns in Python are the kernels' patterns, and a hashed word tells where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import HostCard, Pattern, Piece

from p104d.memtest import patterns

WORDS = 64
operands = st.integers(0, patterns.ALL_ONES)
# All sizes, and most of all the neighbourhood of where 32 bits end.
indexes = st.one_of(st.integers(0, 1 << 45), st.integers((1 << 32) - WORDS, (1 << 32) + WORDS))
any_pattern = st.one_of(
    st.builds(Pattern, st.just(patterns.HASH), operands, st.sampled_from((0, patterns.ALL_ONES))),
    st.builds(Pattern, st.just(patterns.ROTATE), operands, operands),
    st.builds(Pattern, st.sampled_from((patterns.MODULO_OWN, patterns.MODULO_REST)), operands, st.integers(0, 19)),
)


@pytest.fixture(scope="module")
def card(host_library: Path) -> Iterator[HostCard]:
    card = HostCard(host_library, "memory 0 1M\nmap 0 0 1M\nthreads 0", grid=(3, 7))
    yield card
    card.close()


@given(pattern=any_pattern, first=indexes.map(lambda i: i & ~1), untouched=operands)
@settings(max_examples=300, deadline=None)
def test_a_fill_writes_what_python_says(card: HostCard, pattern: Pattern, first: int, untouched: int) -> None:
    base = card.pieces[0].base
    card.write(base, [untouched] * WORDS)
    card.fill(pattern, Piece(base, WORDS, first))
    kind, a, b = pattern
    expected = [
        patterns.word(kind, i, a, b) if patterns.touches(kind, i, b) else untouched for i in range(first, first + WORDS)
    ]
    assert card.read(base, WORDS) == expected


@given(i=operands, a=operands, b=operands)
def test_a_hashed_word_tells_the_index_it_was_written_for(i: int, a: int, b: int) -> None:
    assert patterns.unhash(patterns.word(patterns.HASH, i, a, b), a, b) == i


@given(x=st.integers(0, (1 << 32) - 1))
def test_unmix_undoes_mix(x: int) -> None:
    assert patterns.unmix(patterns.mix(x)) == x == patterns.mix(patterns.unmix(x))


def test_modulo_touches_each_word_by_exactly_one_of_both_kinds() -> None:
    for i in range(100):
        for b in range(patterns.MODULUS):
            assert patterns.touches(patterns.MODULO_OWN, i, b) is not patterns.touches(patterns.MODULO_REST, i, b)
            assert patterns.touches(patterns.MODULO_OWN, i, b) is (i % 20 == b)
