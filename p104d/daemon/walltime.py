"""Notices that the host's clock was set: a rig without a battery starts in another year, and learns the time later.

What the daemon measures goes by the monotonic clock and knows nothing of it. What waits in the queue waits by the wall
clock, so that it outlives a restart; it is moved along here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import Connection

from p104d.core.clock import Clock
from p104d.policy.retry import MOST_BACKOFF_SECONDS
from p104d.store import timers
from p104d.store.engine import Database

log = logging.getLogger(__name__)
#: Less than this is a clock being steered, not set.
_STEERED_SECONDS = 2.0


class WallTime:
    """Keeps what waits in step with the wall clock, in the transactions of the loop."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset: float | None = None

    def was_set(self, now: float) -> bool:
        """Whether the clock is elsewhere than it was at the last transaction (at the first: who knows)."""
        return self._offset is None or abs(self._jump(now)) > _STEERED_SECONDS

    def _jump(self, now: float) -> float:
        return 0.0 if self._offset is None else now - self._clock.monotonic() - self._offset

    @contextmanager
    def write(self, database: Database, now: float) -> Iterator[Connection]:
        """A writing transaction in which the waits are as the clock is."""
        jump, was_set, offset = self._jump(now), self.was_set(now), now - self._clock.monotonic()
        with database.write() as conn:
            if was_set:
                self._adjust(conn, jump, now)
            yield conn
        if was_set and self._offset is not None:
            log.warning("the host's clock was set by %+.0f s", jump, extra={"action": "clock_set"})
        self._offset = offset

    def _adjust(self, conn: Connection, jump: float, now: float) -> None:
        if self._offset is None:
            timers.bound(conn, now + MOST_BACKOFF_SECONDS)
        else:
            timers.shift(conn, jump)
        timers.forget_next_runs(conn, now)
