"""What wakes the loop beside requests. Supervisor events come as they are (``processes.supervisor``)."""

from __future__ import annotations

import msgspec


class CardsGone(msgspec.Struct, frozen=True):
    """Cards that have been missing for too long: their jobs end with them."""

    uuids: tuple[str, ...]


class StopJob(msgspec.Struct, frozen=True):
    """A watcher's finding: this job has to end, for this reason; ``now`` without the usual grace."""

    job_id: int
    reason: str
    now: bool = False
