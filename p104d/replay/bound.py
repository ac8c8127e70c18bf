"""How soon a trace could be done at best, by any policy, even one that knows everything: a bound from below.

In a time T a copy of a family that takes s seconds to load does at most T - s seconds of work, so the work P of the
family needs k = ceil(P / (T - s)) loads at least, and all families together w (P + k s) card-seconds of the N T there
are. The smallest T that has them is a bound. Three refinements, each true as well:

- a job cannot end before its arrival, its load (nobody loads a model before somebody asked for it) and its run;
- what arrives from some moment on must be done in what is left after it: the same sum, over the tail of the trace;
  models asked for before that moment may be loaded by then, so for the tail they load for nothing;
- of jobs wider than N / (j + 1) cards at most j run at once, whatever cards are left beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

import msgspec

from p104d.replay.trace import Trace, TraceJob

_STEPS = 60


class Share(msgspec.Struct, frozen=True):
    """What a tail of the trace asks of one family: cards a copy, load (0: it may be there already), work, and the
    moment before which no copy of it can have been asked for."""

    cards: int
    load: float
    work: float
    first: float


def lower_bound(trace: Trace) -> float:
    """Seconds from 0 before which not all jobs of ``trace`` can have ended."""
    firsts: dict[str, float] = {}
    for job in trace.jobs:
        if job.model is not None:
            firsts[job.model] = min(job.arrival_seconds, firsts.get(job.model, job.arrival_seconds))
    best = max((_alone(trace, job, firsts) for job in trace.jobs), default=0.0)
    tail: dict[tuple[str, int], float] = {}
    jobs = sorted(trace.jobs, key=lambda job: -job.arrival_seconds)
    for index, job in enumerate(jobs):
        key = (job.model or "", trace.width(job))
        tail[key] = tail.get(key, 0.0) + job.run_seconds
        if index + 1 == len(jobs) or jobs[index + 1].arrival_seconds < job.arrival_seconds:
            shares = [_share(trace, key, work, firsts, job.arrival_seconds) for key, work in tail.items()]
            best = _at_least(best, job.arrival_seconds, shares, trace.cards)
    return best


def _alone(trace: Trace, job: TraceJob, firsts: dict[str, float]) -> float:
    loaded = 0.0 if job.model is None else firsts[job.model] + trace.load_seconds(job)
    return max(job.arrival_seconds, loaded) + job.run_seconds


def _share(trace: Trace, key: tuple[str, int], work: float, firsts: dict[str, float], since: float) -> Share:
    name, cards = key
    if not name or firsts[name] < since:
        return Share(cards, 0.0, work, since)
    return Share(cards, trace.models[name].load_seconds, work, firsts[name])


def _at_least(best: float, since: float, shares: Sequence[Share], cards: int) -> float:
    """The smallest time, not below ``best``, at which the tail that arrives from ``since`` on can be done."""
    for limit in _limits(shares, cards):
        wide = [(share, 1 if limit < cards else share.cards) for share in shares if share.cards * (limit + 1) > cards]
        if limit == cards:
            wide = [(share, share.cards) for share in shares]
        best = max(best, _smallest(best, since, wide, limit))
    return best


def _limits(shares: Iterable[Share], cards: int) -> list[int]:
    """How many at once: all cards (each job counted by its cards), and for each width how many of it fit."""
    return sorted({cards, *(cards // share.cards for share in shares)})


def _smallest(low: float, since: float, shares: Sequence[tuple[Share, int]], room: int) -> float:
    if _fits(low, since, shares, room):
        return low
    high = max(low, since) + sum(share.work + share.load for share, _ in shares) + 1.0
    while not _fits(high, since, shares, room):
        high += high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _fits(middle, since, shares, room) else (middle, high)
    return low


def _fits(end: float, since: float, shares: Sequence[tuple[Share, int]], room: int) -> bool:
    need = 0.0
    for share, weight in shares:
        span = end - share.first - share.load
        if span <= 0 and share.work > 0:
            return False
        loads = ceil(share.work / span * (1 - 1e-12)) if share.load and span > 0 else 0
        need += weight * (share.work + loads * share.load)
    return need <= room * (end - since) * (1 + 1e-12)
