"""A card's SM clock under load against its own history: a card that has grown slow has lost cooling, power or health.

What a clock should be nobody knows beforehand: it follows the kind of card, its chip, its power limit, its work. So a
card is compared with itself, under the same limits only.
"""

from __future__ import annotations

import msgspec

from p104d.core.card import CardIdentity, CardReading
from p104d.policy.health import THROTTLE_NOTES

#: A load at which the driver gives the clock it can; below it a lower clock may only mean less to do.
LOADED_PERCENT = 90
#: The time constant of a history: about a day of load. A drop that stays becomes the usual in a day or two.
SLOW_SECONDS = 86_400.0
#: Load without which a history is none yet: a single job's beginning.
ENOUGH_SECONDS = 600.0
#: A part of the usual clock; the heat of a summer's day or of three neighbours took 14 % on a rig on record.
DROP = 0.15

_POWER_CAP = THROTTLE_NOTES[0x04]
_WATTS_TOLERANCE = 0.5


class ClockHistory(msgspec.Struct, frozen=True):
    """The usual SM clock under load in MHz, and the seconds of load it was learned from."""

    mhz: float
    seconds: float


def tells(reading: CardReading, identity: CardIdentity) -> bool:
    """Whether the clock of this reading says something of the card: it is loaded, and it is not a power limit below the
    default, which somebody chose, that holds the clock down (then the clock follows the work)."""
    if (reading.utilization_percent or 0) < LOADED_PERCENT or not reading.sm_clock_mhz:
        return False
    limit, default = reading.power_limit_watts, identity.power_limit_default_watts
    chosen = limit is not None and default is not None and limit < default - _WATTS_TOLERANCE
    return not (chosen and _POWER_CAP in reading.throttle)


def learned(history: ClockHistory | None, mhz: float, seconds: float) -> ClockHistory:
    """The history with ``seconds`` of load at ``mhz`` more: the plain mean at first, a slow average later.

    While the clock is below the usual by too much it is learned slowly from the start, or a young history would follow
    at once.
    """
    if history is None:
        return ClockHistory(mhz, seconds)
    total = history.seconds + seconds
    memory = SLOW_SECONDS if dropped(history, mhz) is not None else min(total, SLOW_SECONDS)
    return ClockHistory(history.mhz + (mhz - history.mhz) * min(1.0, seconds / memory), total)


def dropped(history: ClockHistory | None, mhz: float) -> float | None:
    """By which part ``mhz`` is below the usual, where that is too much; None: it is not, or too little is known."""
    if history is None or history.seconds < ENOUGH_SECONDS or history.mhz <= 0:
        return None
    part = 1.0 - mhz / history.mhz
    return part if part > DROP else None
