"""Every plan for every snapshot: the properties, one snapshot one plan, and explain saying what the plan does."""

from __future__ import annotations

import msgspec
import policy_properties as properties
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_worlds import snapshots

from p104d.core.plan import Plan
from p104d.core.snapshot import Snapshot
from p104d.policy import explain, schedule

few = settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("check", properties.ALL, ids=lambda check: check.__name__)
def test_property(check) -> None:
    @few
    @given(snapshots())
    def holds(snap: Snapshot) -> None:
        check(snap, schedule.plan(snap))

    holds()


@few
@given(snapshots(), st.randoms())
def test_same_snapshot_same_plan_whatever_the_order(snap: Snapshot, random) -> None:
    cards, waiting = list(snap.cards), list(snap.waiting)
    random.shuffle(cards)
    random.shuffle(waiting)
    mixed = msgspec.structs.replace(snap, cards=tuple(cards), waiting=tuple(waiting))
    assert schedule.plan(mixed) == schedule.plan(snap)


@few
@given(snapshots())
def test_explain_says_of_each_job_what_the_plan_does(snap: Snapshot) -> None:
    properties.explained_as_planned(snap, schedule.plan(snap), explain.explain)


@few
@given(snapshots())
def test_carried_out_twice_starts_nothing_twice(snap: Snapshot) -> None:
    """The plan for the rig as it is after the plan starts nothing more: no job was forgotten."""
    made = schedule.plan(snap)
    again = schedule.plan(carried_out(snap, made))
    assert again.starts == (), "a second look found more to start"


def carried_out(snap: Snapshot, made: Plan) -> Snapshot:
    jobs = properties.jobs(snap)
    ends = {
        start.job_id: None if (limit := jobs[start.job_id].time_limit_seconds) is None else snap.now + limit
        for start in made.starts
    }
    holds = properties.after(snap, made)
    cards = tuple(
        msgspec.structs.replace(
            view,
            holds=tuple(
                msgspec.structs.replace(hold, ends_by=ends[hold.job_id], since=snap.now)
                if hold.job_id in ends
                else hold
                for hold in holds[view.uuid]
            ),
        )
        for view in snap.cards
    )
    rest = msgspec.structs.replace(
        snap.host,
        ram_free_bytes=properties.ram_left(snap, made),
        cpu_slots_free=properties.slots_left(snap, made),
    )
    waiting = tuple(job for job in snap.waiting if job.id not in ends)
    return msgspec.structs.replace(snap, cards=cards, host=rest, waiting=waiting)


@few
@given(snapshots())
def test_paused_is_an_empty_plan(snap: Snapshot) -> None:
    assert schedule.plan(msgspec.structs.replace(snap, paused=True)) == Plan()
