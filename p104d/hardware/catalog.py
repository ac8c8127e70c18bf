"""Cards by PCI id: what they are called and what they should have.

Sources: device ids from the PCI ID repository (pciids/pciids, ``pci.ids``); memory, bandwidth and power of mining
cards of the Pascal generation from owners' records (see docs/simulated-rig.md); figures of later cards are their
published specifications, not measured by us. Only vendor 10de is meant: 1bc7, for one, is also an Intel device.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from p104d.core.card import Verdict
from p104d.core.units import GIB, MIB

VENDOR = "10de"

#: What a card may report, or be proven to hold, below its nominal size: an unlocked P104-100 reports 8109 or
#: 8192 MiB, a locked one 4042, and up to 2 % of what CUDA sees cannot be allocated by a memory test.
TOLERANCE = 0.05
#: And whatever its size, the driver keeps about 170 MiB of it (83 for itself, 86 for a CUDA context on a P104-100).
DRIVER_BYTES = 256 * MIB


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of card. ``bandwidth`` is bytes per second of its memory, ``power_watts`` its stock limit;
    link generation and width are the best it can do; None where no record was found.

    ``unlocked_bytes`` is what it has after its unlock; ``has_unlock`` is False where such a size was only heard
    of: no owner's record stands behind it, so a card at stock size is no worse than promised.
    """

    name: str
    device_ids: tuple[str, ...]
    stock_bytes: int
    unlocked_bytes: int | None = None
    has_unlock: bool = False
    bandwidth: float | None = None
    power_watts: float | None = None
    link_generation: int | None = None
    link_width: int | None = None
    compute_capability: str | None = None
    mining: bool = False
    notes: str = ""

    @property
    def full_bytes(self) -> int:
        """What the card has at its best: its unlocked size where it has an unlock, else its stock size."""
        return self.unlocked_bytes if self.has_unlock and self.unlocked_bytes else self.stock_bytes


def _card(
    name: str,
    ids: str,
    stock_gib: int,
    bandwidth_gb: float | None,
    power: float | None,
    link: str,
    capability: str,
    **more: object,
) -> CatalogEntry:
    generation, _, width = link.partition("x")
    return msgspec.structs.replace(
        CatalogEntry(
            name=name,
            device_ids=tuple(f"{VENDOR}:{one}" for one in ids.split()),
            stock_bytes=stock_gib * GIB,
            bandwidth=bandwidth_gb * 1e9 if bandwidth_gb else None,
            power_watts=power,
            link_generation=int(generation),
            link_width=int(width),
            compute_capability=capability,
        ),
        **more,
    )


_UNLOCK = "unlocked by flashing a signed ROM; neither the reported size nor the VBIOS version proves that it worked"
_MINING: dict[str, object] = {"mining": True}

