"""Sizes, durations and times as people write them and as programs keep them."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SIZE_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGT]i?B|B)\s*", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(ms|s|m|h|d|w)\s*", re.ASCII)

MIB = 2**20
GIB = 2**30

#: An emergency backstop, not a limit anyone meets: larger than any memory a card or host has.
MAX_SIZE_BYTES = 2**50
#: Ten years. A longer limit is a typing error.
MAX_DURATION_SECONDS = 10 * 365 * 86400.0


def parse_size(text: str) -> int:
    """Bytes in ``text`` such as ``7500MiB``, ``2 GB`` or ``1.5GiB``.

    Raises ValueError for anything else, a size without a unit included: whether
    a bare 7500 means MiB or bytes is a guess nobody should make.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write it as 7500MiB, 2GiB, 500MB")
    size = int(float(match[1]) * _SIZE_UNITS[match[2].upper()])
    if not 0 < size <= MAX_SIZE_BYTES:
        raise ValueError(f"{text!r} is out of range; sizes go from 1B to 1024TiB")
    return size


def parse_duration(text: str) -> float:
    """Seconds in ``text`` such as ``90s``, ``5m``, ``2h`` or ``1d``. Raises ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 5m, 2h, 1d")
    seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if not 0 < seconds <= MAX_DURATION_SECONDS:
        raise ValueError(f"{text!r} is out of range; durations go from 1ms to ten years")
    return seconds


def format_size(size: int | None) -> str:
    """``size`` bytes for people: ``7.9 GiB``, ``512 MiB``; ``-`` where unknown."""
    if size is None:
        return "-"
    if size < MIB:
        return f"{size} B" if size < 1024 else f"{size / 1024:.0f} KiB"
    if size < GIB:
        return f"{size / MIB:.0f} MiB"
    return f"{size / GIB:.1f} GiB"


def format_duration(seconds: float | None) -> str:
    """``seconds`` for people: ``0.4s``, ``12s``, ``3m05s``, ``2h07m``, ``3d04h``; ``-`` where unknown."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def iso(timestamp: float | None) -> str | None:
    """Unix seconds as ISO 8601 in UTC with an offset and milliseconds, as every ``--json`` prints times."""
    if timestamp is None:
        return None
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")
