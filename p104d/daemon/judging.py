"""What the end of a memory test means for its card: the record of the test, and the card's record after it."""

from __future__ import annotations

import signal

import msgspec

from p104d.core.card import Proof, Verdict
from p104d.daemon.underway import Running
from p104d.hardware.catalog import first_verdict, lookup
from p104d.memtest.messages import TestResult
from p104d.memtest.tester import EndKind, TestEnd
from p104d.memtest.verdict import Judgement, judge
from p104d.policy.proof import GOOD
from p104d.store.cards import CardRecord
from p104d.store.proofs import EndedTest


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


def is_hosts_doing(test: Running, end: TestEnd) -> bool:
    """Whether a test ended without a word for a reason that is not its card's: it was killed (by somebody, or by a host
    without memory), or could not be started at all."""
    return end.kind is EndKind.DIED and (end.signal == signal.SIGKILL or test.tester.pid is None)


def judged(record: CardRecord, test: Running, end: TestEnd, now: float) -> tuple[EndedTest, CardRecord]:
    """The finding to be written, and the card's record with its new verdict. A test that could not finish is a verdict
    too: a card whose test hangs, or whose driver fails, is not to be trusted with work."""
    judgement = _judgement(record, end)
    result = end.result
    ended = _finding(ended_test(test, "finished", judgement.text, now), judgement, result)
    # A request that came meanwhile is not served by this test.
    due = None if record.due is None or record.due.asked_at == test.due.asked_at else record.due
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


def _judgement(record: CardRecord, end: TestEnd) -> Judgement:
    if end.result is None:
        return Judgement(verdict=Verdict.FAILED, proven_bytes=None, text=end.text or "it ended without a word")
    identity = record.identity
    entry = lookup(identity.device_id, identity.name)
    locked = first_verdict(entry, identity.memory_total_bytes) is Verdict.LOCKED
    return judge(end.result, reported_bytes=identity.memory_total_bytes, locked_size=locked)


def _proof(record: CardRecord, test: Running, judgement: Judgement, result: TestResult | None, now: float) -> Proof:
    identity = record.identity
    coverage = result.tested_bytes / result.cuda_total_bytes if result and result.cuda_total_bytes else None
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
