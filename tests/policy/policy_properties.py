"""What must hold of every plan, written down a second time, without asking the code under test how it decides.

Each check takes the snapshot and the plan made for it and raises AssertionError; test_mutants.py shows each to fail.
"""

from __future__ import annotations

from collections.abc import Callable

from p104d.core.job import Requirement
from p104d.core.plan import Explanation, Plan
from p104d.core.snapshot import CardView, Hold, Snapshot, WaitingJob
from p104d.core.units import MIB
from p104d.policy.explain import STARTS_NOW

MARGIN = 256 * MIB
GRACE = 15.0


def named(view: CardView, req: Requirement) -> bool:
    bare = view.name.lower().replace("nvidia ", "")
    return not req.only or any(entry == view.uuid or entry.lower().replace("nvidia ", "") == bare for entry in req.only)


def foreign(view: CardView) -> int:
    return view.foreign_bytes if view.foreign_bytes > MARGIN else 0


def takes(view: CardView, holds: list[Hold], req: Requirement) -> bool:
    """The rule of one card, from the specification."""
    if view.closed is not None or not named(view, req) or any(hold.exclusive for hold in holds):
        return False
    if req.vram_bytes is None:
        return not holds and view.capacity_bytes >= view.promised_bytes and foreign(view) == 0
    return sum(hold.reserved_bytes for hold in holds) + foreign(view) + req.vram_bytes <= view.capacity_bytes


def after(snap: Snapshot, plan: Plan) -> dict[str, list[Hold]]:
    """The holds of each card once the plan is carried out."""
    holds = {view.uuid: list(view.holds) for view in snap.cards}
    for start in plan.starts:
        for uuid, size in zip(start.cards, start.reserved_bytes, strict=True):
            holds[uuid].append(Hold(job_id=start.job_id, reserved_bytes=size, exclusive=start.exclusive))
    return holds


def jobs(snap: Snapshot) -> dict[int, WaitingJob]:
    return {job.id: job for job in snap.waiting}


def turn(job: WaitingJob) -> tuple[int, int]:
    return (-job.priority, job.id)


def left_waiting(snap: Snapshot, plan: Plan) -> list[WaitingJob]:
    started = {start.job_id for start in plan.starts}
    return sorted((job for job in snap.waiting if job.id not in started), key=turn)


def ram_left(snap: Snapshot, plan: Plan) -> int:
    return snap.host.ram_free_bytes - sum(jobs(snap)[start.job_id].requirement.ram_bytes for start in plan.starts)


def slots_left(snap: Snapshot, plan: Plan) -> int:
    return snap.host.cpu_slots_free - sum(not start.cards for start in plan.starts)


def never_over_capacity(snap: Snapshot, plan: Plan) -> None:
    views = {view.uuid: view for view in snap.cards}
    holds = after(snap, plan)
    for uuid in {uuid for start in plan.starts for uuid in start.cards}:
        used = sum(hold.reserved_bytes for hold in holds[uuid]) + foreign(views[uuid])
        assert used <= views[uuid].capacity_bytes, f"{uuid} is over its capacity"
    for start in plan.starts:
        req = jobs(snap)[start.job_id].requirement
        for uuid, size in zip(start.cards, start.reserved_bytes, strict=True):
            whole = req.vram_bytes is None
            assert size == (views[uuid].capacity_bytes if whole else req.vram_bytes), "reserves what it did not ask"
            assert not whole or views[uuid].capacity_bytes >= views[uuid].promised_bytes, "a whole card below promise"
    asked = any(jobs(snap)[start.job_id].requirement.ram_bytes for start in plan.starts)
    assert not asked or ram_left(snap, plan) >= 0, "host memory is over its capacity"
    assert slots_left(snap, plan) >= 0, "more jobs without cards than places"


def never_a_closed_card(snap: Snapshot, plan: Plan) -> None:
    views = {view.uuid: view for view in snap.cards}
    for start in plan.starts:
        for uuid in start.cards:
            assert views[uuid].closed is None, f"{uuid} is {views[uuid].closed}"
            assert named(views[uuid], jobs(snap)[start.job_id].requirement), f"{uuid} is not among only"


def exclusive_never_shared(snap: Snapshot, plan: Plan) -> None:
    holds = after(snap, plan)
    for uuid in {uuid for start in plan.starts for uuid in start.cards}:
        assert len(holds[uuid]) == 1 or not any(hold.exclusive for hold in holds[uuid]), f"{uuid}: two beside one alone"
    for start in plan.starts:
        req = jobs(snap)[start.job_id].requirement
        assert start.exclusive == (req.cards > 0 and req.vram_bytes is None), "whole and alone are one"


def gangs_whole_or_not_at_all(snap: Snapshot, plan: Plan) -> None:
    assert len({start.job_id for start in plan.starts}) == len(plan.starts), "a job started twice"
    for start in plan.starts:
        assert len(set(start.cards)) == len(start.cards) == jobs(snap)[start.job_id].requirement.cards, "part of a gang"


