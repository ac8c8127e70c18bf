"""What a forecast is made from and what it comes to, values only. Times are Unix seconds."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from p104d.core.snapshot import Snapshot, WaitingJob


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """A job that waits. ``run_seconds`` is how long it is expected to run, its time limit apart. ``document`` is the
    key of what it needs in ``Question.needs``; ``due`` the time before which it does not start, if there is one;
    ``never`` why it does not start at all, where that is known."""

    job: WaitingJob
    run_seconds: float
    document: int | None = None
    due: float | None = None
    never: str | None = None


class Underway(msgspec.Struct, frozen=True, kw_only=True):
    """A job that runs, until ``ends_at`` as it is expected; its cards are in the snapshot's holds. ``succeeds`` False:
    it is being stopped, so that nobody who needs it starts. ``on_processor``: it has a place for jobs without cards."""

    id: int
    since: float
    ends_at: float
    ram_bytes: int = 0
    on_processor: bool = False
    succeeds: bool = True


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Where the forecast begins. ``snapshot`` has the rig, the copies and all families; its ``waiting`` is not read.

    ``needs`` tells by document which jobs have still to succeed. ``opens`` are closed cards that are expected back, and
    when. ``plans`` bounds the work: about that many looks at the queue.
    """

    snapshot: Snapshot
    ahead: tuple[Ahead, ...]
    underway: tuple[Underway, ...] = ()
    needs: Mapping[int, frozenset[int]] = {}
    opens: Mapping[str, float] = {}
    max_parallel_loads: int = 2
    plans: int = 4500


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """The load that a job had to wait for; ``began`` None: it was under way already."""

    label: str
    seconds: float
    began: float | None


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A job that starts. ``before`` is the job that had ``card`` until ``free_since`` (None: nobody had), ``load`` what
    was loaded for it after that; ``behind`` is whichever job ended last."""

    id: int
    starts: float
    ends: float
    cards: tuple[str, ...]
    before: int | None = None
    card: str | None = None
    free_since: float = 0.0
    load: Loaded | None = None
    behind: int | None = None


class Never(msgspec.Struct, frozen=True):
    """A job that does not start, and why."""

    id: int
    reason: str


class Foretold(msgspec.Struct, frozen=True, kw_only=True):
    """``planned`` in the order of their starts. ``loads`` counts the copies that were loaded from the beginning on.
    ``left`` are jobs that the work did not reach; then nothing is known of the end."""

    planned: tuple[Planned, ...]
    never: tuple[Never, ...]
    loads: int
    left: tuple[int, ...] = ()
