"""A simulated rig in motion: what each card would answer now.

Time is CLOCK_MONOTONIC, counted from an epoch that the daemon gives, so that a sensor started anew finds the
same faults at the same moments. Nothing here knows of NVML's calling conventions: that is ``simulated_nvml``.
"""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Callable, Iterable, Mapping

from p104d.core.units import MIB
from p104d.hardware.messages import FAN_AUTOMATIC, CardSettings, ProcessClaim
from p104d.hardware.rig import Rig, RigCard, RigFault

#: What a Pascal card's driver keeps for itself without any process (NVML total less CUDA total on an unlocked card).
RESERVED_BYTES = 83 * MIB
#: Seconds in which a card's temperature covers two thirds of the way to its new one.
_WARM_UP_SECONDS = 30.0
_LOADED_CELSIUS_ABOVE_IDLE = 34.0
_HOT_CELSIUS = 97
_IDLE_WATTS = 8.0
#: /proc is asked again after this long: a cycle of one card asks for memory and processes in one go.
_PROC_SECONDS = 0.1

POWER_CAP, HARDWARE_SLOWDOWN, HARDWARE_THERMAL, IDLE = 0x4, 0x8, 0x40, 0x1


class _Claim:
    """A job's process, for as long as it is the same process and has not hidden the card from itself."""

    def __init__(self, claim: ProcessClaim, index: int) -> None:
        self.pid, self.uuid, self.memory = claim.pid, claim.uuid, claim.memory_bytes
        self._index = str(index)
        self._started = _start_time(claim.pid)

    def alive(self) -> bool:
        return self._started is not None and _start_time(self.pid) == self._started

    def sees_card(self) -> bool:
        """Whether CUDA in this process would find the card, as CUDA_VISIBLE_DEVICES says: UUIDs (or their
        beginnings) or indexes. Unset, or not ours to read: yes."""
        try:
            with open(f"/proc/{self.pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            return True
        for entry in environment.split(b"\0"):
            if entry.startswith(b"CUDA_VISIBLE_DEVICES="):
                words = entry.partition(b"=")[2].decode("utf-8", "replace").split(",")
                return any(word and (word == self._index or self.uuid.startswith(word)) for word in words)
        return True


def _start_time(pid: int) -> str | None:
    """The process's start time in clock ticks as the kernel tells it; None where it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if len(fields) < 20 or fields[0] in {b"Z", b"X"} else fields[19].decode()


class SimulatedCard:
    """One card and what is set on it. Times are seconds since the epoch."""

    def __init__(self, rig: Rig, position: int) -> None:
        self.position = position
        self.spec: RigCard = rig.cards[position]
        self.faults: tuple[RigFault, ...] = tuple(
            fault for fault in rig.faults if fault.card == position and fault.kind != "driver_reload"
        )
        self._foreign = tuple(process for process in rig.processes if process.card == position)
        self.set_at = -math.inf
        self.reset()
        self._claims: list[_Claim] = []
        self._visible: list[_Claim] = []
        self._looked = -math.inf
        self._busy = False
        self._turned = (0.0, self.spec.temperature)

    def reset(self) -> None:
        """As the driver finds the card: nothing set on it."""
        self.power_limit = self.spec.power_limit
        self.persistence = False
        self.fan_percent: int | None = None
        self.locked_clock_mhz: int | None = None
        self.locked_memory_mhz: int | None = None
        #: Memory and graphics clock, MHz.
        self.application_clocks: tuple[int, int] | None = None

    def restore(self, settings: CardSettings, at: float) -> None:
        """As a driver before this one left the card at ``at``. Application clocks come back as locked ones."""
        self.set_at = at
        self.power_limit = settings.power_limit_watts or self.power_limit
        self.persistence = bool(settings.persistence)
        self.fan_percent = settings.fan_percent if settings.fan_percent != FAN_AUTOMATIC else None
        self.locked_clock_mhz = settings.sm_clock_mhz or None
        self.locked_memory_mhz = settings.memory_clock_mhz or None

    def has(self, kind: str, now: float) -> bool:
        """Whether a fault of that kind is going on."""
        return any(fault.kind == kind and fault.active(now) for fault in self.faults)

    def bus_id(self, now: float) -> str:
        """Where the card is plugged in."""
        moved = [fault.bus_id for fault in self.faults if fault.kind == "moved" and fault.active(now)]
        return moved[-1] or self.spec.bus_id if moved else self.spec.bus_id

    def set_claims(self, claims: Iterable[ProcessClaim]) -> None:
        """The job processes that use this card from now on."""
        kept = {(claim.pid, claim.memory): claim for claim in self._claims if claim.alive()}
        self._claims = [kept.get((claim.pid, claim.memory_bytes)) or _Claim(claim, self.position) for claim in claims]
        self._looked = -math.inf

    def processes(self, now: float) -> list[tuple[int, int]]:
        """(pid, bytes) of the processes on the card."""
        if now - self._looked >= _PROC_SECONDS:
            self._looked = now
            self._claims = [claim for claim in self._claims if claim.alive()]
            self._visible = [claim for claim in self._claims if claim.sees_card()]
        found = [(claim.pid, claim.memory) for claim in self._visible]
        found += [(process.pid, process.memory) for process in self._foreign if process.active(now)]
        self._turn(bool(found), now)
        return found

    def memory_used(self, now: float) -> int:
        """Bytes in use by processes, without what the driver reserves for itself."""
        return self.spec.memory_used_by_others + sum(memory for _, memory in self.processes(now))

    def busy(self, now: float) -> bool:
        """Whether any process is on the card: a simulated process computes all the time."""
        return bool(self.processes(now))

    def _turn(self, busy: bool, now: float) -> None:
        if busy != self._busy:
            self._turned = (now, self._warmth(now))
            self._busy = busy

    def _warmth(self, now: float) -> float:
        since, start = self._turned
        goal = self.spec.temperature + (_LOADED_CELSIUS_ABOVE_IDLE * self.power_share if self._busy else 0.0)
        return goal + (start - goal) * math.exp(-(now - since) / _WARM_UP_SECONDS)

    @property
    def power_share(self) -> float:
        """The power limit as a part of the stock one, at most 1."""
        return min(1.0, self.power_limit / self.spec.power_limit_default)

    def temperature(self, now: float) -> int:
        """Degrees Celsius."""
        if self.has("hot", now):
            return _HOT_CELSIUS
        self.processes(now)
        return round(self._warmth(now))

    def power(self, now: float) -> float:
        """Watts; a loaded card wavers by a watt or two below its limit, the same way in every run."""
        if not self.busy(now):
            return _IDLE_WATTS
        digest = hashlib.blake2b(f"{self.spec.uuid}{int(now)}".encode(), digest_size=1).digest()[0]
        return float(self.power_limit * 0.94 - digest / 255 * 3.0)

    def throttle(self, now: float) -> int:
        """NVML's mask of throttle reasons."""
        mask = 0 if self.busy(now) else IDLE
        if self.has("hot", now):
            mask |= HARDWARE_SLOWDOWN | HARDWARE_THERMAL
        if self.has("slow", now):
            mask |= POWER_CAP
        return mask

    def clock(self, now: float) -> int:
        """SM clock in MHz."""
        if not self.busy(now):
            return 139
        clock = 1733.0 * (0.55 + 0.45 * self.power_share)
        if self.has("slow", now):
            clock *= 0.6
        if self.has("hot", now):
            clock *= 0.3
        limits = (self.locked_clock_mhz, self.application_clocks and self.application_clocks[1])
        return min(int(clock), *(limit or int(clock) for limit in limits))

    def memory_clock(self, now: float) -> int:
        """Memory clock in MHz."""
        limits = (self.locked_memory_mhz, self.application_clocks and self.application_clocks[0])
        clock = 5005 if self.busy(now) else 405
        return min(clock, *(limit or clock for limit in limits))

    def fan(self, now: float) -> int:
        """Per cent, by temperature unless set."""
        return self.fan_percent if self.fan_percent is not None else max(0, min(100, self.temperature(now) * 2 - 40))


class SimulatedRig:
    """The rig as one driver sees it. ``clock`` is CLOCK_MONOTONIC but in tests."""

    def __init__(self, rig: Rig, epoch: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rig, self._epoch, self._clock = rig, epoch, clock
        self.cards = [SimulatedCard(rig, position) for position in range(len(rig.cards))]
        self._reloads = [fault for fault in rig.faults if fault.kind == "driver_reload"]
        self._xids = sorted((fault for fault in rig.faults if fault.kind == "xid"), key=lambda fault: fault.at)

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._clock() - self._epoch

    def set_processes(self, claims: Iterable[ProcessClaim]) -> None:
        """All job processes that exist; those of before that are not named again are gone."""
        named = list(claims)
        for card in self.cards:
            card.set_claims([claim for claim in named if claim.uuid == card.spec.uuid])

    def restore(self, settings: Mapping[str, CardSettings], at: float | None) -> None:
        """What cards were set to by another sensor, up to ``at`` (CLOCK_MONOTONIC): a real card keeps it itself."""
        for card in self.cards:
            if card.spec.uuid in settings:
                card.restore(settings[card.spec.uuid], self.now() if at is None else at - self._epoch)

    def forget_settings(self, now: float) -> None:
        """A driver is initialised: what was set before it was last reloaded is gone."""
        for card in self.cards:
            if self.reloaded_since(card.set_at, now):
                card.reset()

    def present(self, now: float) -> list[SimulatedCard]:
        """The cards on the bus, in the order of their addresses, as NVML numbers them."""
        return sorted((card for card in self.cards if not card.has("gone", now)), key=lambda card: card.bus_id(now))

    def reloading(self, now: float) -> bool:
        """Whether the driver is unloaded at present."""
        return any(fault.at <= now < fault.at + (fault.seconds or 0.0) for fault in self._reloads)

    def reloaded_since(self, then: float, now: float) -> bool:
        """Whether a driver initialised at ``then`` is another one by ``now``."""
        return any(then < fault.at <= now for fault in self._reloads)

    def xids(self, after: float, until: float) -> list[tuple[SimulatedCard, int]]:
        """XIDs that occurred later than ``after`` and not later than ``until``."""
        return [
            (self.cards[fault.card], fault.code)
            for fault in self._xids
            if after < fault.at <= until and fault.card is not None and fault.code is not None
        ]


def never_return() -> None:
    """What a call into a hung card does: only SIGKILL ends it, as with a process stuck in the driver."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    while True:
        time.sleep(3600)
