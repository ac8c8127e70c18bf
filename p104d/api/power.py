"""The wire of ``p104ctl power``: what is asked of cards' settings, what they are kept at and how they stand."""

from __future__ import annotations

import msgspec


class PowerRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a person asks of cards (named by index, UUID or name); null leaves what was asked before.

    A clock of 0 lifts its limit. ``reset`` forgets all that people asked of these cards before: the configuration
    rules again, and what it says nothing of goes back to the card's own default.
    """

    cards: list[str]
    power_limit_watts: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    fan_percent: int | None = None
    fan_automatic: bool = False
    persistence: bool | None = None
    reset: bool = False


class PowerValues(msgspec.Struct, kw_only=True):
    """Settings of a card; null: nothing is wished, or nothing can be read. Clocks are limits, 0: none."""

    power_limit_watts: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    fan_percent: int | None = None
    fan_automatic: bool | None = None
    persistence: bool | None = None


class PowerRefusal(msgspec.Struct, kw_only=True):
    """A setting that is wished and that the card does not have: which, why in the driver's words, and the mend."""

    setting: str
    reason: str
    text: str
    mend: str


class PowerCard(msgspec.Struct, kw_only=True):
    """One card's settings. ``configured`` is the configuration's wish, ``asked`` what a person asked, which wins;
    ``wished`` both together, ``actual`` what the card reads (the clocks as they are now, not their limits)."""

    index: int | None
    uuid: str
    name: str | None
    catalog_name: str | None
    bus_id: str | None
    wished: PowerValues
    configured: PowerValues
    asked: PowerValues
    actual: PowerValues
    power_watts: float | None
    power_limit_min_watts: float | None
    power_limit_max_watts: float | None
    power_limit_default_watts: float | None
    pending: bool
    refused: list[PowerRefusal]


class PowerCards(msgspec.Struct):
    """The cards' settings, by index."""

    cards: list[PowerCard]
