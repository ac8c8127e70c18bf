"""Sentences that people read when a job waits."""

from __future__ import annotations

import pytest
from policy_worlds import LOCKED, NOW, alone, card, host, job, shared, snapshot

from p104d.core.snapshot import CardView, HostView, WaitingJob
from p104d.core.units import GIB
from p104d.policy import explain as ex

HELD = (card(0, holds=(alone(7),)), card(1, holds=(alone(8),)))


def because(*rig: CardView, of: WaitingJob, others: tuple[WaitingJob, ...] = (), on: HostView | None = None) -> str:
    return ex.explain(snapshot(*rig, waiting=others, host=on or host()), of).waiting_because


def test_a_job_that_starts() -> None:
    told = ex.explain(snapshot(card(0), card(1, closed="drained")), job(1))
    assert told.waiting_because == ex.STARTS_NOW
    assert [answer.refusal for answer in told.cards] == [None, "drained"]


def test_the_first_in_line_is_told_for_whom_it_waits() -> None:
    assert because(*HELD, of=job(9, cards=2)) == "first in line: cards 0, 1 are kept for it until jobs 7, 8 end"
    timed = card(0, holds=(alone(7, NOW + 60),))
    assert because(timed, of=job(9)) == (
        "first in line: card 0 is kept for it until job 7 ends, by 2023-11-14T22:14:20.000+00:00 at the latest"
    )


def test_behind_a_kept_card() -> None:
    rig, gang = (card(0), card(1, holds=(alone(7),))), job(3, cards=2)
    told = ex.explain(snapshot(*rig, waiting=(gang,)), job(4))
    assert told.waiting_because == "waits behind job 3, for which cards 0, 1 are kept"
    assert [answer.refusal for answer in told.cards] == ["kept for job 3", "holds job 7 alone"]
    assert because(*rig, of=job(4, priority=1), others=(gang,)) == ex.STARTS_NOW


def test_no_room_behind_another() -> None:
    said = because(*HELD, of=job(9), others=(job(3),))
    assert said == "no card has room: card 0: holds job 7 alone; card 1: holds job 8 alone"


def test_a_drained_card_is_the_mend() -> None:
    rig = (card(0, closed="drained"), card(1, closed="drained", capacity_bytes=LOCKED), card(2, closed="missing"))
    assert because(*rig, of=job(1)) == (
        "no card has room: card 0: drained; card 1: drained; card 2: missing; p104ctl undrain 0"
    ).replace("card 0: drained; card 1: drained", "cards 0, 1: drained")


def test_a_gang_short_of_one() -> None:
    rig = (card(0), card(1, closed="missing"))
    assert because(*rig, of=job(1, cards=2)) == "needs 2 cards, 1 has room: card 1: missing"


def test_other_processes_are_the_mend() -> None:
    said = because(card(0, foreign_bytes=2 * GIB), of=job(1))
    assert said == "no card has room: used by other processes: 2.0 GiB; end the other processes on card 0"


def test_a_locked_card_beside_a_missing_one() -> None:
    said = because(card(0, capacity_bytes=LOCKED), card(1, closed="missing"), of=job(1))
    assert said.endswith("; a job with vram can use the smaller cards")


def test_a_large_rig_stays_one_sentence() -> None:
    rig = tuple(card(index, holds=(alone(50 + index),)) for index in range(12))
    said = because(*rig, of=job(9), others=(job(3),))
    assert said.count("alone") == 4 and said.endswith("; and 8 more")


def test_host_memory_and_places() -> None:
    short = host(ram_free_bytes=GIB)
    asks = job(5, ram_bytes=2 * GIB)
    rig = (card(0), card(1, holds=(shared(7, GIB),)))
    assert because(*rig, of=asks, on=short) == (
        "host memory: 1.0 GiB free of 2.0 GiB asked; first in line: what gets free is kept for it, card 0 too"
    )
    behind = because(*rig, of=job(6, cards=0, ram_bytes=GIB), others=(asks,), on=short)
    assert behind == "host memory: 1.0 GiB free, but kept for job 5"
    same = because(*rig, of=job(6, cards=0, ram_bytes=2 * GIB), others=(asks,), on=short)
    assert same == "host memory: 1.0 GiB free of 2.0 GiB asked; waits behind job 5"
    full = host(cpu_slots_free=0)
    one = host(cpu_slots_free=1, ram_free_bytes=0)
    kept = because(*rig, of=job(6, cards=0), others=(job(5, cards=0, ram_bytes=GIB),), on=one)
    assert kept == "a place for a job without a card is free, but kept for job 5"
    assert because(of=job(6, cards=0), on=full).startswith("all 2 places for jobs without a card are taken; first in")


def test_impossible_paused_and_an_empty_rig() -> None:
    assert because(card(0), of=job(1, cards=2)).startswith("can never run here: asks 2 cards; this rig has 1;")
    assert ex.explain(snapshot(card(0), paused=True), job(1)).waiting_because == ex.PAUSED
    assert [answer.refusal for answer in ex.explain(snapshot(card(0), paused=True), job(1)).cards] == [None]


def test_a_job_already_in_the_snapshot_is_not_counted_twice() -> None:
    snap = snapshot(card(0), waiting=(job(1), job(2)))
    assert ex.explain(snap, job(1)).waiting_because == ex.STARTS_NOW
    assert ex.explain(snap, job(2)).waiting_because == "first in line: card 0 is kept for it until job 1 ends"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (ex.blocked_by_hold(12), "held; p104ctl release 12 lets it go on"),
        (ex.blocked_by_dependencies([12]), "waits until job 12 has succeeded"),
        (ex.blocked_by_dependencies([13, 12]), "waits until jobs 12, 13 have succeeded"),
        (ex.blocked_until(NOW + 90, NOW), "not before 2023-11-14T22:14:50.000+00:00, in 1m30s"),
        (ex.blocked_by_backoff(NOW + 4, NOW, failures=2, reason="exit code 3"),
         "tries again at 2023-11-14T22:13:24.000+00:00, in 4.0s, after 2 failures (exit code 3)"),
        (ex.blocked_by_backoff(NOW - 4, NOW, failures=1),
         "tries again at 2023-11-14T22:13:16.000+00:00, in 0.0s, after 1 failure"),
        (ex.blocked_by_inventory(), "the cards are still being counted"),
    ],
)  # fmt: skip
def test_blocked_texts(said, expected) -> None:
    assert said == expected
