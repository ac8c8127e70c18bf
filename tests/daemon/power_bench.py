"""A keeper of settings over a real reader over a simulated driver, in a time turned by hand."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec

from p104d.daemon.config import CardConfig, PowerConfig
from p104d.daemon.power import PowerKeeper
from p104d.hardware.messages import CardSettings, Cycle, SettingResult
from p104d.hardware.nvml import Nvml
from p104d.hardware.rig import RigFault, healthy_rig
from p104d.hardware.simulated_nvml import SimulatedNvml


class PowerBench:
    """``sent`` holds what was sent to the cards, cycle by cycle; ``tick`` is one look, ``seconds`` later."""

    def __init__(
        self,
        count: int = 2,
        *faults: RigFault,
        power: PowerConfig | None = None,
        cards: tuple[CardConfig, ...] = (),
        asked: Mapping[str, CardSettings] | None = None,
        unsupported: tuple[str, ...] = (),
    ) -> None:
        rig = healthy_rig(count)
        changed = tuple(msgspec.structs.replace(card, unsupported=unsupported) for card in rig.cards)
        self.rig = msgspec.structs.replace(rig, cards=changed, faults=faults)
        self.uuids = [card.uuid for card in self.rig.cards]
        self.now = 0.0
        self.library = SimulatedNvml(self.rig, 0.0, clock=lambda: self.now)
        self.nvml = Nvml(library=self.library, clock=lambda: self.now)
        self.keeper = PowerKeeper(power or PowerConfig(), cards, asked)
        #: What names are looked up in: cards ever seen, and those of the last look.
        self.known: Any = SimpleNamespace(records={}, sights={})
        self.sent: list[dict[str, CardSettings]] = []
        self._results: list[SettingResult] = []
        self._sequence = 0

    def tick(self, seconds: float = 1.0, *, results: list[SettingResult] | None = None) -> dict[str, CardSettings]:
        """One cycle; what the keeper sends after it is applied before the next, unless ``results`` stand for it."""
        self.now += seconds
        self._sequence += 1
        told = self._results if results is None else results
        cycle = Cycle(
            at=1e9 + self.now,
            monotonic=self.now,
            sequence=self._sequence,
            cards=self.nvml.cycle(),
            problem=self.nvml.problem,
            driver_version=self.nvml.driver_version,
            opened_at=self.nvml.opened_at,
            settings=tuple(told),
        )
        self.known.sights = {report.identity.uuid: SimpleNamespace(report=report) for report in cycle.cards}
        for report in cycle.cards:
            self.known.records[report.identity.uuid] = SimpleNamespace(identity=report.identity)
        send = self.keeper.on_cycle(cycle)
        self._results = self.nvml.apply(send)
        if send:
            self.sent.append(send)
        return send

    def ticks(self, count: int, seconds: float = 1.0) -> int:
        """So many cycles; how many times something was sent."""
        return sum(bool(self.tick(seconds)) for _ in range(count))

    def card(self, position: int = 0) -> Any:
        """What the simulated card is set to."""
        return self.library.rig.cards[position]

    def break_setter(self, name: str, code: int) -> None:
        """Have the driver's function answer with an error from now on."""
        self.library.__dict__[name] = lambda *_: code
        self.nvml.reopen()
