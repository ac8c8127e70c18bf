"""What is recorded over time: every metric with its number, its unit and the whole number that it is kept as.

Numbers and scales are in the files of every rig: a metric may be added, never renumbered, renamed or rescaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from p104d.core.units import MIB
from p104d.policy.health import THROTTLE_ALARMS, THROTTLE_NOTES

#: The entity that the host's own metrics belong to; all others are UUIDs of cards.
HOST = "host"
#: The bit of "idle" among throttle reasons: it is a reason for a low clock, and no throttling.
IDLE_BIT = 0x01
_BITS = {text: bit for bit, text in (*THROTTLE_NOTES.items(), *THROTTLE_ALARMS.items())}


class Metric(msgspec.Struct, frozen=True):
    """``number`` stands for it in files. A value is kept as a whole number of ``times`` units, or of ``parts`` of one
    unit. ``bits``: a set of flags, of which a minimum is those that always held, a maximum those that ever held, and a
    mean the share of the time in which any held (idle not counted)."""

    number: int
    name: str
    unit: str
    times: int = 1
    parts: int = 1
    bits: bool = False

    @property
    def scale(self) -> float:
        """What one of the whole numbers is worth in ``unit``."""
        return self.times / self.parts

    def kept(self, value: float | None) -> int | None:
        """``value`` as it is written; None stays None."""
        return None if value is None else round(value * self.parts / self.times)


#: Names are those of ``core.card.CardReading``, but for ``throttle_bits``.
CARD_METRICS = (
    Metric(1, "temperature_celsius", "celsius"),
    Metric(2, "fan_percent", "percent"),
    Metric(3, "power_watts", "watts", parts=10),
    Metric(4, "power_limit_watts", "watts", parts=10),
    Metric(5, "sm_clock_mhz", "mhz"),
    Metric(6, "memory_clock_mhz", "mhz"),
    Metric(7, "utilization_percent", "percent"),
    Metric(8, "memory_utilization_percent", "percent"),
    Metric(9, "memory_used_bytes", "bytes", MIB),
    Metric(10, "throttle_bits", "bits", bits=True),
    Metric(11, "link_generation", ""),
    Metric(12, "link_width", "lanes"),
    Metric(13, "pcie_receive_bytes_per_second", "bytes/s", 1000),
    Metric(14, "pcie_transmit_bytes_per_second", "bytes/s", 1000),
)
#: Of the host as a whole; ``disk_free_bytes`` is of the file system that the daemon's state is on.
HOST_METRICS = (
    Metric(40, "cpu_percent", "percent", parts=10),
    Metric(41, "memory_used_bytes", "bytes", MIB),
    Metric(42, "memory_available_bytes", "bytes", MIB),
    Metric(43, "disk_read_bytes_per_second", "bytes/s", 1000),
    Metric(44, "disk_write_bytes_per_second", "bytes/s", 1000),
    Metric(45, "disk_free_bytes", "bytes", MIB),
    Metric(46, "network_receive_bytes_per_second", "bytes/s", 1000),
    Metric(47, "network_transmit_bytes_per_second", "bytes/s", 1000),
)
ALL_METRICS = (*CARD_METRICS, *HOST_METRICS)
BY_NUMBER = {metric.number: metric for metric in ALL_METRICS}


def metric_of(entity: str, name: str) -> Metric | None:
    """The metric ``name`` of a card's UUID or of ``HOST``; None: there is none."""
    return next((each for each in (HOST_METRICS if entity == HOST else CARD_METRICS) if each.name == name), None)


@lru_cache(maxsize=256)
def throttle_bits(names: Sequence[str]) -> int:
    """The driver's clock event bits behind the names of ``CardReading.throttle`` (a tuple); 0 for none."""
    mask = 0
    for name in names:
        mask |= _BITS[name] if name in _BITS else _unnamed(name)
    # SQLite's integers are signed; no driver has a reason that high.
    return mask & (2**62 - 1)


def _unnamed(name: str) -> int:
    try:
        return int(name, 16)
    except ValueError:
        return 0
