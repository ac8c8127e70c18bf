"""The cards as people see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from p104d.api import messages as m
from p104d.core.card import CardReading, CardState
from p104d.core.snapshot import Hold
from p104d.core.units import iso
from p104d.daemon.proofs import Proofs
from p104d.daemon.rig import Rig, holds_by_card
from p104d.hardware.catalog import lookup
from p104d.store.cards import CardRecord
from p104d.store.instances import Instance
from p104d.store.reads import OpenAttempt


def messages(rig: Rig, proofs: Proofs, attempts: Sequence[OpenAttempt], copies: Sequence[Instance]) -> list[m.Card]:
    """What people see, by index; missing cards last."""
    holds, models = holds_by_card(attempts), _models(copies)
    present = frozenset(rig.records[uuid].identity.index for uuid in rig.sights)
    cards = [_message(rig, proofs, uuid, holds.get(uuid, ()), models.get(uuid, ()), present) for uuid in rig.records]
    last = 1 << 30
    return sorted(
        cards, key=lambda card: (card.state == "missing", last if card.index is None else card.index, card.uuid)
    )


def _models(copies: Sequence[Instance]) -> dict[str, list[tuple[str, int]]]:
    """(Name, reserved bytes) of the copies on each card."""
    found: dict[str, list[tuple[str, int]]] = {}
    for copy in copies:
        for card in copy.cards:
            found.setdefault(card.uuid, []).append((copy.label, card.reserved_bytes))
    return found


def _message(
    rig: Rig,
    proofs: Proofs,
    uuid: str,
    holds: Sequence[Hold],
    models: Sequence[tuple[str, int]],
    taken: frozenset[int],
) -> m.Card:
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
        # A job on a copy holds what the copy has reserved.
        memory_reserved_bytes=sum(hold.reserved_bytes for hold in holds) or sum(size for _, size in models),
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
        models=[name for name, _ in models],
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
        **_proof(rig, proofs, record),
    )


def _proof(rig: Rig, proofs: Proofs, record: CardRecord) -> dict[str, Any]:
    """What the card's tests tell: the last one that was judged, the one under way, the one that is due."""
    running, due, proof = proofs.running.get(record.identity.uuid), rig.due(record), record.proof
    said = running.progress if running is not None else None
    return {
        "verified_at": iso(proof.at) if proof is not None else None,
        "verified_depth": proof.depth if proof is not None else None,
        "verified_percent": round(100 * said.fraction, 1) if said is not None else 0.0 if running is not None else None,
        "test_due": due.cause if due is not None and running is None else None,
        "host_to_device_bytes_per_second": proof.host_to_device if proof is not None else None,
        "device_to_host_bytes_per_second": proof.device_to_host if proof is not None else None,
    }
