"""Who goes before whom on a rig with models, and what is kept for whom: what must hold of every plan."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from policy_model_properties import GIVEN, acts, copies, evicted, families, idle, in_patience, kept_for, usable
from policy_properties import foreign, jobs, named, turn

from p104d.core.plan import Explanation, LoadModel, Plan, Start
from p104d.core.snapshot import CardView, ResidentModel, Snapshot, WaitingJob
from p104d.policy.explain import STARTS_NOW

GRACE = 15.0


def kept_cards_are_kept(snap: Snapshot, plan: Plan) -> None:
    """On a command's kept cards only older jobs, or commands that surely end before; on a model job's no command."""
    for act in acts(plan):
        job = jobs(snap)[act.job_id]
        kept = plan.reservation
        if kept is not None and set(kept.cards) & set(act.cards) and turn(job) > turn(jobs(snap)[kept.job_id]):
            limit = job.time_limit_seconds
            assert job.family is None, "a model job on a command's cards"
            assert limit is not None and kept.starts_by is not None, "sits on a kept card with no end known"
            assert snap.now + limit + GRACE <= kept.starts_by, "ends after the kept card is due"
        if job.family is None:
            for uuid in act.cards:
                other = jobs(snap).get(kept_for(plan).get(uuid, 0))
                assert other is None or turn(job) < turn(other) or in_patience(snap, job, other), "on a kept card"


def no_copy_is_taken_from_an_older_job(snap: Snapshot, plan: Plan) -> None:
    """A command unloads a copy only if all older jobs of its family have begun, or another command has it kept."""
    begun = {start.job_id for start in plan.starts}
    for start in plan.starts:
        for number in start.evicts:
            copy = copies(snap)[number]
            if memory_is_kept(snap, plan, copy) or not _reserved(plan).isdisjoint(copy.cards):
                continue
            for job in snap.waiting:
                if job.family == copy.family and turn(job) < turn(jobs(snap)[start.job_id]):
                    assert job.id in begun, f"job {job.id} had that copy before"


def an_idle_copy_serves(snap: Snapshot, plan: Plan) -> None:
    """No job waits whose copy is left idle, but on cards that are kept."""
    done = {start.resident for start in plan.starts} | set(evicted(plan))
    begun = {start.job_id for start in plan.starts}
    wanted = {job.family for job in snap.waiting if job.family and job.id not in begun}
    kept = set(kept_for(plan)) | _reserved(plan)
    for copy in snap.residents:
        if idle(copy) and usable(snap, copy) and copy.id not in done and copy.family in wanted:
            elsewhere = _hidden_keep(snap, plan) or memory_is_kept(snap, plan, copy)
            assert elsewhere or not kept.isdisjoint(copy.cards), f"copy {copy.id} stays idle"


def memory_is_kept(snap: Snapshot, plan: Plan, copy: ResidentModel) -> bool:
    """Whether a command waits to which the copy's host memory may have to go."""
    begun = {start.job_id for start in plan.starts}
    waits = any(job.family is None and job.requirement.ram_bytes and job.id not in begun for job in snap.waiting)
    return waits and copy.ram_bytes > 0


def _reserved(plan: Plan) -> set[str]:
    return set() if plan.reservation is None else set(plan.reservation.cards)


def _hidden_keep(snap: Snapshot, plan: Plan) -> bool:
    """Whether cards may be kept that the plan does not name: behind a job without cards that is first."""
    kept = plan.reservation
    return kept is not None and not jobs(snap)[kept.job_id].requirement.cards


def commands_take_what_is_idle(snap: Snapshot, plan: Plan) -> None:
    """No command is left waiting that would fit on cards that are kept for nobody, idle copies on them or not."""
    if plan.reservation is not None and _hidden_keep(snap, plan):
        return
    busy = {start.resident for start in plan.starts}
    gone = set(evicted(plan))
    fixed = {uuid for load in plan.loads for uuid in load.cards}
    for copy in snap.residents:
        if copy.id not in gone and not (
            idle(copy) and not copy.pinned and usable(snap, copy) and copy.id not in busy
            and kept_for(plan).keys().isdisjoint(copy.cards)
        ):  # fmt: skip
            fixed |= set(copy.cards)
    closed = fixed | set(kept_for(plan)) | _reserved(plan)
    begun = {start.job_id for start in plan.starts}
    for job in snap.waiting:
        if job.family is None and job.id not in begun and not job.requirement.ram_bytes and job.requirement.cards:
            room = sum(_takes(snap, plan, view, job) for view in snap.cards if view.uuid not in closed)
            assert room < job.requirement.cards, f"job {job.id} would have fitted"


def _takes(snap: Snapshot, plan: Plan, view: CardView, job: WaitingJob) -> bool:
    req = job.requirement
    added = [
        (size, start.exclusive)
        for start in plan.starts
        for uuid, size in zip(start.cards, start.reserved_bytes, strict=True)
        if uuid == view.uuid
    ]
    sizes = [(hold.reserved_bytes, hold.exclusive) for hold in view.holds] + added
    if view.closed is not None or not named(view, req) or any(alone for _, alone in sizes):
        return False
    if req.vram_bytes is None:
        return not sizes and view.capacity_bytes >= view.promised_bytes and foreign(view) == 0
    return sum(size for size, _ in sizes) + foreign(view) + req.vram_bytes <= view.capacity_bytes


