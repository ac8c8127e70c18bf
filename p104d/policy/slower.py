"""Whether a result is slower than its work was before on its card, or than it is on cards of the same kind, and why.

Thresholds. A card's own results scatter by what its host does beside; what lowers a card for good starts at about 10 %
(a power limit of 90 in place of 125 W took 10 % on a rig on record, the heat of three neighbours 14 %). So a result is
slow when it is more than 10 % below its card's median, and beyond three times the scatter of these results (from the
distance of their quartiles, which one bad result cannot widen). Siblings differ by chip, VBIOS and place: 15 %. Times
of loading depend on whether the file was still in the host's memory: only half the usual speed counts. Fewer than
five earlier results are no history.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

#: Results without which nothing is compared.
ENOUGH = 5
OWN_DROP, SIBLING_DROP, LOAD_DROP = 0.10, 0.15, 0.50
#: A normal scatter's standard deviation is the distance of its quartiles by this.
_QUARTILES = 1.349
_SIGMAS = 3.0

#: What is a speed, one figure a work; the value tells whether more is better.
SPEEDS: dict[str, bool] = {
    "generation_tokens_per_second": True,
    "prompt_tokens_per_second": True,
    "iterations_per_second": True,
    "load_seconds": False,
}

#: A part of the time that explains a drop, and by how much more than usual.
_OFTEN = 0.05
_MORE_OFTEN = 0.20
#: Clocks below their usual by so much, and lanes, explain one too. Memory clocks are steps: any step is more than 3 %.
_SM_DROP, _MEMORY_DROP = 0.05, 0.03


class Usual(msgspec.Struct, frozen=True, kw_only=True):
    """Earlier results: how many, their median, the distance of their quartiles."""

    count: int
    median: float
    spread: float = 0.0


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a card ran under: parts of the time (0..1), °C, MHz, lanes of PCIe generation 1. None: not known."""

    throttled: float | None = None
    capped: float | None = None
    temperature: float | None = None
    sm_clock: float | None = None
    memory_clock: float | None = None
    lanes: float | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """That a result is slow: by which part (0..1), than what ``usual`` (of its own card, or of its ``siblings``), and
    the likely cause with its mend."""

    drop: float
    usual: Usual
    siblings: bool
    cause: str


def slower(
    measure: str,
    value: float,
    own: Usual | None,
    siblings: Sequence[Usual] = (),
    *,
    now: Conditions | None = None,
    before: Conditions | None = None,
) -> Finding | None:
    """Whether ``value`` is too slow for a work; None: it is not, or too little is known.

    ``own`` are the card's earlier results, ``siblings`` those of each other card of its kind; ``now`` is what this one
    ran under, ``before`` what the usual ones did.
    """
    more_is_better = SPEEDS.get(measure)
    if more_is_better is None or value <= 0:
        return None
    limit = LOAD_DROP if measure == "load_seconds" else OWN_DROP
    now, before = now or Conditions(), before or Conditions()
    if own is not None and (drop := _drop(value, own, limit, more_is_better)) is not None:
        return Finding(drop=drop, usual=own, siblings=False, cause=cause(now, before))
    others = _together(siblings)
    if others is not None and (drop := _drop(value, others, max(limit, SIBLING_DROP), more_is_better)) is not None:
        return Finding(drop=drop, usual=others, siblings=True, cause=cause(now, before))
    return None


def _drop(value: float, usual: Usual, limit: float, more_is_better: bool) -> float | None:
    """By which part the speed is below the usual, where that is too much."""
    if usual.count < ENOUGH or usual.median <= 0:
        return None
    drop = 1 - value / usual.median if more_is_better else 1 - usual.median / value
    scatter = _SIGMAS * usual.spread / _QUARTILES
    return drop if drop > limit and abs(value - usual.median) > scatter else None


def _together(siblings: Sequence[Usual]) -> Usual | None:
    """The sibling in the middle: one that is itself slow, or faster than all, does not set the measure. A card counts
    once, however many results it has."""
    known = [each for each in siblings if each.count > 0]
    if not known:
        return None
    return Usual(
        count=sum(each.count for each in known),
        median=median(each.median for each in known),
        spread=median(each.spread for each in known),
    )


def cause(now: Conditions, before: Conditions) -> str:
    """The likeliest cause of a drop with what mends it, the surest sign first."""
    if (now.throttled or 0.0) > _OFTEN and (now.throttled or 0.0) > (before.throttled or 0.0):
        at = "" if now.temperature is None else f" at up to {now.temperature:.0f} °C"
        share = _percent(now.throttled)
        return f"heat or power trouble slowed it down {share} of the time{at}; clean its fan, check its cables"
    if _below(now.lanes, before.lanes, 0.0):
        return f"its link was x{now.lanes:.0f} of x{before.lanes:.0f} lanes of generation 1; reseat it, check its riser"
    if _below(now.memory_clock, before.memory_clock, _MEMORY_DROP):
        return (
            f"its memory clock was {now.memory_clock:.0f} MHz, usually {before.memory_clock:.0f}; "
            "look whether somebody limits it (p104ctl power)"
        )
    if (now.capped or 0.0) > (before.capped or 0.0) + _MORE_OFTEN:
        return f"the power limit held it back {_percent(now.capped)} of the time; raise it (p104ctl power)"
    if _below(now.sm_clock, before.sm_clock, _SM_DROP):
        return (
            f"its SM clock was {now.sm_clock:.0f} MHz, usually {before.sm_clock:.0f}; "
            "look at its temperature, its fan and its power cables"
        )
    return "nothing of its heat, power, link or clocks explains it; look at the host, and at what ran beside it"


def _below(now: float | None, before: float | None, by: float) -> bool:
    return now is not None and before is not None and now < before * (1 - by)


def _percent(part: float | None) -> str:
    return f"{100 * (part or 0.0):.0f} %"
