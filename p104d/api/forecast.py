"""The wire of ``p104ctl plan``: when the queue will be done, and what each job waits for until then."""

from __future__ import annotations

from typing import Literal

import msgspec


class ForecastJob(msgspec.Struct, kw_only=True):
    """A job in the forecast. ``starts_at`` of one that runs is when it did. ``guessed``: how long it runs is not known
    from its like, so that its end and all that follows is a guess.

    ``cards`` are UUIDs; on a rig that is only imagined there are none, and ``places`` numbers its cards from 0 instead.
    ``waits_for`` says what keeps it from starting at once; null: nothing does, or it runs.
    """

    id: int
    name: str
    model: str | None
    state: Literal["held", "queued", "starting", "running", "stopping"]
    starts_at: str | None
    ends_at: str | None
    cards: list[str]
    waits_for: str | None
    guessed: bool
    places: list[int] = []


class NeverStarts(msgspec.Struct, kw_only=True):
    """A job that does not start in this forecast, and why."""

    id: int
    name: str
    reason: str


class Forecast(msgspec.Struct, kw_only=True):
    """What the policy would do from ``at`` on, in virtual time, if nothing else came.

    ``cards`` is how many the forecast has, ``hypothetical`` that they were asked for and are not this rig's.
    ``makespan_seconds`` is from ``at`` to ``done_at``; both are null where nothing is to be done or the end cannot be
    told. ``loads`` counts models that have to be loaded. ``jobs`` are in the order of their start; ``left_out`` counts
    those beyond the limit.
    """

    at: str
    cards: int
    hypothetical: bool
    done_at: str | None
    makespan_seconds: float | None
    loads: int
    jobs: list[ForecastJob]
    never: list[NeverStarts]
    left_out: int = 0
    notes: list[str] = []
