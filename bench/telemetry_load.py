"""What twelve cards at work look like to their sensor, second by second: real-looking, and the same in every run.

Cards are idle, serve prompts in bursts or draw pictures for minutes on end. Power wavers with the work and its noise is
correlated over a second or two, temperature follows power with the heat sink's delay, the fan follows temperature in
steps, and the SM clock hops by the 13 MHz of Pascal's clock bins as power and heat let it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from p104d.core.card import CardIdentity, CardReading, CardReport
from p104d.core.units import MIB
from p104d.hardware.messages import Cycle

#: Seconds between questions for fan, link and limit, and for the PCIe counters, as the sensor asks.
_SLOW, _PCIE = 5, 10
_CLOCK_BIN_MHZ = 12.66
_IDLE_WATTS, _AMBIENT = 7.6, 26.0


@dataclass(frozen=True)
class Work:
    """What a card does for a while. ``watts`` and percentages are means, ``noise`` their standard deviations; a burst
    is a prompt's few seconds at another load."""

    name: str
    watts: float
    watts_noise: float
    busy: float
    busy_noise: float
    memory: float
    memory_noise: float
    mebibytes: tuple[int, int]
    burst: float
    seconds: tuple[int, int]


WORKS = (
    Work("idle", _IDLE_WATTS, 0.12, 0.0, 0.0, 0.0, 0.0, (0, 0), 0.0, (300, 5400)),
    Work("serve", 112.0, 6.0, 92.0, 4.0, 71.0, 5.0, (4400, 7700), 0.07, (600, 7200)),
    Work("draw", 151.0, 4.0, 98.0, 1.2, 48.0, 4.0, (3100, 5200), 0.03, (900, 9000)),
)


class LoadedCard:
    """One card; ``second`` gives its reading of the next second."""

    def __init__(self, number: int) -> None:
        self.identity = CardIdentity(uuid=f"GPU-{number:08x}-0000-4000-8000-{number:012x}", index=number)
        self._dice = random.Random(104_000 + number)  # noqa: S311 (repeatable is the point)
        self._limit = self._dice.choice([150.0, 160.0, 180.0])
        self._cooling = self._dice.uniform(0.24, 0.34)
        self._temperature = _AMBIENT + 6.0
        self._drift = self._mean_drift = 0.0
        self._fan = self._pcie = 0
        self._left = self._burst = self._used = 0
        self._work = WORKS[0]

    def second(self, now: int) -> CardReading:
        """The reading of the second ``now``."""
        dice, work = self._dice, self._turn()
        # Noise that remembers: half of it is there a second later.
        self._drift = self._drift * 0.5 + dice.gauss(0.0, work.watts_noise)
        idle = work.name == "idle"
        burst = self._burst > 0
        watts = work.watts * (0.72 if burst else 1.0) + self._drift
        capped = not idle and watts > self._limit - 4.0
        watts = max(6.9, min(watts, self._limit + dice.gauss(0.0, 0.8)))
        self._temperature += (_AMBIENT + 4.0 + watts * self._cooling - self._temperature) / 45.0
        temperature = round(self._temperature + dice.gauss(0.0, 0.25))
        if now % _SLOW == 0:
            self._fan = 0 if temperature < 40 else max(27, min(100, (temperature * 2 - 68) // 1))
        if now % _PCIE == 0:
            self._pcie = 0 if idle else int(abs(dice.gauss(40_000, 30_000)))
        clock = 139 if idle else int(1733 - _CLOCK_BIN_MHZ * round(max(0.0, self._temperature - 48) / 7 + self._hops()))
        return CardReading(
            memory_used_bytes=(self._used + 2) * MIB,
            temperature_celsius=temperature,
            power_watts=round(watts, 3),
            power_limit_watts=self._limit,
            utilization_percent=0 if idle else _percent(dice.gauss(work.busy * (0.6 if burst else 1), work.busy_noise)),
            memory_utilization_percent=0
            if idle
            else _percent(dice.gauss(work.memory * (0.5 if burst else 1), work.memory_noise)),
            fan_percent=self._fan,
            sm_clock_mhz=clock,
            memory_clock_mhz=405 if idle else 5005,
            link_generation=1,
            link_width=4,
            throttle=("idle",) if idle else ("software power cap",) if capped else (),
            pcie_receive_bytes_per_second=self._pcie * 1000,
            pcie_transmit_bytes_per_second=self._pcie * 100,
        )

    def _turn(self) -> Work:
        self._left -= 1
        self._burst -= 1
        if self._left <= 0:
            self._work = self._dice.choices(WORKS, (2, 3, 3))[0]
            self._left = self._dice.randint(*self._work.seconds)
            self._used = self._dice.randint(*self._work.mebibytes)
        elif self._burst <= 0 and self._dice.random() < self._work.burst / 4:
            self._burst = self._dice.randint(1, 6)
            # A longer context takes another block of memory now and then.
            self._used += self._dice.choice((0, 0, 2, 16)) if self._used < 7900 else 0
        return self._work

    def _hops(self) -> float:
        self._mean_drift = self._mean_drift * 0.9 + self._dice.gauss(0.0, 0.45)
        return max(0.0, self._mean_drift)


def _percent(value: float) -> int:
    return max(0, min(100, round(value)))


def cycles(cards: int, start: int, seconds: int) -> Iterator[Cycle]:
    """One cycle a second from Unix time ``start``. The sensor's timer is late by a few milliseconds."""
    rig = [LoadedCard(number) for number in range(cards)]
    dice = random.Random(cards)  # noqa: S311
    for second in range(start, start + seconds):
        at = second + 0.31 + dice.expovariate(250.0)
        reports = tuple(CardReport(identity=card.identity, reading=card.second(second)) for card in rig)
        yield Cycle(at=at, monotonic=at - start, sequence=second - start, cards=reports)
