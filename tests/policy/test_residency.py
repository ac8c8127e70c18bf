"""The residency policy on views made by hand: each rule, and each one's edge."""

from __future__ import annotations

import msgspec

from p104d.policy.residency import PATIENCE_LEAST_SECONDS, decide, patience
from p104d.policy.residency_estimate import UNKNOWN_SECONDS, done, means, rest
from p104d.policy.residency_reasons import STARTS_NOW, because
from p104d.policy.residency_view import Ask, Begin, Decisions, Family, Line, Load, Resident, RigCard, View

NOW = 1000.0
RECENT = NOW - 5
LONG_AGO = NOW - 500


def family(name: str, **changes: object) -> Family:
    plain = Family(name=name, cards=1, load_seconds=10.0, mean_seconds=20.0, seen=100)
    return msgspec.structs.replace(plain, **changes)


def line(name: str, *asks: tuple[int, float], priority: int = 0, count: int | None = None) -> Line:
    first = tuple(Ask(number, arrival) for number, arrival in asks)
    return Line(family=name, priority=priority, count=count or len(first), first=first)


def copy(number: int, name: str, *cards: int, **changes: object) -> Resident:
    plain = Resident(id=number, family=name, cards=tuple(map(str, cards)), last_used=RECENT)
    return msgspec.structs.replace(plain, **changes)


def view(size: int, /, *parts: Family | Line | Resident, **changes: object) -> View:
    plain = View(
        now=NOW,
        cards=tuple(RigCard(id=str(number)) for number in range(size)),
        residents=tuple(part for part in parts if isinstance(part, Resident)),
        families=tuple(part for part in parts if isinstance(part, Family)),
        lines=tuple(part for part in parts if isinstance(part, Line)),
    )
    return msgspec.structs.replace(plain, **changes)


def acts(seen: View) -> list[Begin | Load]:
    return list(decide(seen).acts)


# --- warm, cold, copies ---


def test_an_idle_copy_serves_its_own_family_first_come_first_served() -> None:
    seen = view(1, family("a"), copy(7, "a", 0), line("a", (3, RECENT), (4, RECENT)))
    assert acts(seen) == [Begin(3, 7)]


def test_of_idle_copies_the_one_used_last_is_used() -> None:
    seen = view(2, family("a"), copy(7, "a", 0, last_used=LONG_AGO), copy(8, "a", 1), line("a", (3, RECENT)))
    assert acts(seen) == [Begin(3, 8)]


def test_a_family_without_a_copy_gets_an_empty_card_before_one_with_a_copy_on_it() -> None:
    seen = view(2, family("a"), family("b"), copy(7, "b", 0, last_used=LONG_AGO), line("a", (3, RECENT)))
    assert acts(seen) == [Load("a", ("1",), (), 3)]


def test_the_victim_is_the_one_used_least_recently() -> None:
    seen = view(
        2, family("a"), family("b"), family("c"), copy(7, "b", 0), copy(8, "c", 1, last_used=LONG_AGO),
        line("a", (3, RECENT)),
    )  # fmt: skip
    assert acts(seen) == [Load("a", ("1",), (8,), 3)]


def test_a_copy_that_has_jobs_of_its_own_is_no_victim() -> None:
    seen = view(
        1, family("a"), family("b"), copy(7, "b", 0), line("b", (4, RECENT)), line("a", (3, RECENT - 10))
    )  # fmt: skip
    assert acts(seen) == [Begin(4, 7)]


def test_neither_busy_nor_pinned_copies_are_unloaded() -> None:
    busy = view(1, family("a"), family("b"), copy(7, "b", 0, busy_since=RECENT), line("a", (3, LONG_AGO)))
    pinned = view(1, family("a"), family("b"), copy(7, "b", 0, pinned=True), line("a", (3, LONG_AGO)))
    assert acts(busy) == acts(pinned) == []


def test_of_several_idle_copies_a_pinned_one_stays_though_it_was_used_longest_ago() -> None:
    pinned = copy(7, "b", 0, pinned=True, last_used=LONG_AGO)
    seen = view(2, family("a"), family("b"), pinned, copy(8, "b", 1), line("a", (3, RECENT)))
    assert acts(seen) == [Load("a", ("1",), (8,), 3)]


