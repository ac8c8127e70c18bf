"""What a test says of a card: the verdict, the memory that it is good for, and a line for people."""

from __future__ import annotations

import msgspec

from p104d.core.card import Verdict
from p104d.core.units import MIB, format_size
from p104d.memtest.messages import Failure, Fault, StuckBit, TestResult

#: Of what CUDA has. What the driver itself needs of a card with 8 GB is about one per cent.
ENOUGH = 0.98
#: What a context of our own takes of any card: 86 MiB were seen on Pascal cards. More is somebody else's.
_CONTEXT_BYTES = 128 * MIB
_NAMED_BITS = 3
_WORD_BITS = 64


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """``proven_bytes`` is how much of the memory held everything that was written to it; None where nobody knows."""

    verdict: Verdict
    proven_bytes: int | None
    text: str


def judge(result: TestResult, *, reported_bytes: int | None, locked_size: bool) -> Judgement:
    """The verdict on a finished test. ``reported_bytes`` is what the driver (NVML) says the card has; ``locked_size``
    whether it is a card with an unlock that reports no more than it left the factory with."""
    if result.fault is Fault.ALIASING:
        return _aliased(result, reported_bytes)
    if result.errors:
        bad = len(result.cells) * result.cell_bytes
        proven = max(0, result.tested_bytes - bad)
        return Judgement(verdict=Verdict.FAULTY, proven_bytes=proven, text=_errors(result))
    text = f"{format_size(result.tested_bytes)} tested, no errors{_coverage(result)}"
    if locked_size:
        return Judgement(verdict=Verdict.LOCKED, proven_bytes=result.tested_bytes, text=f"{text}; still at stock size")
    return Judgement(verdict=Verdict.PROVEN, proven_bytes=result.tested_bytes, text=text)


def judge_failure(failure: Failure | str) -> Judgement:
    """The verdict on a test that could not finish: a driver call failed, or (text) it hung or died."""
    text = failure.text if isinstance(failure, Failure) else failure
    return Judgement(verdict=Verdict.FAILED, proven_bytes=None, text=text or "the test ended without a result")


def _aliased(result: TestResult, reported_bytes: int | None) -> Judgement:
    if result.alias_offset is None:
        text = f"{_words(result.aliased)} answer under several addresses (aliased), at no single distance"
        return Judgement(verdict=Verdict.ALIASED, proven_bytes=None, text=text)
    fold = abs(result.alias_offset)
    upper = max(reported_bytes or 0, result.cuda_total_bytes) - fold
    text = f"its upper {format_size(upper)} are the lower ones again (aliased at {format_size(fold)})"
    return Judgement(verdict=Verdict.ALIASED, proven_bytes=min(fold, result.tested_bytes), text=text)


def _errors(result: TestResult) -> str:
    passes = sum(bool(one.errors) for one in result.passes)
    times = f"{result.errors:,} wrong reading{'' if result.errors == 1 else 's'}"
    parts = [f"errors{_where(result)}{_bits(result)}", f"{times} in {passes} of {len(result.passes)} passes"]
    if result.broken_records:
        parts.append("where the test keeps its findings did not hold either")
    return "; ".join(parts)


def _where(result: TestResult) -> str:
    if not result.addresses:
        return ""
    if len(result.addresses) == 1:
        return f" at {result.stuck[0].address if result.stuck else result.addresses[0]:#x}"
    return f" from {result.addresses[0]:#x} to {result.ranges[-1].end - 1:#x}"


def _bits(result: TestResult) -> str:
    if len(result.stuck) == 1 == len(result.addresses):
        return f", bit {result.stuck[0].bit} stuck at {result.stuck[0].stuck_at}"
    if result.stuck:
        named = [_stuck(bit) for bit in result.stuck[:_NAMED_BITS]]
        more = len(result.stuck) - len(named)
        return ", " + ", ".join(named) + (f" and {more} more" if more else "")
    flipped = [bit for bit in range(_WORD_BITS) if result.flipped_or >> bit & 1]
    if 0 < len(flipped) <= _NAMED_BITS:
        names = ", ".join(str(bit) for bit in flipped)
        return f", bit{'s' if len(flipped) > 1 else ''} {names} of 64 flipped, and did not again when asked once more"
    return ", many bits flipped, and did not again when asked once more" if flipped else ""


def _stuck(bit: StuckBit) -> str:
    return f"bit {bit.bit} of byte {bit.address:#x} stuck at {bit.stuck_at}"


def _words(count: int) -> str:
    return f"{count:,} word{'' if count == 1 else 's'}"


def _coverage(result: TestResult) -> str:
    """What is to be said where a part of the memory was not tested."""
    total = result.cuda_total_bytes
    if result.tested_bytes >= ENOUGH * total or total - result.tested_bytes <= _CONTEXT_BYTES:
        return ""
    share, others = 100 * result.tested_bytes / total, format_size(total - result.cuda_free_bytes)
    return f"; that is only {share:.0f} % of {format_size(total)}: others hold {others} of it"
