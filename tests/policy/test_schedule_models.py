"""Commands and model jobs on one rig, by example: who goes first, who leaves, what is kept for whom."""

from __future__ import annotations

import msgspec
from policy_model_worlds import ask, copy, family, world
from policy_worlds import FULL, LOCKED, NOW, alone, card, host, job, shared

from p104d.core.plan import KeptCards, LoadModel, Plan, Start
from p104d.core.snapshot import Snapshot, WaitingJob
from p104d.core.units import GIB
from p104d.policy.schedule import plan

CARDS = tuple(f"GPU-{index:04d}" for index in range(6))


def command(number: int, *, arrival: float = NOW - 5, **req: object) -> WaitingJob:
    return msgspec.structs.replace(job(number, **req), arrival=arrival)


def done(snap: Snapshot) -> tuple[list[tuple], list[tuple]]:
    """Starts and loads, as short as they can be told."""
    made = plan(snap)
    starts = [
        (start.job_id, tuple(map(CARDS.index, start.cards)), start.resident, start.evicts) for start in made.starts
    ]
    loads = [(load.family, tuple(map(CARDS.index, load.cards)), load.job_id, load.evicts) for load in made.loads]
    return starts, loads


# --- copies ---


def test_a_model_job_starts_on_an_idle_copy_and_has_its_cards_whole() -> None:
    snap = world(card(0), card(1, capacity_bytes=LOCKED), family("a", cards=2), copy(7, "a", 0, 1), ask(3, "a"))
    assert plan(snap) == Plan(
        starts=(Start(job_id=3, cards=CARDS[:2], reserved_bytes=(FULL, LOCKED), exclusive=True, resident=7),)
    )


def test_a_model_job_without_a_copy_waits_while_one_is_loaded() -> None:
    snap = world(card(0), family("a"), ask(3, "a"))
    assert plan(snap) == Plan(loads=(LoadModel(family="a", cards=CARDS[:1], job_id=3),))
    assert plan(world(card(0), family("a"), copy(7, "a", 0, ready_at=NOW + 3), ask(3, "a"))) == Plan()


def test_copies_go_only_where_they_fit() -> None:
    two = family("a", fits=(CARDS[1], CARDS[3]))
    assert done(world(card(0), card(1), two, ask(3, "a"))) == ([], [("a", (1,), 3, ())])
    assert done(world(card(0), card(2), two, ask(3, "a"))) == ([], [])
    gang = msgspec.structs.replace(two, cards=2)
    assert done(world(card(0), card(1), card(3), gang, ask(3, "a"))) == ([], [("a", (1, 3), 3, ())])


def test_a_copy_is_loaded_over_the_fastest_link() -> None:
    links = (card(0, link_bytes_per_second=0.2e9), card(1, link_bytes_per_second=0.8e9), card(2))
    assert done(world(*links, family("a"), ask(3, "a")))[1] == [("a", (1,), 3, ())]


def test_jobs_that_the_snapshot_leaves_out_count_for_another_copy() -> None:
    busy = copy(7, "a", 0, job_id=50, busy_since=NOW - 14)
    few = world(card(0), card(1), family("a"), busy, ask(3, "a"))
    many = world(card(0), card(1), family("a", waiting=40), busy, ask(3, "a"))
    assert done(few) == ([], []) and done(many) == ([], [("a", (1,), 3, ())])


def test_memory_of_other_processes_keeps_new_copies_away_not_jobs_from_one_that_is_there() -> None:
    used = card(0, foreign_bytes=GIB)
    assert done(world(used, family("a"), ask(3, "a"))) == ([], [])
    assert done(world(used, family("a"), copy(7, "a", 0), ask(3, "a"))) == ([(3, (0,), 7, ())], [])
    assert done(world(used, family("a"), family("b"), copy(7, "b", 0), ask(3, "a"))) == ([], [])


def test_a_copy_on_a_closed_card_is_neither_used_nor_unloaded() -> None:
    drained = (card(0), card(1, closed="drained"), family("gang", cards=2), family("a"), copy(7, "gang", 0, 1))
    assert plan(world(*drained, ask(3, "gang"), ask(4, "a"), command(5))) == Plan()


def test_what_the_snapshot_does_not_explain_is_left_alone() -> None:
    assert plan(world(card(0), copy(7, "gone", 0), command(5))) == Plan()
    assert plan(world(card(0), family("a"), copy(7, "a", 0, 5), ask(3, "a"), command(5))) == Plan()
    assert plan(world(card(0), ask(3, "unknown"))) == plan(world(card(0), family("a"), ask(3, "unknown"))) == Plan()


# --- commands beside copies ---


def test_a_command_takes_an_empty_card_before_one_with_a_copy() -> None:
    snap = world(card(0), card(1), family("a"), copy(7, "a", 0), command(3))
    assert done(snap) == ([(3, (1,), None, ())], [])