ENTRIES: tuple[CatalogEntry, ...] = (
    _card(
        "P104-100",
        "1b87",
        4,
        320,
        180,
        "1x4",
        "6.1",
        mining=True,
        has_unlock=True,
        unlocked_bytes=8 * GIB,
        notes=f"GP104, no ECC, no display; {_UNLOCK}",
    ),
    _card(
        "P102-100",
        "1b07",
        5,
        440,
        250,
        "1x4",
        "6.1",
        mining=True,
        has_unlock=True,
        unlocked_bytes=10 * GIB,
        notes=f"GP102; {_UNLOCK}",
    ),
    _card(
        "P104-101",
        "1bc7",
        4,
        256,
        None,
        "1x4",
        "6.1",
        mining=True,
        unlocked_bytes=8 * GIB,
        notes="8 GB are heard of, without an owner's record",
    ),
    _card("P106-100", "1c07", 6, 192, 120, "1x16", "6.1", **_MINING),
    _card(
        "P106-090",
        "1c09",
        3,
        192,
        75,
        "1x4",
        "6.1",
        mining=True,
        unlocked_bytes=6 * GIB,
        notes="6 GB are heard of, without an owner's record",
    ),
    _card("CMP 30HX", "2189", 6, 336, 125, "1x4", "7.5", **_MINING),
    _card("CMP 40HX", "1f0b", 8, 448, 185, "1x4", "7.5", **_MINING),
    _card("CMP 50HX", "1e09", 10, 560, 250, "1x4", "7.5", **_MINING),
    _card("CMP 70HX", "248a", 8, 608, 220, "1x4", "8.6", **_MINING),
    _card("CMP 90HX", "220d", 10, 760, 250, "1x4", "8.6", **_MINING),
    _card("CMP 170HX", "2082 20c2", 8, 1493, 250, "1x4", "8.0", **_MINING),
    _card("Tesla P40", "1b38", 24, 346, 250, "3x16", "6.1", notes="has ECC"),
    _card("GeForce GTX 1060 3GB", "1c02", 3, 192, 120, "3x16", "6.1"),
    _card("GeForce GTX 1060 6GB", "1c03", 6, 192, 120, "3x16", "6.1"),
    _card("GeForce GTX 1070", "1b81", 8, 256, 150, "3x16", "6.1"),
    _card("GeForce GTX 1070 Ti", "1b82", 8, 256, 180, "3x16", "6.1"),
    _card("GeForce GTX 1080", "1b80", 8, 320, 180, "3x16", "6.1"),
    _card("GeForce GTX 1080 Ti", "1b06", 11, 484, 250, "3x16", "6.1"),
    _card("GeForce RTX 3060", "2503 2504", 12, 360, 170, "4x16", "8.6"),
    _card("GeForce RTX 3060 Ti", "2486 2489", 8, 448, 200, "4x16", "8.6"),
    _card("GeForce RTX 3070", "2484 2488", 8, 448, 220, "4x16", "8.6"),
    _card("GeForce RTX 3090", "2204", 24, 936, 350, "4x16", "8.6"),
)

_BY_ID = {device: entry for entry in ENTRIES for device in entry.device_ids}


_FAMILY_WORDS = frozenset({"NVIDIA", "GEFORCE", "TESLA", "RTX", "GTX", "GRAPHICS", "DEVICE"})


def _plain(name: str) -> str:
    return " ".join(word for word in name.upper().replace("-", " ").split() if word not in _FAMILY_WORDS)


_BY_NAME = {_plain(entry.name): entry for entry in ENTRIES}


@lru_cache(maxsize=256)  # asked for every card in every step of the scheduler
def lookup(device_id: str | None, name: str | None) -> CatalogEntry | None:
    """The entry of a card, by its PCI id (``10de:1b87``) or, where that was not readable, by its name.

    A PCI id of another vendor, or one that is not listed, is not overruled by a name: None.
    """
    if device_id is not None:
        return _BY_ID.get(device_id.lower())
    return _BY_NAME.get(_plain(name)) if name else None


def is_stock_size(entry: CatalogEntry, reported_bytes: int) -> bool:
    """Whether the card reports no more than it left the factory with."""
    return reported_bytes <= entry.stock_bytes * (1 + TOLERANCE)


def first_verdict(entry: CatalogEntry | None, reported_bytes: int | None) -> Verdict:
    """What is known of a card's memory before anything was written to it: ``locked`` or ``unverified``."""
    if entry is not None and entry.has_unlock and reported_bytes and is_stock_size(entry, reported_bytes):
        return Verdict.LOCKED
    return Verdict.UNVERIFIED


@lru_cache(maxsize=256)
def promised_bytes(entry: CatalogEntry | None, reported_bytes: int | None) -> int:
    """What a job that names no ``vram`` may count on, in bytes; 0 where nothing is known of the card.

    For a card with an unlock its unlocked size, so that a locked one refuses such jobs; for others their stock
    size, or less where the card says so itself (a 1060 sold with 3 GB under the id of the 6 GB one);
    for an unlisted card what it reports. All less the tolerance, or what the driver keeps where that is more.
    """
    if entry is None:
        nominal = reported_bytes or 0
    elif entry.has_unlock or not reported_bytes:
        nominal = entry.full_bytes
    else:
        nominal = min(entry.stock_bytes, reported_bytes)
    return max(0, min(int(nominal * (1 - TOLERANCE)), nominal - DRIVER_BYTES))
