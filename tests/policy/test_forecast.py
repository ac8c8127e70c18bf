"""The forecast: small cases with their exact times, and why jobs never start."""

from __future__ import annotations

import msgspec
from policy_forecasts import ahead, question, reasons, times
from policy_model_worlds import copy, family
from policy_worlds import FULL, NOW, card, host

from p104d.core.job import Requirement
from p104d.core.snapshot import Hold
from p104d.policy.forecast import foretell
from p104d.policy.forecast_view import Foretold, Question, Underway
from p104d.policy.forecast_words import waits_for

TWO = Requirement(cards=2)


def held(index: int, job: int) -> object:
    return card(index, holds=(Hold(job_id=job, reserved_bytes=FULL, exclusive=True, since=NOW - 10),))


def words(asked: Question, told: Foretold, number: int) -> str | None:
    planned = next(each for each in told.planned if each.id == number)
    job = next(each for each in asked.ahead if each.job.id == number)
    names = {each.uuid: str(each.index) for each in asked.snapshot.cards}
    needs = asked.needs.get(job.document or 0, ())
    return waits_for(planned, job, needs, NOW, names, {each.id for each in asked.underway})


# --- commands ---------------------------------------------------------------------------------------------------------


def test_jobs_take_turns_on_the_cards() -> None:
    told = foretell(question(2, *(ahead(n, 10.0) for n in (1, 2, 3)), ahead(4, 7.0, time_limit_seconds=3.0)))
    assert times(told) == {1: (0, 10), 2: (0, 10), 3: (10, 20), 4: (10, 13)}
    assert (told.never, told.loads, told.left) == ((), 0, ())


def test_a_running_job_is_waited_for_and_a_gang_has_its_cards_kept() -> None:
    asked = question(
        [held(0, 9), card(1)],  # type: ignore[list-item]
        ahead(1, 5.0, requirement=TWO),
        ahead(2, 5.0),
        ahead(3, 5.0, time_limit_seconds=10.0),
        underway=(Underway(id=9, since=NOW - 10, ends_at=NOW + 30),),
    )
    told = foretell(asked)
    assert times(told) == {1: (30, 35), 2: (35, 40), 3: (35, 40)}
    assert words(asked, told, 1) == "card 0, held by job 9"
    assert words(asked, told, 2) == "card 0, which job 1 has before it"


def test_after_not_before_and_priority() -> None:
    asked = question(
        1,
        ahead(1, 10.0),
        ahead(2, 10.0, priority=5, document=7),
        ahead(3, 10.0, due=NOW + 100),
        ahead(4, 10.0, document=8, due=NOW + 15),
        ahead(5, 10.0),
        needs={7: frozenset({1}), 8: frozenset({1, 2})},
    )
    told = foretell(asked)
    assert times(told) == {1: (0, 10), 2: (10, 20), 4: (20, 30), 5: (30, 40), 3: (100, 110)}
    assert words(asked, told, 1) is None
    assert words(asked, told, 2) == "job 1, which it needs"
    assert words(asked, told, 4) == "jobs 1, 2, which it needs"
    assert (words(asked, told, 3) or "").startswith("not before 20")


def test_jobs_without_cards_and_host_memory() -> None:
    cpu, big = Requirement(cards=0), Requirement(cards=0, ram_bytes=host().ram_total_bytes)
    rig = msgspec.structs.replace(host(), cpu_slots_free=1, cpu_slots_total=2)
    asked = question(
        0,
        ahead(1, 10.0, requirement=cpu),
        ahead(2, 10.0, requirement=big),
        host=rig,
        underway=(Underway(id=9, since=NOW, ends_at=NOW + 4, on_processor=True),),
    )
    assert times(foretell(asked)) == {1: (0, 10), 2: (4, 14)}


def test_a_card_that_is_expected_back() -> None:
    closed = card(0, closed="hot", temporary=True)
    asked = question([closed], ahead(1), opens={closed.uuid: NOW + 60})
    assert times(foretell(asked)) == {1: (60, 70)}


# --- never ------------------------------------------------------------------------------------------------------------