def test_closed_cards_take_nothing_new_though_a_copy_is_there() -> None:
    cards = (RigCard(id="0", closed=True), RigCard(id="1"))
    seen = view(2, family("a"), copy(7, "a", 0), line("a", (3, RECENT)), cards=cards)
    assert acts(seen) == [Load("a", ("1",), (), 3)]
    closed = view(1, family("a"), line("a", (3, RECENT)), cards=(RigCard(id="0", closed=True),))
    assert acts(closed) == []


def test_another_copy_when_the_work_is_done_sooner_by_more_than_it_costs() -> None:
    parts = (family("a"), copy(7, "a", 0, busy_since=NOW))
    few = view(2, *parts, line("a", (3, RECENT)))
    many = view(2, *parts, line("a", (3, RECENT), (4, RECENT), count=5))
    assert acts(few) == [Load("a", ("1",), (), 3)], "20 s of the job that runs against 10 s of loading"
    assert acts(many) == [Load("a", ("1",), (), 3)]
    nearly = view(2, family("a"), copy(7, "a", 0, busy_since=NOW - 10), line("a", (3, RECENT)))
    assert acts(nearly) == [], "10 s are left of the job that runs: loading gains nothing"


def test_a_copy_that_is_being_loaded_counts() -> None:
    seen = view(2, family("a"), copy(7, "a", 0, busy_since=NOW + 4, loading=True), line("a", (3, RECENT)))
    assert acts(seen) == []


def test_who_has_no_copy_comes_before_more_copies() -> None:
    parts = (family("hot"), family("cold"), copy(7, "hot", 0, busy_since=NOW))
    seen = view(2, *parts, line("hot", *((n, RECENT) for n in range(10, 12)), count=90), line("cold", (3, RECENT)))
    assert acts(seen) == [Load("cold", ("1",), (), 3)]


def test_a_gang_that_has_no_room_yet_does_not_keep_a_copy_from_a_card_it_cannot_use() -> None:
    parts = (family("hot"), family("gang", cards=2), copy(7, "hot", 0, busy_since=NOW))
    seen = view(2, *parts, line("hot", (10, RECENT), (11, RECENT), count=90), line("gang", (3, RECENT)))
    assert acts(seen) == [Load("hot", ("1",), (), 10)]


def test_the_most_work_is_loaded_first_and_work_counts_by_its_cards() -> None:
    parts = (family("a"), family("b"), line("a", (3, NOW)), line("b", (4, NOW), (5, NOW)))
    assert acts(view(1, *parts)) == [Load("b", ("0",), (), 4)]
    gang = view(2, family("a"), family("b", cards=2), line("a", (3, NOW)), line("b", (4, NOW)))
    assert acts(gang) == [Load("b", ("0", "1"), (), 4)]


def test_age_outweighs_work_in_time() -> None:
    parts = (family("a"), family("b"), line("a", (3, NOW - 59)), line("b", (4, NOW), (5, NOW)))
    assert acts(view(1, *parts)) == [Load("a", ("0",), (), 3)]


# --- gangs, links ---


def test_a_gang_takes_the_cards_of_several_and_unloads_no_more_than_it_must() -> None:
    seen = view(
        4, family("a"), family("pair", cards=2), family("gang", cards=3),
        copy(7, "a", 0, last_used=LONG_AGO), copy(8, "pair", 1, 2), copy(9, "a", 3, busy_since=NOW),
        line("gang", (3, NOW)),
    )  # fmt: skip
    assert acts(seen) == [Load("gang", ("0", "1", "2"), (7, 8), 3)]
    smaller = msgspec.structs.replace(seen, families=(family("a"), family("pair", cards=2), family("gang", cards=2)))
    assert acts(smaller) == [Load("gang", ("1", "2"), (8,), 3)], "the pair's two cards are enough"


def test_a_fast_link_is_taken_before_a_slow_one_even_from_an_idle_copy() -> None:
    cards = (RigCard(id="0", slowness=4.4), RigCard(id="1"))
    both = view(2, family("a"), line("a", (3, NOW)), cards=cards)
    assert acts(both) == [Load("a", ("1",), (), 3)]
    idle = view(2, family("a"), family("b"), copy(7, "b", 1), line("a", (3, NOW)), cards=cards)
    assert acts(idle) == [Load("a", ("1",), (7,), 3)]


