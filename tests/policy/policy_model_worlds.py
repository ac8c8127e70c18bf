"""Rigs with models on their cards, and queues in which model jobs and commands are mixed."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import msgspec
from policy_worlds import FULL, LOCKED, NOW, card, host

from p104d.core.job import Requirement
from p104d.core.plan import LoadModel, Plan
from p104d.core.snapshot import CardView, Hold, ModelFamily, ResidentModel, Snapshot, WaitingJob
from p104d.core.units import GIB, MIB

MODEL = Requirement()
_PAST = (NOW - 1, NOW - 50, NOW - 50, NOW - 5000)


def family(key: str = "a", *, cards: int = 1, rig: int = 6, **changes: object) -> ModelFamily:
    """A family that fits on the first ``rig`` cards."""
    plain = ModelFamily(
        key=key,
        label=f"m-{key}",
        cards=cards,
        fits=tuple(f"GPU-{index:04d}" for index in range(rig)),
        load_seconds=10.0,
        mean_seconds=20.0,
        seen=50,
    )
    return msgspec.structs.replace(plain, **changes)


def copy(number: int, key: str, *indexes: int, **changes: object) -> ResidentModel:
    """An idle copy of family ``key``."""
    uuids = tuple(f"GPU-{index:04d}" for index in indexes)
    plain = ResidentModel(id=number, family=key, label=f"m-{key}", cards=uuids, last_used=NOW - 50)
    return msgspec.structs.replace(plain, **changes)


def ask(number: int, key: str, *, priority: int = 0, arrival: float = NOW - 5) -> WaitingJob:
    """A model job."""
    return WaitingJob(id=number, priority=priority, requirement=MODEL, family=key, arrival=arrival)


def world(*parts: CardView | ModelFamily | ResidentModel | WaitingJob, **changes: object) -> Snapshot:
    """A snapshot of these parts; busy copies hold their cards, and families count what waits for them."""
    residents = tuple(part for part in parts if isinstance(part, ResidentModel))
    waiting = tuple(part for part in parts if isinstance(part, WaitingJob))
    plain = Snapshot(
        now=NOW,
        paused=False,
        cards=tuple(_held(part, residents) for part in parts if isinstance(part, CardView)),
        host=host(),
        waiting=waiting,
        residents=residents,
        families=tuple(_counted(part, waiting) for part in parts if isinstance(part, ModelFamily)),
    )
    return msgspec.structs.replace(plain, **changes)


def _held(view: CardView, residents: tuple[ResidentModel, ...]) -> CardView:
    holds = tuple(
        Hold(job_id=each.job_id, reserved_bytes=view.capacity_bytes, exclusive=True, since=each.busy_since)
        for each in residents
        if each.job_id is not None and view.uuid in each.cards
    )
    return msgspec.structs.replace(view, holds=(*view.holds, *holds))


def _counted(each: ModelFamily, waiting: tuple[WaitingJob, ...]) -> ModelFamily:
    seen = sum(job.family == each.key for job in waiting)
    return msgspec.structs.replace(each, waiting=seen + each.waiting)


def random_world(random: Random, commands: bool = True) -> Snapshot:
    """Up to five cards with copies idle, busy, loading, pinned, on closed cards; model jobs, commands among them."""
    count = random.randint(1, 5)
    views = [_card(random, index, commands) for index in range(count)]
    families = [_family(random, key, count) for key in "abcd"[: random.randint(1, 4)]]
    residents = _residents(random, views, families)
    kinds = [_requirement(random, count) for _ in range(random.randint(1, 3))]
    waiting = []
    for number in range(1, random.randint(0, 9) + 1):
        arrival = NOW - random.choice([2, 2, 300]) - 10 * (9 - number)
        made = ask(number, random.choice(families).key, arrival=arrival, priority=random.choice([0, 0, 0, 5]))
        if commands and random.randrange(2):
            limit = random.choice([None, None, 30.0, 190.0])
            plain = random.choice(kinds)
            made = msgspec.structs.replace(made, family=None, requirement=plain, time_limit_seconds=limit)
        waiting.append(made)
    random.shuffle(waiting)
    held = sum(each.ram_bytes for each in residents)
    free = min(random.choice([0, 2 * GIB, 4 * GIB, 8 * GIB]), 16 * GIB - held) if commands else 16 * GIB - held
    return world(*views, *families, *residents, *waiting, host=host(ram_total_bytes=16 * GIB, ram_free_bytes=free))


def worlds(count: int, commands: bool = True) -> Iterator[Snapshot]:
    """The same ``count`` snapshots each time."""
    for seed in range(count):
        yield random_world(Random(seed), commands)


def _card(random: Random, index: int, commands: bool) -> CardView:
    """One card; with ``commands`` it may have jobs on it, be small, or be used by others."""
    plain = card(
        index,
        closed=random.choice([None, None, None, None, None, "drained"]),
        link_bytes_per_second=random.choice([0.0, 0.8e9, 0.2e9]),
    )
    if not commands:
        return plain
    holds: tuple[Hold, ...] = ()
    if not random.randrange(4):
        ends = random.choice([None, NOW - 100, NOW + 40, NOW + 200])
        part = Hold(job_id=100 + index, reserved_bytes=GIB, exclusive=False, ends_by=ends, since=NOW - 7)
        whole = Hold(job_id=100 + index, reserved_bytes=LOCKED, exclusive=True, ends_by=ends, since=NOW - 70)
        holds = (random.choice([part, whole]),)
    return msgspec.structs.replace(
        plain,
        capacity_bytes=random.choice([FULL, FULL, FULL, LOCKED]),
        foreign_bytes=random.choice([0, 0, 0, 0, 100 * MIB, 3 * GIB]),
        holds=holds,
    )


def _requirement(random: Random, count: int) -> Requirement:
    cards = random.choice([0, 1, 1, 1, 2, 3])
    return Requirement(
        cards=cards,
        vram_bytes=random.choice([None, None, GIB, 3 * GIB, 6 * GIB, FULL]) if cards else None,
        ram_bytes=random.choice([0, 0, 0, GIB, 3 * GIB, 17 * GIB]),
        only=(f"GPU-{random.randrange(count):04d}",) if cards and not random.randrange(5) else (),
    )


def _family(random: Random, key: str, count: int) -> ModelFamily:
    return family(
        key,
        cards=random.choice([1, 1, 1, 2, 3]),
        fits=tuple(f"GPU-{index:04d}" for index in range(count) if random.randrange(7)),
        load_seconds=random.choice([2.0, 10.0, 40.0]),
        mean_seconds=random.choice([None, 5.0, 20.0, 300.0]),
        waiting=random.choice([0, 0, 0, 20]),
        ram_bytes=random.choice([0, 0, GIB, 3 * GIB]),
    )


def _residents(random: Random, views: list[CardView], families: list[ModelFamily]) -> list[ResidentModel]:
    free = [view.index for view in random.sample(views, len(views)) if not view.holds]
    made: list[ResidentModel] = []
    while free and random.randrange(5):
        each = random.choice(families)
        if each.cards > len(free):
            break
        mine, free = free[: each.cards], free[each.cards :]
        kind = random.choice(["idle", "idle", "idle", "busy", "loading"])
        made.append(
            copy(
                10 + len(made),
                each.key,
                *mine,
                last_used=random.choice(_PAST),
                job_id=500 + len(made) if kind == "busy" else None,
                busy_since=random.choice(_PAST) if kind == "busy" else None,
                ready_at=NOW + random.choice([-1.0, 3.0]) if kind == "loading" else None,
                pinned=not random.randrange(5),
                ram_bytes=each.ram_bytes,
            )
        )
    return made


def carried_out(snap: Snapshot, made: Plan) -> Snapshot:
    """The rig once the plan is carried out: what is unloaded is gone, what is loaded is on its way."""
    jobs = {job.id: job for job in snap.waiting}
    begun = {start.resident: start.job_id for start in made.starts if start.resident is not None}
    gone = {number for act in (*made.starts, *made.loads) for number in act.evicts}
    residents = [
        msgspec.structs.replace(each, job_id=begun[each.id], busy_since=snap.now) if each.id in begun else each
        for each in snap.residents
        if each.id not in gone
    ]
    residents += [_loading(snap, 100 + number, load) for number, load in enumerate(made.loads)]
    ram = sum(each.ram_bytes for each in snap.residents) - sum(each.ram_bytes for each in residents)
    ram -= sum(jobs[start.job_id].requirement.ram_bytes for start in made.starts)
    slots = sum(not start.cards for start in made.starts)
    return msgspec.structs.replace(
        snap,
        cards=tuple(_with_starts(snap, made, view) for view in snap.cards),
        residents=tuple(residents),
        waiting=tuple(job for job in snap.waiting if job.id not in {start.job_id for start in made.starts}),
        families=tuple(
            msgspec.structs.replace(
                each, waiting=each.waiting - sum(jobs[n].family == each.key for n in begun.values())
            )
            for each in snap.families
        ),
        host=msgspec.structs.replace(
            snap.host,
            ram_free_bytes=snap.host.ram_free_bytes + ram,
            cpu_slots_free=snap.host.cpu_slots_free - slots,
        ),
    )


def _with_starts(snap: Snapshot, made: Plan, view: CardView) -> CardView:
    limits = {job.id: job.time_limit_seconds for job in snap.waiting}
    holds = list(view.holds)
    for start in made.starts:
        limit = limits[start.job_id]
        ends = None if limit is None else snap.now + limit
        for uuid, size in zip(start.cards, start.reserved_bytes, strict=True):
            if uuid == view.uuid:
                hold = Hold(job_id=start.job_id, reserved_bytes=size, exclusive=start.exclusive, ends_by=ends,
                            since=snap.now)  # fmt: skip
                holds.append(hold)
    return msgspec.structs.replace(view, holds=tuple(holds))


def _loading(snap: Snapshot, number: int, load: LoadModel) -> ResidentModel:
    each = next(each for each in snap.families if each.key == load.family)
    links = {view.uuid: view.link_bytes_per_second for view in snap.cards}
    slow = max(max(links.values()) / links[uuid] if links[uuid] else 1.0 for uuid in load.cards)
    plain = copy(number, load.family, last_used=snap.now, ready_at=snap.now + each.load_seconds * slow)
    return msgspec.structs.replace(plain, cards=load.cards, ram_bytes=each.ram_bytes)
