"""What a clock is. The clock that ticks lives in the daemon; here are the shape and the one tests turn by hand."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Two readings: wall time for people and records, monotonic time for measuring and waiting."""

    def now(self) -> float:
        """Unix seconds; may jump when the host's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class ManualClock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass on both readings."""
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock ``seconds`` ahead (or back) without time passing."""
        self._now += seconds
