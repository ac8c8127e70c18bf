"""What a job of a forecast waits for, in words, from how it came to start."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from p104d.core.units import format_duration
from p104d.policy.explain import blocked_until
from p104d.policy.fit import jobs_text
from p104d.policy.forecast_view import Ahead, Loaded, Planned


def waits_for(
    planned: Planned,
    ahead: Ahead | None,
    needs: Collection[int],
    now: float,
    names: Mapping[str, str],
    running: Collection[int],
) -> str | None:
    """What keeps a job from starting at ``now``; None: nothing does. ``needs`` are the jobs that have still to succeed
    for it, ``names`` the cards' as people know them, ``running`` the jobs that run now."""
    if planned.starts <= now:
        return None
    if needs:
        return f"{jobs_text(needs)}, which it needs"
    if ahead is not None and ahead.due is not None and ahead.due > now:
        return blocked_until(ahead.due, now)
    if planned.load is not None:
        return _load(planned, planned.load, now, names, running)
    if planned.before is not None and planned.free_since >= planned.starts:
        return _card(planned, names, running)
    return f"the end of job {planned.behind}" if planned.behind is not None else "its turn"


def _load(planned: Planned, load: Loaded, now: float, names: Mapping[str, str], running: Collection[int]) -> str:
    if load.began is None:
        return f"model {load.label}, which is being loaded"
    text = f"model {load.label} to be loaded ({format_duration(load.seconds)})"
    if load.began <= now:
        return text
    if planned.before is not None and planned.free_since >= load.began:
        return f"{_card(planned, names, running)}, then {text}"
    return f"its turn, then {text}"


def _card(planned: Planned, names: Mapping[str, str], running: Collection[int]) -> str:
    card = names.get(planned.card or "", planned.card)
    if planned.before in running:
        return f"card {card}, held by job {planned.before}"
    return f"card {card}, which job {planned.before} has before it"
