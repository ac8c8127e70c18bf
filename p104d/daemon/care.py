"""All that is done for the cards' own good with every look at them: settings, heat, clocks, XIDs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from p104d.core.card import CardIdentity
from p104d.daemon import clocks, power
from p104d.daemon.clocks import ClockWatch
from p104d.daemon.config import Settings
from p104d.daemon.heat import HeatWatch
from p104d.daemon.power import PowerKeeper
from p104d.daemon.power_verb import load_asked
from p104d.daemon.xids import XidLog
from p104d.hardware.messages import CardSettings, Cycle


class Cared(msgspec.Struct, kw_only=True):
    """What a look calls for: settings to send to cards, cards whose jobs are to be stopped for heat (and queued again),
    whether other cards than before may take jobs, and what is to be stored (key to text)."""

    send: dict[str, CardSettings]
    too_hot: set[str]
    material: bool
    save: dict[str, str]


class Care:
    """``stored`` are the store's settings whose keys begin with one of ``KEYS``; ``testing`` tells whether our own
    memory test runs on a card."""

    def __init__(
        self, settings: Settings, stored: Mapping[str, str], testing: Callable[[str], bool] = lambda _: False
    ) -> None:
        self.power = PowerKeeper(settings.power, settings.card, load_asked(stored))
        self.heat = HeatWatch(settings.heat)
        histories = {key.removeprefix(clocks.KEY): text for key, text in stored.items() if key.startswith(clocks.KEY)}
        self.clocks = ClockWatch(histories, self._wished)
        self.xids = XidLog(testing)
        self._closed: frozenset[str] = frozenset()

    def _wished(self, identity: CardIdentity) -> CardSettings:
        return self.power.wished(identity)

    def on_cycle(self, cycle: Cycle) -> Cared:
        """Take in one look at the cards."""
        too_hot = self.heat.on_cycle(cycle)
        closed = frozenset(uuid for uuid in self._uuids(cycle) if self.closed_reason(uuid) is not None)
        material, self._closed = closed != self._closed, closed
        self.clocks.on_cycle(cycle)
        self.xids.on_cycle(cycle)
        send = self.power.on_cycle(cycle)
        return Cared(send=send, too_hot=too_hot, material=material, save=self._save(cycle.monotonic))

    def _uuids(self, cycle: Cycle) -> set[str]:
        return {report.identity.uuid for report in cycle.cards} | self._closed

    def _save(self, now: float, *, all_of_it: bool = False) -> dict[str, str]:
        return {clocks.KEY + uuid: text for uuid, text in self.clocks.to_save(now, all_of_it=all_of_it).items()}

    def close(self, now: float) -> dict[str, str]:
        """What is to be stored (key to text) before the daemon ends; ``now`` is CLOCK_MONOTONIC."""
        return self._save(now, all_of_it=True)

    def closed_reason(self, uuid: str) -> str | None:
        """Why a card takes no new job for the time being, for people and placement."""
        return self.heat.closed_reason(uuid)

    def warnings(self, now: float) -> list[str]:
        """What a person should know (``now`` is Unix time), each a line with its mend."""
        return [
            *self.heat.warnings(),
            *self.clocks.warnings(),
            *self.power.warnings(),
            *self.xids.warnings(now),
        ]


#: Beginnings of the store's keys that ``Care`` wants to be given at start.
KEYS = (power.KEY, clocks.KEY)
