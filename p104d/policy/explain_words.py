"""Cards in sentences, as ``explain`` names them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from p104d.core.plan import CardRefusal
from p104d.policy.fit import Seat

#: A sentence stays one sentence: of a large rig only so many different answers are named.
_MOST_GROUPS = 4


def grouped(seats: Sequence[Seat], answers: Sequence[CardRefusal]) -> str:
    """Equal answers told once: ``card 0: drained; cards 1, 2: holds job 7 alone``; of one card its answer alone."""
    groups: dict[str, list[int]] = {}
    for seat, answer in zip(seats, answers, strict=True):
        if answer.refusal is not None:
            groups.setdefault(answer.refusal, []).append(seat.view.index)
    if len(seats) < 2:
        return next(iter(groups), "none")
    told = [f"{indexes(where)}: {text}" for text, where in list(groups.items())[:_MOST_GROUPS]]
    others = sum(len(where) for where in list(groups.values())[_MOST_GROUPS:])
    return "; ".join([*told, f"and {others} more"] if others else told)


def names(seats: Iterable[Seat], uuids: Sequence[str]) -> str:
    """``cards 0, 1``, for their UUIDs."""
    kept = set(uuids)
    return indexes([seat.view.index for seat in seats if seat.view.uuid in kept])


def indexes(numbers: Sequence[int]) -> str:
    """``card 0``, ``cards 0, 1``."""
    return f"card{'s' if len(numbers) > 1 else ''} {', '.join(str(index) for index in numbers)}"


def are(uuids: Sequence[str]) -> str:
    """``is`` or ``are``, for so many."""
    return "are" if len(uuids) > 1 else "is"
