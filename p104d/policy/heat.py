"""When a card is too hot for more work, and when for any. Each limit is left only some degrees below it, so that a card
at the limit does not go in and out of service."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Heat(StrEnum):
    """What a card's temperature allows."""

    OK = "ok"
    NO_NEW = "no_new"
    STOP = "stop"


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Degrees Celsius: from ``no_new`` on a card takes no new job, from ``stop`` on it keeps none. A limit is left
    ``hysteresis`` below itself."""

    no_new: int
    stop: int
    hysteresis: int


def heat_state(before: Heat, temperature: int | None, limits: Thresholds) -> Heat:
    """What a card's temperature allows now. Where it cannot be read, what it allowed ``before``: a card that was hot
    and falls silent has not cooled down for all we know."""
    if temperature is None:
        return before
    stop = limits.stop - (limits.hysteresis if before is Heat.STOP else 0)
    if temperature >= stop:
        return Heat.STOP
    no_new = limits.no_new - (limits.hysteresis if before is not Heat.OK else 0)
    return Heat.NO_NEW if temperature >= no_new else Heat.OK