def later_jobs_take_nothing_from_a_command(snap: Snapshot, plan: Plan) -> None:
    """No command waits that would fit, had no later job begun, loaded or started."""
    if plan.reservation is not None and _hidden_keep(snap, plan):
        return
    begun = {start.job_id for start in plan.starts}
    for job in snap.waiting:
        if job.family is not None or job.id in begun or job.requirement.ram_bytes or not job.requirement.cards:
            continue
        before = [act for act in acts(plan) if turn(jobs(snap)[act.job_id]) < turn(job)]
        gone = {number for act in before for number in act.evicts}
        used = {act.resident for act in before if isinstance(act, Start)}
        fixed = {uuid for act in before if isinstance(act, LoadModel) for uuid in act.cards} | set(kept_for(plan))
        if plan.reservation is not None and turn(jobs(snap)[plan.reservation.job_id]) < turn(job):
            fixed |= _reserved(plan)
        for copy in snap.residents:
            leaves = (
                idle(copy) and not copy.pinned and usable(snap, copy) and kept_for(plan).keys().isdisjoint(copy.cards)
            )
            if copy.id not in gone and (copy.id in used or not leaves):
                fixed |= set(copy.cards)
        earlier = msgspec.structs.replace(plan, starts=tuple(act for act in before if isinstance(act, Start)))
        room = sum(_takes(snap, earlier, view, job) for view in snap.cards if view.uuid not in fixed)
        assert room < job.requirement.cards, f"job {job.id} was overtaken"


def a_cold_model_is_loaded_where_there_is_room(snap: Snapshot, plan: Plan) -> None:
    """Nobody waits without a copy while so many cards are empty that take it; but for what is kept, and memory."""
    if plan.kept or plan.reservation is not None:
        return
    gone = set(evicted(plan))
    taken = {uuid for act in acts(plan) for uuid in act.cards}
    taken |= {uuid for copy in snap.residents if copy.id not in gone for uuid in copy.cards}
    warm = {copy.family for copy in snap.residents if copy.id not in gone and usable(snap, copy)}
    warm |= {load.family for load in plan.loads}
    begun = {start.job_id for start in plan.starts}
    for job in snap.waiting:
        if job.family is None or job.id in begun or job.family in warm or families(snap)[job.family].ram_bytes:
            continue
        each = families(snap)[job.family]
        room = [
            view.uuid
            for view in snap.cards
            if view.uuid not in taken and view.uuid in each.fits and view.closed is None and not view.holds
            and not foreign(view)
        ]  # fmt: skip
        assert len(room) < each.cards, f"job {job.id} waits though there is room for its model"


def a_command_waits_with_cards_kept(snap: Snapshot, plan: Plan) -> None:
    """The first command that waits for cards which only jobs and copies of ours have, has something kept for it."""
    begun = {start.job_id for start in plan.starts}
    left = sorted((job for job in snap.waiting if job.family is None and job.id not in begun), key=turn)
    pinned = {uuid for c in snap.residents if c.pinned or not usable(snap, c) for uuid in c.cards}
    for job in left:
        req = job.requirement
        could = [view for view in snap.cards if view.uuid not in pinned and _empty_takes(view, job)]
        if req.cards and not req.ram_bytes and len(could) >= req.cards:
            assert plan.reservation is not None, f"nothing is kept for job {job.id}"
            assert turn(jobs(snap)[plan.reservation.job_id]) <= turn(job), "kept for one behind it"
            return


def _empty_takes(view: CardView, job: WaitingJob) -> bool:
    req = job.requirement
    if view.closed is not None or not named(view, req):
        return False
    if req.vram_bytes is None:
        return view.capacity_bytes >= view.promised_bytes and foreign(view) == 0
    return foreign(view) + req.vram_bytes <= view.capacity_bytes


ALL = (
    *GIVEN,
    kept_cards_are_kept,
    no_copy_is_taken_from_an_older_job,
    an_idle_copy_serves,
    commands_take_what_is_idle,
    later_jobs_take_nothing_from_a_command,
    a_cold_model_is_loaded_where_there_is_room,
    a_command_waits_with_cards_kept,
)


def explained_as_planned(snap: Snapshot, plan: Plan, explain: Callable[[Snapshot, WaitingJob], Explanation]) -> None:
    """What is told of each job is what happens to it, and each card's answer to a command adds up to it."""
    started = {start.job_id for start in plan.starts}
    for job in snap.waiting:
        told = explain(snap, job)
        assert (told.waiting_because == STARTS_NOW) == (job.id in started), told
        assert told.waiting_because and "\n" not in told.waiting_because
        assert {answer.uuid for answer in told.cards} == {view.uuid for view in snap.cards}
        room = sum(answer.refusal is None for answer in told.cards)
        elsewhere = told.waiting_because.startswith(("host memory", "can never", "all ", "a place"))
        if job.family is None and not elsewhere:
            assert (room >= job.requirement.cards) == (job.id in started), told


def check_all(snap: Snapshot, plan: Plan) -> None:
    for check in ALL:
        check(snap, plan)
