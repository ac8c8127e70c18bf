"""What keeps the daemon from writing: said in the log now and then, and in ``status`` as long as it lasts."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)
_SAY_AGAIN_SECONDS = 60.0


class Trouble:
    """One thing in the way at a time; ``text`` is None when there is none. ``rescued`` tells that the queue had to be
    restored, until a person lets it go on."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.rescued = ""
        self._told_at = float("-inf")

    def meet(self, text: str, now: float) -> None:
        """It is in the way at ``now`` (CLOCK_MONOTONIC)."""
        if text != self.text or now - self._told_at >= _SAY_AGAIN_SECONDS:
            log.error("%s", text, extra={"action": "step_failed"})
            self._told_at = now
        self.text = text

    def over(self) -> None:
        """It is not any more."""
        self.text = None
