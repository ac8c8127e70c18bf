"""The one predicate: does this card, does this host, take such a job now, and if not, why.

Placement (``schedule``), ``explain`` and the check at submission all ask here, so that what people are told and what
happens cannot differ. ``obstacle`` answers with a word and costs well under a microsecond; ``refusal`` puts it into a
sentence with figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

import msgspec

from p104d.core.job import Requirement
from p104d.core.snapshot import CardView, Hold, HostView
from p104d.core.units import MIB, format_size

#: Foreign memory up to this is a driver's own overhead or an idle X server: a whole card may still be called whole.
#: Above it somebody really uses the card, and every byte counts.
FOREIGN_MARGIN_BYTES = 256 * MIB


class Obstacle(Enum):
    """What keeps a card from taking a job. Those a person must mend come before those that pass."""

    NOT_AMONG = auto()
    CLOSED = auto()
    TOO_SMALL = auto()
    BELOW_PROMISE = auto()
    HELD_ALONE = auto()
    MODEL_PINNED = auto()
    MODEL_LOADING = auto()
    MODEL_STRANDED = auto()
    SHARED = auto()
    FOREIGN = auto()
    NO_ROOM = auto()


class Occupant(msgspec.Struct, kw_only=True):
    """A copy of a model, to the cards that it is on.

    ``blocks`` is what keeps commands from them (None: it is idle, and may be unloaded), ``stays`` what still will once
    its job has ended or it is loaded. ``id`` is below 0 for a copy that this round loads; ``since`` is when it was
    loaded or used last, in Unix seconds.
    """

    id: int
    label: str
    cards: tuple[str, ...]
    since: float
    job_id: int | None = None
    blocks: Obstacle | None = None
    stays: Obstacle | None = None

    def left(self) -> Occupant | None:
        """What is left of it for others once it is loaded and idle."""
        return None if self.stays is None else msgspec.structs.replace(self, job_id=None, blocks=self.stays)


class Seat:
    """A card during one round of decisions: its view, the holds that this round adds to it, the copy of a model on it.

    ``room_bytes`` is what a sharing job may still reserve, were nobody alone on the card.
    """

    __slots__ = ("alone", "foreign_bytes", "holds", "model", "room_bytes", "view")

    def __init__(self, view: CardView) -> None:
        self.view = view
        self.holds: list[Hold] = list(view.holds)
        self.model: Occupant | None = None
        self.alone = next((hold.job_id for hold in self.holds if hold.exclusive), None)
        self.foreign_bytes = view.foreign_bytes if view.foreign_bytes > FOREIGN_MARGIN_BYTES else 0
        self.room_bytes = view.capacity_bytes - self.foreign_bytes - sum(hold.reserved_bytes for hold in self.holds)

    def add(self, hold: Hold) -> None:
        """Let one more job hold a part (or all) of the card."""
        self.holds.append(hold)
        self.room_bytes -= hold.reserved_bytes
        if hold.exclusive:
            self.alone = hold.job_id

    def emptied(self) -> Seat:
        """The same card once all our jobs on it have ended; memory of other processes stays, and a pinned model."""
        seat = Seat.__new__(Seat)
        seat.view, seat.holds, seat.alone, seat.foreign_bytes = self.view, [], None, self.foreign_bytes
        seat.room_bytes = self.view.capacity_bytes - self.foreign_bytes
        seat.model = self.model if self.model is None else self.model.left()
        return seat


def matches(card: CardView, only: Sequence[str]) -> bool:
    """Whether ``card`` is meant by one of ``only``: its UUID, or its name with or without the maker, in any case.

    An empty ``only`` means every card.
    """
    if not only or card.uuid in only:
        return True
    name = card.name.casefold()
    names = {name, name.removeprefix("nvidia ")}
    return any(entry.casefold() in names or entry.casefold().removeprefix("nvidia ") in names for entry in only)


def obstacle(seat: Seat, req: Requirement) -> Obstacle | None:
    """What keeps the card from taking one card's share of ``req`` now; None: it takes it."""
    view = seat.view
    if req.only and not matches(view, req.only):
        return Obstacle.NOT_AMONG
    if view.closed is not None:
        return Obstacle.CLOSED
    if req.vram_bytes is None:
        return _whole_obstacle(seat)
    if req.vram_bytes > view.capacity_bytes:
        return Obstacle.TOO_SMALL
    if seat.alone is not None:
        return Obstacle.HELD_ALONE
    if seat.model is not None and seat.model.blocks is not None:
        return seat.model.blocks
    if req.vram_bytes > seat.room_bytes:
        alone_with_others = req.vram_bytes > view.capacity_bytes - seat.foreign_bytes
        return Obstacle.FOREIGN if alone_with_others else Obstacle.NO_ROOM
    return None


