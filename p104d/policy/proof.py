"""When a card's memory is tested: what makes a test due, which due tests begin now, why the others wait.

A card takes work only once its memory is proven. The first proof is not pre-empted and everything waits for it; a
later test of a proven card is a guest: it begins on an idle card alone and leaves at once when a job needs the card.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from p104d.core.card import DueTest, Proof, Verdict
from p104d.core.units import format_size

#: Verdicts with which a card works; ``locked`` only once its memory was tested (it has proven bytes).
GOOD = frozenset({Verdict.PROVEN, Verdict.LOCKED})
#: A proof that covered less than this part of the memory is made again when others have let go of the rest.
ENOUGH_COVERAGE = 0.98
#: A test of less than this part shows too little: see ``too_little_left``.
LEAST_COVERAGE = 0.55
_DEPTHS = ("quick", "full", "thorough")
#: Doubts of a job's making ask for a test no more often than this, or a broken program would keep the card busy.
DOUBT_EVERY_SECONDS = 3600.0
#: Memory that others hold has to fall by this much before a thin proof is made again.
_FREED_BYTES = 256 << 20


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One card as the choice of tests sees it. ``due`` is the test that is wanted, the first one included; ``first``
    that nothing is proven yet; ``hindrance`` why no test can run on it at all now (missing, used elsewhere); ``jobs``
    are those that hold it; ``testing`` that a test is under way."""

    uuid: str
    index: int
    due: DueTest | None
    first: bool
    testing: bool = False
    hindrance: str | None = None
    jobs: tuple[int, ...] = ()


def is_proven(verdict: Verdict, proven_bytes: int | None) -> bool:
    """Whether a card may work: a good verdict with a test behind it."""
    return verdict in GOOD and proven_bytes is not None


def is_first(verdict: Verdict, proven_bytes: int | None) -> bool:
    """Whether nothing was tested yet: the card waits for its first proof."""
    return proven_bytes is None and verdict in (Verdict.UNVERIFIED, Verdict.LOCKED)


def deeper(one: str, other: str) -> str:
    """The deeper of two depths."""
    return max(one, other, key=_DEPTHS.index)


def too_little_left(foreign_bytes: int, total_bytes: int | None) -> str | None:
    """Why a card cannot be tested while others hold so much of it; None: enough is left to show what it has.

    What is tested has to be more than half: a card with half of the memory that it reports must not pass because the
    other half was never looked at.
    """
    if not total_bytes or foreign_bytes <= (1 - LEAST_COVERAGE) * total_bytes:
        return None
    return f"others hold {format_size(foreign_bytes)} of its {format_size(total_bytes)}"


def may_lift(
    verdict: Verdict,
    proof: Proof | None,
    due: DueTest,
    *,
    coverage: float,
    driver: str | None,
    vbios: str | None,
    total_bytes: int | None,
) -> bool:
    """Whether a test without errors makes a card good that is known as bad.

    Not one that saw less of the memory than the one that condemned it, whoever asked. Beyond that a person who asked
    has looked into the cause; the daemon's own tests lift only what they would have found: as deep as the one that
    condemned, and either that one just could not finish, or the card is not what it was (ROM, size, driver).
    """
    if verdict in GOOD or verdict is Verdict.UNVERIFIED or proof is None:
        return True
    if coverage < ENOUGH_COVERAGE and proof.coverage is not None and coverage < proof.coverage:
        return False
    if due.asked_by is not None:
        return True
    if deeper(due.depth, proof.depth) != due.depth:
        return False
    changed = (driver, vbios, total_bytes) != (proof.driver, proof.vbios, proof.total_bytes)
    return verdict is Verdict.FAILED or changed


def is_thin(proof: Proof | None) -> bool:
    """Whether a part of the memory could not be tested because others held it. (Of a small card CUDA's own needs alone
    are more than what ``ENOUGH_COVERAGE`` leaves.)"""
    if proof is None or proof.coverage is None or proof.coverage >= ENOUGH_COVERAGE:
        return False
    return proof.foreign_bytes >= _FREED_BYTES


def doubt_counts(proof: Proof | None, now: float) -> bool:
    """Whether a doubt of a job's making (an XID of an application, a failure) is reason for another test."""
    return proof is None or now - proof.at >= DOUBT_EVERY_SECONDS


def why_again(
    proof: Proof | None, *, driver: str | None, vbios: str | None, total_bytes: int | None, foreign_bytes: int | None
) -> str | None:
    """What has changed since the proof so that it has to be made again, in words; None: it stands.

    A reading that is not there (None) is no change.
    """
    if proof is None:
        return None
    if vbios is not None and proof.vbios is not None and vbios != proof.vbios:
        return f"its VBIOS changed from {proof.vbios} to {vbios}"
    if driver is not None and proof.driver is not None and driver != proof.driver:
        return f"the driver changed from {proof.driver} to {driver}"
    if total_bytes is not None and proof.total_bytes is not None and total_bytes != proof.total_bytes:
        return f"its size changed from {proof.total_bytes >> 20} to {total_bytes >> 20} MiB"
    if is_thin(proof) and foreign_bytes is not None and foreign_bytes + _FREED_BYTES <= proof.foreign_bytes:
        return "memory that others held is free now"
    return None


def choose(cards: Sequence[Candidate], running: int, most: int) -> tuple[str, ...]:
    """The cards whose tests begin now: first proofs before what people asked for, before what the daemon wants."""
    ready = [card for card in cards if card.due is not None and hindrance(card) is None]
    ready.sort(key=lambda card: (not card.first, card.due is None or card.due.asked_by is None, card.index, card.uuid))
    return tuple(card.uuid for card in ready[: max(0, most - running)])


def hindrance(card: Candidate) -> str | None:
    """Why the card's test cannot begin, apart from others that are under way; None: it can."""
    if card.testing:
        return "its memory is being tested"
    if card.hindrance is not None:
        return card.hindrance
    if card.jobs:
        names = ", ".join(str(job) for job in card.jobs)
        return f"job {names} is on it" if len(card.jobs) == 1 else f"jobs {names} are on it"
    return None


def waiting_because(card: Candidate, running: int, most: int) -> str:
    """Why a due test has not begun, as people are told it."""
    stands = hindrance(card)
    if stands is not None:
        return stands
    if running >= most:
        return f"{running} others are under way (max_parallel_loads = {most})"
    return "it begins now"
