"""Placement by example: order, ranking, gangs, reserve and backfill."""

from __future__ import annotations

from policy_worlds import FULL, LOCKED, NOW, alone, card, host, job, shared, snapshot

from p104d.core.plan import Plan, Reservation, Start
from p104d.core.units import GIB, MIB
from p104d.policy.rank import KILL_GRACE_SECONDS
from p104d.policy.schedule import plan


def cards_of(made: Plan) -> dict[int, tuple[str, ...]]:
    return {start.job_id: start.cards for start in made.starts}


def test_a_whole_card_start_reserves_all_that_is_there() -> None:
    made = plan(snapshot(card(0), waiting=(job(7),)))
    assert made == Plan(starts=(Start(job_id=7, cards=("GPU-0000",), reserved_bytes=(FULL,), exclusive=True),))


def test_priority_comes_before_age_and_age_before_nothing() -> None:
    waiting = (job(3), job(1), job(9, priority=5))
    made = plan(snapshot(card(0), card(1), waiting=waiting))
    assert [start.job_id for start in made.starts] == [9, 1]
    assert made.reservation is not None and made.reservation.job_id == 3


def test_sharing_jobs_fill_shared_cards_best_fit_first() -> None:
    rig = (card(0), card(1, holds=(shared(90, 2 * GIB),)), card(2, holds=(shared(91, 5 * GIB),)))
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, vram_bytes=3 * GIB),)))) == {1: ("GPU-0002",)}
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, vram_bytes=4 * GIB),)))) == {1: ("GPU-0001",)}
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, vram_bytes=7 * GIB),)))) == {1: ("GPU-0000",)}


def test_two_sharing_jobs_of_one_plan_meet_on_one_card() -> None:
    waiting = tuple(job(number, vram_bytes=4 * GIB) for number in (1, 2, 3))
    assert cards_of(plan(snapshot(card(0), card(1), waiting=waiting))) == {
        1: ("GPU-0000",), 2: ("GPU-0000",), 3: ("GPU-0001",)
    }  # fmt: skip


def test_an_empty_card_is_the_smallest_that_is_enough_then_the_better_link() -> None:
    rig = (card(0), card(1, capacity_bytes=LOCKED), card(2, link_bytes_per_second=0.8e9))
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, vram_bytes=3 * GIB),)))) == {1: ("GPU-0001",)}
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, vram_bytes=5 * GIB),)))) == {1: ("GPU-0002",)}
    assert cards_of(plan(snapshot(*rig, waiting=(job(1),)))) == {1: ("GPU-0002",)}


def test_a_gang_starts_whole_or_waits() -> None:
    assert cards_of(plan(snapshot(card(0), card(1), waiting=(job(1, cards=2),)))) == {1: ("GPU-0000", "GPU-0001")}
    made = plan(snapshot(card(0), card(1, holds=(alone(5),)), waiting=(job(1, cards=2),)))
    assert made == Plan(reservation=Reservation(job_id=1, cards=("GPU-0000", "GPU-0001"), starts_by=None))


def test_cards_of_a_gang_come_in_order_of_index_not_of_rank() -> None:
    rig = (card(0), card(1, link_bytes_per_second=1e9), card(2, link_bytes_per_second=2e9))
    assert cards_of(plan(snapshot(*rig, waiting=(job(1, cards=2),)))) == {1: ("GPU-0001", "GPU-0002")}


def test_only_a_job_that_surely_ends_before_backfills_a_kept_card() -> None:
    rig = (card(0), card(1, holds=(alone(5, ends_by=NOW + 100),)))
    gang = job(1, cards=2)
    fits = 100 - KILL_GRACE_SECONDS
    made = plan(snapshot(*rig, waiting=(gang, job(2, limit=fits + 1), job(3), job(4, limit=fits))))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0000", "GPU-0001"), starts_by=NOW + 100)
    assert cards_of(made) == {4: ("GPU-0000",)}


def test_a_backfilling_job_takes_an_unkept_card_where_there_is_one() -> None:
    rig = (card(0), card(1, holds=(alone(5, ends_by=NOW + 100),)), card(2, capacity_bytes=7 * GIB))
    made = plan(
        snapshot(*rig, waiting=(job(1, cards=2, only=("GPU-0000", "GPU-0001")), job(2, vram_bytes=GIB, limit=5)))
    )
    assert cards_of(made) == {2: ("GPU-0002",)}


def test_nobody_backfills_when_the_end_is_not_known() -> None:
    rig = (card(0), card(1, holds=(alone(5),)))
    assert plan(snapshot(*rig, waiting=(job(1, cards=2), job(2, limit=1)))).starts == ()


def test_the_cards_that_free_soonest_are_kept() -> None:
    rig = (card(0, holds=(alone(5),)), card(1, holds=(alone(6, NOW + 500),)), card(2, holds=(alone(7, NOW + 50),)))
    made = plan(snapshot(*rig, waiting=(job(1),)))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0002",), starts_by=NOW + 50)
    made = plan(snapshot(*rig, waiting=(job(1, cards=2),)))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0001", "GPU-0002"), starts_by=NOW + 500)


def test_a_job_long_past_its_limit_is_not_counted_on() -> None:
    hung, fresh = card(0, holds=(alone(5, NOW - 60),)), card(1, holds=(alone(6),))
    made = plan(snapshot(hung, fresh, waiting=(job(1),)))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0001",), starts_by=None)
    dying = card(0, holds=(alone(5, NOW - 5),))
    made = plan(snapshot(dying, fresh, waiting=(job(1),)))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0000",), starts_by=NOW)


