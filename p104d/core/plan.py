"""What the policy decided. The daemon commits it, then acts on it."""

from __future__ import annotations

import msgspec


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """Start a job on these cards. ``reserved_bytes`` is per card, in the order of ``cards``."""

    job_id: int
    cards: tuple[str, ...]
    reserved_bytes: tuple[int, ...]
    exclusive: bool


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """Cards kept for a job that is first in line but does not fit yet; others start on them only if sure to end
    before ``starts_by`` (None: when is not known, nobody else starts there). ``host`` tells that it is host memory
    or a processor place, not cards, that is kept."""

    job_id: int
    cards: tuple[str, ...]
    starts_by: float | None
    host: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Verbs, in the order to be carried out."""

    starts: tuple[Start, ...] = ()
    reservation: Reservation | None = None


class CardRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why one card does not take a job now; None: it would."""

    uuid: str
    refusal: str | None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a waiting job waits: one sentence, and each card's own answer."""

    waiting_because: str
    cards: tuple[CardRefusal, ...]
