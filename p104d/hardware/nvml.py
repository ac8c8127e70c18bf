"""The only user of pynvml: asks the driver for everything there is to know of the cards.

Every question may be answered with NOT_SUPPORTED, UNKNOWN, GPU_IS_LOST, or never; one missing reading never costs
the others. Runs in the sensor process alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pynvml

from p104d.core.card import CardReport, XidEvent
from p104d.hardware.card_reader import CardReader, DriverGone, text_of
from p104d.hardware.card_settings import apply_settings
from p104d.hardware.driver_problem import diagnose, missing_module, unreadable_card
from p104d.hardware.marker import Marker, Stage
from p104d.hardware.messages import CardSettings, DriverProblem, Place, Refused, SettingResult, refuse_all
from p104d.hardware.xid import normal_bus_id

#: Seconds between full enumerations where nothing hints at a change, and between attempts to open a missing driver.
ENUMERATE_SECONDS = 10.0
REOPEN_SECONDS = 2.0
#: Bus addresses of the cards that the kernel module drives: its listing changes when cards come or go.
_DRIVER_LISTING = "/proc/driver/nvidia/gpus"
#: XIDs taken from NVML in one cycle; a card in trouble can produce them without end.
_MAX_EVENTS = 100


def use_library(library: object | None) -> None:
    """Put ``library`` in the place of the driver's (None: the real one again, loaded at the next init)."""
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def _listed() -> list[str]:
    try:
        return sorted(normal_bus_id(name) for name in os.listdir(_DRIVER_LISTING))
    except (OSError, ValueError):
        return []


