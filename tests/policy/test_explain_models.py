"""Sentences that people read when a job waits on a rig with models."""

from __future__ import annotations

import msgspec
import pytest
from policy_model_worlds import ask, copy, family, world
from policy_worlds import LOCKED, NOW, alone, card, host, job, shared

from p104d.core.snapshot import CardView, ModelFamily, ResidentModel, WaitingJob
from p104d.core.units import GIB
from p104d.policy import explain as ex

BUSY = {"job_id": 50, "busy_since": NOW - 4}
QWEN = family("a", label="qwen", mean_seconds=20.0, seen=999)
LLAMA = family("b", label="llama")
Part = CardView | ModelFamily | ResidentModel | WaitingJob


def qwen(number: int, *cards: int, **changes: object) -> ResidentModel:
    return msgspec.structs.replace(copy(number, "a", *cards, **changes), label="qwen")


def llama(number: int, *cards: int, **changes: object) -> ResidentModel:
    return msgspec.structs.replace(copy(number, "b", *cards, **changes), label="llama")


def told(of: WaitingJob, *parts: Part, **changes: object) -> tuple[str, list[str | None]]:
    found = ex.explain(world(*parts, QWEN, LLAMA, of, **changes), of)
    return found.waiting_because, [answer.refusal for answer in found.cards]


def because(of: WaitingJob, *parts: Part, **changes: object) -> str:
    return told(of, *parts, **changes)[0]


# --- model jobs ---


def test_a_model_job_that_starts_and_one_whose_model_is_being_loaded() -> None:
    assert told(ask(3, "a"), card(0), qwen(7, 0)) == (ex.STARTS_NOW, ["holds model qwen (job 3 runs on it)"])
    assert because(ask(3, "a"), card(0)) == "qwen is being loaded on card 0"
    loading = qwen(7, 1, ready_at=NOW + 8)
    said, cards = told(ask(3, "a"), card(0, closed="drained"), card(1), loading)
    assert said == "qwen is being loaded on card 1, ready in about 8.0s"
    assert cards == ["drained", "model qwen is being loaded there"]


def test_a_model_job_whose_copy_is_at_work() -> None:
    said, cards = told(ask(3, "a"), card(0), qwen(7, 0, **BUSY))
    assert said == "qwen is loaded on card 0, which is at work, free in about 16s; another copy would not pay now"
    assert cards == ["holds model qwen (job 50 runs on it)"]


def test_a_model_job_for_which_there_is_no_room() -> None:
    rig = (card(0, holds=(alone(60),)), card(1, holds=(shared(6, GIB),)), card(2, foreign_bytes=2 * GIB), card(3))
    said, cards = told(ask(3, "a"), *rig, llama(8, 3, pinned=True))
    assert cards == [
        "holds job 60 alone",
        "holds job 6; a model needs the card whole",
        "used by other processes: 2.0 GiB",
        "model llama is pinned there",
    ]
    assert said == (
        "qwen is not loaded and needs 1 card: card 0: holds job 60 alone; card 1: holds job 6; a model needs the card "
        "whole; card 2: used by other processes: 2.0 GiB; card 3: model llama is pinned there; "
        "p104ctl models unpin llama"
    )


def test_a_drained_card_is_the_mend_of_a_model_job_too() -> None:
    assert because(ask(3, "a"), card(0, closed="drained"), card(1, holds=(alone(60),))) == (
        "qwen is not loaded and needs 1 card: card 0: drained; card 1: holds job 60 alone; p104ctl undrain 0"
    )


def test_a_model_that_fits_nowhere_can_never_run() -> None:
    few = msgspec.structs.replace(QWEN, key="c", cards=2, fits=("GPU-0000",))
    asks = ask(3, "c")
    said, cards = told(asks, card(0), card(1, capacity_bytes=LOCKED), few)
    assert said == (
        "can never run here: model qwen needs 2 cards, and only 1 of this rig's 2 can take it; cancel it, or give it a "
        "smaller model or context"
    )
    assert cards == [None, "too small for model qwen: has 4.0 GiB"]
    heavy = msgspec.structs.replace(QWEN, key="c", ram_bytes=9 * GIB)
    assert because(asks, card(0), heavy).startswith(
        "can never run here: loading model qwen takes 9.0 GiB of host memory; this host has 8.0 GiB for jobs;"
    )


