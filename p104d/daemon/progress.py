"""The present speed and progress of running jobs, read from the ends of their logs when somebody asks.

Asking is bounded: of each log at most 64 KiB are read, once a second, for no longer than a few milliseconds; all jobs
of one answer together take no longer than ``MOST_SECONDS``, and those that had no turn are answered from before, and
come first the next time. How much of a log is read follows how long it took: of a fast log of short lines, or where a
pattern is slow, it is less. What goes wrong costs the answer, nothing else.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from p104d.core.job import Measurement, UserPattern
from p104d.engines.measure import PROGRESS, OutputParser
from p104d.processes import logs

log = logging.getLogger(__name__)

MOST_BYTES = 64 * 1024
_LEAST_BYTES = 4 * 1024
_FIRST_BYTES = 16 * 1024
#: For one job, and for all of one answer.
JOB_SECONDS = 0.005
MOST_SECONDS = 0.05
#: A look that took so long though it read the least (a user's pattern on hard lines): this job is not looked at again.
_HOPELESS_SECONDS = 0.05
#: An answer is good for so long.
FRESH_SECONDS = 1.0
_MOST_KNOWN, _KEEP_SECONDS = 64, 60.0
#: Counts are of the end of a log alone here, and would say less than the truth.
_PARTIAL = frozenset({"iterations", "prompt_tokens", "generation_tokens", "items", PROGRESS})
#: Beyond this an estimate is a bar that has hardly begun.
_MOST_LEFT_SECONDS = 30 * 86_400.0


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """How a running attempt is doing. ``percent`` 0..100 and ``ends_at`` (Unix time) are None where nobody can tell."""

    measurements: tuple[Measurement, ...] = ()
    percent: float | None = None
    ends_at: float | None = None


class Asked(msgspec.Struct, frozen=True):
    """A running attempt that is asked about: its folder, and what its specification says to read."""

    job_id: int
    number: int
    folder: str
    measure: tuple[str | UserPattern, ...]


class _Known(msgspec.Struct):
    """What was found of an attempt the last time, and how to look the next time."""

    current: Current = Current()
    looked: float | None = None
    size: int = _FIRST_BYTES
    hopeless: bool = False


class ProgressReader:
    """Answers for running attempts. ``monotonic`` and ``now`` are the host's clocks (seconds; Unix time)."""

    def __init__(
        self, *, monotonic: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._monotonic, self._now = monotonic, now
        self._known: dict[tuple[int, int], _Known] = {}

    def current(self, asked: Sequence[Asked]) -> dict[int, Current]:
        """job -> how it is doing, for one answer to a person. Never raises."""
        began = self._monotonic()
        self._forget(began)
        known = {(each.job_id, each.number): self._of(each) for each in asked}
        # Who waited longest is looked at first: where time is short everybody has a turn.
        for each in sorted(asked, key=lambda one: known[one.job_id, one.number].looked or 0.0):
            state, now = known[each.job_id, each.number], self._monotonic()
            if now - began >= MOST_SECONDS:
                break
            if not state.hopeless and (state.looked is None or not 0 <= now - state.looked < FRESH_SECONDS):
                self._look(each, state, now)
        return {job_id: state.current for (job_id, _number), state in known.items()}

    def _forget(self, now: float) -> None:
        """Attempts that nobody asked about for a while have mostly ended."""
        if len(self._known) > _MOST_KNOWN:
            lately = {key: one for key, one in self._known.items() if one.looked and now - one.looked < _KEEP_SECONDS}
            self._known = lately

    def _of(self, asked: Asked) -> _Known:
        return self._known.setdefault((asked.job_id, asked.number), _Known())

    def _look(self, asked: Asked, state: _Known, began: float) -> None:
        state.looked = began
        try:
            state.current, all_of_it = self._read(asked, state.size, began)
        except Exception as error:
            log.warning("the progress of job %d cannot be read: %s", asked.job_id, error, extra={"action": "progress"})
            state.hopeless = True
            return
        spent = self._monotonic() - began
        if spent > JOB_SECONDS or not all_of_it:
            state.hopeless = spent > _HOPELESS_SECONDS and state.size == _LEAST_BYTES
            state.size = max(_LEAST_BYTES, state.size // 4)
        elif spent < JOB_SECONDS / 4:
            state.size = min(MOST_BYTES, state.size * 2)

    def _read(self, asked: Asked, size: int, began: float) -> tuple[Current, bool]:
        """What the last ``size`` bytes tell, and whether there was time for all of them."""
        if not asked.measure:
            return Current(), True
        parser = OutputParser(asked.measure, clock=self._monotonic)
        text = logs.read(asked.folder, tail=size)
        if len(text) >= size:
            # The rest of a line may say something else than the line: "prompt eval time" ends in "eval time".
            text = text[min((at for at in (text.find(b"\n"), text.find(b"\r")) if at >= 0), default=len(text)) :]
        left = max(0.0, began + JOB_SECONDS - self._monotonic())
        all_of_it = parser.read(text, seconds=left, pattern_seconds=left)
        return self._told(parser), all_of_it

    def _told(self, parser: OutputParser) -> Current:
        progress = parser.progress()
        left = progress.seconds_left if progress is not None else None
        return Current(
            measurements=tuple(each for each in parser.result() if each.name not in _PARTIAL),
            percent=round(100 * min(1.0, progress.fraction), 1) if progress is not None else None,
            ends_at=self._now() + left if left is not None and left <= _MOST_LEFT_SECONDS else None,
        )
