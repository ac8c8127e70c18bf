"""What wakes the loop beside requests. Supervisor events come as they are (``processes.supervisor``)."""

from __future__ import annotations

import msgspec


class CardsGone(msgspec.Struct, frozen=True):
    """Cards that have been missing for too long: their jobs end with them."""

    uuids: tuple[str, ...]


class CardBad(msgspec.Struct, frozen=True):
    """A card left service by itself: people who want to know are told. ``state`` is suspect or missing."""

    uuid: str
    index: int
    state: str
    note: str


class StopJob(msgspec.Struct, frozen=True):
    """A watcher's finding: this job has to end, for this reason; ``now`` without the usual grace."""

    job_id: int
    reason: str
    now: bool = False
