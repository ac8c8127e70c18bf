"""What the residency policy sees, values only: the rig, the models and what loading them costs, the queue."""

from __future__ import annotations

import msgspec


class Held(msgspec.Struct, frozen=True):
    """In how many seconds a card should be free, and whether it surely is by then."""

    seconds: float
    sure: bool


class RigCard(msgspec.Struct, frozen=True, kw_only=True):
    """One card. ``closed`` takes nothing new (drained, missing, reserved), ``full`` no other copy than the one that is
    there (other processes use it too); ``slowness`` multiplies load times (a card behind an x1 riser beside one at x4:
    4). ``held`` is for a closed card that opens again by itself: when those that have it are expected to be done."""

    id: str
    closed: bool = False
    full: bool = False
    slowness: float = 1.0
    held: Held | None = None


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs that can run on the same copy: a model, with what loading it costs at ``slowness`` 1.

    ``mean_seconds`` is the mean run of the ``seen`` jobs that ended; None: none has. ``kept`` False: jobs without a
    model, each of which takes its cards alone, loads nothing and leaves nothing behind. ``fits`` are the cards that may
    take a copy; None: all. ``ram_bytes`` is host memory that a copy takes. ``label`` is what people call it; empty:
    ``name``.
    """

    name: str
    label: str = ""
    cards: int = 1
    load_seconds: float = 0.0
    mean_seconds: float | None = None
    seen: int = 0
    kept: bool = True
    fits: frozenset[str] | None = None
    ram_bytes: int = 0


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a family on its cards.

    ``busy_since`` None: idle. Else the time from which its job runs; in the future where it is still loading.
    ``loading`` tells that no job runs on it yet. ``pinned`` is never unloaded. ``ram_bytes`` of host memory come back
    when it is.
    """

    id: int
    family: str
    cards: tuple[str, ...]
    last_used: float
    busy_since: float | None = None
    loading: bool = False
    pinned: bool = False
    ram_bytes: int = 0


class Ask(msgspec.Struct, frozen=True):
    """One waiting job."""

    id: int
    arrival: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """The jobs of one family and priority that wait, oldest first. ``first`` may be cut to as many as the rig has
    cards; ``count`` is all of them."""

    family: str
    priority: int = 0
    count: int
    first: tuple[Ask, ...]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a decision depends on. ``ram_free_bytes`` of host memory are free for copies; None: enough."""

    now: float
    cards: tuple[RigCard, ...]
    residents: tuple[Resident, ...]
    families: tuple[Family, ...]
    lines: tuple[Line, ...]
    ram_free_bytes: int | None = None


class Begin(msgspec.Struct, frozen=True):
    """Start this job on this idle copy."""

    job: int
    resident: int


class Load(msgspec.Struct, frozen=True):
    """Unload the copies in ``evicts``, then load ``family`` on ``cards``. ``job`` asked for it: it is the one to run
    there, or, if another copy served it meanwhile, whoever is next; for a family that is not kept it starts now."""

    family: str
    cards: tuple[str, ...]
    evicts: tuple[int, ...]
    job: int


class Kept(msgspec.Struct, frozen=True):
    """Cards kept for a job that has waited too long or can have them soon, and when they are expected to be free."""

    job: int
    cards: tuple[str, ...]
    expected: float


class Decisions(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now, in this order; and what is kept, for whom."""

    acts: tuple[Begin | Load, ...] = ()
    kept: tuple[Kept, ...] = ()
