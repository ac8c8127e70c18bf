"""Which cards are too hot, from cycle to cycle: for new jobs, and for those they have."""

from __future__ import annotations

from p104d.core.card import CardIdentity
from p104d.daemon.config import HeatConfig
from p104d.hardware.messages import Cycle
from p104d.policy.heat import Heat, Thresholds, heat_state


class HeatWatch:
    """``on_cycle`` says which cards' jobs have to stop; ``closed_reason`` which take no new one, and why."""

    def __init__(self, config: HeatConfig) -> None:
        self._limits = Thresholds(no_new=config.no_new_jobs, stop=config.stop_jobs, hysteresis=config.hysteresis)
        self._states: dict[str, Heat] = {}
        self._degrees: dict[str, int] = {}
        self._identities: dict[str, CardIdentity] = {}

    def on_cycle(self, cycle: Cycle) -> set[str]:
        """Cards that have become too hot to go on: their jobs are to be stopped, and queued again."""
        stop = set()
        for report in cycle.cards:
            uuid, degrees = report.identity.uuid, report.reading.temperature_celsius
            self._identities[uuid] = report.identity
            if degrees is not None:
                self._degrees[uuid] = degrees
            before = self._states.get(uuid, Heat.OK)
            now = self._states[uuid] = heat_state(before, degrees, self._limits)
            if now is Heat.STOP and before is not Heat.STOP:
                stop.add(uuid)
        return stop

    def state(self, uuid: str) -> Heat:
        """What the card's temperature allows."""
        return self._states.get(uuid, Heat.OK)

    def closed_reason(self, uuid: str) -> str | None:
        """Why the card takes no new job, for people and placement; None: it is cool enough. It passes by itself."""
        if self.state(uuid) is Heat.OK:
            return None
        again = self._limits.no_new - self._limits.hysteresis
        return f"hot ({self._degrees[uuid]} °C): takes jobs again below {again} °C"

    def warnings(self) -> list[str]:
        """What a person should know of, each a line with its mend."""
        found = []
        for uuid, identity in sorted(self._identities.items(), key=lambda item: item[1].index):
            reason = self.closed_reason(uuid)
            if reason is not None:
                stopped = ", its jobs were stopped and queued again" if self.state(uuid) is Heat.STOP else ""
                found.append(f"card {identity.index} is {reason}{stopped}; clean its fan and heat sink, give it air")
            found += self._useless(identity)
        return found

    def _useless(self, identity: CardIdentity) -> list[str]:
        """A limit that the card never reaches because its driver is first."""
        most = identity.shutdown_celsius
        if most is None or self._limits.stop < most:
            return []
        return [
            f"card {identity.index}: its driver switches it off at {most} °C, before heat.stop_jobs "
            f"({self._limits.stop} °C); set heat.stop_jobs lower"
        ]
