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
    link generations and widths are maxima; power limits are watts; ``slowdown_celsius`` and ``shutdown_celsius`` are
    where the driver slows the card down and switches it off.
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
    slowdown_celsius: int | None = None
    shutdown_celsius: int | None = None


class CardReading(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a card. A reading the driver would not give is None, never 0.

    ``processes`` is None where not asked this time or not told. ``throttle`` names reasons as people know them.
    ``fan_manual`` tells whether the fan stands at a speed that somebody set. The PCIe counters are what the driver
    saw in 20 ms, some seconds ago at most.
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
    fan_manual: bool | None = None
    pcie_receive_bytes_per_second: int | None = None
    pcie_transmit_bytes_per_second: int | None = None
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


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What stood behind a card's verdict when it was given: a change of any of it asks for another test.

    ``at`` is Unix time, ``test_id`` the record of the test. Speeds of the link are bytes a second, None where they were
    not measured. ``coverage`` is the part (0..1) of what CUDA has that was tested, ``foreign_bytes`` what processes
    that are not ours held meanwhile, ``text`` what the test found, as people read it.
    """

    at: float
    depth: str
    test_id: int
    driver: str | None
    vbios: str | None
    total_bytes: int | None
    text: str | None = None
    coverage: float | None = None
    foreign_bytes: int = 0
    host_to_device: float | None = None
    device_to_host: float | None = None


class DueTest(msgspec.Struct, frozen=True, kw_only=True):
    """A memory test that is wanted: why, how deeply, by whom (None: by the daemon itself), since when (Unix time).
    ``before`` is what the daemon wanted when somebody asked: who takes his request back leaves that."""

    cause: str
    depth: str
    asked_at: float
    asked_by: str | None = None
    before: DueTest | None = None


class XidEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An XID error as the driver reported it. ``uuid`` is None where only the bus address is known."""

    code: int
    uuid: str | None = None
    bus_id: str | None = None
    pid: int | None = None
    text: str | None = None
