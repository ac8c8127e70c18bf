"""The wire of what was recorded: results of jobs, what they come to, readings over time, and the report of a while.

Absent figures are null, never 0; times are ISO 8601 in UTC.
"""

from __future__ import annotations

import msgspec

from p104d.api.proof import History


class Reference(msgspec.Struct, kw_only=True):
    """A speed on record for the same work on the same kind and number of cards. ``percent``: how the result stands
    against it, 100 being as fast and more being better, whatever the unit."""

    value: float
    unit: str
    source: str
    percent: float | None


class Result(msgspec.Struct, kw_only=True):
    """One figure of one succeeded attempt. ``seconds`` is how long the attempt ran; ``cards`` how many it had."""

    at: str
    job_id: int
    attempt: int
    name: str
    model: str | None
    user: str
    cards: int
    card_uuids: list[str]
    measure: str
    value: float
    unit: str
    seconds: float | None
    driver: str | None
    vbios: str | None
    reference: Reference | None = None


class Summary(msgspec.Struct, kw_only=True):
    """All results of one kind of work (``model``; of jobs without a model, ``name``), one measure, on one card.

    ``card`` is null for work on several cards at once (``cards`` tells how many) or on none. ``best`` knows whether
    less is better; ``spread`` is between the quartiles, in ``unit``; ``reference.percent`` is the median's.
    """

    name: str | None
    model: str | None
    card: str | None
    card_index: int | None
    card_name: str | None
    cards: int
    measure: str
    unit: str
    count: int
    best: float
    median: float
    spread: float
    last: float
    first_at: str
    last_at: str
    reference: Reference | None = None


class HistoryAnswer(History, kw_only=True):
    """What was recorded: memory tests, results (both newest first), what results come to. ``null``: not asked for."""

    results: list[Result] | None = None
    summaries: list[Summary] | None = None


class Series(msgspec.Struct, kw_only=True):
    """One metric of a card (its UUID) or of the ``host``. Each point stands for the ``step_seconds`` that begin at its
    time; where nothing was read there is no point."""

    entity: str
    metric: str
    unit: str
    step_seconds: float
    times: list[str]
    minimum: list[float]
    mean: list[float]
    maximum: list[float]


class Span(msgspec.Struct, kw_only=True):
    """An attempt at a job, as it is drawn under readings. ``ended_at`` null: it goes on."""

    job_id: int
    attempt: int
    name: str
    outcome: str | None
    started_at: str
    ended_at: str | None


class SeriesAnswer(msgspec.Struct, kw_only=True):
    """Readings over time, with the jobs that ran on the card meanwhile. ``note`` says why there are none."""

    since: str
    until: str
    card: str | None
    card_index: int | None
    card_name: str | None
    series: list[Series]
    jobs: list[Span]
    note: str | None = None


class BenchRun(msgspec.Struct, kw_only=True):
    """One run of ``p104ctl bench`` on one card, alone or ``together`` with the other cards. ``reference`` is what its
    generation (without one, its prompt) is held against; ``error`` says why there is no speed."""

    card: str
    card_index: int | None
    card_name: str
    together: bool
    job_id: int
    state: str
    prompt_tokens_per_second: float | None
    generation_tokens_per_second: float | None
    mean_power_watts: float | None
    tokens_per_watt_hour: float | None
    reference: Reference | None
    error: str | None


class Bench(msgspec.Struct, kw_only=True):
    """What ``p104ctl bench`` measured with a model (the path of its file)."""

    model: str
    runs: list[BenchRun]


class Cause(msgspec.Struct):
    """Why jobs failed, and how many did so."""

    reason: str
    count: int


class Group(msgspec.Struct, kw_only=True):
    """Jobs of one name and model. Counts are of jobs that ended meanwhile (``failed`` includes ``lost``), ``hours`` of
    all attempts that did; ``speed`` is the median of ``speed_measure``. ``cost`` is null where no price is
    configured, or several currencies were."""

    name: str
    model: str | None
    jobs: int
    succeeded: int
    failed: int
    cancelled: int
    attempts: int
    hours: float
    energy_watt_hours: float | None
    cost: float | None
    currency: str | None
    tokens: float | None
    items: float | None
    speed: float | None
    speed_unit: str | None
    speed_measure: str | None
    failures: list[Cause]


class CardPart(msgspec.Struct, kw_only=True):
    """What a card did. ``hours`` is how long at least one job ran on it, ``energy_watt_hours`` what its jobs took,
    ``drawn_watt_hours`` all that it drew, idle too, as far as readings were kept."""

    card: str
    index: int | None
    name: str | None
    state: str
    verdict: str
    hours: float
    attempts: int
    failed: int
    energy_watt_hours: float | None
    drawn_watt_hours: float | None
    tests: int
    tests_bad: int
    failures: list[Cause]
    warnings: list[str]


class Report(msgspec.Struct, kw_only=True):
    """A while on one page: by job name and model, by card, why jobs failed, and which cards to look at."""

    since: str
    until: str
    groups: list[Group]
    cards: list[CardPart]
    failures: list[Cause]
    look_at: list[str]
    notes: list[str]
