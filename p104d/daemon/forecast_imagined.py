"""The rig of ``p104ctl plan --cards N``: cards that nobody has, a host that nobody uses."""

from __future__ import annotations

from collections.abc import Sequence

from p104d.core.snapshot import CardView, HostView
from p104d.core.units import GIB
from p104d.hardware.catalog import lookup, promised_bytes

_IMAGINED = "P104-100"


def imagined(views: Sequence[CardView], count: int) -> tuple[CardView, ...]:
    """``count`` empty cards like the best there is, or a P104-100 with its whole 8 GiB."""
    best = max(
        views, key=lambda card: (card.closed is None, card.capacity_bytes, card.link_bytes_per_second), default=None
    )
    promised = promised_bytes(lookup(None, _IMAGINED), 8 * GIB) if best is None else best.promised_bytes
    size = promised if best is None else max(best.capacity_bytes, promised)
    return tuple(
        CardView(
            uuid=f"imagined-{place}",
            index=place,
            name=_IMAGINED if best is None else best.name,
            capacity_bytes=size,
            promised_bytes=promised,
            link_bytes_per_second=0.0 if best is None else best.link_bytes_per_second,
        )
        for place in range(count)
    )


def unused(host: HostView) -> HostView:
    """The same host with nothing reserved."""
    return HostView(
        ram_free_bytes=host.ram_total_bytes,
        ram_total_bytes=host.ram_total_bytes,
        cpu_slots_free=host.cpu_slots_total,
        cpu_slots_total=host.cpu_slots_total,
    )