def test_another_copy_over_a_slow_link_must_pay_too() -> None:
    cards = (RigCard(id="0"), RigCard(id="1", slowness=4.4))
    seen = view(2, family("a"), copy(7, "a", 0, busy_since=NOW), line("a", (3, NOW)), cards=cards)
    assert acts(seen) == [], "44 s of loading against 20 s of waiting"


# --- patience, priority ---


def test_a_job_is_overtaken_by_jobs_within_its_patience_and_by_no_later_ones() -> None:
    parts = (family("a"), family("b"), copy(7, "b", 0))
    waits = patience(view(1), [family("a"), family("b")])
    assert waits == 160.0
    within = view(1, *parts, line("a", (3, NOW - 160)), line("b", (4, NOW)))
    beyond = view(1, *parts, line("a", (3, NOW - 161)), line("b", (4, NOW)))
    assert acts(within) == [Begin(4, 7)]
    assert acts(beyond) == [Load("a", ("0",), (7,), 3)]
    assert patience(view(4), [family("a")]) == PATIENCE_LEAST_SECONDS


def test_the_cards_that_free_soonest_are_kept_for_a_late_gang_and_the_rest_goes_on() -> None:
    seen = view(
        3, family("a"), family("gang", cards=2),
        copy(7, "a", 0), copy(8, "a", 1, busy_since=NOW - 19), copy(9, "a", 2, busy_since=NOW),
        line("gang", (3, NOW - 400)), line("a", (4, NOW), (5, NOW)),
    )  # fmt: skip
    found = decide(seen)
    assert found.acts == ()
    assert [(kept.job, kept.cards) for kept in found.kept] == [(3, ("0", "1"))]
    assert NOW < found.kept[0].expected <= NOW + 20


def test_cards_that_are_free_soon_are_kept_for_a_gang_that_ranks_first() -> None:
    def rig(since: float, *lines: Line) -> View:
        gang = family("gang", cards=2, load_seconds=30.0)
        return view(
            2, gang, family("a"), family("b"), copy(7, "a", 0, busy_since=since), line("gang", (3, NOW)), *lines
        )

    soon = decide(rig(NOW - 15, line("b", (4, NOW))))
    assert soon.acts == () and [(kept.job, kept.cards) for kept in soon.kept] == [(3, ("0", "1"))]
    assert acts(rig(NOW, line("b", (4, NOW)))) == [Load("b", ("1",), (), 4)], "20 s of a card against 30 s of loading"
    many = line("b", *((number, NOW) for number in range(4, 8)))
    assert acts(rig(NOW - 15, many)) == [Load("b", ("1",), (), 4)], "it ranks before the gang"
    wanted = rig(NOW - 15, line("b", (4, NOW)), line("a", (5, NOW)))
    assert acts(wanted) == [Load("b", ("1",), (), 4)], "card 0 has work of its own"


def test_older_jobs_still_use_a_card_that_a_late_gang_waits_for() -> None:
    """Were it kept from them, and they before the gang, neither would ever start."""
    seen = view(
        2, family("a"), family("b"), family("gang", cards=2), copy(7, "a", 0), copy(8, "b", 1),
        line("gang", (3, NOW - 400)), line("a", (2, NOW - 500)), line("b", (9, NOW)),
    )  # fmt: skip
    found = decide(seen)
    assert found.acts == (Begin(2, 7),)
    assert found.kept[0].cards == ("0", "1")


def test_what_can_never_run_blocks_nobody() -> None:
    parts = (family("gang", cards=2), family("a"), family("b"), copy(7, "b", 0, pinned=True), copy(8, "a", 1))
    seen = view(2, *parts, line("gang", (3, NOW - 9000)), line("a", (4, NOW)))
    found = decide(seen)
    assert found == Decisions(acts=(Begin(4, 8),))
    assert because(seen, found, seen.lines[0], {}) == (
        "gang is not loaded and needs 2 cards, of which 1 could be had: 0 closed, 1 with pinned models"
    )


def test_a_late_job_behind_one_that_can_never_run_has_its_turn() -> None:
    parts = (family("gang", cards=2), family("a"), family("b"), copy(7, "b", 0))
    seen = view(1, *parts, line("gang", (2, NOW - 9000)), line("a", (3, NOW - 900)), line("b", (4, NOW)))
    assert acts(seen) == [Load("a", ("0",), (7,), 3)]


