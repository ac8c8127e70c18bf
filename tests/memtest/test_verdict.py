"""What a result says of a card, in a word and in a line."""

from __future__ import annotations

from typing import Any

import pytest

from p104d.core.card import Verdict
from p104d.core.units import GIB, MIB
from p104d.memtest.messages import BadCell, BadRange, Depth, Failure, Fault, PassResult, StuckBit
from p104d.memtest.messages import TestResult as Result  # what is called Test... pytest takes for a test
from p104d.memtest.verdict import Judgement, judge, judge_failure

TOTAL, TESTED = 8109 * MIB, 8022 * MIB
SPEEDS = {
    "write_bytes_per_second": 2e11,
    "read_bytes_per_second": 2e11,
    "copy_bytes_per_second": 2e11,
    "host_to_device_bytes_per_second": 8e8,
    "device_to_host_bytes_per_second": 8e8,
}


def result(**more: Any) -> Result:
    values: dict[str, Any] = {
        "depth": Depth.QUICK,
        "cuda_total_bytes": TOTAL,
        "cuda_free_bytes": 8023 * MIB,
        "tested_bytes": TESTED,
        "seconds": 2.0,
        "passes": (PassResult(name="hash", errors=more.get("errors", 0), seconds=1.0, bytes_moved=1),) * 2,
    }
    return Result(**{**values, **SPEEDS, **more})


def judged(*, locked_size: bool = False, **more: Any) -> Judgement:
    return judge(result(**more), reported_bytes=8 * GIB, locked_size=locked_size)


def bad(address: int = 0x1_4000_0000, errors: int = 3, **more: Any) -> dict[str, Any]:
    """One bad word."""
    place = BadRange(start=address, end=address + 8, errors=errors, ones=8, zeros=0)
    values: dict[str, Any] = {
        "errors": errors,
        "addresses": (address,),
        "ranges": (place,),
        "flipped_or": 8,
        "flipped_and": 8,
        "ones": 8,
        "fault": Fault.SOFT,
        "cells": (BadCell(cell=address // MIB, errors=errors, flipped=8),),
    }
    return values | more


def test_no_errors_prove_what_was_tested() -> None:
    assert judged() == Judgement(verdict=Verdict.PROVEN, proven_bytes=TESTED, text="7.8 GiB tested, no errors")


def test_a_card_at_its_stock_size_is_locked() -> None:
    found = judged(locked_size=True)
    assert (found.verdict, found.proven_bytes) == (Verdict.LOCKED, TESTED)
    assert found.text == "7.8 GiB tested, no errors; still at stock size"


def test_errors_come_before_the_lock() -> None:
    assert judged(locked_size=True, **bad()).verdict is Verdict.FAULTY


@pytest.mark.parametrize(
    "fold, tested, proven, text",
    [
        (4 * GIB, TESTED, 4 * GIB, "its upper 4.0 GiB are the lower ones again (aliased at 4.0 GiB)"),
        (-4 * GIB, TESTED, 4 * GIB, "its upper 4.0 GiB are the lower ones again (aliased at 4.0 GiB)"),
        (6 * GIB, TESTED, 6 * GIB, "its upper 2.0 GiB are the lower ones again (aliased at 6.0 GiB)"),
    ],
)
def test_folded_memory_is_good_up_to_the_fold(fold: int, tested: int, proven: int, text: str) -> None:
    found = judged(errors=10**9, aliased=10**9, alias_offset=fold, fault=Fault.ALIASING, tested_bytes=tested)
    assert found == Judgement(verdict=Verdict.ALIASED, proven_bytes=proven, text=text)


def test_memory_folded_in_no_single_way_is_good_for_nothing_known() -> None:
    found = judged(errors=10**9, aliased=10**9, fault=Fault.ALIASING)
    assert (found.verdict, found.proven_bytes) == (Verdict.ALIASED, None)
    assert found.text == "1,000,000,000 words answer under several addresses (aliased), at no single distance"


def test_a_stuck_bit_is_said_with_its_place() -> None:
    stuck = (StuckBit(address=0x1_4000_0003, bit=3, stuck_at=1),)
    found = judged(**bad(fault=Fault.STUCK, stuck=stuck))
    assert (found.verdict, found.proven_bytes) == (Verdict.FAULTY, TESTED - MIB)
    assert found.text == "errors at 0x140000003, bit 3 stuck at 1; 3 wrong readings in 2 of 2 passes"


def test_of_many_stuck_bits_the_first_are_said() -> None:
    stuck = tuple(StuckBit(address=0x100 + 8 * at, bit=0, stuck_at=0) for at in range(5))
    ranges = (BadRange(start=0x100, end=0x128, errors=10, ones=0, zeros=1),)
    found = judged(**bad(fault=Fault.STUCK, stuck=stuck, ranges=ranges, addresses=tuple(s.address for s in stuck)))
    assert found.text.startswith("errors from 0x100 to 0x127, bit 0 of byte 0x100 stuck at 0, ")
    assert "and 2 more; " in found.text


def test_soft_errors_say_which_bits() -> None:
    assert judged(**bad(errors=1)).text == (
        "errors at 0x140000000, bit 3 of 64 flipped, and did not again when asked once more; "
        "1 wrong reading in 2 of 2 passes"
    )
    assert "many bits flipped" in judged(**bad(flipped_or=(1 << 64) - 1)).text


def test_findings_that_could_not_be_kept_are_no_pass() -> None:
    found = judged(errors=4, broken_records=4, fault=Fault.SOFT)
    assert found.verdict is Verdict.FAULTY
    assert found.text == (
        "errors; 4 wrong readings in 2 of 2 passes; where the test keeps its findings did not hold either"
    )


def test_what_others_hold_is_said() -> None:
    found = judged(cuda_free_bytes=6 * GIB, tested_bytes=6 * GIB)
    assert (found.verdict, found.proven_bytes) == (Verdict.PROVEN, 6 * GIB)
    assert found.text == "6.0 GiB tested, no errors; that is only 76 % of 7.9 GiB: others hold 1.9 GiB of it"


def test_what_our_own_context_takes_of_a_small_card_is_not_others() -> None:
    """86 MiB are more than two per cent of 4 GB."""
    found = judged(cuda_total_bytes=4013 * MIB, cuda_free_bytes=3927 * MIB, tested_bytes=3926 * MIB)
    assert found.text == "3.8 GiB tested, no errors"


@pytest.mark.parametrize(
    "failure, text",
    [
        (Failure(text="cuInit failed: gone (999)", call="cuInit", code=999), "cuInit failed: gone (999)"),
        ("no word from the test for 30s: it hangs", "no word from the test for 30s: it hangs"),
        ("", "the test ended without a result"),
    ],
)
def test_a_test_that_did_not_finish_is_failed(failure: Failure | str, text: str) -> None:
    assert judge_failure(failure) == Judgement(verdict=Verdict.FAILED, proven_bytes=None, text=text)