def _whole_obstacle(seat: Seat) -> Obstacle | None:
    if seat.view.capacity_bytes < seat.view.promised_bytes:
        return Obstacle.BELOW_PROMISE
    if seat.alone is not None:
        return Obstacle.HELD_ALONE
    if seat.model is not None and seat.model.blocks is not None:
        return seat.model.blocks
    if seat.holds:
        return Obstacle.SHARED
    return Obstacle.FOREIGN if seat.foreign_bytes else None


def refusal(card: CardView, req: Requirement) -> str | None:
    """Why ``card`` does not take a job that asks ``req`` now, with figures; None: it takes it.

    Speaks of this card alone: whether enough others do is the schedule's question. A job without cards is
    refused by no card, because it asks none.
    """
    return seat_refusal(Seat(card), req)


def seat_refusal(seat: Seat, req: Requirement) -> str | None:
    """``refusal`` for a card in the middle of a round."""
    if req.cards == 0:
        return None
    found = obstacle(seat, req)
    return None if found is None else _sentence(found, seat, req)


def _sentence(found: Obstacle, seat: Seat, req: Requirement) -> str:
    view, asked = seat.view, req.vram_bytes or 0
    match found:
        case Obstacle.NOT_AMONG:
            return f"not among this job's only: {', '.join(req.only)}"
        case Obstacle.CLOSED:
            return view.closed or "closed"
        case Obstacle.TOO_SMALL:
            has, wants = both_sizes(view.capacity_bytes, asked)
            return f"has {has}, {wants} asked"
        case Obstacle.BELOW_PROMISE:
            has, wants = both_sizes(view.capacity_bytes, view.promised_bytes)
            return f"has {has}; a job without vram needs the {wants} that a {view.name} promises"
        case Obstacle.HELD_ALONE:
            return _held_alone(seat)
        case Obstacle.MODEL_PINNED | Obstacle.MODEL_LOADING | Obstacle.MODEL_STRANDED:
            return model_text(found, seat.model.label if seat.model is not None else "?")
        case Obstacle.SHARED:
            return f"holds {jobs_text(hold.job_id for hold in seat.holds)}; a job without vram needs the card whole"
        case Obstacle.FOREIGN:
            used = f"used by other processes: {format_size(seat.foreign_bytes)}"
            return used if req.vram_bytes is None else f"{used}; {_room(seat, asked)}"
        case Obstacle.NO_ROOM:
            return _room(seat, asked)


def _held_alone(seat: Seat) -> str:
    model = seat.model
    number = seat.alone if model is None or model.job_id is None else model.job_id
    return f"holds job {number} alone" if model is None else f"holds model {model.label} (job {number} runs on it)"


def model_text(found: Obstacle, label: str) -> str:
    """What a model does on a card that others cannot have for it."""
    match found:
        case Obstacle.MODEL_PINNED:
            return f"model {label} is pinned there"
        case Obstacle.MODEL_LOADING:
            return f"model {label} is being loaded there"
        case _:
            return f"holds model {label}, which is on a card that takes no jobs too"


