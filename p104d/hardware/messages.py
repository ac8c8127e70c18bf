"""What sensor and daemon tell each other: one packet a message, over a socket pair that keeps their borders."""

from __future__ import annotations

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


class Cycle(msgspec.Struct, frozen=True, kw_only=True):
    """One look at the whole rig.

    ``at`` is Unix time, ``monotonic`` the same moment on CLOCK_MONOTONIC. ``sequence`` grows by one from cycle to
    cycle, over restarts of the sensor too. ``kernel_sequence`` is the last kernel log record seen, None where the
    log cannot be read.
    """

    at: float
    monotonic: float
    sequence: int
    driver_version: str | None = None
    problem: DriverProblem | None = None
    cards: tuple[CardReport, ...] = ()
    xids: tuple[XidEvent, ...] = ()
    kernel_sequence: int | None = None


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
    (None: only what comes from now on).
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


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A later packet to the sensor: what is None stays as it is. ``look``: make a cycle now."""

    look: bool = False
    interval: float | None = None
    skip: tuple[Place, ...] | None = None
    processes: tuple[ProcessClaim, ...] | None = None