def test_of_idle_copies_the_least_recently_used_leaves_and_one_that_is_waited_for_last() -> None:
    rig = (card(0), card(1), card(2), family("a"), family("b"))
    idle = (
        copy(7, "a", 0, last_used=NOW - 9),
        copy(8, "a", 1, last_used=NOW - 99),
        copy(9, "b", 2, last_used=NOW - 999),
    )
    assert done(world(*rig, *idle, command(3)))[0] == [(3, (2,), None, (9,))]
    wanted = world(*rig, *idle, command(3), ask(4, "b"))
    assert done(wanted)[0] == [(3, (1,), None, (8,)), (4, (2,), 9, ())]


def test_neither_busy_nor_loading_nor_pinned_copies_leave_for_a_command() -> None:
    kinds = ({"job_id": 50, "busy_since": NOW}, {"ready_at": NOW + 3}, {"pinned": True})
    for kind in kinds:
        assert done(world(card(0), family("a"), copy(7, "a", 0, **kind), command(3))) == ([], [])
        assert done(world(card(0), family("a"), copy(7, "a", 0, **kind), command(3, vram_bytes=GIB))) == ([], [])


def test_a_command_waits_for_a_busy_and_for_a_loading_copy_but_not_for_a_pinned_one() -> None:
    def kept(**kind: object) -> bool:
        return plan(world(card(0), family("a"), copy(7, "a", 0, **kind), command(3))).reservation is not None

    assert kept(job_id=50, busy_since=NOW) and kept(ready_at=NOW + 3)
    assert not kept(pinned=True) and not kept(pinned=True, job_id=50, busy_since=NOW)


def test_a_copy_on_two_cards_leaves_both() -> None:
    snap = world(card(0), card(1), family("a", cards=2), copy(7, "a", 0, 1), command(3), command(4))
    assert done(snap) == ([(3, (0,), None, (7,)), (4, (1,), None, ())], [])


def test_a_sharing_command_goes_where_others_share_before_it_unloads_a_copy() -> None:
    snap = world(card(0), card(1, holds=(shared(50, GIB),)), family("a"), copy(7, "a", 0), command(3, vram_bytes=GIB))
    assert done(snap) == ([(3, (1,), None, ())], [])
    full = world(card(0), card(1, holds=(alone(50),)), family("a"), copy(7, "a", 0), command(3, vram_bytes=GIB))
    assert done(full) == ([(3, (0,), None, (7,))], [])


# --- order ---


def test_the_older_goes_first_whatever_its_kind() -> None:
    assert done(world(card(0), family("a"), ask(3, "a"), command(4))) == ([], [("a", (0,), 3, ())])
    assert done(world(card(0), family("a"), ask(4, "a"), command(3))) == ([(3, (0,), None, ())], [])
    warm = (card(0), family("a"), copy(7, "a", 0))
    assert done(world(*warm, ask(3, "a"), command(4))) == ([(3, (0,), 7, ())], [])
    assert done(world(*warm, ask(4, "a"), command(3))) == ([(3, (0,), None, (7,))], [])


def test_priority_comes_before_age() -> None:
    warm = (card(0), family("a"), copy(7, "a", 0))
    assert done(world(*warm, ask(3, "a"), command(4, priority=1)))[0] == [(4, (0,), None, (7,))]
    assert done(world(*warm, ask(4, "a", priority=1), command(3)))[0] == [(4, (0,), 7, ())]


def test_later_model_jobs_neither_begin_nor_load_on_cards_kept_for_a_command() -> None:
    rig = (card(0), card(1, holds=(alone(50),)), card(2), family("a"), family("b"), copy(7, "a", 0))
    snap = world(*rig, command(3, only=CARDS[:2], cards=2), ask(4, "a"), ask(5, "b"))
    assert plan(snap).reservation is not None
    assert done(snap) == ([], [("a", (2,), 4, ())]), "the copy that is kept is none for it"
    older = world(*rig, command(6, only=CARDS[:2], cards=2), ask(4, "a"), ask(5, "b"))
    assert done(older) == ([(4, (0,), 7, ())], [("b", (2,), 5, ())])


def test_a_later_job_does_not_load_elsewhere_because_an_older_ones_copy_is_kept_for_a_command() -> None:
    busy = copy(7, "a", 0, job_id=50, busy_since=NOW - 14)
    snap = world(card(0), card(1), family("a"), busy, ask(3, "a"), command(4, only=CARDS[:1]))
    assert plan(snap).reservation is not None and done(snap) == ([], [])


def test_cards_kept_for_a_model_job_are_not_for_commands_that_came_too_late() -> None:
    late = NOW - 400
    rig = (card(0), card(1, holds=(alone(50, NOW + 30),)), family("gang", cards=2), ask(3, "gang", arrival=late))
    assert done(world(*rig, command(4, arrival=late + 60))) == ([(4, (0,), None, ())], [])
    made = plan(world(*rig, command(4, arrival=late + 200)))
    assert made.starts == () and made.kept == (KeptCards(job_id=3, cards=CARDS[:2], expected=NOW + 30),)