def _room(seat: Seat, asked: int) -> str:
    has, wants = both_sizes(max(0, seat.room_bytes), asked)
    return f"{has} free of {wants} asked"


def host_refusal(req: Requirement, *, ram_free_bytes: int, slots_free: int, slots_total: int) -> str | None:
    """Why the host has no place for ``req`` now: memory for any job that asks some, a slot for one without cards."""
    if req.cards == 0 and slots_free < 1:
        return f"all {slots_total} places for jobs without a card are taken"
    if req.ram_bytes and req.ram_bytes > ram_free_bytes:
        has, wants = both_sizes(max(0, ram_free_bytes), req.ram_bytes)
        return f"host memory: {has} free of {wants} asked"
    return None


def impossible(cards: Sequence[CardView], host: HostView, req: Requirement) -> str | None:
    """Why ``req`` could never run here even if every running job ended; None: it could.

    Missing and drained cards count, for they can come back; a closed card counts with what its kind promises,
    for its memory may not have been read yet. Ask only when the first inventory is in.
    """
    if req.ram_bytes > host.ram_total_bytes:
        has, wants = both_sizes(host.ram_total_bytes, req.ram_bytes)
        return f"asks {wants} of host memory; this host has {has} for jobs"
    if req.cards == 0:
        return None if host.cpu_slots_total else "this daemon takes no jobs without cards (cpu_jobs is 0)"
    if req.cards > len(cards):
        return f"asks {cards_text(req.cards)}; this rig has {len(cards)}"
    among = [card for card in cards if matches(card, req.only)]
    if req.cards > len(among):
        found = f"{len(among) or 'none'} of this rig's {'are' if len(among) > 1 else 'is'}"
        return f"asks {cards_text(req.cards)}; {found} among only: {', '.join(req.only)}"
    return _impossible_size(among, req)


def _impossible_size(among: Sequence[CardView], req: Requirement) -> str | None:
    if req.vram_bytes is None:
        enough = sum(card.closed is not None or card.capacity_bytes >= card.promised_bytes for card in among)
        if req.cards <= enough:
            return None
        least = sorted((card.capacity_bytes for card in among), reverse=True)[req.cards - 1]
        hold = "hold all that their kind promises" if enough > 1 else "holds all that its kind promises"
        mend = f"give the job a vram of at most {format_size(least)}"
        return f"asks {cards_text(req.cards)} whole; {enough or 'none'} of this rig's {hold}: {mend}"
    sizes = [max(card.capacity_bytes, card.promised_bytes) if card.closed else card.capacity_bytes for card in among]
    enough = sum(size >= req.vram_bytes for size in sizes)
    if req.cards <= enough:
        return None
    has, wants = both_sizes(max(sizes), req.vram_bytes)
    if not enough:
        return f"asks {wants} on a card; the largest has {has}"
    return f"asks {wants} on {cards_text(req.cards)}; {enough} of this rig's {'has' if enough == 1 else 'have'} it"


def both_sizes(first: int, second: int) -> tuple[str, str]:
    """Two sizes as people read them, told apart even where both would round to the same figure."""
    if first != second and format_size(first) == format_size(second):
        unit, name = (MIB, "MiB") if first // MIB != second // MIB else (1, "B")
        return f"{first // unit} {name}", f"{second // unit} {name}"
    return format_size(first), format_size(second)


def cards_text(count: int) -> str:
    """``1 card``, ``2 cards``."""
    return "1 card" if count == 1 else f"{count} cards"


def jobs_text(ids: Iterable[int]) -> str:
    """``job 7``, ``jobs 7, 8``, and at most four of them by number."""
    known = sorted(set(ids))
    shown = ", ".join(str(each) for each in known[:4])
    more = f" and {len(known) - 4} more" if len(known) > 4 else ""
    return f"job{'s' if len(known) > 1 else ''} {shown}{more}"
