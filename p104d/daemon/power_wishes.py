"""Wishes for a card's settings: from the configuration, for which card, and whether the card already is so."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from p104d.core.card import CardIdentity, CardReading
from p104d.daemon.cardfacts import names_of
from p104d.daemon.config import PowerConfig
from p104d.hardware.messages import CLOCK_FREE, FAN_AUTOMATIC, CardSettings

_WATTS_TOLERANCE = 0.5

Value = float | int | bool


def matches(text: str, identity: CardIdentity) -> bool:
    """Whether ``match`` of a [[card]] means this card: the beginning of its UUID, its index, or a name of it."""
    wanted = text.strip().casefold()
    if wanted.isdigit() and len(wanted) < 4:
        return identity.index == int(wanted)
    uuid = identity.uuid.casefold()
    by_uuid = len(wanted) >= 4 and uuid.startswith((wanted, f"gpu-{wanted}")) and wanted != "gpu-"
    return bool(wanted) and (by_uuid or wanted in names_of(identity))


def from_config(config: PowerConfig) -> CardSettings:
    """A table of the configuration as settings."""
    fan = FAN_AUTOMATIC if config.fan == "auto" else config.fan
    return CardSettings(
        power_limit_watts=config.limit,
        sm_clock_mhz=config.sm_clock,
        memory_clock_mhz=config.memory_clock,
        fan_percent=fan if isinstance(fan, int) else None,
        persistence=config.persistence,
    )


def defaults(identity: CardIdentity, names: Iterable[str]) -> CardSettings:
    """A card's own way; the persistence mode has none, and stays."""
    own: dict[str, Value | None] = {
        "power_limit_watts": identity.power_limit_default_watts,
        "sm_clock_mhz": CLOCK_FREE,
        "memory_clock_mhz": CLOCK_FREE,
        "fan_percent": FAN_AUTOMATIC,
    }
    return msgspec.structs.replace(CardSettings(), **{name: own.get(name) for name in names})


def shows(name: str, value: Value, reading: CardReading) -> bool | None:
    """Whether the card reads as wished; None where that cannot be read. No driver tells a locked clock."""
    if name == "power_limit_watts" and reading.power_limit_watts is not None:
        return abs(reading.power_limit_watts - value) < _WATTS_TOLERANCE
    if name == "persistence" and reading.persistence is not None:
        return reading.persistence == value
    if name == "fan_percent" and reading.fan_manual is not None:
        return reading.fan_manual == (value != FAN_AUTOMATIC)
    return None
