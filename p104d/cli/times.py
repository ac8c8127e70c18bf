"""Times as people give them."""

from __future__ import annotations

import time

from p104d.core.errors import UsageError


def moment(text: str, option: str = "--since") -> str:
    """``2h`` (ago) or an ISO 8601 time, local if it says nothing else, as ISO 8601 in UTC. Raises UsageError."""
    from datetime import datetime

    from p104d.core.units import iso, parse_duration

    try:
        if text[:1].isdigit() and text[-1:].isalpha() and "T" not in text and not text.endswith("Z"):
            return iso(time.time() - parse_duration(text)) or ""
        return iso(datetime.fromisoformat(text).timestamp()) or ""
    except (ValueError, OverflowError, OSError) as error:
        mend = "write it as 90s, 5m, 2h, 7d or 2026-11-23T14:00"
        raise UsageError(f"{option} {text}: not a time", mend=mend) from error


def axis_ticks(since: float, until: float, most: int) -> list[tuple[float, str]]:
    """At most about ``most`` round local times between the two, each with its label.

    A label says what changes from one to the next: the time of day, the day, or the month.
    """
    step = next((each for each in _STEPS if (until - since) / each <= max(1, most)), _STEPS[-1])
    offset = time.localtime(since).tm_gmtoff
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else "%b %d" if step < 300 * 86400 else "%Y"
    first = -(-(since + offset) // step) * step - offset
    ticks = []
    while first < until:
        # Where the clocks were changed since, the round time is an hour off.
        at = first + offset - time.localtime(first).tm_gmtoff
        local = time.localtime(at)
        midnight = step < 86400 and (local.tm_hour, local.tm_min, local.tm_sec) == (0, 0, 0)
        ticks.append((at, time.strftime("%b %d" if midnight else form, local)))
        first += step
    return ticks


_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_STEPS = (
    *(1.0, 5.0, 10.0, 30.0),
    *(_MINUTE, 5 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 3 * _HOUR, 6 * _HOUR, 12 * _HOUR),
    *(_DAY, 2 * _DAY, 7 * _DAY, 14 * _DAY, 30 * _DAY, 90 * _DAY, 365 * _DAY),
    *(n * 365 * _DAY for n in (2, 5, 10, 50, 500)),
)
