"""Keeps cards at the settings that somebody wished: power limit, clocks, fan, persistence mode.

Wished is what the configuration says, and over it what a person asked with ``p104ctl power``. Where nothing is wished
nothing is ever sent to a card. What is wished is sent when a card is first seen, when the wish changes, when the driver
was opened anew or the card was away (it may have forgotten), and when a reading shows that somebody else changed it.
A setting that was refused is tried again only when one of these has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from p104d.core.card import CardIdentity, CardReport
from p104d.daemon.config import CardConfig, PowerConfig
from p104d.daemon.power_wishes import Value, defaults, from_config, matches, shows
from p104d.daemon.power_words import bounds_refusal, setting_text, warning
from p104d.hardware.messages import FAN_AUTOMATIC, CardSettings, Cycle, Refused, SettingResult

#: Where the store keeps a person's wish for a card, as CardSettings in JSON.
KEY = "power:"
#: A setting over which a sensor died or a card hung so often is left alone until somebody wishes it anew.
_MOST_TRIES = 2
#: Cycles after which a reading that does not follow what was set is told: slow readings are seconds old.
_PATIENT_CYCLES = 15


class PointState(StrEnum):
    """How a wished setting stands on its card."""

    ASKED = "asked"
    SET = "set"
    REFUSED = "refused"


class Point(msgspec.Struct):
    """One wished setting of one card. ``epoch`` is what the card and its driver were when it was last asked; ``agreed``
    that a reading has shown the value since; ``cycles`` how long it has not; ``tries`` those that nobody answered."""

    value: Value
    state: PointState
    epoch: tuple[Any, ...]
    agreed: bool = False
    cycles: int = 0
    tries: int = 0
    refused: Refused | None = None
    text: str | None = None


class PowerKeeper:
    """``asked`` is what people asked of each card, by UUID. ``look`` is called when something is to be sent at the next
    cycle, so that it need not be waited for."""

    def __init__(
        self, power: PowerConfig, cards: Sequence[CardConfig], asked: Mapping[str, CardSettings] | None = None
    ) -> None:
        self._power, self._cards = power, tuple(cards)
        self._asked = dict(asked or {})
        self._points: dict[tuple[str, str], Point] = {}
        self._restore: dict[str, CardSettings] = {}
        self._away: set[str] = set()
        self._returns: dict[str, int] = {}
        self._identities: dict[str, CardIdentity] = {}
        self._settled: list[asyncio.Future[None]] = []
        self.look: Callable[[], None] = lambda: None

    # --- wishes ----------------------------------------------------------------------------------------------------

    def configured(self, identity: CardIdentity) -> CardSettings:
        """What the configuration wishes of a card: ``[power]``, then each ``[[card]]`` that matches it."""
        wish = from_config(self._power)
        for card in self._cards:
            if matches(card.match, identity):
                wish = wish.merged(from_config(card))
        return wish

    def asked(self, uuid: str) -> CardSettings:
        """What a person asked of a card."""
        return self._asked.get(uuid, CardSettings())

    def wished(self, identity: CardIdentity) -> CardSettings:
        """What a card is to be kept at."""
        return self.configured(identity).merged(self.asked(identity.uuid))

    def ask(self, uuid: str, asked: CardSettings, anew: CardSettings | None = None) -> None:
        """A person's wish for a card is ``asked`` from now on, in the place of any before; it is stored by now.

        What was asked before and is not wished any more goes back to the card's own default. What is in ``anew`` (left
        out: all of it) is tried anew where it had been refused.
        """
        before, self._asked[uuid] = self.asked(uuid), asked
        # What is asked for now need not go back any more.
        kept = self._restore.pop(uuid, CardSettings()).items()
        if left := {name: value for name, value in kept.items() if name not in asked.items()}:
            self._restore[uuid] = msgspec.structs.replace(CardSettings(), **left)
        identity = self._identities.get(uuid)
        wished = self.wished(identity) if identity is not None else asked
        for name, value in (asked if anew is None else anew).items().items():
            self._forget_refusal(uuid, name, value)
        dropped = before.items().keys() - wished.items().keys()
        if identity is not None and dropped:
            self._restore[uuid] = self._restore.get(uuid, CardSettings()).merged(defaults(identity, dropped))
        self.look()

    def _forget_refusal(self, uuid: str, name: str, value: Value) -> None:
        point = self._points.get((uuid, name))
        if point is not None and point.value == value and point.state is PointState.REFUSED:
            del self._points[uuid, name]

    # --- cycles ----------------------------------------------------------------------------------------------------

    def on_cycle(self, cycle: Cycle) -> dict[str, CardSettings]:
        """What is to be set now, by card UUID; for ``Sensors.apply``, if there is anything."""
        for result in cycle.settings:
            self._heard(result)
        well = {report.identity.uuid: report for report in cycle.cards if report.fault is None}
        self._away |= self._identities.keys() - well.keys()
        send: dict[str, CardSettings] = {}
        for uuid, report in well.items():
            if uuid in self._away:
                self._away.discard(uuid)
                self._returns[uuid] = self._returns.get(uuid, 0) + 1
            self._identities[uuid] = report.identity
            self._end_restoring(uuid)
            due = self._due(report, (report.identity.bus_id, cycle.opened_at, self._returns.get(uuid, 0)))
            if due.items():
                send[uuid] = due
        self._wake_waiting()
        return send

    def _wish(self, identity: CardIdentity) -> CardSettings:
        """What is wished, and what is to go back to the card's own way first."""
        return self._restore.get(identity.uuid, CardSettings()).merged(self.wished(identity))

    def _end_restoring(self, uuid: str) -> None:
        """What is back at the card's own way is nobody's wish any more; nor is what it cannot be set to at all."""
        for name, value in self._restore.get(uuid, CardSettings()).items().items():
            point = self._points.get((uuid, name))
            if point is None or point.value != value:
                continue
            if point.state is PointState.SET or point.refused is Refused.NOT_SUPPORTED:
                self._restore[uuid] = msgspec.structs.replace(self._restore[uuid], **{name: None})
        if uuid in self._restore and not self._restore[uuid].items():
            del self._restore[uuid]

    def _heard(self, result: SettingResult) -> None:
        point = self._points.get((result.uuid, result.name))
        if point is None or point.value != result.value or point.state is not PointState.ASKED:
            return  # the answer to an older question
        point.refused, point.text = result.refused, result.text
        point.agreed, point.cycles = False, 0
        if result.refused is None:
            point.state, point.tries = PointState.SET, 0
            return
        point.state = PointState.REFUSED
        if result.refused in (Refused.INTERRUPTED, Refused.HANG):
            point.tries += 1

    def _due(self, report: CardReport, epoch: tuple[Any, ...]) -> CardSettings:
        uuid, wish = report.identity.uuid, self._wish(report.identity).items()
        for key in [key for key in self._points if key[0] == uuid and key[1] not in wish]:
            del self._points[key]
        due = {name: value for name, value in wish.items() if self._is_due(report, name, value, epoch)}
        return msgspec.structs.replace(CardSettings(), **due)

    def _is_due(self, report: CardReport, name: str, value: Value, epoch: tuple[Any, ...]) -> bool:
        """Whether to ask for it now; then it counts as asked."""
        key = (report.identity.uuid, name)
        point = self._points.get(key)
        shown = shows(name, value, report.reading)
        if point is None or point.value != value:
            point = self._points[key] = Point(value, PointState.ASKED, epoch)
            # A fan that stands at some speed may stand at another than the wished one: that cannot be told.
            if shown and not (name == "fan_percent" and value != FAN_AUTOMATIC):
                point.state, point.agreed = PointState.SET, True
                return False
        elif not self._again(point, shown, epoch):
            return False
        point.state, point.epoch, point.agreed, point.refused = PointState.ASKED, epoch, False, None
        point.text = bounds_refusal(report.identity, name, value)
        if point.text is not None:
            point.state, point.refused = PointState.REFUSED, Refused.OUT_OF_BOUNDS
        return point.text is None

    def _again(self, point: Point, shown: bool | None, epoch: tuple[Any, ...]) -> bool:
        """Whether a setting that was asked before has to be asked once more."""
        if point.state is PointState.ASKED:
            return False
        if point.state is PointState.REFUSED:
            if point.refused is Refused.INTERRUPTED:
                return point.tries < _MOST_TRIES
            return epoch != point.epoch and point.tries < _MOST_TRIES
        if shown:
            point.agreed, point.epoch, point.cycles = True, epoch, 0
            return False
        if epoch != point.epoch:
            return True
        if shown is None:
            return False
        point.cycles += 1
        return point.agreed  # it was as wished, and somebody changed it

    # --- what is told ----------------------------------------------------------------------------------------------

    def refusals(self, uuid: str) -> dict[str, Point]:
        """The wished settings of a card that it does not have, by name, with the reason."""
        return {
            name: point
            for (each, name), point in self._points.items()
            if each == uuid and (point.state is PointState.REFUSED and not self._will_retry(point))
        }

    def pending(self, uuid: str) -> bool:
        """Is a setting of this card on its way, or about to be?"""
        identity = self._identities.get(uuid)
        if identity is None or uuid in self._away:
            return False
        wish = self._wish(identity).items()
        points = {name: self._points.get((uuid, name)) for name in wish}
        return any(
            point is None or point.value != wish[name] or point.state is PointState.ASKED or self._will_retry(point)
            for name, point in points.items()
        )

    def _will_retry(self, point: Point) -> bool:
        return point.state is PointState.REFUSED and point.refused is Refused.INTERRUPTED and point.tries < _MOST_TRIES

    async def settle(self, uuids: Iterable[str], patience: float) -> None:
        """Until nothing of these cards is on its way, or ``patience`` seconds have passed."""
        wanted = list(uuids)
        try:
            async with asyncio.timeout(patience):
                while any(self.pending(uuid) for uuid in wanted):
                    news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._settled.append(news)
                    await news
        except TimeoutError:
            pass

    def _wake_waiting(self) -> None:
        waiting, self._settled = self._settled, []
        for news in waiting:
            if not news.done():
                news.set_result(None)

    def warnings(self) -> list[str]:
        """What is wished and not so, each a line with its mend."""
        found = []
        for (uuid, name), point in sorted(self._points.items()):
            identity = self._identities.get(uuid)
            if identity is None or uuid in self._away:
                continue
            if point.state is PointState.REFUSED and not self._will_retry(point):
                found.append(warning(identity.index, name, point.value, point.refused, point.text))
            elif point.state is PointState.SET and not point.agreed and point.cycles >= _PATIENT_CYCLES:
                what = setting_text(name, point.value)
                found.append(f"card {identity.index}: {what} was set, but the card does not keep it; see nvidia-smi -q")
        return found
