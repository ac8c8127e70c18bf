"""What people are told of a card's settings: what they are, why one is refused, and the mend."""

from __future__ import annotations

from p104d.core.card import CardIdentity
from p104d.hardware.messages import CLOCK_FREE, FAN_AUTOMATIC, Refused

_NAMES = {
    "power_limit_watts": ("power limit", "W", "limit"),
    "sm_clock_mhz": ("SM clock limit", "MHz", "sm_clock"),
    "memory_clock_mhz": ("memory clock limit", "MHz", "memory_clock"),
    "fan_percent": ("fan", "%", "fan"),
    "persistence": ("persistence mode", "", "persistence"),
}


def setting_text(name: str, value: float | bool) -> str:
    """``power limit 140 W``, ``SM clock limit off``, ``fan auto``, ``persistence mode on``."""
    title, unit, _key = _NAMES[name]
    if name == "persistence":
        return f"{title} {'on' if value else 'off'}"
    if name == "fan_percent":
        return f"{title} auto" if value == FAN_AUTOMATIC else f"{title} {value:g} {unit}"
    if value == CLOCK_FREE and unit == "MHz":
        return f"{title} off"
    return f"{title} {value:g} {unit}"


def bounds_refusal(identity: CardIdentity, name: str, value: float | bool) -> str | None:
    """Why a card cannot be set so, as far as its own bounds tell; None: it may be tried. They are known of the power
    limit alone; of what else it is set to the driver is the judge."""
    low, high = identity.power_limit_min_watts, identity.power_limit_max_watts
    if name != "power_limit_watts" or low is None or high is None or low <= value <= high:
        return None
    return f"the card allows {low:g} to {high:g} W"


def mend(name: str, refused: Refused | None) -> str:
    """What a person does about a refusal."""
    key = _NAMES[name][2]
    return {
        Refused.NOT_SUPPORTED: f"the card or its driver cannot do that: leave {key} out for this card",
        Refused.NO_PERMISSION: (
            "only root with CAP_SYS_ADMIN may: systemctl edit p104d, as docs/configuration.md says under Power and heat"
        ),
        Refused.OUT_OF_BOUNDS: f"choose {key} within the card's bounds",
        Refused.HANG: "it is not tried again until it is asked anew; a driver of another version may do it",
        Refused.INTERRUPTED: "it is not tried again until it is asked anew; see the daemon's log",
    }.get(refused or Refused.FAILED, "see the daemon's log and dmesg")


def warning(index: int, name: str, value: float | bool, refused: Refused | None, text: str | None) -> str:
    """One line for ``status``."""
    why = text or (refused.value.replace("_", " ") if refused else "refused")
    return f"card {index}: {setting_text(name, value)} is refused ({why}); {mend(name, refused)}"
