"""What follows from a card's identity and reading alone."""

from __future__ import annotations

import msgspec

from p104d.core.card import CardIdentity, CardReading, Proof, Verdict
from p104d.hardware.catalog import first_verdict, lookup


def settled_verdict(identity: CardIdentity, before: Verdict) -> Verdict:
    """Locked or not follows from what is reported until a memory test has said more."""
    if before not in (Verdict.UNVERIFIED, Verdict.LOCKED):
        return before
    entry = lookup(identity.device_id, identity.name)
    if identity.memory_total_bytes is None:
        return before
    return first_verdict(entry, identity.memory_total_bytes)


def merged_identity(before: CardIdentity, now: CardIdentity) -> CardIdentity:
    """The newer identity, with what could not be read this time kept from before."""
    gaps = {field: getattr(before, field) for field in CardIdentity.__struct_fields__ if getattr(now, field) is None}
    return msgspec.structs.replace(now, **gaps)


def short_name(identity: CardIdentity) -> str:
    """The catalogue's name of a card, else the driver's."""
    entry = lookup(identity.device_id, identity.name)
    return entry.name if entry else identity.name or identity.uuid


def link_speed(reading: CardReading, identity: CardIdentity) -> float:
    """About what the link carries, bytes a second: 250 MB per lane of generation 1, doubled by each generation."""
    generation = reading.link_generation or identity.link_generation_max or 1
    width = reading.link_width or identity.link_width_max or 1
    return 250e6 * 2.0 ** (generation - 1) * width


def measured_link(proof: Proof | None) -> float | None:
    """What the link was measured to carry to the card, bytes a second, to two digits: equal cards are equal."""
    if proof is None or not proof.host_to_device:
        return None
    return float(f"{proof.host_to_device:.1e}")


def names_of(identity: CardIdentity) -> set[str]:
    """The names a card answers to, in lower case: the driver's, without its maker, and the catalogue's."""
    entry = lookup(identity.device_id, identity.name)
    driver = (identity.name or "").casefold()
    return {driver, driver.removeprefix("nvidia "), entry.name.casefold() if entry else driver} - {""}
