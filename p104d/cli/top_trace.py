"""The readings that the live screen has seen itself, drawn as one line of blocks: sparklines."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from p104d.cli.terminal import unicode_output

#: What a sparkline goes back, unless readings come so seldom that it would be all gaps.
_SPAN_SECONDS = 180.0
_READINGS = 40
#: What of a card is drawn.
TRACED = ("utilization_percent", "temperature_celsius", "memory_used_bytes")
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-:=+*#"


class Trace:
    """The last minutes of every card, as polled."""

    def __init__(self, interval: float) -> None:
        """``interval``: seconds between two readings."""
        self.span = max(_SPAN_SECONDS, interval * _READINGS)
        self._now = 0.0
        self._cards: dict[str, deque[tuple[float, Mapping[str, Any]]]] = {}

    def add(self, at: float, cards: Sequence[Mapping[str, Any]]) -> None:
        """What the cards read ``at`` (monotonic seconds). Cards that are gone are forgotten."""
        self._now = at
        kept = {}
        for card in cards:
            seen = self._cards.get(card["uuid"]) or deque()
            seen.append((at, {key: card.get(key) for key in TRACED}))
            while seen[0][0] < at - self.span:
                seen.popleft()
            kept[card["uuid"]] = seen
        self._cards = kept

    def spark(self, uuid: str, key: str, blocks: int, low: float, high: float) -> str:
        """``blocks`` characters, the newest last, each the mean of its slice of time; a blank without a reading."""
        # Slices are fixed in time: with the present as their end, all of them would change at every reading.
        size = self.span / blocks
        newest = math.floor(self._now / size)
        slices: list[list[float]] = [[] for _ in range(blocks)]
        for at, values in self._cards.get(uuid, ()):
            place = math.floor(at / size) - newest + blocks - 1
            value = values[key]
            if value is not None and place >= 0:
                slices[place].append(value)
        return "".join(_block(sum(each) / len(each), low, high) if each else " " for each in slices)


def _block(value: float, low: float, high: float) -> str:
    levels = _BLOCKS if unicode_output() else _PLAIN
    part = (value - low) / (high - low) if high > low else 0.0
    return levels[min(len(levels) - 1, max(0, round(part * (len(levels) - 1))))]
