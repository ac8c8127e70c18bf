"""What the end of a memory test means for its card: the record of the test, and the card's record after it."""

from __future__ import annotations

import signal

import msgspec

from p104d.core.card import DueTest, Proof, Verdict
from p104d.core.units import format_size
from p104d.daemon.underway import Running
from p104d.hardware.catalog import first_verdict, lookup
from p104d.hardware.cuda import OUT_OF_MEMORY
from p104d.memtest.messages import TestResult
from p104d.memtest.tester import EndKind, TestEnd
from p104d.memtest.verdict import Judgement, judge, judge_failure
from p104d.policy.proof import GOOD, LEAST_COVERAGE, deeper, may_lift
from p104d.store.cards import CardRecord
from p104d.store.proofs import EndedTest

#: Less than this is no reason why a test found too little memory.
_SOMEBODY_BYTES = 256 << 20


def ended_test(test: Running, state: str, text: str | None, now: float) -> EndedTest:
    """The end of a test that was not let finish: it says nothing of the card."""
    return EndedTest(
        state=state,
        ended_at=now,
        text=text,
        temperature_max_celsius=test.temperature_max,
        sm_clock_min_mhz=test.clock_min,
        sm_clock_max_mhz=test.clock_max,
    )


def not_the_cards_doing(test: Running, end: TestEnd, foreign_bytes: int) -> str | None:
    """Why a test says nothing of its card, in words: it was killed (by somebody, or by a host without memory), could
    not be started at all, or others hold too much of the card's memory (``foreign_bytes`` of it). None: it says
    something."""
    if end.kind is EndKind.DIED and (end.signal == signal.SIGKILL or test.tester.pid is None):
        return end.text
    if foreign_bytes < _SOMEBODY_BYTES:
        return None
    if end.failure is not None and end.failure.code == OUT_OF_MEMORY:
        return f"others hold {format_size(foreign_bytes)} of the card: {end.text}"
    if end.result is not None and not end.result.errors and _coverage(end.result) < LEAST_COVERAGE:
        return f"others hold {format_size(foreign_bytes)} of the card: too little is left to show what it has"
    return None


def _coverage(result: TestResult) -> float:
    return result.tested_bytes / result.cuda_total_bytes if result.cuda_total_bytes else 0.0


def judged(record: CardRecord, test: Running, end: TestEnd, now: float) -> tuple[EndedTest, CardRecord]:
    """The finding to be written, and the card's record with its new verdict. A test that could not finish is a verdict
    too: a card whose test hangs, or whose driver fails, is not to be trusted with work."""
    judgement = _judgement(record, end)
    result = end.result
    ended = _finding(ended_test(test, "finished", judgement.text, now), judgement, result)
    due = _still_due(record, test)
    good = judgement.verdict in GOOD and result is not None
    if (
        good
        and result is not None
        and not may_lift(
            record.verdict,
            record.proof,
            test.due,
            coverage=_coverage(result),
            driver=record.driver,
            vbios=record.identity.vbios,
            total_bytes=record.identity.memory_total_bytes,
        )
    ):
        return ended, msgspec.structs.replace(record, due=due)
    cleared = judgement.verdict in GOOD and test.due.asked_by is not None
    after = msgspec.structs.replace(
        record,
        verdict=judgement.verdict,
        proven_bytes=judgement.proven_bytes,
        due=due,
        # Who asks for a test of a suspect card and sees it pass has looked into the cause.
        suspect=None if cleared else record.suspect,
        proof=_proof(record, test, judgement, result, now),
    )
    return ended, after


def _still_due(record: CardRecord, test: Running) -> DueTest | None:
    """What is wanted after the test: a request that came meanwhile is not served by it, nor is a deeper one that had
    been wanted before somebody asked for this."""
    if record.due is None or record.due.asked_at != test.due.asked_at:
        return record.due
    before = record.due.before
    return before if before is not None and deeper(before.depth, test.due.depth) != test.due.depth else None


def _judgement(record: CardRecord, end: TestEnd) -> Judgement:
    if end.result is None:
        return judge_failure(end.text)
    if not end.result.errors and _coverage(end.result) < LEAST_COVERAGE:
        return judge_failure(
            f"only {format_size(end.result.tested_bytes)} of it can be had, and nobody is known to hold the rest"
        )
    identity = record.identity
    entry = lookup(identity.device_id, identity.name)
    locked = first_verdict(entry, identity.memory_total_bytes) is Verdict.LOCKED
    return judge(end.result, reported_bytes=identity.memory_total_bytes, locked_size=locked)


def _proof(record: CardRecord, test: Running, judgement: Judgement, result: TestResult | None, now: float) -> Proof:
    identity = record.identity
    coverage = _coverage(result) if result is not None else None
    return Proof(
        at=now,
        depth=test.due.depth,
        test_id=test.test_id,
        driver=record.driver,
        vbios=identity.vbios,
        total_bytes=identity.memory_total_bytes,
        text=judgement.text,
        coverage=coverage,
        foreign_bytes=test.foreign_bytes,
        host_to_device=_speed(result.host_to_device_bytes_per_second if result else None),
        device_to_host=_speed(result.device_to_host_bytes_per_second if result else None),
    )


def _finding(ended: EndedTest, judgement: Judgement, result: TestResult | None) -> EndedTest:
    ended = msgspec.structs.replace(ended, verdict=judgement.verdict.value, proven_bytes=judgement.proven_bytes)
    if result is None:
        return ended
    return msgspec.structs.replace(
        ended,
        cuda_bytes=result.cuda_total_bytes,
        tested_bytes=result.tested_bytes,
        errors=result.errors,
        write_bytes_per_second=_speed(result.write_bytes_per_second),
        read_bytes_per_second=_speed(result.read_bytes_per_second),
        copy_bytes_per_second=_speed(result.copy_bytes_per_second),
        host_to_device_bytes_per_second=_speed(result.host_to_device_bytes_per_second),
        device_to_host_bytes_per_second=_speed(result.device_to_host_bytes_per_second),
        result=msgspec.json.encode(result).decode(),
    )


def _speed(value: float | None) -> float | None:
    """A speed that was measured; 0 is none."""
    return value or None