def feasible_later(snap: Snapshot, plan: Plan, job: WaitingJob) -> bool:
    """Whether ends of our own jobs would make it fit."""
    req = job.requirement
    holds = after(snap, plan)
    runs = any(holds.values()) or slots_left(snap, plan) < snap.host.cpu_slots_total
    short = req.ram_bytes > max(0, ram_left(snap, plan))
    if short and not (runs and req.ram_bytes <= snap.host.ram_total_bytes):
        return False
    return req.cards == 0 or sum(takes(view, [], req) for view in snap.cards) >= req.cards


def firsts(snap: Snapshot, plan: Plan) -> list[WaitingJob]:
    """The first job with cards and the first without that wait for ends of ours: those that something is kept for."""
    waiting = [job for job in left_waiting(snap, plan) if feasible_later(snap, plan, job)]
    kinds = [
        next((j for j in waiting if (j.requirement.cards > 0) == with_cards), None) for with_cards in (True, False)
    ]
    return sorted((job for job in kinds if job is not None), key=turn)


def keeps_for_the_first(snap: Snapshot, plan: Plan) -> None:
    """Exactly the first job that ends of ours would help has a reservation, of as many cards as it asks."""
    expected = firsts(snap, plan)
    if not expected:
        assert plan.reservation is None, "kept for a job that no end would help"
        return
    assert plan.reservation is not None, f"nothing kept for job {expected[0].id}"
    kept, first = plan.reservation, expected[0]
    assert kept.job_id == first.id, "kept for another than the first"
    assert len(set(kept.cards)) == first.requirement.cards, "kept too few or too many"
    views = {view.uuid: view for view in snap.cards}
    assert all(takes(views[uuid], [], first.requirement) for uuid in kept.cards), "kept a card that never will do"


def kept_cards_stay_kept(snap: Snapshot, plan: Plan) -> None:
    """Who comes after the first and starts on a kept card surely ends before it is due."""
    kept = plan.reservation
    if kept is None or not kept.cards:
        return
    for start in plan.starts:
        job = jobs(snap)[start.job_id]
        if turn(job) > turn(jobs(snap)[kept.job_id]) and set(start.cards) & set(kept.cards):
            limit = job.time_limit_seconds
            assert limit is not None and kept.starts_by is not None, "sits on a kept card with no end known"
            assert snap.now + limit + GRACE <= kept.starts_by, "ends after the kept card is due"


def work_conserving(snap: Snapshot, plan: Plan) -> None:
    """No job left waiting fits on the cards not kept for one before it, with what host memory and places they leave."""
    holds = after(snap, plan)
    heads = firsts(snap, plan)
    with_cards = next((job for job in heads if job.requirement.cards), None)
    kept = plan.reservation
    kept_cards = (
        set(kept.cards) if kept is not None and with_cards is not None and kept.job_id == with_cards.id else None
    )
    for job in left_waiting(snap, plan):
        before = [head for head in heads if turn(head) < turn(job)]
        if with_cards in before and kept_cards is None:
            continue  # its cards are kept behind a job without cards: the plan names only the first of the two
        closed = kept_cards if with_cards in before and kept_cards is not None else set()
        req = job.requirement
        ram = ram_left(snap, plan) - sum(head.requirement.ram_bytes for head in before)
        if req.ram_bytes and req.ram_bytes > ram:
            continue
        if req.cards == 0:
            free = slots_left(snap, plan) - sum(not head.requirement.cards for head in before)
            assert free < 1, f"job {job.id} would have had a place"
            continue
        room = sum(takes(view, holds[view.uuid], req) for view in snap.cards if view.uuid not in closed)
        assert room < req.cards, f"job {job.id} would have fitted"


def explained_as_planned(snap: Snapshot, plan: Plan, explain: Callable[[Snapshot, WaitingJob], Explanation]) -> None:
    """What is told of each job is what happens to it, and each card's answer adds up to it."""
    started = {start.job_id for start in plan.starts}
    for job in snap.waiting:
        told = explain(snap, job)
        assert (told.waiting_because == STARTS_NOW) == (job.id in started), told
        assert told.waiting_because and "\n" not in told.waiting_because
        assert {answer.uuid for answer in told.cards} == {view.uuid for view in snap.cards}
        room = sum(answer.refusal is None for answer in told.cards)
        on_host = told.waiting_because.startswith(("host memory", "can never", "all ", "a place"))
        assert on_host or (room >= job.requirement.cards) == (job.id in started), told


ALL = (
    never_over_capacity,
    never_a_closed_card,
    exclusive_never_shared,
    gangs_whole_or_not_at_all,
    keeps_for_the_first,
    kept_cards_stay_kept,
    work_conserving,
)


def check_all(snap: Snapshot, plan: Plan) -> None:
    for check in ALL:
        check(snap, plan)
