"""Copies of models as the policy and as people see them: from their rows and the attempts that run on them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from p104d.core.snapshot import ModelFamily, ResidentModel
from p104d.store import model_facts
from p104d.store.instances import Instance, InstanceState
from p104d.store.reads import OpenAttempt

#: A copy that takes longer than was expected is expected any moment; the policy wants a time that is not past.
_LEAST_LEFT_SECONDS = 1.0


def jobs_on(attempts: Sequence[OpenAttempt]) -> dict[int, OpenAttempt]:
    """The attempt that runs on each copy, by the copy's id."""
    return {attempt.instance_id: attempt for attempt in attempts if attempt.instance_id is not None}


def residents(
    instances: Sequence[Instance], attempts: Sequence[OpenAttempt], pinned: Collection[str], now: float
) -> tuple[ResidentModel, ...]:
    """What placement sees of the copies that are of use. ``pinned`` are paths."""
    busy = jobs_on(attempts)
    return tuple(_resident(each, busy.get(each.id), pinned, now) for each in instances if each.usable)


def _resident(instance: Instance, attempt: OpenAttempt | None, pinned: Collection[str], now: float) -> ResidentModel:
    return ResidentModel(
        id=instance.id,
        family=instance.family,
        label=instance.label,
        cards=instance.uuids,
        last_used=instance.last_used_at,
        job_id=attempt.job_id if attempt is not None else None,
        busy_since=(attempt.started_at or attempt.placed_at) if attempt is not None else None,
        ready_at=None if instance.state is InstanceState.READY else expected(instance, now),
        pinned=instance.path in pinned,
        ram_bytes=instance.ram_bytes,
    )


def expected(instance: Instance, now: float) -> float:
    """When a copy that is being loaded should be ready; Unix seconds."""
    seconds = instance.loaded.load_seconds * instance.slowness
    # One more copy must never seem to be there before the one that is on its way.
    return max(instance.created_at + seconds, now + min(_LEAST_LEFT_SECONDS, seconds / 2))


def family_of(instance: Instance) -> ModelFamily:
    """The family of a copy for which no job waits."""
    return ModelFamily(
        key=instance.family,
        label=instance.label,
        cards=len(instance.cards),
        fits=instance.loaded.fits or instance.uuids,
        load_seconds=instance.loaded.load_seconds,
        ram_bytes=instance.ram_bytes,
    )


def with_runs(conn: Connection, families: Mapping[str, ModelFamily]) -> tuple[ModelFamily, ...]:
    """The families with what their jobs took so far, by key."""
    if not families:
        return ()
    known = model_facts.runs(conn, sorted(families))
    return tuple(
        msgspec.structs.replace(family, mean_seconds=known[key].seconds / known[key].count, seen=known[key].count)
        if key in known
        else family
        for key, family in sorted(families.items())
    )


def processes(attempts: Sequence[OpenAttempt], instances: Sequence[Instance]) -> list[tuple[int, str, int]]:
    """(pid, card, bytes) as a made-up rig shows them: a job's process, or its model's server, uses what it reserved."""
    found = [
        (attempt.pid, uuid, reserved)
        for attempt in attempts
        if attempt.pid is not None and attempt.instance_id is None
        for uuid, reserved, _exclusive in attempt.holds
    ]
    found += [
        (each.pid, card.uuid, card.reserved_bytes) for each in instances if each.pid is not None for card in each.cards
    ]
    return found
