"""The wire: what ``--json`` prints and what requests carry. Fields may be added, never renamed.

Keys carry their unit; times are ISO 8601 in UTC; absent readings are null, never 0. The JSON Schemas in
``p104d/schemas`` are made from these types (``python -m p104d.api.schemas``), and a test keeps them equal.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

#: Raised when a request or an answer changes in a way that an older p104ctl would misread.
WIRE_VERSION = 1


class Card(msgspec.Struct, kw_only=True):
    """One card: who it is, what it does, what it reads."""

    index: int | None
    uuid: str
    name: str | None
    bus_id: str | None
    device_id: str | None
    vbios: str | None
    verdict: Literal["unverified", "proven", "locked", "aliased", "faulty", "failed"]
    state: Literal["ready", "busy", "verifying", "draining", "drained", "suspect", "missing"]
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    memory_reserved_bytes: int
    memory_proven_bytes: int | None
    temperature_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None
    utilization_percent: int | None
    fan_percent: int | None
    link_generation: int | None
    link_width: int | None
    throttle: list[str]
    jobs: list[int]
    models: list[str]
    note: str | None
    catalog_name: str | None = None
    driver: str | None = None
    subsystem_id: str | None = None
    compute_capability: str | None = None
    memory_capacity_bytes: int | None = None
    memory_foreign_bytes: int | None = None
    link_generation_max: int | None = None
    link_width_max: int | None = None
    power_limit_min_watts: float | None = None
    power_limit_max_watts: float | None = None
    power_limit_default_watts: float | None = None
    memory_utilization_percent: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    persistence: bool | None = None
    first_seen_at: str | None = None
    last_seen_at: str | None = None
    verified_at: str | None = None
    verified_depth: Literal["quick", "full", "thorough"] | None = None
    verified_percent: float | None = None
    test_due: str | None = None
    host_to_device_bytes_per_second: float | None = None
    device_to_host_bytes_per_second: float | None = None


class Attempt(msgspec.Struct, kw_only=True):
    """One try at a job. ``outcome`` is null while it goes on."""

    number: int
    outcome: Literal["succeeded", "failed", "cancelled", "lost", "revoked"] | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    cards: list[str]
    started_at: str | None
    ended_at: str | None
    placed_at: str | None = None
    cpu_seconds: float | None = None
    max_rss_bytes: int | None = None
    log_bytes: int | None = None


class Measurement(msgspec.Struct, kw_only=True):
    """A figure read from the output of a job's last attempt."""

    name: str
    value: float
    unit: str


class ListedJob(msgspec.Struct, kw_only=True):
    """A job as ``list`` and ``status`` show it. ``cards`` are those of its last attempt."""

    id: int
    name: str
    state: Literal["held", "queued", "starting", "running", "stopping", "succeeded", "failed", "cancelled", "lost"]
    reason: str | None
    waiting_because: str | None
    priority: int
    user: str
    labels: dict[str, str] | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    exit_code: int | None
    cards: list[str]
    matrix: dict[str, str] | None = None
    attempt_count: int = 0
    schedule_id: int | None = None
    measurements: list[Measurement] = []
    progress_percent: float | None = None
    estimated_end_at: str | None = None


class Job(ListedJob, kw_only=True):
    """A job as ``show`` prints it. ``spec`` is null for those who may not see it."""

    attempts: list[Attempt]
    measurements: list[Measurement]
    spec: dict[str, Any] | None
    after: list[int] | None = None


class Daemon(msgspec.Struct, kw_only=True):
    """The daemon that answers."""

    version: str
    pid: int
    started_at: str
    mode: Literal["real", "simulated"]
    paused: bool
    user_mode: bool


class Status(msgspec.Struct, kw_only=True):
    """One screen: cards, queue, running jobs, warnings."""

    daemon: Daemon
    cards: list[Card]
    queue: dict[str, int]
    running: list[ListedJob]
    warnings: list[str]


class Cards(msgspec.Struct):
    """The cards, by index; missing ones last."""

    cards: list[Card]


class IdName(msgspec.Struct):
    """A job or schedule that was made."""

    id: int
    name: str


class Submitted(msgspec.Struct):
    """What a submission became. ``warnings``: what was taken and may not be meant so."""

    jobs: list[IdName]
    schedules: list[IdName] = []
    warnings: list[str] = []


class ListedJobs(msgspec.Struct):
    """Jobs, newest first."""

    jobs: list[ListedJob]


class Jobs(msgspec.Struct):
    """Several jobs, in the order asked."""

    jobs: list[Job]


class Refusal(msgspec.Struct):
    """Why a card does not take the job; null: it would."""

    uuid: str
    refusal: str | None


class Explained(msgspec.Struct):
    """Why a job waits, and each card's own answer. ``waiting_because`` is null for a job that does not wait."""

    id: int
    waiting_because: str | None
    cards: list[Refusal]


class Explanations(msgspec.Struct):
    """Several explanations, in the order asked."""

    jobs: list[Explained]


class Waited(msgspec.Struct):
    """How a job that was waited for stands."""

    id: int
    state: str
    exit_code: int | None
    reason: str | None
    signal: int | None = None


class WaitedJobs(msgspec.Struct):
    """The jobs waited for, in the order asked."""

    jobs: list[Waited]


class Moved(msgspec.Struct):
    """A job after cancel, hold, release, retry or priority."""

    id: int
    state: str
    priority: int | None = None


class MovedJobs(msgspec.Struct):
    """The jobs that a verb was done to, in the order asked."""

    jobs: list[Moved]


class ListedSchedule(msgspec.Struct, kw_only=True):
    """A schedule and when it submits next."""

    id: int
    name: str
    cron: str
    timezone: str | None
    state: Literal["active", "held", "cancelled"]
    next_run_at: str | None
    last_run_at: str | None
    last_job_id: int | None
    user: str


class Schedules(msgspec.Struct):
    """All schedules that are not cancelled."""

    schedules: list[ListedSchedule]


class Check(msgspec.Struct):
    """One thing that doctor looked at; ``ok`` null: could not be told."""

    name: str
    ok: bool | None
    text: str
    mend: str | None


class Checks(msgspec.Struct):
    """What doctor found."""

    checks: list[Check]


class Paused(msgspec.Struct):
    """Whether new starts are stopped."""

    paused: bool


class SubmittedFile(msgspec.Struct, forbid_unknown_fields=True):
    """One file of a submission, as it was read."""

    file: str
    text: str


class SubmitRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A submission. ``set`` are key=value overrides; ``keep_env`` variables copied from the caller."""

    documents: list[SubmittedFile]
    cwd: str
    set: list[str] = []
    keep_env: dict[str, str] = {}
    umask: int = 0o022


class IdsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The jobs (or schedules) that a verb is for."""

    ids: list[int]
    priority: int | None = None
    timeout_seconds: float | None = None


class CardsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The cards that a verb is for, as a person names them."""

    cards: list[str]
    undo: bool = False


class ErrorBody(msgspec.Struct):
    """Why a request was not done."""

    message: str
    mend: str | None
    exit_code: int
    retry: bool


class ErrorAnswer(msgspec.Struct):
    """The body of every answer with a status of 400 or more."""

    error: ErrorBody
