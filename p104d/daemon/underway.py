"""A memory test under way, as the daemon sees it."""

from __future__ import annotations

import msgspec

from p104d.core.card import CardReading, DueTest
from p104d.memtest.messages import Progress
from p104d.memtest.tester import Tester


class Running(msgspec.Struct, kw_only=True):
    """A test under way. Temperatures and clocks are those of the sensor's looks meanwhile; ``foreign_bytes`` what
    others held when it began."""

    uuid: str
    test_id: int
    due: DueTest
    started_at: float
    tester: Tester
    progress: Progress | None = None
    foreign_bytes: int = 0
    temperature_max: int | None = None
    clock_min: int | None = None
    clock_max: int | None = None

    def note(self, reading: CardReading) -> None:
        """Take in what the sensor read of the card."""
        heat, clock = reading.temperature_celsius, reading.sm_clock_mhz
        if heat is not None:
            self.temperature_max = max(heat, self.temperature_max or heat)
        if clock is not None:
            self.clock_min = min(clock, self.clock_min or clock)
            self.clock_max = max(clock, self.clock_max or clock)
