"""What sensor and daemon tell each other: one packet a message, over a socket pair that keeps their borders."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from p104d.core.card import CardReport, XidEvent
from p104d.hardware.rig import Rig


class DriverProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why the driver (or a part of it) cannot be asked, and what a person does about it.

    ``kind`` is one of ``no_pynvml``, ``shadowed``, ``no_driver``, ``not_loaded``, ``no_permission``,
    ``version_mismatch``, ``driver_error``, ``card_unreadable``, ``card_hangs``, ``hang`` (the driver as a whole does
    not answer) and ``sensor`` (the sensor process keeps dying). Cards may be known beside a problem.
    """

    kind: str
    message: str
    mend: str


#: ``CardSettings.fan_percent`` of a fan that the driver is to rule.
FAN_AUTOMATIC = -1
#: A clock of ``CardSettings`` whose limit is to be lifted.
CLOCK_FREE = 0


class CardSettings(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is to be set on a card; None: left as it is.

    Watts; MHz that the clock shall not exceed (0: no limit); per cent (-1: the driver rules the fan). ``persistence``:
    the driver stays loaded without a client.
    """

    power_limit_watts: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    fan_percent: int | None = None
    persistence: bool | None = None

    def items(self) -> dict[str, float | int | bool]:
        """What is not None, by name."""
        found = ((name, getattr(self, name)) for name in self.__struct_fields__)
        return {name: value for name, value in found if value is not None}

    def merged(self, over: CardSettings) -> CardSettings:
        """These, with those of ``over`` where it says something."""
        return msgspec.structs.replace(self, **over.items())


class Refused(StrEnum):
    """Why a setting was not applied. ``interrupted``: it was not tried, or nobody knows; it may be asked again."""

    NOT_SUPPORTED = "not_supported"
    NO_PERMISSION = "no_permission"
    OUT_OF_BOUNDS = "out_of_bounds"
    GONE = "gone"
    HANG = "hang"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class SettingResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one setting: ``name`` is a field of CardSettings, ``value`` what was asked. ``refused`` None: it
    was applied; otherwise ``text`` holds the driver's own words."""

    uuid: str
    name: str
    value: float | int | bool
    refused: Refused | None = None
    text: str | None = None


def refuse_all(uuid: str, settings: CardSettings, refused: Refused, text: str) -> list[SettingResult]:
    """The same answer to each of ``settings``."""
    named = settings.items().items()
    return [SettingResult(uuid=uuid, name=name, value=value, refused=refused, text=text) for name, value in named]


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the whole rig.

    ``at`` is Unix time, ``monotonic`` the same moment on CLOCK_MONOTONIC. ``sequence`` grows by one from cycle to
    cycle, over restarts of the sensor too. ``kernel_sequence`` is the last kernel log record seen, None where the
    log cannot be read. ``opened_at`` is the CLOCK_MONOTONIC second at which the sensor initialised the driver it asks:
    another one means that what the driver forgets may be forgotten. ``settings`` are the answers to what was asked to
    be set since the last cycle.
    """

    at: float
    monotonic: float
    sequence: int
    driver_version: str | None = None
    problem: DriverProblem | None = None
    cards: tuple[CardReport, ...] = ()
    xids: tuple[XidEvent, ...] = ()
    kernel_sequence: int | None = None
    opened_at: float | None = None
    settings: tuple[SettingResult, ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a card is, for a card that cannot be asked who it is. Either part may be unknown."""

    index: int | None = None
    bus_id: str | None = None


class ProcessClaim(msgspec.Struct, frozen=True, array_like=True):
    """Tells the simulator that a job's process uses ``memory_bytes`` of the card ``uuid``."""

    pid: int
    uuid: str
    memory_bytes: int


class SensorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The first packet: what the sensor is to do.

    ``interval`` is seconds between cycles; ``epoch`` the CLOCK_MONOTONIC second from which a simulated rig's times
    count; ``since`` the CLOCK_MONOTONIC second up to which XIDs are already known (simulated rig);
    ``only`` (if not None) names the only cards to touch and ``skip`` those not to touch.
    ``kernel_log`` is the file to read XIDs from (None: none), ``kernel_after`` the record to go on behind
    (None: only what comes from now on). ``settings`` are what a simulated rig's cards were set to before: a real
    card keeps that itself.
    """

    interval: float = 1.0
    simulate: Rig | None = None
    epoch: float = 0.0
    since: float | None = None
    only: tuple[Place, ...] | None = None
    skip: tuple[Place, ...] = ()
    processes: tuple[ProcessClaim, ...] = ()
    kernel_log: str | None = None
    kernel_after: int | None = None
    settings: dict[str, CardSettings] = {}


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A later packet to the sensor: what is None stays as it is. ``look``: make a cycle now. ``settings``, by card
    UUID, are applied before the next cycle, which is made at once and tells what became of them."""

    look: bool = False
    interval: float | None = None
    skip: tuple[Place, ...] | None = None
    processes: tuple[ProcessClaim, ...] | None = None
    settings: dict[str, CardSettings] | None = None
