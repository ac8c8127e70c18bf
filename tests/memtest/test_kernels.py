"""The kernels on memory that folds, sticks, flips and fades: each fault is found by the pattern that should find it,
exactly where it is. The card is the host's memory (host/hostcuda.cpp), the kernels are the card's own source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_harness import ALL_ONES, Cell, HostCard, Pattern, Piece

from p104d.memtest import patterns

HASH = Pattern(patterns.HASH, 0x0123456789ABCDEF, 0)
HASH_COMPLEMENT = Pattern(patterns.HASH, 0xFEDCBA9876543210, ALL_ONES)
OTHER_HASH = Pattern(patterns.HASH, 0x5EED, 0)
CONSTANT = Pattern(patterns.ROTATE, 0xAAAA5555CCCC3333, 0)
WALKING = Pattern(patterns.ROTATE, 1, 1)
WALKING_ZERO = Pattern(patterns.ROTATE, ALL_ONES ^ 1, 1)
OWN = Pattern(patterns.MODULO_OWN, 0x00FF00FF00FF00FF, 7)
REST = Pattern(patterns.MODULO_REST, 0xFF00FF00FF00FF00, 7)
ALL = (HASH, HASH_COMPLEMENT, CONSTANT, WALKING, WALKING_ZERO, OWN, REST)
MIB_WORDS = 1 << 17

Make = Callable[..., HostCard]


@pytest.fixture
def make(host_library: Path) -> Iterator[Make]:
    """Makes a card; the library's state is one for the process, so one card a test at a time."""
    made: list[HostCard] = []

    def card(config: str, **more: Any) -> HostCard:
        made.append(HostCard(host_library, config, **more))
        return made[-1]

    yield card
    for each in made[-1:]:
        each.close()


def plain(size: str, faults: str = "") -> str:
    return f"memory 0 {size}\nmap 0 0 {size}\nplain_below 16K\n{faults}"


def word(pattern: Pattern, i: int) -> int:
    return patterns.word(pattern.kind, i, pattern.a, pattern.b)


def errors(card: HostCard) -> int:
    return sum(cell.errors for cell in card.found().values())


def check_alone(card: HostCard, pattern: Pattern) -> dict[int, Cell]:
    card.forget()
    card.check(pattern)
    return card.found()


# --- healthy memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(32, 256), (1, 1), (3, 7), (200, 31)])
def test_healthy_memory_passes_every_pattern(make: Make, grid: tuple[int, int]) -> None:
    pieces = (1 << 20, (1 << 20) + 16, 4096 + 48, 16, 3 << 20)  # borders inside of cells and of tiles
    card = make(plain("6M", "threads 0"), pieces=pieces, grid=grid)
    for pattern in ALL:
        card.fill(pattern)
        card.check(pattern)
        assert card.found() == {}, pattern


