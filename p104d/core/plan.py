"""What the policy decided. The daemon commits it, then acts on it."""

from __future__ import annotations

import msgspec


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Start a job on these cards. ``reserved_bytes`` is per card, in the order of ``cards``. ``resident`` is the copy
    of a model that it runs on, whose cards these are; ``evicts`` are idle copies that are unloaded first."""

    job_id: int
    cards: tuple[str, ...]
    reserved_bytes: tuple[int, ...]
    exclusive: bool
    resident: int | None = None
    evicts: tuple[int, ...] = ()


class LoadModel(msgspec.Struct, frozen=True, kw_only=True):
    """Unload the copies in ``evicts``, then load a copy of ``family`` on ``cards``. ``job_id`` asked for it; once it is
    loaded it runs that job, or, if another copy served it meanwhile, whoever is next."""

    family: str
    cards: tuple[str, ...]
    job_id: int
    evicts: tuple[int, ...] = ()


class KeptCards(msgspec.Struct, frozen=True, kw_only=True):
    """Cards kept for a model job that has waited too long, or can have them soon, until about ``expected`` (Unix
    seconds)."""

    job_id: int
    cards: tuple[str, ...]
    expected: float


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Cards kept for a job that is first in line but does not fit yet; others start on them only if sure to end
    before ``starts_by`` (None: when is not known, nobody else starts there). ``host`` tells that it is host memory
    or a processor place, not cards, that is kept."""

    job_id: int
    cards: tuple[str, ...]
    starts_by: float | None
    host: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Verbs. What a start or a load evicts is named by it alone; starts and loads never meet on a card."""

    starts: tuple[Start, ...] = ()
    loads: tuple[LoadModel, ...] = ()
    reservation: Reservation | None = None
    kept: tuple[KeptCards, ...] = ()


class CardRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why one card does not take a job now; None: it would."""

    uuid: str
    refusal: str | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a waiting job waits: one sentence, and each card's own answer."""

    waiting_because: str
    cards: tuple[CardRefusal, ...]
