"""What a job is: its specification as stored, its states, and the part of it that placement looks at."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class JobState(StrEnum):
    """The states of design and docs/architecture.md; ``core.lifecycle`` holds the moves between them."""

    HELD = "held"
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


WAITING = frozenset({JobState.HELD, JobState.QUEUED})
ACTIVE = frozenset({JobState.STARTING, JobState.RUNNING, JobState.STOPPING})
ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST})


class Outcome(StrEnum):
    """How one attempt ended. ``revoked``: the claim was taken back before anything ran."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    REVOKED = "revoked"


class Requirement(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a job needs from the rig; jobs with equal requirements are interchangeable for placement.

    ``vram_bytes`` None: whole cards, not shared. ``only`` holds card UUIDs (``GPU-...``) or card names;
    empty: any card. ``cards`` 0: a job for the host's processor.
    """

    cards: int = 1
    vram_bytes: int | None = None
    ram_bytes: int = 0
    only: tuple[str, ...] = ()


class UserPattern(msgspec.Struct, frozen=True, kw_only=True):
    """A measurement the user describes: the group named ``value`` of ``pattern`` is the number."""

    name: str
    unit: str
    pattern: str


class Notify(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to tell when a job ends in one of ``on``."""

    on: tuple[str, ...]
    command: tuple[str, ...] = ()
    webhook: str | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A cron expression (0 and 7 are Sunday) and the zone it is read in; None: the host's."""

    cron: str
    timezone: str | None = None


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document of job.yaml, checked and in base units (bytes, seconds, Unix time).

    ``command`` is the argv to exec; a shell string was turned into ``["/bin/sh", "-c", text]``.
    ``env`` holds secrets: it never leaves the daemon but to owner and root.
    ``measure`` holds parser names or UserPattern. ``matrix`` keeps the keys in the order written.
    """

    name: str
    command: tuple[str, ...]
    cwd: str
    cards: int = 1
    vram_bytes: int | None = None
    ram_bytes: int = 0
    only: tuple[str, ...] = ()
    priority: int = 0
    after: tuple[int | str, ...] = ()
    retries: int = 0
    idempotent: bool = False
    time_limit_seconds: float | None = None
    not_before: float | None = None
    schedule: Schedule | None = None
    env: dict[str, str] = {}
    matrix: dict[str, tuple[str, ...]] = {}
    labels: dict[str, str] = {}
    measure: tuple[str | UserPattern, ...] = ("tqdm", "llama.cpp")
    gpu_required: bool = False
    notify: Notify | None = None

    def requirement(self) -> Requirement:
        """The part of the specification that placement looks at."""
        return Requirement(cards=self.cards, vram_bytes=self.vram_bytes, ram_bytes=self.ram_bytes, only=self.only)


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One figure read from a job's output."""

    name: str
    value: float
    unit: str