def test_what_never_starts_and_why() -> None:
    asked = question(
        [card(0), card(1, closed="drained")],
        ahead(1, never="held"),
        ahead(2, document=1),
        ahead(3, document=2),
        ahead(4, requirement=TWO),
        ahead(5, requirement=Requirement(cards=3)),
        ahead(6, document=3),
        ahead(7, document=4),
        needs={1: frozenset({1}), 2: frozenset({2}), 3: frozenset({99}), 4: frozenset({5})},
    )
    told = foretell(asked)
    assert times(told) == {}
    found = reasons(told)
    assert found[1] == "held"
    assert found[2] == "needs job 1, which does not start either"
    assert found[3] == "needs job 2, which does not start either"
    assert "undrain 1" in found[4]
    assert found[5] == "can never run here: asks 3 cards; this rig has 2"
    assert found[6] == "needs job 99, which will not succeed here as things stand"
    assert found[7] == "needs job 5, which does not start either"


def test_what_needs_a_job_that_is_being_stopped() -> None:
    asked = question(
        [held(0, 9)],  # type: ignore[list-item]
        ahead(1, document=1),
        ahead(2),
        needs={1: frozenset({9})},
        underway=(Underway(id=9, since=NOW, ends_at=NOW + 5, succeeds=False),),
    )
    told = foretell(asked)
    assert times(told) == {2: (5, 15)}
    assert reasons(told)[1] == "needs job 9, which will not succeed here as things stand"


def test_a_queue_too_long_to_play_says_what_is_left() -> None:
    told = foretell(question(1, *(ahead(n) for n in range(1, 101)), plans=20))
    assert 5 < len(told.planned) < 30
    assert len(told.planned) + len(told.left) == 100


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_then_serves_its_jobs() -> None:
    asked = question(1, ahead(1, 20.0, family="a"), ahead(2, 20.0, family="a"), families=(family("a", rig=1),))
    told = foretell(asked)
    assert (times(told), told.loads) == ({1: (10, 30), 2: (30, 50)}, 1)
    assert words(asked, told, 1) == "model m-a to be loaded (10s)"
    assert words(asked, told, 2) == "card 0, which job 1 has before it"


def test_a_slow_link_and_few_loads_at_a_time() -> None:
    rig = [card(0, link_bytes_per_second=4e8), card(1, link_bytes_per_second=1e8)]
    families = (family("a", rig=2), family("b", rig=2))
    jobs = (ahead(1, 20.0, family="a"), ahead(2, 20.0, family="b"))
    asked = question(rig, *jobs, families=families, max_parallel_loads=2)
    assert times(foretell(asked)) == {1: (10, 30), 2: (40, 60)}
    asked = question(rig, *jobs, families=families, max_parallel_loads=1)
    told = foretell(asked)
    assert times(told) == {1: (10, 30), 2: (50, 70)}
    assert words(asked, told, 2) == "its turn, then model m-b to be loaded (40s)"


def test_a_copy_that_is_there_one_that_is_coming_and_one_that_leaves() -> None:
    warm, coming = copy(1, "a", 0), copy(2, "b", 1, ready_at=NOW + 4)
    families = tuple(family(key, rig=2) for key in "abc")
    jobs = (ahead(1, 20.0, family="a"), ahead(2, 20.0, family="b"), ahead(3, 20.0, family="c"))
    asked = question(2, *jobs, families=families, residents=(warm, coming))
    told = foretell(asked)
    assert (times(told), told.loads) == ({1: (0, 20), 2: (4, 24), 3: (30, 50)}, 1)
    assert words(asked, told, 2) == "model m-b, which is being loaded"
    assert words(asked, told, 3) == "card 0, which job 1 has before it, then model m-c to be loaded (10s)"


def test_pinned_models_leave_no_room() -> None:
    asked = question(
        1,
        ahead(1, family="b"),
        families=(family("a", rig=1), family("b", rig=1)),
        residents=(copy(1, "a", 0, pinned=True),),
    )
    told = foretell(asked)
    assert told.planned == ()
    assert list(reasons(told)) == [1]
