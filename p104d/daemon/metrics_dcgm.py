"""The same readings under the names that NVIDIA's dcgm-exporter gives them, for those who have its dashboards.

Names, units and labels follow the fields of DCGM (dcgm_fields.h) and dcgm-exporter's default counters: MiB, MHz, per
cent. Fields that DCGM has and the driver of these cards does not tell are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from p104d.api.messages import Card
from p104d.core.units import MIB

_LABELS = ["gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname"]


def _used(card: Card) -> float | None:
    return None if card.memory_used_bytes is None else card.memory_used_bytes / MIB


def _total(card: Card) -> float | None:
    # DCGM tells of no card that is not there.
    return None if card.memory_used_bytes is None or not card.memory_total_bytes else card.memory_total_bytes / MIB


def _free(card: Card) -> float | None:
    used, total = _used(card), _total(card)
    return None if used is None or total is None else max(0.0, total - used)


DCGM_GAUGES: tuple[tuple[str, str, Callable[[Card], float | None]], ...] = (
    ("SM_CLOCK", "SM clock (MHz).", lambda card: card.sm_clock_mhz),
    ("MEM_CLOCK", "Memory clock (MHz).", lambda card: card.memory_clock_mhz),
    ("GPU_TEMP", "GPU temperature (degrees Celsius).", lambda card: card.temperature_celsius),
    ("POWER_USAGE", "Power drawn (W).", lambda card: card.power_watts),
    ("POWER_MGMT_LIMIT", "Power limit in force (W).", lambda card: card.power_limit_watts),
    ("GPU_UTIL", "GPU utilisation (per cent).", lambda card: card.utilization_percent),
    ("MEM_COPY_UTIL", "Memory utilisation (per cent).", lambda card: card.memory_utilization_percent),
    ("FAN_SPEED", "Fan speed (per cent).", lambda card: card.fan_percent),
    ("FB_TOTAL", "Framebuffer memory (MiB).", _total),
    ("FB_USED", "Framebuffer memory in use (MiB).", _used),
    ("FB_FREE", "Framebuffer memory not in use, the driver's own reserve included (MiB).", _free),
    ("PCIE_LINK_GEN", "PCIe generation of the link as it is.", lambda card: card.link_generation),
    ("PCIE_LINK_WIDTH", "PCIe lanes of the link as it is.", lambda card: card.link_width),
    ("PCIE_MAX_LINK_GEN", "PCIe generation that card and slot can have.", lambda card: card.link_generation_max),
    ("PCIE_MAX_LINK_WIDTH", "PCIe lanes that card and slot can have.", lambda card: card.link_width_max),
)


def dcgm_families(cards: Sequence[Card], hostname: str, last_xid: Mapping[str, int]) -> Iterator[Metric]:
    """The families of cards that are there; ``last_xid`` is the last XID code of each, 0 where there was none."""
    present = [card for card in cards if card.state != "missing"]
    labels = {card.uuid: _labels(card, hostname) for card in present}
    for name, text, read in DCGM_GAUGES:
        family = GaugeMetricFamily(f"DCGM_FI_DEV_{name}", text, labels=_LABELS)
        for card in present:
            value = read(card)
            if value is not None:
                family.add_metric(labels[card.uuid], value)
        yield family
    xids = GaugeMetricFamily("DCGM_FI_DEV_XID_ERRORS", "Code of the last XID error; 0: none yet.", labels=_LABELS)
    for card in present:
        xids.add_metric(labels[card.uuid], last_xid.get(card.uuid, 0))
    yield xids


def _labels(card: Card, hostname: str) -> list[str]:
    index = "" if card.index is None else str(card.index)
    return [index, card.uuid, card.bus_id or "", f"nvidia{index}", card.name or "", hostname]