def test_a_card_once_chosen_stays_chosen_while_others_take_new_jobs() -> None:
    """The card whose youngest job came first is kept, even where another would need fewer bytes to end."""
    drains = card(0, holds=(shared(5, 6 * GIB, since=NOW - 50),))
    busier = card(1, holds=(shared(6, 3 * GIB, since=NOW - 1),))
    made = plan(snapshot(drains, busier, waiting=(job(1, vram_bytes=6 * GIB),)))
    assert made.reservation is not None and made.reservation.cards == ("GPU-0000",)


def test_only_as_many_jobs_end_as_must_for_a_sharing_job() -> None:
    holds = (shared(5, 2 * GIB, NOW + 10), shared(6, 3 * GIB, NOW + 40), shared(7, 3 * GIB))
    made = plan(snapshot(card(0, holds=holds), waiting=(job(1, vram_bytes=4 * GIB),)))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0000",), starts_by=NOW + 40)


def test_what_no_end_of_ours_would_help_keeps_nothing_and_blocks_nobody() -> None:
    blocked = (
        job(1, cards=3),
        job(2, cards=2, only=("GPU-0000", "GPU-0001")),
        job(3, vram_bytes=7 * GIB, only=("GPU-0002",)),
        job(4, ram_bytes=99 * GIB),
    )
    rig = (card(0), card(1, closed="drained"), card(2, foreign_bytes=2 * GIB))
    made = plan(snapshot(*rig, waiting=(*blocked, job(5))))
    assert cards_of(made) == {5: ("GPU-0000",)}
    assert made.reservation is None


def test_closed_cards_are_not_kept() -> None:
    rig = (card(0, closed="draining", holds=(alone(5, NOW + 1),)), card(1, holds=(alone(6),)))
    made = plan(snapshot(*rig, waiting=(job(1),)))
    assert made.reservation is not None and made.reservation.cards == ("GPU-0001",)


def test_host_memory_is_kept_for_the_first_that_waits_for_it() -> None:
    rest = host(ram_free_bytes=2 * GIB, cpu_slots_free=1)
    waiting = (
        job(1, ram_bytes=6 * GIB),
        job(2, ram_bytes=GIB),
        job(3),
        job(4, cards=0, ram_bytes=GIB),
        job(5, cards=0),
    )
    made = plan(snapshot(card(0), card(1), waiting=waiting, host=rest))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0000",), starts_by=None, host=True)
    assert cards_of(made) == {3: ("GPU-0001",)}, "who needs no memory goes on elsewhere; the place is kept for job 4"


def test_host_memory_of_a_job_that_waits_for_cards_is_kept_too() -> None:
    rest = host(ram_free_bytes=6 * GIB)
    waiting = (job(1, ram_bytes=5 * GIB), job(2, cards=0, ram_bytes=2 * GIB), job(3, cards=0, ram_bytes=GIB))
    made = plan(snapshot(card(0, holds=(alone(9),)), waiting=waiting, host=rest))
    assert made.reservation == Reservation(job_id=1, cards=("GPU-0000",), starts_by=None)
    assert made.starts == (), "job 2 keeps its memory before job 3"


def test_host_memory_short_though_nothing_of_ours_runs_is_kept_for_nobody() -> None:
    rest = host(ram_free_bytes=2 * GIB)
    made = plan(snapshot(card(0), waiting=(job(1, ram_bytes=6 * GIB),), host=rest))
    assert made == Plan()


def test_overdrawn_host_memory_stops_only_jobs_that_ask_some() -> None:
    made = plan(snapshot(card(0), waiting=(job(1, ram_bytes=GIB), job(2)), host=host(ram_free_bytes=-GIB)))
    assert cards_of(made) == {2: ("GPU-0000",)}


def test_a_job_without_cards_takes_a_place_and_no_card() -> None:
    waiting = (job(1, cards=0), job(2, cards=0), job(3, cards=0))
    made = plan(snapshot(card(0), waiting=waiting))
    assert made.starts == tuple(Start(job_id=number, cards=(), reserved_bytes=(), exclusive=False) for number in (1, 2))
    assert made.reservation == Reservation(job_id=3, cards=(), starts_by=None, host=True)


def test_a_job_without_cards_in_front_does_not_take_the_gangs_protection() -> None:
    rig = (card(0, holds=(alone(9),)), card(1))
    waiting = (job(1, cards=0), job(2, cards=2), job(3, vram_bytes=GIB))
    made = plan(snapshot(*rig, waiting=waiting, host=host(cpu_slots_free=0)))
    assert made.starts == (), "card 1 is kept for the gang although the plan names the first"


def test_foreign_memory_counts_above_the_margin_only() -> None:
    light, heavy = card(0, foreign_bytes=200 * MIB), card(0, foreign_bytes=300 * MIB)
    assert cards_of(plan(snapshot(light, waiting=(job(1),)))) == {1: ("GPU-0000",)}
    assert plan(snapshot(heavy, waiting=(job(1),))) == Plan()
    assert plan(snapshot(heavy, waiting=(job(1, vram_bytes=FULL - 299 * MIB),))) == Plan()
    assert cards_of(plan(snapshot(heavy, waiting=(job(1, vram_bytes=FULL - 300 * MIB),)))) == {1: ("GPU-0000",)}


def test_nothing_to_do_is_an_empty_plan() -> None:
    assert plan(snapshot()) == Plan()
    assert plan(snapshot(waiting=(job(1),))) == Plan()
