"""Which card is better, among those that take a job, and which of the others will be free soonest.

All orders end in index and UUID, so that one snapshot has one plan whatever order its cards came in.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from p104d.core.job import Requirement
from p104d.core.snapshot import Hold
from p104d.policy.fit import Seat

#: A job is told to stop at its time limit, killed 10 s later, and reaped; only after this is its end certain.
KILL_GRACE_SECONDS = 15.0
_SIZE_CLASS_BYTES = 1 << 28


class Rank(NamedTuple):
    """The smaller, the better a card is for a job."""

    opens_a_card: bool
    room_bytes: int
    slowness: float
    position: int
    uuid: str


def rank(seat: Seat, req: Requirement) -> Rank:
    """How well a card that takes ``req`` suits it.

    A sharing job goes where others already share, best fit first, so that whole cards stay whole; on an empty card,
    and for a whole-card job, the smallest that is enough; then the better link, then the lower index.
    """
    view = seat.view
    whole = req.vram_bytes is None
    # Proven sizes of equal cards differ by a few MiB, which is no reason to prefer one.
    room = view.capacity_bytes // _SIZE_CLASS_BYTES if whole else seat.room_bytes
    return Rank(not whole and not seat.holds, room, -view.link_bytes_per_second, view.index, view.uuid)


class When(IntEnum):
    """How surely a card will take the job, surest first."""

    NOW = 0
    BY_A_TIME = 1
    SOME_DAY = 2
    OVERDUE = 3


class Prospect(NamedTuple):
    """When a card that does not take a job now will; the smaller, the sooner.

    ``at`` is Unix seconds, 0 where not known; ``since`` then tells when the youngest of the jobs that must end came.
    Nothing new comes to stay on a card kept for a job, so the least of either never grows: the choice may move on to a
    card that is nearer to being free, but never to one with a job younger than the wait, and so comes to an end.
    """

    when: When
    at: float
    since: float
    missing_bytes: int
    holds: int
    rank: Rank


def prospect(seat: Seat, req: Requirement, now: float, *, free: bool, behind: bool = False) -> Prospect:
    """When ``seat`` will take ``req``, if our jobs on it end by their time limits at the latest.

    ``free`` tells that it takes it already; otherwise the end of our jobs must be enough (``seat.emptied()`` takes it).
    ``behind``: it is kept for a model job before. When a model is loaded nobody knows for sure; then it will be idle.
    """
    place = rank(seat, req)
    if behind:
        return Prospect(When.SOME_DAY, 0.0, now, 0, len(seat.holds), place)
    if free:
        return Prospect(When.NOW, now, 0.0, 0, int(seat.model is not None), place)
    if seat.model is not None and not seat.holds:
        return Prospect(When.SOME_DAY, 0.0, seat.model.since, 0, 1, place)
    end = _freed(seat, req, now)
    whole = req.vram_bytes is None
    missing = sum(hold.reserved_bytes for hold in seat.holds) if whole else (req.vram_bytes or 0) - seat.room_bytes
    return Prospect(*end, max(0, missing), len(seat.holds), place)


class _End(NamedTuple):
    """The end of a job as placement may count on it; the smaller, the surer and sooner."""

    when: When
    at: float
    since: float


def _freed(seat: Seat, req: Requirement, now: float) -> _End:
    """Let the holds end, the surest first, until the job fits; the last one needed decides."""
    room, alone = seat.room_bytes, seat.alone is not None
    last = _End(When.NOW, now, 0.0)
    for end, released, exclusive in sorted(
        (_end(hold, now), hold.reserved_bytes, hold.exclusive) for hold in seat.holds
    ):
        if req.vram_bytes is not None and not alone and room >= req.vram_bytes:
            break
        last = end
        room, alone = room + released, alone and not exclusive
    return last


def _end(hold: Hold, now: float) -> _End:
    """One job's end. One long past its limit may hang for good: the last choice."""
    since = hold.since or 0.0
    if hold.ends_by is None:
        return _End(When.SOME_DAY, 0.0, since)
    if hold.ends_by + KILL_GRACE_SECONDS < now:
        return _End(When.OVERDUE, 0.0, since)
    return _End(When.BY_A_TIME, max(hold.ends_by, now), 0.0)
