"""When tests are due, which begin, and why others wait."""

from __future__ import annotations

from itertools import permutations

import pytest

from p104d.core.card import DueTest, Proof, Verdict
from p104d.policy.proof import (
    DOUBT_EVERY_SECONDS,
    Candidate,
    choose,
    doubt_counts,
    is_first,
    is_proven,
    waiting_because,
    why_again,
)

GIB = 1 << 30
PROOF = Proof(at=1000.0, depth="quick", test_id=1, driver="580", vbios="86.04", total_bytes=8 * GIB, coverage=0.989)


def view(index: int, *, asked_by: str | None = None, due: bool = True, first: bool = False, **given) -> Candidate:
    wanted = DueTest(cause="why", depth="quick", asked_at=1.0, asked_by=asked_by) if due else None
    return Candidate(uuid=f"GPU-{index}", index=index, due=wanted, first=first, **given)


def again(proof: Proof | None = PROOF, **changed) -> str | None:
    now = {"driver": "580", "vbios": "86.04", "total_bytes": 8 * GIB, "foreign_bytes": 0} | changed
    return why_again(proof, **now)


def test_a_proof_stands_while_nothing_changed() -> None:
    assert again() is None
    assert again(None) is None
    # What cannot be read just now is no change.
    assert again(driver=None, vbios=None, total_bytes=None, foreign_bytes=None) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"vbios": "86.05"}, "VBIOS changed from 86.04 to 86.05"),
        ({"driver": "535"}, "driver changed from 580 to 535"),
        ({"total_bytes": 4 * GIB}, "size changed from 8192 to 4096 MiB"),
    ],
)
def test_what_the_proof_rests_on(changed, words) -> None:
    assert words in again(**changed)


def test_a_thin_proof_is_made_again_when_others_let_go() -> None:
    thin = Proof(at=1.0, depth="quick", test_id=1, driver="580", vbios="86.04", total_bytes=8 * GIB, coverage=0.6,
                 foreign_bytes=3 * GIB)  # fmt: skip
    assert again(thin, foreign_bytes=3 * GIB) is None
    assert again(thin, foreign_bytes=3 * GIB - (255 << 20)) is None
    assert "free now" in again(thin, foreign_bytes=GIB)
    whole = Proof(at=1.0, depth="quick", test_id=1, driver="580", vbios="86.04", total_bytes=8 * GIB, coverage=0.985,
                  foreign_bytes=GIB)  # fmt: skip
    assert again(whole, foreign_bytes=0) is None


def test_first_proofs_then_people_then_the_daemon_whatever_the_order() -> None:
    cards = [view(0), view(1, asked_by="eva"), view(2, first=True), view(3, first=True, asked_by="eva")]
    for order in permutations(cards):
        assert choose(order, running=0, most=4) == ("GPU-3", "GPU-2", "GPU-1", "GPU-0")
        assert choose(order, running=1, most=2) == ("GPU-3",)
        assert choose(order, running=2, most=2) == ()
        assert choose(order, running=3, most=2) == ()


def test_only_idle_cards_that_answer_are_tested() -> None:
    hindered = [view(0, due=False), view(1, testing=True), view(2, hindrance="it is missing"), view(3, jobs=(7,))]
    assert choose(hindered, running=0, most=9) == ()
    assert [waiting_because(card, 0, 2) for card in hindered[1:]] == [
        "its memory is being tested",
        "it is missing",
        "job 7 is on it",
    ]
    assert waiting_because(view(0, jobs=(7, 9)), 0, 2) == "jobs 7, 9 are on it"
    assert waiting_because(view(0), 2, 2) == "2 others are under way (max_parallel_loads = 2)"
    assert waiting_because(view(0), 1, 2) == "it begins now"


@pytest.mark.parametrize(
    ("verdict", "proven", "works", "first"),
    [
        (Verdict.UNVERIFIED, None, False, True),
        (Verdict.LOCKED, None, False, True),
        (Verdict.LOCKED, 4 * GIB, True, False),
        (Verdict.PROVEN, 8 * GIB, True, False),
        (Verdict.ALIASED, 4 * GIB, False, False),
        (Verdict.FAULTY, 8 * GIB, False, False),
        (Verdict.FAILED, None, False, False),
    ],
)
def test_who_works_and_who_waits_for_a_first_proof(verdict, proven, works, first) -> None:
    assert is_proven(verdict, proven) is works
    assert is_first(verdict, proven) is first


def test_a_broken_program_does_not_keep_a_card_busy_with_tests() -> None:
    assert doubt_counts(None, 0.0)
    assert not doubt_counts(PROOF, PROOF.at + DOUBT_EVERY_SECONDS - 1)
    assert doubt_counts(PROOF, PROOF.at + DOUBT_EVERY_SECONDS)
