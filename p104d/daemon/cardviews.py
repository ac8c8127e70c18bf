"""The cards as people see them."""

from __future__ import annotations

from collections.abc import Sequence

from p104d.api import messages as m
from p104d.core.card import CardReading, CardState
from p104d.core.snapshot import Hold
from p104d.core.units import iso
from p104d.daemon.rig import Rig, holds_by_card
from p104d.hardware.catalog import lookup
from p104d.store.reads import OpenAttempt


def messages(rig: Rig, attempts: Sequence[OpenAttempt]) -> list[m.Card]:
    """What people see, by index; missing cards last."""
    holds = holds_by_card(attempts)
    present = frozenset(rig.records[uuid].identity.index for uuid in rig.sights)
    cards = [_message(rig, uuid, holds.get(uuid, ()), present) for uuid in rig.records]
    last = 1 << 30
    return sorted(
        cards, key=lambda card: (card.state == "missing", last if card.index is None else card.index, card.uuid)
    )


def _message(rig: Rig, uuid: str, holds: Sequence[Hold], taken: frozenset[int]) -> m.Card:
    record, sight = rig.records[uuid], rig.sights.get(uuid)
    identity = record.identity
    condition = rig.condition(uuid, [hold.job_id for hold in holds])
    gone = condition.state is CardState.MISSING
    reading = sight.report.reading if sight and not gone else CardReading()
    entry = lookup(identity.device_id, identity.name)
    return m.Card(
        # A missing card's old index may be another's by now: one index, one card.
        index=None if gone and identity.index in taken else identity.index,
        uuid=uuid,
        name=identity.name or (entry.name if entry else None),
        bus_id=identity.bus_id,
        device_id=identity.device_id,
        vbios=identity.vbios,
        verdict=record.verdict.value,
        state=condition.state.value,
        memory_total_bytes=identity.memory_total_bytes,
        memory_used_bytes=reading.memory_used_bytes,
        memory_reserved_bytes=sum(hold.reserved_bytes for hold in holds),
        memory_proven_bytes=record.proven_bytes,
        temperature_celsius=reading.temperature_celsius,
        power_watts=reading.power_watts,
        power_limit_watts=reading.power_limit_watts,
        utilization_percent=reading.utilization_percent,
        fan_percent=reading.fan_percent,
        link_generation=reading.link_generation,
        link_width=reading.link_width,
        throttle=list(reading.throttle),
        jobs=sorted({hold.job_id for hold in holds}),
        models=[],
        note=condition.note,
        catalog_name=entry.name if entry else None,
        driver=record.driver,
        subsystem_id=identity.subsystem_id,
        compute_capability=identity.compute_capability,
        memory_capacity_bytes=rig.capacity(record) or None,
        memory_foreign_bytes=sight.foreign_bytes if sight and not gone else None,
        link_generation_max=identity.link_generation_max,
        link_width_max=identity.link_width_max,
        power_limit_min_watts=identity.power_limit_min_watts,
        power_limit_max_watts=identity.power_limit_max_watts,
        power_limit_default_watts=identity.power_limit_default_watts,
        memory_utilization_percent=reading.memory_utilization_percent,
        sm_clock_mhz=reading.sm_clock_mhz,
        memory_clock_mhz=reading.memory_clock_mhz,
        persistence=reading.persistence,
        first_seen_at=iso(record.first_seen_at),
        last_seen_at=iso(sight.seen_at if sight and not gone else record.last_seen_at),
    )
