"""A simulated rig: its cards, what happens to them when, and the file that describes it.

The values here travel to the sensor process, so this module stays light; reading the file is in ``rigfile``.
"""

from __future__ import annotations

import msgspec

#: What can happen to a card. ``gone`` (absent from the bus) and ``moved`` (at another bus address) are for tests.
FAULT_KINDS = ("lost", "unknown", "hang", "xid", "driver_reload", "hot", "slow", "gone", "moved")


class BadBit(msgspec.Struct, frozen=True, kw_only=True):
    """A cell that does not hold: ``bit`` (0-7) of the byte at ``address`` always reads ``stuck_at``."""

    address: int
    bit: int
    stuck_at: int


class RigCard(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated card. Sizes in bytes, limits in watts, ``host_to_device`` and ``memory_bandwidth`` in bytes per
    second.

    ``link_generation`` and ``link_width`` are the current ones; ``temperature`` is that of the idle card (Celsius).
    ``unsupported`` names NVML functions (or endings of them, ``GetFanSpeed``) that answer NOT_SUPPORTED.
    """

    name: str
    uuid: str
    bus_id: str
    device_id: str
    subsystem_id: str
    vbios: str
    memory: int
    physical_memory: int
    bad_bits: tuple[BadBit, ...] = ()
    link_generation: int
    link_width: int
    link_generation_max: int
    link_width_max: int
    host_to_device: float
    memory_bandwidth: float = 256e9
    memory_used_by_others: int = 0
    power_limit: float
    power_limit_min: float
    power_limit_max: float
    power_limit_default: float
    temperature: float = 34.0
    compute_capability: str
    unsupported: tuple[str, ...] = ()


class RigFault(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happens ``at`` seconds after the start and lasts ``seconds`` (None: for good).

    ``card`` is the position in the rig file; None for a ``driver_reload``, which meets all. A ``driver_reload``
    without ``seconds`` is over at once: the next nvmlInit succeeds. ``bus_id`` is where a ``moved`` card is found.
    """

    at: float
    kind: str
    card: int | None = None
    code: int | None = None
    seconds: float | None = None
    bus_id: str | None = None

    def active(self, now: float) -> bool:
        """Whether it is going on ``now`` seconds after the start."""
        return self.at <= now and (self.seconds is None or now < self.at + self.seconds)


class RigProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process that is not ours: ``memory`` bytes of a card from ``at`` on, for ``seconds`` (None: for good)."""

    card: int
    memory: int
    at: float = 0.0
    seconds: float | None = None
    pid: int

    def active(self, now: float) -> bool:
        """Whether it runs ``now`` seconds after the start."""
        return self.at <= now and (self.seconds is None or now < self.at + self.seconds)


class Rig(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated rig. ``source`` is the file it was read from, or what it is; ``speedup`` how many times faster than
    on real cards memory tests run on it."""

    cards: tuple[RigCard, ...]
    faults: tuple[RigFault, ...] = ()
    processes: tuple[RigProcess, ...] = ()
    driver_version: str = "580.95.05"
    speedup: float = 10.0
    source: str = "a simulated rig"


def load_rig(path: str) -> Rig:
    """The rig that the TOML file at ``path`` describes. Raises core.errors.UsageError naming file, key and mend."""
    from p104d.hardware import rigfile  # the sensor imports this module and needs no TOML reader

    return rigfile.load(path)


def healthy_rig(count: int) -> Rig:
    """``count`` healthy unlocked P104-100. Raises core.errors.UsageError for a count no host has."""
    from p104d.hardware import rigfile

    return rigfile.healthy(count)