def test_why_a_card_is_not_for_a_model() -> None:
    none = msgspec.structs.replace(QWEN, key="c", fits=("GPU-0001",))
    asks = ask(3, "c")
    only = msgspec.structs.replace(asks, requirement=msgspec.structs.replace(asks.requirement, only=("GPU-0001",)))
    assert told(only, card(0), card(1), none)[1][0] == "not among this job's only: GPU-0001"
    sized = msgspec.structs.replace(asks, requirement=msgspec.structs.replace(asks.requirement, vram_bytes=9 * GIB))
    assert told(sized, card(0), card(1), none)[1][0] == "has 8.0 GiB, 9.0 GiB asked"


def test_a_model_job_that_waits_for_host_memory() -> None:
    heavy = msgspec.structs.replace(QWEN, key="c", ram_bytes=2 * GIB)
    said = because(ask(3, "c"), card(0), heavy, host=host(ram_free_bytes=GIB))
    assert said == "host memory: 1.0 GiB free of the 2.0 GiB that loading qwen takes"


def test_a_model_job_behind_a_command() -> None:
    gang = job(2, cards=2)
    rig = (card(0), card(1, holds=(alone(60),)), gang)
    said, cards = told(ask(3, "a"), *rig)
    assert said == "qwen is not loaded and needs 1 card: card 0: kept for job 2; card 1: holds job 60 alone"
    assert cards == ["kept for job 2", "holds job 60 alone"]
    assert because(ask(3, "a"), *rig, qwen(7, 0)) == "qwen is loaded on card 0, which is kept for job 2"


def test_a_model_job_for_which_cards_are_kept() -> None:
    gang = msgspec.structs.replace(QWEN, key="c", cards=2)
    late = ask(3, "c", arrival=NOW - 900)
    newer = msgspec.structs.replace(job(4), arrival=NOW)
    said = because(late, card(0), card(1, holds=(alone(60, NOW + 30),)), gang, newer)
    assert said == "cards 0, 1 are kept for it, free in about 30s"
    unknown = because(late, card(0), card(1, holds=(alone(60),)), gang, newer)
    assert unknown == "cards 0, 1 are kept for it until job 60 ends"


def test_a_model_that_is_not_known_yet() -> None:
    assert told(ask(3, "x"), card(0)) == (ex.UNKNOWN_MODEL, [ex.UNKNOWN_MODEL])
    assert ex.explain(world(card(0), ask(3, "x")), ask(3, "x")).waiting_because == ex.UNKNOWN_MODEL


def test_a_model_job_that_is_not_in_the_snapshot_is_explained_too() -> None:
    assert ex.explain(world(card(0), QWEN, qwen(7, 0)), ask(3, "a")).waiting_because == ex.STARTS_NOW
    assert ex.explain(world(card(0), QWEN, paused=True), ask(3, "a")).waiting_because == ex.PAUSED


# --- commands ---


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pinned": True}, "no card has room: model qwen is pinned there; p104ctl models unpin qwen"),
        ({"ready_at": NOW + 3}, "first in line: card 0 is kept for it until model qwen is loaded"),
        (BUSY, "first in line: card 0 is kept for it until job 50 ends"),
        ({}, ex.STARTS_NOW),
    ],
)  # fmt: skip
def test_a_command_and_a_copy(changes, said) -> None:
    assert because(job(3), card(0), qwen(7, 0, **changes)) == said


def test_cards_answer_a_command() -> None:
    rig = [card(index) for index in range(5)]
    copies = (qwen(1, 0, **BUSY), qwen(2, 1, ready_at=NOW + 3), qwen(3, 2, pinned=True), qwen(4, 3))
    said, cards = told(job(3, cards=2), *rig, *copies)
    assert said == ex.STARTS_NOW
    assert cards == [
        "holds model qwen (job 50 runs on it)",
        "model qwen is being loaded there",
        "model qwen is pinned there",
        None,
        None,
    ]
    half = told(job(3, cards=1), card(0), card(1, closed="drained"), qwen(1, 0, 1))[1]
    assert half[0] == "holds model qwen, which is on a card that takes no jobs too"


def test_a_command_behind_a_model_job() -> None:
    gang = msgspec.structs.replace(QWEN, key="c", cards=2)
    late = ask(3, "c", arrival=NOW - 900)
    newer = msgspec.structs.replace(job(4), arrival=NOW)
    said, cards = told(newer, card(0), card(1, holds=(alone(60, NOW + 30),)), gang, late)
    assert said == "waits behind job 3, for which cards 0, 1 are kept" and cards[0] == "kept for job 3"
