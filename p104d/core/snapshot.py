"""The rig at one moment, as the policy sees it: values only, nothing that can change underneath."""

from __future__ import annotations

import msgspec

from p104d.core.job import Requirement


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A running (or starting, or stopping) job's share of one card.

    ``reserved_bytes`` is what the job reserved; ``exclusive`` that nobody else may come beside it.
    ``ends_by`` is the latest Unix time at which its time limit ends it; None where it has no limit.
    ``since`` is the Unix time from which it holds the card (None: not told); the policy drains the card whose holds
    are oldest, so that a card once chosen stays chosen.
    """

    job_id: int
    reserved_bytes: int
    exclusive: bool
    ends_by: float | None = None
    since: float | None = None


class CardView(msgspec.Struct, frozen=True, kw_only=True):
    """One card. ``closed`` is None for a card that takes jobs, else why it takes none, as people are told it
    ("drained", "suspect: fell off the bus", "missing", "its memory is aliased", ...).

    ``capacity_bytes`` is what is known to be there; ``promised_bytes`` what a card of this kind should have
    (a job without ``vram`` needs a card whose capacity reaches it; catalogue tolerance already applied).
    ``foreign_bytes`` is memory used by processes that are not ours. ``link_bytes_per_second`` orders equal cards.
    ``temporary`` tells that a closed card is expected back by itself (verifying, hot), so that a job
    waiting for it is waiting, not impossible.
    """

    uuid: str
    index: int
    name: str
    capacity_bytes: int
    promised_bytes: int
    foreign_bytes: int = 0
    closed: str | None = None
    temporary: bool = False
    holds: tuple[Hold, ...] = ()
    link_bytes_per_second: float = 0.0


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """The host: memory that jobs may still reserve, and places for jobs without a card.

    ``ram_total_bytes`` and ``cpu_slots_total`` tell impossible from busy.
    """

    ram_free_bytes: int
    ram_total_bytes: int
    cpu_slots_free: int
    cpu_slots_total: int


class WaitingJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job that could start now if there were room. Order is priority (higher first), then id (older first).

    ``family`` is the key of the model family that it runs on; None for a command. ``arrival`` is Unix seconds.
    """

    id: int
    priority: int
    requirement: Requirement
    time_limit_seconds: float | None = None
    family: str | None = None
    arrival: float = 0.0


class ModelFamily(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that can run on the same copy of a model: one file, loaded in one way.

    ``label`` is the model as people know it. A copy takes ``cards`` cards whole, all among ``fits`` (UUIDs; cards that
    are closed now may be among them). ``load_seconds`` is what loading takes on the fastest link of the rig,
    ``mean_seconds`` the mean run of the ``seen`` jobs that ended; None: none has. ``waiting`` counts all its jobs that
    could start now, of every priority, also those that a cut snapshot leaves out.
    """

    key: str
    label: str
    cards: int
    fits: tuple[str, ...]
    load_seconds: float
    mean_seconds: float | None = None
    seen: int = 0
    waiting: int = 0
    ram_bytes: int = 0


class ResidentModel(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a model on its cards, which nobody else uses meanwhile.

    ``job_id`` is the job that runs on it, since ``busy_since``; while one does, its attempt holds the cards, in
    ``CardView.holds``. ``ready_at`` None: it is loaded; else when it is expected to be (Unix seconds). ``pinned``: not
    unloaded for others. ``ram_bytes`` is host memory that it holds whether idle or not.
    """

    id: int
    family: str
    label: str
    cards: tuple[str, ...]
    last_used: float
    job_id: int | None = None
    busy_since: float | None = None
    ready_at: float | None = None
    pinned: bool = False
    ram_bytes: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a plan depends on. ``waiting`` may be given in any order and may be cut: per distinct requirement
    the first of it in order, as many as could start at once. ``families`` has every family of ``residents`` and of
    ``waiting``."""

    now: float
    paused: bool
    cards: tuple[CardView, ...]
    host: HostView
    waiting: tuple[WaitingJob, ...]
    residents: tuple[ResidentModel, ...] = ()
    families: tuple[ModelFamily, ...] = ()
