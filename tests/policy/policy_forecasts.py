"""Questions for a forecast, made by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policy_worlds import NOW, card, host

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, Snapshot, WaitingJob
from p104d.policy.forecast_view import Ahead, Foretold, Question


def ahead(number: int, run: float = 10.0, **changes: Any) -> Ahead:
    """A waiting job for one whole card, or for what ``changes`` say: fields of the job and of ``Ahead`` alike."""
    own = {key: changes.pop(key) for key in ("document", "due", "never") if key in changes}
    plain: dict[str, Any] = {"id": number, "priority": 0, "requirement": Requirement(), "arrival": NOW}
    return Ahead(job=WaitingJob(**(plain | changes)), run_seconds=run, **own)


def question(cards: list[CardView] | int, *jobs: Ahead, **changes: Any) -> Question:
    """A question at NOW; ``changes`` are fields of the snapshot and of the question alike."""
    rig = [card(index) for index in range(cards)] if isinstance(cards, int) else cards
    own = {key: changes.pop(key) for key in list(changes) if key in Question.__struct_fields__}
    plain: dict[str, Any] = {"now": NOW, "paused": False, "cards": tuple(rig), "host": host(), "waiting": ()}
    return Question(snapshot=Snapshot(**(plain | changes)), ahead=jobs, **own)


def times(told: Foretold, since: float = NOW) -> dict[int, tuple[float, float]]:
    """Job -> (start, end), seconds from the beginning."""
    return {each.id: (round(each.starts - since, 6), round(each.ends - since, 6)) for each in told.planned}


def reasons(told: Foretold) -> Mapping[int, str]:
    """Job -> why it does not start."""
    return {each.id: each.reason for each in told.never}
