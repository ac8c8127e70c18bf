"""The engine's parts by themselves: records that lie, plans, and how progress is reckoned."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence

import pytest
from engine_rig import Heard
from hypothesis import given
from hypothesis import strategies as some

from p104d.memtest import meter as meter_module
from p104d.memtest.card import RECORD_WORDS
from p104d.memtest.findings import Findings
from p104d.memtest.messages import MOST_ADDRESSES, MOST_RANGES, Depth
from p104d.memtest.meter import Meter
from p104d.memtest.patterns import ALL_ONES, HASH, touches, word
from p104d.memtest.steps import Check, Fill, Hold, Operation, Pass, Pattern, Swap, passes
from p104d.memtest.sweep import sleeper

CELL = 1 << 17
ZERO = 1 << 62


def record(
    first: int, last: int, errors: int = 1, ones: int = 1, zeros: int = 0, distance: int | None = None
) -> list[int]:
    """As a kernel leaves it."""
    deltas = [0, 0, 0] if distance is None else [errors, ZERO + distance, ZERO - distance]
    return [errors, ones, zeros, ALL_ONES ^ (ones | zeros), ALL_ONES ^ first, last + 1, *deltas]


def records(*each: Sequence[int]) -> memoryview:
    flat = [value for one in each for value in one]
    return memoryview(b"".join(value.to_bytes(8, "little") for value in flat)).cast("Q")


NOTHING = [0] * RECORD_WORDS


def test_records_of_several_passes_are_merged() -> None:
    findings = Findings(4 * CELL, 17)
    assert findings.add(records(NOTHING, record(CELL + 5, CELL + 5, ones=4), NOTHING, NOTHING), 1) == 1
    assert findings.add(records(NOTHING, record(CELL + 2, CELL + 9, 7, 0, 2), record(2 * CELL, 2 * CELL)), 1) == 8
    assert findings.errors == 9 and findings.broken_records == 0
    assert findings.masks() == (5, 2) and findings.always_flipped() == 0
    (one,) = findings.ranges()
    assert (one.start, one.end, one.errors, one.ones, one.zeros) == (8 * (CELL + 2), 8 * (2 * CELL + 1), 9, 5, 2)
    assert findings.addresses([8 * (CELL + 7)]) == tuple(8 * (CELL + at) for at in (2, 7, 9, CELL))
    assert [(cell.cell, cell.errors, cell.flipped) for cell in findings.bad_cells()] == [(1, 8, 6), (2, 1, 1)]


@pytest.mark.parametrize(
    "lie",
    [
        record(0, 0, errors=CELL * 3 + 1),  # more than were compared
        record(0, CELL),  # beyond the cell
        record(5, 4),
        record(0, 0, ones=0),  # errors without a bit
        [0, 1, 0, 0, 0, 0, 0, 0, 0],  # a bit without errors
        record(0, 0, distance=4 * CELL),  # from beyond the memory
        [word(HASH, i, 77, 0) for i in range(RECORD_WORDS)],  # written over by a pattern
        [ALL_ONES] * RECORD_WORDS,
    ],
)
def test_a_record_that_cannot_be_true_is_an_error_and_never_a_pass(lie: list[int]) -> None:
    findings = Findings(4 * CELL, 17)
    assert findings.add(records(lie, NOTHING, NOTHING, NOTHING), 3) == 1
    assert (findings.errors, findings.broken_records, findings.cells) == (1, 1, {})


@given(some.lists(some.integers(0, ALL_ONES), min_size=RECORD_WORDS, max_size=RECORD_WORDS).filter(any))
def test_no_record_but_zeros_is_a_pass(values: list[int]) -> None:
    assert Findings(CELL, 17).add(records(values), 1) > 0


def test_the_last_cell_may_be_short() -> None:
    findings = Findings(CELL + 2, 17)
    findings.add(records(NOTHING, record(CELL + 2, CELL + 2)), 1)
    assert findings.broken_records == 1
    findings.add(records(NOTHING, record(CELL + 1, CELL + 1)), 1)
    assert findings.addresses([]) == (8 * (CELL + 1),)


@pytest.mark.parametrize(
    "distances, offset",
    [
        ([64], 512),
        ([-64, -64], -512),
        ([64, -64], 512),
        ([128, 64, 192], 512),
        ([128, 192], None),  # no one of them explains the others
        (list(range(64, 128)), None),
        ([], None),
    ],
)
def test_the_distance_to_the_alias(distances: list[int], offset: int | None) -> None:
    findings = Findings(CELL * 128, 17)
    findings.add(records(*(record(CELL * at, CELL * at, 512, distance=one) for at, one in enumerate(distances))), 1)
    assert findings.broken_records == 0 and findings.alias_offset() == offset


def test_some_misplaced_words_are_not_a_fold_yet() -> None:
    findings = Findings(CELL, 17)
    findings.add(records(record(0, 600, 511, distance=700)), 1)
    assert not findings.folded()
    findings.add(records(record(0, 600, 1, distance=700)), 1)
    assert findings.folded()
    findings.add(records(record(0, 600, 2000)), 1)
    assert not findings.folded()  # most of the errors are others


def test_very_many_bad_places_are_cut_short_but_counted() -> None:
    findings = Findings(CELL * 400, 17)
    each = [record(CELL * at, CELL * at + 1, 2) if at % 2 else NOTHING for at in range(400)]
    assert findings.add(records(*each), 1) == 400
    assert len(findings.ranges()) == MOST_RANGES and len(findings.addresses([])) == MOST_ADDRESSES
    assert len(findings.bad_cells()) == 200


def operations(depth: Depth) -> list[Operation]:
    return [operation for one in passes(depth, 5, rounds=2, hold_seconds=9.0) for operation in one.operations]


@pytest.mark.parametrize("depth", list(Depth))
def test_a_plan_compares_only_with_what_it_has_written(depth: Depth) -> None:
    """Followed word by word on a small memory that keeps what it is given, no comparison differs."""
    memory: dict[int, int] = {}

    def value(pattern: Pattern, i: int) -> int:
        return word(pattern.kind, i, pattern.a, pattern.b)

    def fits(pattern: Pattern) -> bool:
        return all(memory[i] == value(pattern, i) for i in range(41) if touches(pattern.kind, i, pattern.b))

    for operation in operations(depth):
        match operation:
            case Fill(pattern):
                memory.update({i: value(pattern, i) for i in range(41) if touches(pattern.kind, i, pattern.b)})
            case Check(pattern):
                assert fits(pattern)
            case Swap(before, after):
                assert fits(before)
                memory.update({i: value(after, i) for i in range(41)})


@pytest.mark.parametrize("depth", list(Depth))
def test_every_bit_is_compared_as_0_and_as_1(depth: Depth) -> None:
    seen = [0, 0]
    for one in passes(depth, 5, rounds=1)[:2]:
        for operation in one.operations:
            if isinstance(operation, Check):
                expected = word(operation.pattern.kind, 12345, operation.pattern.a, operation.pattern.b)
                seen[1] |= expected
                seen[0] |= expected ^ ALL_ONES
    assert seen == [ALL_ONES, ALL_ONES]


def test_seeds_make_patterns() -> None:
    assert passes(Depth.FULL, 1) == passes(Depth.FULL, 1) != passes(Depth.FULL, 2)
    thorough = passes(Depth.THOROUGH, 1, rounds=3, hold_seconds=7.0)
    rounds = [one for one in thorough if one.name == "hash"]
    assert len({one.operations for one in rounds}) == 3
    assert [op.seconds for one in thorough for op in one.operations if isinstance(op, Hold)] == [7.0, 7.0]


def test_a_full_test_of_8_gb_takes_about_a_minute() -> None:
    moved = sum(operation.moved(8 * 10**9) for operation in operations(Depth.FULL))
    assert 30 < moved / 220e9 < 90


def test_a_hold_is_slept_by_us_unless_the_library_has_a_time_of_its_own() -> None:
    """A real library answers for the C library's `sleep`, too, which knows whole seconds only."""

    class Timed:
        def sleep(self, seconds: float) -> None: ...

    real, timed = ctypes.CDLL(None), Timed()
    assert hasattr(real, "sleep") and sleeper(real) is time.sleep
    assert sleeper(timed) == timed.sleep and sleeper(object()) is time.sleep


