"""What is expected of run times nobody knows: from the means so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heapreplace

from p104d.core.snapshot import Hold
from p104d.policy.rank import KILL_GRACE_SECONDS
from p104d.policy.residency_view import Family, Held, Resident

#: Where nothing has ended yet.
UNKNOWN_SECONDS = 30.0
#: How many ended jobs the guess from the other families weighs as much as.
PRIOR = 1.0
#: A job that runs is expected to run at least this part of its family's mean on.
REST = 0.3
#: A job long past its time limit may hang for good: the last choice.
OVERDUE_SECONDS = 1e9
#: Jobs placed one by one; of more, the whole is as good as the sum of its parts.
_EXACT = 24


def means(families: Iterable[Family]) -> dict[str, float]:
    """The expected run of each family: its mean so far, drawn to that of all where it has seen few."""
    known = sorted(families, key=lambda family: family.name)
    seen = [family for family in known if family.mean_seconds is not None and family.seen > 0]
    overall = sum(family.mean_seconds or 0.0 for family in seen) / len(seen) if seen else UNKNOWN_SECONDS
    return {
        family.name: ((family.mean_seconds or 0.0) * family.seen + overall * PRIOR) / (family.seen + PRIOR)
        for family in known
    }


def rest(resident: Resident, mean: float, now: float) -> float:
    """How long until the copy is expected to be idle."""
    if resident.busy_since is None:
        return 0.0
    ahead = max(0.0, resident.busy_since - now)
    if resident.loading:
        return ahead
    return ahead + max(mean - max(0.0, now - resident.busy_since), REST * mean)


def held(holds: Iterable[Hold], now: float) -> Held:
    """How long jobs without a model have a card on.

    Of one without a time limit only its age is known. The older, the nearer its end: what that says is often wrong, but
    a card that takes no new jobs comes nearer to being free than those that do, so that a choice once made stays.
    """
    seconds, sure = 0.0, True
    for hold in holds:
        if hold.ends_by is None:
            age = 0.0 if hold.since is None else max(0.0, now - hold.since)
            seconds, sure = max(seconds, UNKNOWN_SECONDS - age, REST * UNKNOWN_SECONDS), False
        else:
            overdue = hold.ends_by + KILL_GRACE_SECONDS < now
            seconds, sure = max(seconds, OVERDUE_SECONDS if overdue else hold.ends_by - now), sure and not overdue
    return Held(seconds, sure)


def done(free: Sequence[float], count: int, mean: float) -> float:
    """When ``count`` jobs of ``mean`` are done by copies that are free at the times ``free``."""
    if not free:
        return float("inf")
    if count > _EXACT:
        return max(max(free), (sum(free) + count * mean) / len(free))
    copies = list(free)
    heapify(copies)
    last = 0.0
    for _ in range(count):
        last = copies[0] + mean
        heapreplace(copies, last)
    return last
