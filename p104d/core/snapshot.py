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
    """A job that could start now if there were room. Order is priority (higher first), then id (older first)."""

    id: int
    priority: int
    requirement: Requirement
    time_limit_seconds: float | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a plan depends on. ``waiting`` may be given in any order and may be cut: per distinct requirement
    the first of it in order, as many as could start at once."""

    now: float
    paused: bool
    cards: tuple[CardView, ...]
    host: HostView
    waiting: tuple[WaitingJob, ...]
