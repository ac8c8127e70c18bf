"""Every feasible job starts in a bounded time, whatever comes behind it."""

from __future__ import annotations

import pytest
from policy_properties import check_all
from policy_starvation import starves
from policy_worlds import NOW, Work, World, card, host, job

from p104d.core.units import GIB
from p104d.policy import schedule

WORLDS = 400


def test_an_endless_stream_of_small_jobs_starves_nobody() -> None:
    starved = [told for seed in range(WORLDS) if (told := starves(seed)) is not None]
    assert starved == []


def test_every_plan_of_a_busy_rig_keeps_the_properties() -> None:
    for seed in range(1000, 1020):
        assert starves(seed, check_all) is None


@pytest.mark.parametrize("known", [True, False])
def test_a_gang_amid_jobs_that_leave_one_after_the_other(known: bool) -> None:
    """The classical case: at no time are two cards free by themselves."""
    limit = 40.0 if known else None
    world = World(cards=(card(0), card(1)), host=host(), policy=lambda snap: schedule.plan(snap))
    world.fillers = (Work(job(number, limit=limit), 40.0 if number != 1000 else 20.0) for number in range(1000, 2000))
    assert world.run_until_started({1001}, NOW)
    world.queue[1] = Work(job(1, cards=2), 5.0)
    assert world.run_until_started({1}, NOW + 40.0)


def test_a_job_that_waits_for_host_memory_amid_jobs_that_take_it() -> None:
    world = World(cards=(card(0),), host=host(cpu_slots_total=4), policy=lambda snap: schedule.plan(snap))
    world.fillers = (Work(job(number, cards=0, ram_bytes=2 * GIB), 10.0 + number % 7) for number in range(1000, 9000))
    assert world.run_until_started({1003}, NOW)
    world.queue[1] = Work(job(1, ram_bytes=7 * GIB), 5.0)
    assert world.run_until_started({1}, NOW + 17.0)


def test_a_drained_card_holds_up_only_those_that_need_it() -> None:
    world = World(cards=(card(0), card(1, closed="drained")), host=host(), policy=lambda snap: schedule.plan(snap))
    world.queue = {
        1: Work(job(1, only=("GPU-0001",)), 1.0),
        2: Work(job(2, cards=2), 1.0),
        3: Work(job(3), 1.0),
    }
    assert world.run_until_started({3}, NOW)
    assert set(world.started) == {3}