class Clock:
    def __init__(self) -> None:
        self.at = 100.0

    def monotonic(self) -> float:
        return self.at


def test_time_left_is_reckoned_by_what_each_operation_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, heard = Clock(), Heard()
    monkeypatch.setattr(meter_module, "time", clock)
    fill, check = Fill(Pattern(HASH, 1)), Check(Pattern(HASH, 1))
    meter = Meter(heard)
    meter.plan([Pass("a", "a", (fill, check, Hold(10.0))), Pass("b", "b", (fill, check))], 1000)
    meter.step("a")
    assert heard.progress[-1].seconds_left is None and heard.progress[-1].fraction == 0
    for operation, seconds in ((fill, 1.0), (check, 3.0)):
        meter.begin(operation)
        clock.at += seconds
        meter.progress(1000)
        meter.end()
    meter.tell(now=True)
    # Ten of holding, one of writing, three of reading are left; four are over.
    assert heard.progress[-1].seconds_left == pytest.approx(14)
    assert heard.progress[-1].fraction == pytest.approx(4 / 18)
    assert heard.progress[-1].tested_bytes == 1000
    meter.begin(Hold(10.0))
    clock.at += 5
    meter.progress(5.0)
    assert heard.progress[-1].seconds_left == pytest.approx(5 + 4)
    clock.at += 0.1
    said = len(heard.progress)
    meter.progress(0.1)
    assert len(heard.progress) == said  # not so often
    meter.finish()
    assert heard.progress[-1].fraction == 1.0 and heard.progress[-1].seconds_left == 0
