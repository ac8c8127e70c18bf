"""What must hold of every plan for a rig with models, written down without asking the code under test."""

from __future__ import annotations

from collections import Counter

from policy_properties import foreign, jobs, named, turn

from p104d.core.plan import LoadModel, Plan, Start
from p104d.core.snapshot import CardView, ModelFamily, ResidentModel, Snapshot, WaitingJob

GRACE = 15.0


def views(snap: Snapshot) -> dict[str, CardView]:
    return {view.uuid: view for view in snap.cards}


def copies(snap: Snapshot) -> dict[int, ResidentModel]:
    return {each.id: each for each in snap.residents}


def families(snap: Snapshot) -> dict[str, ModelFamily]:
    return {each.key: each for each in snap.families}


def usable(snap: Snapshot, copy: ResidentModel) -> bool:
    return all(uuid in views(snap) and views(snap)[uuid].closed is None for uuid in copy.cards)


def idle(copy: ResidentModel) -> bool:
    return copy.job_id is None and copy.ready_at is None


def evicted(plan: Plan) -> list[int]:
    return [number for act in (*plan.starts, *plan.loads) for number in act.evicts]


def kept_for(plan: Plan) -> dict[str, int]:
    return {uuid: kept.job_id for kept in plan.kept for uuid in kept.cards}


def only_idle_copies_leave(snap: Snapshot, plan: Plan) -> None:
    """Evicted are idle copies, not pinned, on open cards that are kept for nobody; each once, with no job on it."""
    gone = Counter(evicted(plan))
    assert not gone or max(gone.values()) == 1, "unloaded twice"
    begun = {start.resident for start in plan.starts}
    for number in gone:
        copy = copies(snap)[number]
        assert idle(copy) and not copy.pinned and usable(snap, copy), f"copy {number} was not to be had"
        assert number not in begun, "unloaded under a job"
        by = next((jobs(snap)[start.job_id] for start in plan.starts if number in start.evicts), None)
        keepers = [jobs(snap)[kept_for(plan)[uuid]] for uuid in copy.cards if uuid in kept_for(plan)]
        assert by is None or all(turn(by) < turn(each) or in_patience(snap, by, each) for each in keepers), (
            "unloaded though it is kept"
        )
    asks_memory = {job.id for job in snap.waiting if job.requirement.ram_bytes and job.family is None}
    for act in (*plan.starts, *plan.loads):
        memory = act.job_id in asks_memory if isinstance(act, Start) else families(snap)[act.family].ram_bytes > 0
        for number in act.evicts:
            assert memory or set(copies(snap)[number].cards) & set(act.cards), "unloaded for nothing"


def cards_are_given_once(snap: Snapshot, plan: Plan) -> None:
    """Nobody comes where another is: holds, copies that stay, starts and loads of this plan."""
    on = {uuid: copy for copy in snap.residents if copy.id not in evicted(plan) for uuid in copy.cards}
    loaded: set[str] = set()
    for load in plan.loads:
        assert len(set(load.cards)) == len(load.cards) == families(snap)[load.family].cards, "part of a gang"
        for uuid in load.cards:
            assert uuid not in on and uuid not in loaded and not views(snap)[uuid].holds, f"{uuid} is taken"
            loaded.add(uuid)
    for start in plan.starts:
        for uuid in start.cards:
            assert uuid not in loaded, f"{uuid}: a job beside a model that is being loaded"
            if start.resident is None:
                assert uuid not in on, f"{uuid}: a command beside a copy"
    exclusive = Counter(uuid for start in plan.starts if start.exclusive for uuid in start.cards)
    starts = Counter(uuid for start in plan.starts for uuid in start.cards)
    for uuid in exclusive:
        assert starts[uuid] == 1 and not views(snap)[uuid].holds, f"{uuid} is not alone"


def loads_are_possible(snap: Snapshot, plan: Plan) -> None:
    for load in plan.loads:
        job = jobs(snap)[load.job_id]
        assert job.family == load.family, "asked for by a job of another family"
        for uuid in load.cards:
            view = views(snap)[uuid]
            assert uuid in families(snap)[load.family].fits, "does not fit there"
            assert view.closed is None and foreign(view) == 0, f"{uuid} takes no model"
            assert not any(each.id not in evicted(plan) and uuid in each.cards for each in snap.residents), (
                "beside another copy"
            )


def begun_on_a_copy_of_its_own(snap: Snapshot, plan: Plan) -> None:
    assert len({start.job_id for start in plan.starts}) == len(plan.starts), "started twice"
    used = [start.resident for start in plan.starts if start.resident is not None]
    assert len(used) == len(set(used)), "two jobs on one copy"
    for start in plan.starts:
        job = jobs(snap)[start.job_id]
        assert (start.resident is not None) == (job.family is not None), "a model job without a copy, or the reverse"
        if start.resident is None:
            continue
        copy = copies(snap)[start.resident]
        assert copy.family == job.family and idle(copy) and usable(snap, copy), "not a copy for it"
        assert start.cards == copy.cards and start.exclusive
        assert start.reserved_bytes == tuple(views(snap)[uuid].capacity_bytes for uuid in copy.cards)


def memory_is_there(snap: Snapshot, plan: Plan) -> None:
    needed = sum(jobs(snap)[s.job_id].requirement.ram_bytes for s in plan.starts if s.resident is None)
    needed += sum(families(snap)[load.family].ram_bytes for load in plan.loads)
    back = sum(copies(snap)[number].ram_bytes for number in evicted(plan))
    assert not needed or needed <= snap.host.ram_free_bytes + back, "host memory is over its capacity"


def acts(plan: Plan) -> list[Start | LoadModel]:
    return [*plan.starts, *plan.loads]


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


def in_patience(snap: Snapshot, job: WaitingJob, other: WaitingJob) -> bool:
    """Whether ``job`` came so soon after the model job ``other`` that it may go before."""
    waits = {each.family for each in snap.waiting if each.family}
    loads = sum(families(snap)[key].load_seconds * families(snap)[key].cards for key in waits)
    return job.priority == other.priority and job.arrival <= other.arrival + max(60.0, 8 * loads / len(snap.cards))


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
    only_idle_copies_leave,
    cards_are_given_once,
    loads_are_possible,
    begun_on_a_copy_of_its_own,
    memory_is_there,
    kept_cards_are_kept,
    no_copy_is_taken_from_an_older_job,
    an_idle_copy_serves,
    commands_take_what_is_idle,
    a_cold_model_is_loaded_where_there_is_room,
    a_command_waits_with_cards_kept,
)


def check_all(snap: Snapshot, plan: Plan) -> None:
    for check in ALL:
        check(snap, plan)
