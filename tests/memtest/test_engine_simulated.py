"""The whole test on simulated cards: what the rig file says of a card comes out as its verdict."""

from __future__ import annotations

import pytest
from engine_rig import Heard, failed, finished, on_rig, rig_with

from p104d.core.card import Verdict
from p104d.core.units import GIB, MIB
from p104d.hardware.rig import BadBit, RigFault
from p104d.memtest.messages import Depth, Fault, StuckBit
from p104d.memtest.verdict import judge, judge_failure


def test_a_healthy_card_is_proven() -> None:
    result = finished(on_rig(rig_with()))
    assert result.errors == 0
    assert result.cuda_total_bytes == 8109 * MIB and result.tested_bytes >= 0.98 * result.cuda_total_bytes
    # Simulated speeds are the card's: what is reached of them is what the launches leave of it.
    assert result.write_bytes_per_second >= 0.85 * result.copy_bytes_per_second > 100e9
    assert result.read_bytes_per_second >= 0.85 * result.copy_bytes_per_second
    assert 0.5e9 < result.host_to_device_bytes_per_second < 1e9
    judged = judge(result, reported_bytes=8 * GIB, locked_size=False)
    assert (judged.verdict, judged.proven_bytes) == (Verdict.PROVEN, result.tested_bytes)


def test_a_locked_card_is_locked_with_the_memory_it_has() -> None:
    result = finished(on_rig(rig_with(memory=4 * GIB, physical_memory=4 * GIB)))
    judged = judge(result, reported_bytes=4 * GIB, locked_size=True)
    assert (judged.verdict, judged.proven_bytes) == (Verdict.LOCKED, result.tested_bytes)
    assert 3.8 * GIB < result.tested_bytes < 4 * GIB
    assert "others" not in judged.text  # what is missing is our own context


@pytest.mark.parametrize("physical", [3 * GIB, 4 * GIB, 6 * GIB])
def test_a_card_that_reports_more_than_it_has_is_aliased_there(physical: int) -> None:
    result = finished(on_rig(rig_with(physical_memory=physical), Depth.FULL))
    assert (result.fault, result.alias_offset) == (Fault.ALIASING, physical)
    judged = judge(result, reported_bytes=8 * GIB, locked_size=False)
    assert (judged.verdict, judged.proven_bytes) == (Verdict.ALIASED, physical)
    assert len(result.passes) == 2


def test_bad_bits_are_found_where_the_rig_file_has_them() -> None:
    """Beyond 4 GiB, too, and in the first word."""
    bad = (BadBit(address=0, bit=0, stuck_at=1), BadBit(address=0x1_4000_0000, bit=3, stuck_at=1))
    bad += (BadBit(address=0x1_4000_0005, bit=7, stuck_at=0),)
    result = finished(on_rig(rig_with(bad_bits=bad, speedup=1e6), Depth.FULL))
    assert result.fault is Fault.STUCK
    assert result.stuck == tuple(StuckBit(address=one.address, bit=one.bit, stuck_at=one.stuck_at) for one in bad)
    assert result.addresses == (0, 0x1_4000_0000)
    judged = judge(result, reported_bytes=8 * GIB, locked_size=False)
    assert judged.verdict is Verdict.FAULTY
    assert judged.proven_bytes == result.tested_bytes - 2 * MIB


@pytest.mark.parametrize("kind", ["lost", "gone", "unknown"])
def test_a_card_that_fails_under_the_test_is_failed(kind: str) -> None:
    """Two seconds of the test's time are a hundred of the card's: it is in the midst of it."""
    rig = rig_with(speedup=10.0, faults=(RigFault(at=0.9, kind=kind, card=0),))
    heard = Heard()
    failure = failed(on_rig(rig, Depth.FULL, heard))
    assert failure.call is not None and failure.code
    assert failure.call in failure.text and str(failure.code) in failure.text
    assert judge_failure(failure).verdict is Verdict.FAILED
    assert len(heard.progress) > 0 and heard.progress[-1].fraction < 1


def test_the_holds_of_a_thorough_test_are_told_and_pass_in_the_cards_time(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    result = finished(on_rig(rig_with(speedup=1e6), Depth.THOROUGH, heard, hold_seconds=1800.0, rounds=1))
    assert result.errors == 0 and result.seconds < 60
    fade = next(one for one in result.passes if one.name == "bit fade")
    assert fade.seconds > 3600
    assert "bit fade" in heard.steps()


def test_memory_that_others_hold_is_not_tested_and_said() -> None:
    result = finished(on_rig(rig_with(memory_used_by_others=2 * GIB)))
    assert result.errors == 0 and result.cuda_free_bytes < 6 * GIB
    judged = judge(result, reported_bytes=8 * GIB, locked_size=False)
    assert judged.verdict is Verdict.PROVEN and judged.proven_bytes == result.tested_bytes < 6 * GIB
    assert "others hold" in judged.text