@pytest.mark.parametrize("first", [0, (1 << 32) - MIB_WORDS // 2, (1 << 33) + 12346])
def test_healthy_memory_passes_wherever_its_words_begin_to_count(make: Make, first: int) -> None:
    card = make(plain("3M"), pieces=(1 << 20, (1 << 20) + 4112, 1 << 19), first=first, cell_shift=31)
    for pattern in ALL:
        card.fill(pattern)
        card.check(pattern)
        assert card.found() == {}, pattern


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("threads", [0, 1])
def test_swap_checks_the_old_and_writes_the_new(make: Make, descending: bool, threads: int) -> None:
    card = make(plain("3M", f"threads {threads}"), pieces=(1 << 20, (1 << 20) + 4112, 48))
    for old, new in [(HASH, HASH_COMPLEMENT), (WALKING, WALKING_ZERO), (CONSTANT, HASH), (OWN, OWN), (REST, OWN)]:
        card.fill(old)
        card.swap(old, new, descending=descending)
        assert card.found() == {}, (old, new)
        assert check_alone(card, new) == {}, (old, new)
        card.swap(OTHER_HASH, new, descending=descending)
        assert errors(card) == card.total_words, "a swap that never looks would pass all the rest"
        card.forget()


# --- aliasing -----------------------------------------------------------------------------------------------------


def test_memory_that_folds_once_is_found_by_the_hash_with_its_offset(make: Make) -> None:
    card = make("memory 0 4M\nmap 0 0 4M\nmap 0 0 4M")
    card.fill(HASH)
    card.check(HASH)
    half = 4 * MIB_WORDS
    assert set(card.found()) == {0, 1, 2, 3}, "the half written last is right, the other holds its words"
    for number, cell in card.found().items():
        assert (cell.errors, cell.aliased, cell.deltas) == (MIB_WORDS, MIB_WORDS, (half, half))
        assert (cell.first, cell.last) == (number * MIB_WORDS, (number + 1) * MIB_WORDS - 1)


def test_memory_whose_parts_are_mixed_up_tells_every_distance(make: Make) -> None:
    """Aliases above and below, in one cell: both ends of the distances are kept."""
    maps = "\n".join(f"map 0 {at} 64K" for at in ("64K", "0", "64K", "0"))
    card = make(f"memory 0 128K\n{maps}\nplain_below 4K")
    quarter = 8192
    card.fill(HASH)
    card.fill(HASH, Piece(card.pieces[0].base, quarter, 0))  # the first quarter again: the third now holds its words
    card.check(HASH)
    (cell,) = card.found().values()
    assert (cell.errors, cell.aliased, cell.deltas) == (2 * quarter, 2 * quarter, (-2 * quarter, 2 * quarter))
    assert (cell.first, cell.last) == (quarter, 3 * quarter - 1)


def test_aliases_are_found_beyond_four_gigabytes_of_addresses(make: Make) -> None:
    windows = 65
    config = "memory 0 64M\n" + "map 0 0 64M\n" * windows
    card = make(config, pieces=[64 << 20] * windows)
    assert card.memory() == (0, windows * (64 << 20)), "more than 4 GiB"
    window = card.pieces[0].words
    card.fill(HASH)
    for number in (0, 63, 64):
        card.check(HASH, card.pieces[number])
    found = card.found()
    assert set(found) == set(range(64)) | set(range(63 * 64, 64 * 64)), "only the last window is right"
    assert {cell.deltas for n, cell in found.items() if n < 64} == {(64 * window, 64 * window)}
    assert {cell.deltas for n, cell in found.items() if n >= 63 * 64} == {(window, window)}
    assert all(cell.errors == cell.aliased == MIB_WORDS for cell in found.values())


def test_a_constant_is_blind_to_aliasing(make: Make) -> None:
    """Why the test is not a fill with zeros and ones: half of this card does not exist, and a constant is content."""
    card = make("memory 0 1M\nmap 0 0 1M\nmap 0 0 1M")
    for pattern in (CONSTANT, Pattern(patterns.ROTATE, 0, 0), Pattern(patterns.ROTATE, ALL_ONES, 0), WALKING):
        card.fill(pattern)
        card.check(pattern)
        assert card.found() == {}, pattern


def test_own_addresses_checked_chunk_by_chunk_are_blind_to_aliasing(make: Make) -> None:
    """Why everything is written before anything is read: the alias is written over later, when nobody looks."""
    card = make("memory 0 1M\nmap 0 0 1M\nmap 0 0 1M", pieces=(1 << 20, 1 << 20))
    for piece in card.pieces:
        card.fill(HASH, piece)
        card.check(HASH, piece)
    assert card.found() == {}
    card.check(HASH)
    assert errors(card) == MIB_WORDS


@pytest.mark.parametrize("size", ["4K", "1M"])
@pytest.mark.parametrize("threads", [0, 1])
def test_a_swap_goes_up_or_down(make: Make, size: str, threads: int) -> None:
    """On folded memory the direction shows: upwards both halves are wrong, downwards the upper one was checked before
    its alias was written. 4K is one tile, 1M many."""
    card = make(f"memory 0 {size}\nmap 0 0 {size}\nmap 0 0 {size}\nthreads {threads}\nplain_below 4K")
    card.fill(HASH)
    card.swap(HASH, OTHER_HASH)
    assert errors(card) == card.total_words
    card.forget()
    card.fill(HASH)
    card.swap(HASH, OTHER_HASH, descending=True)
    found = card.found()
    assert sum(cell.errors for cell in found.values()) == card.total_words // 2
    assert max(cell.last for cell in found.values()) == card.total_words // 2 - 1


# --- bits that do not hold ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 1])
def test_a_stuck_bit_is_found_by_a_pattern_or_its_complement(make: Make, value: int) -> None:
    address, bit = 0x123457, 3  # byte 7 of its word: bit 59
    card = make(plain("4M", f"stick 0 {address} {bit} {value}"))
    i, mask = address // 8, 1 << 59
    seen = []
    for pattern in (HASH, HASH._replace(b=ALL_ONES)):
        card.forget()
        card.fill(pattern)
        card.check(pattern)
        expected = word(pattern, i)
        right = bool(expected & mask) == bool(value)
        seen.append(right)
        ones, zeros = (mask, 0) if value else (0, mask)
        assert card.found() == ({} if right else {1: Cell(1, ones, zeros, mask, i, i, 0, None)})
    assert sorted(seen) == [False, True], "one of the two patterns agrees with the stuck bit, the other cannot"


def test_a_bit_that_flips_once_is_found_where_it_flipped_and_only_then(make: Make) -> None:
    address, bit = (2 << 20) + 9, 0
    card = make(plain("4M", f"flip 0 {address} {bit} 1"))
    i, mask = address // 8, 1 << 8
    card.fill(HASH)  # the bit flips after this launch
    card.check(HASH)
    expected = word(HASH, i)
    ones, zeros = (mask, 0) if not expected & mask else (0, mask)
    assert card.found() == {2: Cell(1, ones, zeros, mask, i, i, 0, None)}
    card.fill(HASH)
    assert check_alone(card, HASH) == {}, "a soft error does not come back"


def test_a_bit_that_fades_is_found_only_after_a_hold(make: Make) -> None:
    card = make(plain("1M", "fade 0 80 5 0 3600000"))
    card.fill(Pattern(patterns.ROTATE, ALL_ONES, 0))
    ones = Pattern(patterns.ROTATE, ALL_ONES, 0)
    assert check_alone(card, ones) == {}
    card.cuda.host_fade()  # an hour later
    assert check_alone(card, ones) == {0: Cell(1, 0, 1 << 5, 1 << 5, 10, 10, 0, None)}


def test_modulo_20_finds_a_neighbour_written_over(make: Make) -> None:
    """Its own words must survive the writing of all others; here one write goes to two places."""
    card = make("memory 0 1M\nmap 0 0 512K\nmap 0 0 512K")
    for b in range(20):
        own, rest = OWN._replace(b=b), REST._replace(b=b)
        card.forget()
        card.fill(own)
        card.fill(rest)
        card.check(own)
        # Words half a piece apart differ by 65536 = 16 modulo 20, so every own word is another one's rest.
        owned = len(range(b, card.total_words, 20))
        assert errors(card) == owned
        assert {cell.ones for cell in card.found().values()} == {rest.a}


@pytest.mark.parametrize("first", [0, 14, (1 << 32) - 1000])
def test_modulo_looks_at_its_own_words_alone(make: Make, first: int) -> None:
    card = make(plain("64K", "threads 0"), first=first, cell_shift=31)
    words = range(first, card.total_words)
    for b in (0, 7, 19):
        own, rest = OWN._replace(b=b), REST._replace(b=b)
        card.fill(CONSTANT)
        for pattern, number in ((own, sum(i % 20 == b for i in words)), (rest, sum(i % 20 != b for i in words))):
            assert sum(cell.errors for cell in check_alone(card, pattern).values()) == number
        card.fill(own)
        card.fill(rest)
        card.check(own)
        assert check_alone(card, rest) == {} and check_alone(card, own) == {}


# --- records --------------------------------------------------------------------------------------------------------


def model(found: dict[int, int], pattern: Pattern, total_words: int) -> Cell:
    """The record that the words ``found`` (by index, all of them wrong) should make."""
    ones = zeros = nand = 0
    deltas = []
    for i, observed in found.items():
        expected = word(pattern, i)
        ones |= observed & ~expected
        zeros |= expected & ~observed
        nand |= ~(observed ^ expected) & ALL_ONES
        j = patterns.unhash(observed, pattern.a, pattern.b)
        if pattern.kind == patterns.HASH and j < total_words:
            deltas.append(j - i)
    span = (min(deltas), max(deltas)) if deltas else None
    return Cell(len(found), ones, zeros, ~nand & ALL_ONES, min(found), max(found), len(deltas), span)


WORDS = 8192
#: Cells from far smaller to larger than a tile.
CELL_SHIFTS = (1, 3, 9, 10, 14, 20)
plants = st.dictionaries(
    st.integers(0, WORDS - 1),
    st.one_of(st.integers(1, ALL_ONES), st.integers(0, WORDS - 1).map(lambda j: -j)),
    max_size=40,
)


@pytest.fixture(scope="module")
def small_card(host_library: Path) -> Iterator[HostCard]:
    pieces = (16, 24576, 4096 - 16, 65536 - 24576 - 4096)
    card = HostCard(host_library, plain("64K", "threads 0\nplain_below 1M"), pieces=pieces, cell_shift=1, grid=(3, 50))
    yield card
    card.close()


def planted(plan: dict[int, int], pattern: Pattern) -> dict[int, int]:
    """What stands where: a positive number is flipped bits, another one minus the index whose word is there."""
    found = {i: word(pattern, i) ^ what if what > 0 else word(pattern, -what) for i, what in plan.items()}
    return {i: observed for i, observed in found.items() if observed != word(pattern, i)}


def by_cell(found: dict[int, int], shift: int) -> dict[int, dict[int, int]]:
    cells: dict[int, dict[int, int]] = {}
    for i, observed in found.items():
        cells.setdefault(i >> shift, {})[i] = observed
    return cells


@given(
    plan=plants,
    pattern=st.sampled_from((HASH, HASH_COMPLEMENT, WALKING)),
    shift=st.sampled_from(CELL_SHIFTS),
    how=st.sampled_from(("check", "up", "down")),
)
@settings(max_examples=150, deadline=None)
def test_records_tell_what_a_model_tells(
    host_library: Path, small_card: HostCard, plan: dict[int, int], pattern: Pattern, shift: int, how: str
) -> None:
    card = small_card
    card.cell_shift = shift
    card.forget()
    card.fill(pattern)
    found = planted(plan, pattern)
    for i, observed in found.items():
        card.write(card.address(i), [observed])
    if how == "check":
        card.check(pattern)
    else:
        card.swap(pattern, OTHER_HASH, descending=how == "down")
    expected = {number: model(words, pattern, WORDS) for number, words in by_cell(found, shift).items()}
    assert card.found() == expected


def test_findings_of_several_passes_add_up(make: Make) -> None:
    card = make(plain("1M", "stick 0 8 0 1\nstick 0 24 1 0"))
    zeros, ones = Pattern(patterns.ROTATE, 0, 0), Pattern(patterns.ROTATE, ALL_ONES, 0)
    for pattern in (zeros, ones, zeros):
        card.fill(pattern)
        card.check(pattern)
    assert card.found() == {0: Cell(3, 1, 2, 0, 1, 3, 0, None)}


def test_a_word_for_an_index_outside_of_the_memory_is_no_alias(make: Make) -> None:
    card = make(plain("1M"))
    card.fill(HASH)
    total = card.total_words
    card.write(card.address(0), [word(HASH, total), word(HASH, total - 1)])
    card.check(HASH)
    cell = card.found()[0]
    assert (cell.errors, cell.aliased, cell.deltas) == (2, 1, (total - 2, total - 2))


def test_a_card_is_told_apart_beyond_32_bits_of_words(make: Make) -> None:
    """Words whose indexes differ in the upper half alone (32 GiB apart) are not the same, and the distance is exact."""
    card = make(plain("1M"), first=(1 << 32) + 4, cell_shift=31)
    far = card.pieces[0]._replace(first=4)
    card.fill(HASH, far)
    card.check(HASH)
    (cell,) = card.found().values()
    assert (cell.errors, cell.aliased, cell.deltas) == (far.words, far.words, (-(1 << 32), -(1 << 32)))
    assert (cell.first, cell.last) == ((1 << 32) + 4, (1 << 32) + 3 + far.words)