class Nvml:
    """The driver, opened when it can be and asked once a cycle.

    ``library`` is a simulated driver or None for the real one; ``only`` and ``skip`` say which cards to touch.
    """

    def __init__(
        self,
        *,
        library: Any = None,
        marker: Marker | None = None,
        only: tuple[Place, ...] | None = None,
        skip: tuple[Place, ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._library = library
        self._marker = marker
        self._clock = clock
        self._bus_ids: Callable[[], list[str]] = library.bus_ids if library is not None else _listed
        self.only, self._skip = only, skip
        self.driver_version: str | None = None
        self.problem: DriverProblem | None = None
        self.opened_at: float | None = None
        self._cards: dict[str, CardReader] = {}
        self._open = False
        self._tried = float("-inf")
        self._enumerated = float("-inf")
        self._count = -1
        self._at_open: list[str] = []
        self._events: Any = None

    @property
    def skip(self) -> tuple[Place, ...]:
        """The cards that must not be touched, because calls into them do not return."""
        return self._skip

    @skip.setter
    def skip(self, places: tuple[Place, ...]) -> None:
        self._skip = places
        self._enumerated = float("-inf")

    def open(self) -> DriverProblem | None:
        """Initialise the driver; what is in the way of it, if anything."""
        self._tried = self._clock()
        self.problem = missing_module(pynvml)
        if self.problem is not None:
            return self.problem
        self._mark(Stage.DRIVER)
        if self._library is not None:
            use_library(self._library)
        try:
            pynvml.nvmlInit()
            self._open = True
            self.driver_version = text_of(pynvml.nvmlSystemGetDriverVersion())
        except pynvml.NVMLError as error:
            self.close()
            self.problem = diagnose(pynvml, error)
            return self.problem
        self.opened_at = self._clock()
        self._at_open = self._bus_ids()
        self._enumerated, self._count = float("-inf"), -1
        self._create_events()
        return None

    def close(self) -> None:
        """Leave the driver. Cards stay known, for a driver that comes back."""
        if self._open:
            self._open = False
            try:
                if self._events is not None:
                    pynvml.nvmlEventSetFree(self._events)
                pynvml.nvmlShutdown()
            except pynvml.NVMLError:
                pass  # a driver that was unloaded beneath us has nothing left to be shut down
        self._events = None
        for card in self._cards.values():
            card.forget()

    def reopen(self) -> DriverProblem | None:
        """Close and open again: finds cards that came later and a driver that was reloaded."""
        self.close()
        return self.open()

    def cycle(self) -> tuple[CardReport, ...]:
        """One look at every card; ``problem`` and ``driver_version`` are as of this cycle.

        Cards that are not there are not in it, and none is while the driver cannot be asked.
        """
        if not self._open and (self._clock() - self._tried < REOPEN_SECONDS or self.open() is not None):
            return ()
        try:
            return self._look()
        except DriverGone:
            pass
        if self.reopen() is not None:
            return ()
        try:
            return self._look()
        except DriverGone as gone:
            self.close()
            self.problem = diagnose(pynvml, gone.error)
            return ()

    def apply(self, wanted: Mapping[str, CardSettings]) -> list[SettingResult]:
        """Set what is wanted, by UUID, on cards found in an earlier cycle; what became of each setting."""
        results: list[SettingResult] = []
        for uuid, settings in wanted.items():
            card = self._cards.get(uuid)
            if not self._open or card is None or card.handle is None:
                results += refuse_all(uuid, settings, Refused.GONE, "the driver does not see the card")
                continue
            self._mark(Stage.CARD, card.index, card.bus_id)
            results += apply_settings(pynvml, card.handle, uuid, settings)
            card.changed()
        return results

    def events(self) -> list[XidEvent]:
        """XIDs that NVML has told of since the last call; does not wait."""
        found: list[XidEvent] = []
        if self._events is None:
            return found
        self._mark(Stage.DRIVER)
        try:
            for _ in range(_MAX_EVENTS):
                data = pynvml.nvmlEventSetWait(self._events, 0)
                if data.eventType == pynvml.nvmlEventTypeXidCriticalError:
                    found.append(self._event(data))
        except pynvml.NVMLError:
            pass  # TIMEOUT is the usual end; whatever else it is, the readings will tell
        return found

    def uuids(self) -> dict[str, str]:
        """Bus address to UUID of every card seen, lost ones too."""
        return {card.bus_id: card.uuid for card in self._cards.values()}

    def _event(self, data: Any) -> XidEvent:
        bus_id: str | None = None
        with contextlib.suppress(pynvml.NVMLError):
            bus_id = normal_bus_id(text_of(pynvml.nvmlDeviceGetPciInfo(data.device).busId))
        return XidEvent(code=int(data.eventData), uuid=self.uuids().get(bus_id or ""), bus_id=bus_id)

    def _create_events(self) -> None:
        try:
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:
            self._events = None  # the kernel log remains

    def _register(self, card: CardReader) -> None:
        if self._events is None:
            return
        with contextlib.suppress(pynvml.NVMLError):  # tried again at the next enumeration
            supported = pynvml.nvmlDeviceGetSupportedEventTypes(card.handle)
            if supported & pynvml.nvmlEventTypeXidCriticalError:
                pynvml.nvmlDeviceRegisterEvents(card.handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
            card.listening = True

    def _look(self) -> tuple[CardReport, ...]:
        now = self._clock()
        self._mark(Stage.DRIVER)
        if self._bus_ids() != self._at_open and self.reopen() is not None:
            return ()
        count = self._ask_count()
        doubtful = any(card.fault is not None for card in self._cards.values())
        if count != self._count or doubtful or now - self._enumerated >= ENUMERATE_SECONDS:
            self._enumerate(count)
            self._count, self._enumerated = count, now
        reports = []
        for card in sorted(self._cards.values(), key=lambda card: card.index):
            self._mark(Stage.CARD, card.index, card.bus_id)
            reports.append(card.report(now))
        return tuple(reports)

    def _ask_count(self) -> int:
        try:
            return int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise DriverGone(error) from None

    def _enumerate(self, count: int) -> None:
        """Find the cards. One that cannot be opened keeps the identity of the card that was there before."""
        found: dict[str, CardReader] = {}
        self.problem = None
        for index, bus_id, opener in self._openers(count):
            self._mark(Stage.CARD, index, bus_id)
            try:
                card = self._identify(opener(), index)
            except pynvml.NVMLError as error:
                if error.value in (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
                    raise DriverGone(error) from None
                old = self._before(index, bus_id, found)
                if old is not None:
                    old.lose(error)
                    found[old.uuid] = old
                else:
                    self.problem = unreadable_card(pynvml, error, index, bus_id)
            else:
                found[card.uuid] = card
        self._cards = found

    def _openers(self, count: int) -> list[tuple[int, str | None, Callable[[], Any]]]:
        """Index, bus address and how to open each card that may be touched.

        By index, as drivers number them; but where cards must not be touched, by bus address: to open a card by
        its index only to learn which one it is may be what does not return.
        """
        listed = self._bus_ids()
        if self.only is None and not self._skip:
            known: list[str | None] = list(listed) if len(listed) == count else [None] * count
            return [(i, known[i], partial(pynvml.nvmlDeviceGetHandleByIndex, i)) for i in range(count)]
        if listed:
            return [
                (index, bus_id, partial(pynvml.nvmlDeviceGetHandleByPciBusId, bus_id.encode()))
                for index, bus_id in enumerate(listed)
                if self._wanted(Place(bus_id=bus_id))
            ]
        return [
            (i, None, partial(pynvml.nvmlDeviceGetHandleByIndex, i))
            for i in range(count)
            if self._wanted(Place(index=i))
        ]

    def _wanted(self, place: Place) -> bool:
        def same(other: Place) -> bool:
            if place.bus_id is not None and other.bus_id is not None:
                return place.bus_id == other.bus_id
            return place.index is not None and place.index == other.index

        return not any(same(one) for one in self._skip) and (self.only is None or any(same(one) for one in self.only))

    def _identify(self, handle: Any, index: int) -> CardReader:
        uuid = text_of(pynvml.nvmlDeviceGetUUID(handle))
        bus_id = normal_bus_id(text_of(pynvml.nvmlDeviceGetPciInfo(handle).busId))
        card = self._cards.get(uuid)
        if card is None or card.bus_id != bus_id:
            card = CardReader(pynvml, uuid, bus_id)
        card.take(handle, index)
        if not card.listening:
            self._register(card)
        return card

    def _before(self, index: int, bus_id: str | None, found: dict[str, CardReader]) -> CardReader | None:
        """Who was at this place when it still answered."""
        for card in self._cards.values():
            if card.uuid not in found and (card.bus_id == bus_id if bus_id is not None else card.index == index):
                return card
        return None

    def _mark(self, stage: Stage, index: int = -1, bus_id: str | None = None) -> None:
        if self._marker is not None:
            self._marker.note(stage, index, bus_id)
