"""Rigs and a clock for the tests of this room."""

from __future__ import annotations

from typing import Any

import msgspec

from p104d.hardware.nvml import Nvml
from p104d.hardware.rig import Rig, RigCard, RigFault, healthy_rig
from p104d.hardware.simulated_nvml import SimulatedNvml


class Hand:
    """A monotonic clock turned by hand."""

    def __init__(self, at: float = 5000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def fault(kind: str, at: float = 10.0, card: int | None = 1, **more: Any) -> RigFault:
    """A fault of card 1, ten seconds after the start."""
    return RigFault(at=at, kind=kind, card=card, **more)


def rig_of(count: int, *faults: RigFault, **cards: dict[str, Any]) -> Rig:
    """Healthy cards but for ``card0={...}`` and so on."""
    rig = healthy_rig(count)
    changed: list[RigCard] = list(rig.cards)
    for name, values in cards.items():
        position = int(name.removeprefix("card"))
        changed[position] = msgspec.structs.replace(changed[position], **values)
    return msgspec.structs.replace(rig, cards=tuple(changed), faults=faults)


class Bench:
    """A simulated driver under a real reader, in a time turned by hand; ``at`` counts from the rig's start."""

    def __init__(self, rig: Rig, **options: Any) -> None:
        self.clock = Hand()
        self.epoch = self.clock.at
        self.rig = rig
        self.nvmllib = SimulatedNvml(rig, self.epoch, clock=self.clock)
        self.nvml = Nvml(library=self.nvmllib, clock=self.clock, **options)

    def at(self, seconds: float) -> dict[str, Any]:
        """The reports of a cycle at that time, by UUID."""
        self.clock.at = self.epoch + seconds
        return {report.identity.uuid: report for report in self.nvml.cycle()}

    def card(self, seconds: float, position: int) -> Any:
        """One card's report at that time; None where it is not in the cycle."""
        return self.at(seconds).get(self.rig.cards[position].uuid)
