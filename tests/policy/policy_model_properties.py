"""What every plan for a rig with models may give to whom, written down without asking the code under test."""

from __future__ import annotations

from collections import Counter

from policy_properties import foreign, jobs, turn

from p104d.core.plan import LoadModel, Plan, Start
from p104d.core.snapshot import CardView, ModelFamily, ResidentModel, Snapshot, WaitingJob


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


def in_patience(snap: Snapshot, job: WaitingJob, other: WaitingJob) -> bool:
    """Whether ``job`` came so soon after the model job ``other`` that it may go before."""
    waits = {each.family for each in snap.waiting if each.family}
    loads = sum(families(snap)[key].load_seconds * families(snap)[key].cards for key in waits)
    return job.priority == other.priority and job.arrival <= other.arrival + max(60.0, 8 * loads / len(snap.cards))


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


GIVEN = (
    only_idle_copies_leave,
    cards_are_given_once,
    loads_are_possible,
    begun_on_a_copy_of_its_own,
    memory_is_there,
)
