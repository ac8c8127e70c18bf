"""Watches each card's SM clock under load, and keeps what is usual for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from p104d.core.card import CardIdentity, CardReport
from p104d.hardware.messages import CardSettings, Cycle
from p104d.policy.clocks import ClockHistory, dropped, learned, tells

#: Where the store keeps a card's histories, as JSON.
KEY = "clocks:"
#: Seconds of load that are looked at, how many of them must be there, and how old the oldest may be.
_RECENT_SECONDS, _LEAST_SECONDS, _OLDEST_SECONDS = 30.0, 20.0, 120.0
#: A gap between looks longer than this says nothing of the time between.
_MOST_STEP_SECONDS = 5.0
#: Histories change with every look; written down they are for the next start, and minutes are nothing of a day.
_SAVE_SECONDS = 600.0
#: Limits under which a card has been are few; the least used are forgotten.
_MOST_HISTORIES = 8

_decode = msgspec.json.Decoder(dict[str, ClockHistory]).decode


class _Card:
    """One card's state. ``slow`` is the finding of the last stretch of load: usual and recent MHz, drop, reasons."""

    def __init__(self, histories: dict[str, ClockHistory]) -> None:
        self.histories = histories
        self.index = -1
        self.limits = ""
        self.samples: deque[tuple[float, float, float]] = deque()
        self.at: float | None = None
        self.slow: str | None = None
        self.changed = False


class ClockWatch:
    """``stored`` is what ``to_save`` gave before, by card UUID; ``wished`` tells the limits that a card's clocks are
    kept at, for no driver does."""

    def __init__(
        self, stored: Mapping[str, str] | None = None, wished: Callable[[CardIdentity], CardSettings] | None = None
    ) -> None:
        self._cards = {uuid: _Card(_loaded(text)) for uuid, text in (stored or {}).items()}
        self._wished = wished or (lambda _: CardSettings())
        self._saved: float | None = None

    def on_cycle(self, cycle: Cycle) -> None:
        """Take in one look at the cards."""
        for report in cycle.cards:
            if report.fault is None:
                card = self._cards.setdefault(report.identity.uuid, _Card({}))
                self._look(card, report, cycle.monotonic)

    def _look(self, card: _Card, report: CardReport, now: float) -> None:
        step = 0.0 if card.at is None else min(max(0.0, now - card.at), _MOST_STEP_SECONDS)
        card.at, card.index = now, report.identity.index
        limits = self._limits(report)
        if limits != card.limits:
            # A change of limits is no drop: from here on it is compared with what was usual under these.
            card.limits, card.slow = limits, None
            card.samples.clear()
        if not step or not tells(report.reading, report.identity):
            return
        mhz = float(report.reading.sm_clock_mhz or 0)
        card.samples.append((now, step, mhz))
        recent = _recent(card.samples, now)
        history = card.histories.get(limits)
        if recent is not None:
            part = dropped(history, recent)
            card.slow = None if part is None or history is None else _text(report, recent, history.mhz, part)
        self._learn(card, limits, mhz, step)

    def _limits(self, report: CardReport) -> str:
        watts, wished = report.reading.power_limit_watts, self._wished(report.identity)
        clocks = (wished.sm_clock_mhz or 0, wished.memory_clock_mhz or 0)
        return f"{'?' if watts is None else round(watts)}W/{clocks[0]}/{clocks[1]}"

    def _learn(self, card: _Card, limits: str, mhz: float, seconds: float) -> None:
        card.histories[limits] = learned(card.histories.get(limits), mhz, seconds)
        card.changed = True
        if len(card.histories) > _MOST_HISTORIES:
            others = [each for each in card.histories if each != limits]
            del card.histories[min(others, key=lambda each: card.histories[each].seconds)]

    def warnings(self) -> list[str]:
        """Cards that are slower than they used to be, each a line with its mend."""
        by_index = sorted(self._cards.values(), key=lambda each: each.index)
        return [card.slow for card in by_index if card.slow is not None]

    def to_save(self, now: float, *, all_of_it: bool = False) -> dict[str, str]:
        """What is to be kept over a restart, by card UUID, where it has changed: every few minutes (``now`` is
        CLOCK_MONOTONIC), or with ``all_of_it`` at once."""
        if self._saved is None:
            self._saved = now
        if not all_of_it and now - self._saved < _SAVE_SECONDS:
            return {}
        self._saved = now
        changed = {uuid: card for uuid, card in self._cards.items() if card.changed}
        for card in changed.values():
            card.changed = False
        return {uuid: msgspec.json.encode(card.histories).decode() for uuid, card in changed.items()}


def _loaded(text: str) -> dict[str, ClockHistory]:
    try:
        return _decode(text)
    except msgspec.DecodeError:
        return {}  # of a later release: it is learned anew


def _recent(samples: deque[tuple[float, float, float]], now: float) -> float | None:
    """The mean clock of the last half minute of load; None where there was not enough of it lately."""
    while samples and (
        now - samples[0][0] > _OLDEST_SECONDS or sum(one[1] for one in samples) - samples[0][1] >= _RECENT_SECONDS
    ):
        samples.popleft()
    seconds = sum(one[1] for one in samples)
    return sum(one[1] * one[2] for one in samples) / seconds if seconds >= _LEAST_SECONDS else None


def _text(report: CardReport, recent: float, usual: float, part: float) -> str:
    why = f" ({', '.join(report.reading.throttle)})" if report.reading.throttle else ""
    return (
        f"card {report.identity.index}: its SM clock under load is {recent:.0f} MHz, {part:.0%} below its usual "
        f"{usual:.0f} MHz{why}; look at its temperature, its fan and its power cables"
    ).replace("%", " %")
