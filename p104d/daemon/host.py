"""What the host itself is doing, by psutil: processor, memory, disks, network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psutil

from p104d.store.telemetry_metrics import HOST_METRICS

log = logging.getLogger(__name__)

_NUMBERS = {metric.name: metric for metric in HOST_METRICS}


class HostReader:
    """``folder`` is on the file system whose free space is told. What cannot be read is absent, and told once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counted: dict[str, tuple[float, int]] = {}
        self._told: set[str] = set()
        self._try("cpu", lambda _now: {"cpu_percent": psutil.cpu_percent()}, 0.0)  # the first answer means nothing

    def read(self, now: float) -> dict[int, int | None]:
        """Values by the number of their metric, as they are kept; ``now`` is CLOCK_MONOTONIC."""
        found: dict[str, float | None] = {}
        for name, part in (("cpu", _cpu), ("memory", _memory), ("disk", self._disk), ("free", self._free)):
            found |= self._try(name, part, now)
        found |= self._try("network", self._network, now)
        return {_NUMBERS[name].number: _NUMBERS[name].kept(value) for name, value in found.items()}

    def _try(self, name: str, part: Callable[[float], dict[str, float | None]], now: float) -> dict[str, float | None]:
        try:
            return part(now)
        except (OSError, psutil.Error, ValueError, RuntimeError, AttributeError) as error:
            if name not in self._told:
                self._told.add(name)
                log.warning("the host's %s cannot be read: %s", name, error, extra={"action": "host"})
            return {}

    def _disk(self, now: float) -> dict[str, float | None]:
        counters = psutil.disk_io_counters()
        if counters is None:
            return {}
        return {
            "disk_read_bytes_per_second": self._rate("read", counters.read_bytes, now),
            "disk_write_bytes_per_second": self._rate("write", counters.write_bytes, now),
        }

    def _network(self, now: float) -> dict[str, float | None]:
        # All interfaces but the host's own loop.
        each = [counters for name, counters in psutil.net_io_counters(pernic=True).items() if name != "lo"]
        received, sent = sum(one.bytes_recv for one in each), sum(one.bytes_sent for one in each)
        return {
            "network_receive_bytes_per_second": self._rate("received", received, now),
            "network_transmit_bytes_per_second": self._rate("sent", sent, now),
        }

    def _free(self, _now: float) -> dict[str, float | None]:
        return {"disk_free_bytes": psutil.disk_usage(str(self._folder)).free}

    def _rate(self, name: str, count: int, now: float) -> float | None:
        """Since the last time; None the first time, and where a counter began anew."""
        before = self._counted.get(name)
        self._counted[name] = (now, count)
        if before is None or now <= before[0] or count < before[1]:
            return None
        return (count - before[1]) / (now - before[0])


def _cpu(_now: float) -> dict[str, float | None]:
    return {"cpu_percent": psutil.cpu_percent()}


def _memory(_now: float) -> dict[str, float | None]:
    memory = psutil.virtual_memory()
    return {"memory_used_bytes": memory.used, "memory_available_bytes": memory.available}
