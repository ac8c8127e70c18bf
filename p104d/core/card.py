"""What is known of a card: who it is, what it reads, what it was found to be."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """What the proof of memory found. Kept over a restart."""

    UNVERIFIED = "unverified"
    PROVEN = "proven"
    LOCKED = "locked"
    ALIASED = "aliased"
    FAULTY = "faulty"
    FAILED = "failed"


class CardState(StrEnum):
    """What a card is doing, as people are shown it."""

    READY = "ready"
    BUSY = "busy"
    VERIFYING = "verifying"
    DRAINING = "draining"
    DRAINED = "drained"
    SUSPECT = "suspect"
    MISSING = "missing"


class ProcessUse(msgspec.Struct, frozen=True):
    """One process seen on a card by the driver. ``memory_bytes`` is None where the driver does not tell."""

    pid: int
    memory_bytes: int | None


class CardIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change while a card is plugged in. Everything but ``uuid`` may be unreadable (None).

    ``bus_id`` is ``00000000:01:00.0`` as NVML prints it; ``device_id`` and ``subsystem_id`` are ``10de:1b87``;
    link generations and widths are maxima; power limits are watts.
    """

    uuid: str
    index: int
    name: str | None = None
    bus_id: str | None = None
    device_id: str | None = None
    subsystem_id: str | None = None
    vbios: str | None = None
    memory_total_bytes: int | None = None
    link_generation_max: int | None = None
    link_width_max: int | None = None
    power_limit_min_watts: float | None = None
    power_limit_max_watts: float | None = None
    power_limit_default_watts: float | None = None
    compute_capability: str | None = None


class CardReading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card. A reading the driver would not give is None, never 0.

    ``processes`` is None where not asked this time or not told. ``throttle`` names reasons as people know them.
    """

    memory_used_bytes: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    utilization_percent: int | None = None
    memory_utilization_percent: int | None = None
    fan_percent: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    link_generation: int | None = None
    link_width: int | None = None
    persistence: bool | None = None
    throttle: tuple[str, ...] = ()
    processes: tuple[ProcessUse, ...] | None = None


class CardReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensor says of one card in one cycle.

    ``fault`` is None for a card that answers; otherwise a word for what is wrong: ``lost`` (fell off the bus),
    ``unknown`` (the driver answers every question with an unknown error), ``hang`` (a call did not return),
    ``reset_required``; ``fault_text`` is the driver's own message.
    """

    identity: CardIdentity
    reading: CardReading
    fault: str | None = None
    fault_text: str | None = None


class XidEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An XID error as the driver reported it. ``uuid`` is None where only the bus address is known."""

    code: int
    uuid: str | None = None
    bus_id: str | None = None
    pid: int | None = None
    text: str | None = None