def test_priority_is_absolute() -> None:
    parts = (family("a"), family("b"), copy(7, "b", 0))
    seen = view(1, *parts, line("b", (4, LONG_AGO)), line("a", (9, NOW), priority=5))
    assert acts(seen) == [Load("a", ("0",), (7,), 9)]
    warm = view(1, *parts, line("b", (4, LONG_AGO)), line("b", (9, NOW), priority=5))
    assert acts(warm) == [Begin(9, 7)]


def test_cards_are_kept_for_a_gang_of_higher_priority_at_once() -> None:
    parts = (family("a"), family("gang", cards=2), copy(7, "a", 0), copy(8, "a", 1, busy_since=NOW))
    seen = view(2, *parts, line("a", (3, LONG_AGO)), line("gang", (9, NOW), priority=1))
    assert acts(seen) == []
    assert decide(seen).kept[0].job == 9


# --- jobs without a model ---


def test_jobs_without_a_model_take_cards_each_and_leave_nothing() -> None:
    plain = family("command", load_seconds=0.0, kept=False)
    seen = view(3, plain, copy(7, "command", 0, busy_since=NOW), line("command", (3, NOW), (4, NOW), (5, NOW)))
    assert acts(seen) == [Load("command", ("1",), (), 3), Load("command", ("2",), (), 4)]


def test_a_job_without_a_model_unloads_only_where_nothing_is_empty() -> None:
    plain = family("command", load_seconds=0.0, kept=False)
    seen = view(2, plain, family("a"), copy(7, "a", 0, last_used=LONG_AGO), line("command", (3, NOW), (4, NOW)))
    assert acts(seen) == [Load("command", ("1",), (), 3), Load("command", ("0",), (7,), 4)]


# --- estimates ---


def test_means_are_drawn_to_each_other_where_little_is_known() -> None:
    known = means(
        [family("a", mean_seconds=10.0, seen=999), family("b", mean_seconds=30.0, seen=1), family("c", seen=0)]
    )
    assert abs(known["a"] - 10.0) < 0.02
    assert known["b"] == 25.0, "its one run and the mean of the two known means"
    assert known["c"] == 20.0
    assert means([family("c", mean_seconds=None, seen=0)]) == {"c": UNKNOWN_SECONDS}


def test_what_is_left_of_a_run_never_ends() -> None:
    running = copy(1, "a", 0, busy_since=NOW - 15)
    assert rest(running, 20.0, NOW) == 6.0, "3 tenths of the mean at least"
    assert rest(copy(1, "a", 0, busy_since=NOW + 5), 20.0, NOW) == 25.0
    assert rest(copy(1, "a", 0, busy_since=NOW + 5, loading=True), 20.0, NOW) == 5.0
    assert rest(copy(1, "a", 0), 20.0, NOW) == 0.0


def test_when_work_is_done() -> None:
    assert done([], 3, 10.0) == float("inf")
    assert done([0.0, 5.0], 3, 10.0) == 20.0
    assert done([0.0, 10.0], 100, 10.0) == 505.0


# --- reasons ---


def test_why_a_job_waits() -> None:
    names = {"0": "4", "1": "5", "2": "6"}
    parts = (family("a"), family("b"), family("gang", cards=2))

    def told(seen: View) -> str:
        return because(seen, decide(seen), seen.lines[0], names)

    assert told(view(1, *parts, copy(7, "a", 0), line("a", (3, NOW)))) == STARTS_NOW
    assert told(view(1, *parts, line("a", (3, NOW)))) == "a is being loaded on card 4"
    loading = copy(7, "a", 0, busy_since=NOW + 12, loading=True)
    assert told(view(1, *parts, loading, line("a", (3, NOW)))) == "a is being loaded on card 4, ready in about 12s"
    busy = copy(7, "a", 0, busy_since=NOW - 4)
    assert told(view(1, *parts, busy, line("a", (3, NOW)))) == (
        "a is loaded on card 4, which is at work, free in about 16s; another copy would not pay now"
    )
    assert told(view(1, *parts, busy, line("b", (3, NOW)))) == (
        "b is not loaded and needs 1 card; those there are work for the jobs before it, or for others whose model is "
        "loaded there"
    )
    gang = view(2, *parts, busy, line("gang", (3, NOW - 900)), line("b", (4, NOW)))
    assert told(gang) == "cards 4, 5 are kept for it, free in about 16s"
    assert because(gang, decide(gang), gang.lines[1], names) == (
        "b is not loaded and needs 1 card; cards 4, 5 are kept for job 3"
    )