def test_cards_that_commands_share_are_kept_for_a_model_that_they_would_never_leave_empty() -> None:
    holds = [card(index, holds=(shared(50 + index, GIB, since=NOW - 9 * (2 - index)),)) for index in range(2)]
    snap = world(*holds, family("a"), ask(3, "a", arrival=NOW - 400), command(4, vram_bytes=GIB))
    made = plan(snap)
    assert [kept.cards for kept in made.kept] == [CARDS[:1]], "the one whose job has run longest"
    assert [start.cards for start in made.starts] == [CARDS[1:2]]


# --- host memory ---


def test_a_copy_is_loaded_only_if_host_memory_allows_and_idle_copies_give_theirs() -> None:
    big, small = family("a", ram_bytes=5 * GIB), family("b")
    free = host(ram_free_bytes=4 * GIB)
    rig = (card(0), card(1), big, small, ask(3, "a"))
    assert done(world(*rig, host=free)) == ([], [])
    idle = copy(7, "b", 1, ram_bytes=2 * GIB)
    assert done(world(*rig, idle, host=free)) == ([], [("a", (0,), 3, (7,))])
    assert done(world(*rig, msgspec.structs.replace(idle, pinned=True), host=free)) == ([], [])
    assert done(world(*rig, msgspec.structs.replace(idle, ram_bytes=GIB // 2), host=free)) == ([], [])


def test_host_memory_is_given_once() -> None:
    rig = (card(0), card(1), card(2), family("a", ram_bytes=3 * GIB), family("b", ram_bytes=3 * GIB))
    snap = world(*rig, ask(3, "a"), ask(4, "b"), command(5, ram_bytes=2 * GIB), host=host(ram_free_bytes=7 * GIB))
    starts, loads = done(snap)
    assert starts == [] and [load[2] for load in loads] == [3, 4]


def test_a_command_has_idle_copies_unloaded_for_their_memory() -> None:
    copies = (copy(7, "a", 0, ram_bytes=3 * GIB), copy(8, "a", 1, ram_bytes=3 * GIB, last_used=NOW - 99))
    rig = (card(0), card(1), card(2), family("a"), *copies)
    low = host(ram_free_bytes=2 * GIB)
    assert done(world(*rig, command(3, cards=0, ram_bytes=5 * GIB), host=low))[0] == [(3, (), None, (8,))]
    assert done(world(*rig, command(3, ram_bytes=6 * GIB), host=low))[0] == [(3, (2,), None, (8, 7))]
    assert done(world(*rig, command(3, cards=2, ram_bytes=5 * GIB), host=low))[0] == [(3, (1, 2), None, (8,))]


def test_memory_that_a_model_waits_for_is_not_for_later_commands() -> None:
    rig = (card(0), card(1, holds=(alone(50),)), family("a", ram_bytes=5 * GIB))
    snap = world(*rig, ask(3, "a"), command(4, cards=0, ram_bytes=GIB), host=host(ram_free_bytes=4 * GIB))
    assert done(snap) == ([], [])
    never = world(card(0), family("a", ram_bytes=50 * GIB), ask(3, "a"), command(4, cards=0, ram_bytes=GIB))
    assert done(never) == ([(4, (), None, ())], []), "no end of ours would help the model"


def test_copies_whose_memory_a_command_waits_for_serve_no_later_job() -> None:
    copies = (copy(7, "a", 0, ram_bytes=3 * GIB), copy(8, "a", 1, ram_bytes=3 * GIB, job_id=50, busy_since=NOW))
    rig = (card(0), card(1), family("a", ram_bytes=3 * GIB), *copies)
    low = host(ram_free_bytes=2 * GIB)
    assert done(world(*rig, command(3, cards=0, ram_bytes=8 * GIB), ask(4, "a"), host=low)) == ([], [])
    assert done(world(*rig, command(5, cards=0, ram_bytes=8 * GIB), ask(4, "a"), host=low))[0] == [(4, (0,), 7, ())]


def test_memory_kept_for_a_command_is_not_for_later_models() -> None:
    rig = (card(0), card(1, holds=(alone(50),)), family("a", ram_bytes=2 * GIB))
    waits = command(3, only=CARDS[1:2], ram_bytes=3 * GIB)
    assert done(world(*rig, waits, ask(4, "a"), host=host(ram_free_bytes=4 * GIB))) == ([], [])
    assert done(world(*rig, waits, ask(4, "a"), host=host(ram_free_bytes=5 * GIB)))[1] == [("a", (0,), 4, ())]


def test_a_copy_with_a_card_that_another_has_makes_room() -> None:
    """It should not be; whoever finds it so goes on, and the other card is had by a command."""
    snap = world(card(0, holds=(alone(9),)), card(1), family("a", cards=2), copy(7, "a", 0, 1), command(4))
    assert done(snap)[0] == [(4, (1,), None, (7,))]
