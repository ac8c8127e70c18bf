"""Rigs with models on their cards, and queues in which model jobs and commands are mixed."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from policy_worlds import FULL, NOW, card, cards, host, requirements

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, Hold, ModelFamily, ResidentModel, Snapshot, WaitingJob
from p104d.core.units import GIB

MODEL = Requirement()
_PAST = st.sampled_from([NOW - 1, NOW - 50, NOW - 50, NOW - 5000])


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


@st.composite
def model_snapshots(draw: st.DrawFn, commands: bool = True) -> Snapshot:
    """Up to five cards with copies idle, busy, loading, pinned, on closed cards; command jobs as elsewhere."""
    count = draw(st.integers(1, 5))
    views = [draw(cards(index)) for index in range(count)] if commands else [_plain(draw, n) for n in range(count)]
    families = [_family(draw, key, count) for key in "abcd"[: draw(st.integers(1, 4))]]
    residents = _residents(draw, views, families)
    kinds = draw(st.lists(requirements(count), min_size=1, max_size=3))
    waiting = []
    for number in range(1, draw(st.integers(0, 9)) + 1):
        arrival = NOW - draw(st.sampled_from([2, 2, 300])) - 10 * (9 - number)
        key = draw(st.sampled_from([None, *(each.key for each in families)] if commands else [f.key for f in families]))
        made = ask(number, key or "", arrival=arrival, priority=draw(st.sampled_from([0, 0, 0, 5])))
        if key is None:
            limit = draw(st.sampled_from([None, None, 30.0, 190.0]))
            plain = draw(st.sampled_from(kinds))
            made = msgspec.structs.replace(made, family=None, requirement=plain, time_limit_seconds=limit)
        waiting.append(made)
    held = sum(each.ram_bytes for each in residents)
    free = min(draw(st.sampled_from([0, 2 * GIB, 8 * GIB, 8 * GIB])), 16 * GIB - held)
    return world(
        *views,
        *families,
        *residents,
        *draw(st.permutations(waiting)),
        host=host(ram_total_bytes=16 * GIB, ram_free_bytes=free if commands else 16 * GIB - held),
    )


def _plain(draw: st.DrawFn, index: int) -> CardView:
    closed = draw(st.sampled_from([None, None, None, "drained"]))
    return card(index, closed=closed, link_bytes_per_second=draw(st.sampled_from([0.0, 0.8e9, 0.2e9])))


def _family(draw: st.DrawFn, key: str, count: int) -> ModelFamily:
    fits = tuple(f"GPU-{index:04d}" for index in range(count) if draw(st.integers(0, 6)))
    return family(
        key,
        cards=draw(st.sampled_from([1, 1, 1, 2, 3])),
        fits=fits,
        load_seconds=draw(st.sampled_from([2.0, 10.0, 40.0])),
        mean_seconds=draw(st.sampled_from([None, 5.0, 20.0, 300.0])),
        waiting=draw(st.sampled_from([0, 0, 0, 20])),
        ram_bytes=draw(st.sampled_from([0, 0, GIB, 3 * GIB])),
    )


def _residents(draw: st.DrawFn, views: list[CardView], families: list[ModelFamily]) -> list[ResidentModel]:
    free = [view.index for view in draw(st.permutations(views)) if not view.holds]
    made: list[ResidentModel] = []
    while free and draw(st.integers(0, 5)):
        each = draw(st.sampled_from(families))
        if each.cards > len(free):
            break
        mine, free = free[: each.cards], free[each.cards :]
        kind = draw(st.sampled_from(["idle", "idle", "idle", "busy", "loading"]))
        made.append(
            copy(
                10 + len(made),
                each.key,
                *mine,
                last_used=draw(_PAST),
                job_id=500 + len(made) if kind == "busy" else None,
                busy_since=draw(_PAST) if kind == "busy" else None,
                ready_at=NOW + draw(st.sampled_from([-1.0, 3.0])) if kind == "loading" else None,
                pinned=draw(st.integers(0, 4)) == 0,
                ram_bytes=each.ram_bytes,
            )
        )
    return made


__all__ = ["FULL", "ask", "copy", "family", "model_snapshots", "world"]
