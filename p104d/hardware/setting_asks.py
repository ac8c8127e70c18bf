"""Keeps account of what a sensor was asked to set, so that every question has an answer whatever becomes of the sensor.

A setter may hang like any other call into the driver; then the sensor is killed, and with it whatever it had not done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from p104d.hardware.messages import CardSettings, Refused, SettingResult, refuse_all

#: A sensor answers with the cycle after the command; one more may have been on its way already. After these the command
#: did not reach it (its socket was full).
_CYCLES = 3


class SettingAsks:
    """What was asked and not answered. ``applied`` is what the cards were set to, as far as was told."""

    def __init__(self) -> None:
        self.applied: dict[str, CardSettings] = {}
        self._open: dict[str, CardSettings] = {}
        self._cycles = 0
        self._lost: list[SettingResult] = []

    def ask(self, wanted: Mapping[str, CardSettings]) -> None:
        """These are on their way to the sensor."""
        for uuid, settings in wanted.items():
            self._open[uuid] = self._open.get(uuid, CardSettings()).merged(settings)
        self._cycles = 0

    def heard(self, results: Iterable[SettingResult]) -> None:
        """A cycle came, with these answers."""
        for result in results:
            one = msgspec.structs.replace(CardSettings(), **{result.name: result.value})
            if result.refused is None:
                self.applied[result.uuid] = self.applied.get(result.uuid, CardSettings()).merged(one)
            waiting = self._open.get(result.uuid)
            # An answer to an older question leaves the newer one open.
            if waiting is not None and getattr(waiting, result.name) == result.value:
                self._open[result.uuid] = msgspec.structs.replace(waiting, **{result.name: None})
        self._open = {uuid: settings for uuid, settings in self._open.items() if settings.items()}
        if self._open:
            self._cycles += 1
            if self._cycles >= _CYCLES:
                self.end()

    def end(self, hung: str | None = None) -> None:
        """The sensor has ended; ``hung`` is the card whose call did not return, if one is known."""
        for uuid, settings in self._open.items():
            refused = Refused.HANG if uuid == hung else Refused.INTERRUPTED
            text = "a call into the driver did not return" if uuid == hung else "the process that sets it ended"
            self._lost += refuse_all(uuid, settings, refused, text)
        self._open = {}

    def take(self) -> tuple[SettingResult, ...]:
        """The answers that no sensor will give."""
        lost, self._lost = tuple(self._lost), []
        return lost
