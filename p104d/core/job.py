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


class ModelNeed(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The model that an ``engine: llama.cpp`` job runs on, and how it is to be loaded.

    ``path`` is absolute; ``uid`` whose rights read it. ``context`` is the tokens that each of ``parallel`` requests may
    have. ``embeddings``: its requests ask for embeddings, which a server has to be started for. ``cards`` None: as few
    as it fits on.
    """

    path: str
    uid: int
    context: int = 4096
    kv_cache: str = "f16"
    parallel: int = 1
    embeddings: bool = False
    cards: int | None = None


class Requirement(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a job needs from the rig; jobs with equal requirements are interchangeable for placement.

    ``vram_bytes`` None: whole cards, not shared. ``only`` holds card UUIDs (``GPU-...``) or card names;
    empty: any card. ``cards`` 0: a job for the host's processor. With a ``model`` the cards are those of the copy that
    the job runs on: ``cards`` is 1 or what the job asks for, and ``vram_bytes`` replaces what the model's header tells.
    """

    cards: int = 1
    vram_bytes: int | None = None
    ram_bytes: int = 0
    only: tuple[str, ...] = ()
    model: ModelNeed | None = None


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


class EngineSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an ``engine: llama.cpp`` job has instead of a command.

    ``model``, ``input`` and ``output`` are absolute, but as written where they have ``${matrix.KEY}``: what is a job's
    own, always absolute, is told by ``core.matrix.expand_engine``.
    ``cards`` None: the job leaves it to the model's size (``JobSpec.cards`` is 1 then). ``embeddings`` is found in the
    input at the submission.
    """

    name: str = "llama.cpp"
    model: str
    input: str
    output: str
    context: int = 4096
    kv_cache: str = "f16"
    parallel: int = 1
    cards: int | None = None
    embeddings: bool = False

    def need(self, uid: int) -> ModelNeed:
        """What its jobs can share a copy of a model by."""
        return ModelNeed(
            path=self.model,
            uid=uid,
            context=self.context,
            kv_cache=self.kv_cache,
            parallel=self.parallel,
            embeddings=self.embeddings,
            cards=self.cards,
        )


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One document of job.yaml, checked and in base units (bytes, seconds, Unix time).

    ``command`` is the argv to exec (a shell string was turned into ``["/bin/sh", "-c", text]``); empty with an
    ``engine``.
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
    engine: EngineSpec | None = None

    def requirement(self, uid: int = 0) -> Requirement:
        """The part of the specification that placement looks at; ``uid`` is the submitter's."""
        return Requirement(
            cards=self.cards,
            vram_bytes=self.vram_bytes,
            ram_bytes=self.ram_bytes,
            only=self.only,
            model=self.engine.need(uid) if self.engine is not None else None,
        )


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One figure read from a job's output."""

    name: str
    value: float
    unit: str
