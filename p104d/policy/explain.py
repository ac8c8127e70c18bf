"""Why a waiting job waits, in one sentence with the nearest mend, and each card's own answer.

``explain`` plays the very round that ``schedule.plan`` plays, up to the job's turn, and asks the same predicate; so a
job it calls startable is started by the plan, and no other is. ``blocked_by_*`` word the reasons that keep a job out of
the snapshot altogether.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from p104d.core.job import Requirement
from p104d.core.plan import CardRefusal, Explanation, KeptCards, Reservation
from p104d.core.snapshot import CardView, Snapshot, WaitingJob
from p104d.core.units import format_duration, format_size, iso
from p104d.policy.explain_models import UNKNOWN_MODEL, explain_model_job, unpin
from p104d.policy.explain_words import are, grouped, indexes, names
from p104d.policy.fit import Obstacle, Seat, cards_text, host_refusal, impossible, jobs_text, obstacle, seat_refusal
from p104d.policy.schedule import Round, in_order

#: What ``explain`` says of a job that the plan for the same snapshot starts.
STARTS_NOW = "nothing: there is room, it starts now"
__all__ = [
    "PAUSED",
    "STARTS_NOW",
    "UNKNOWN_MODEL",
    "blocked_by_backoff",
    "blocked_by_dependencies",
    "blocked_by_hold",
    "blocked_by_inventory",
    "blocked_until",
    "explain",
]

PAUSED = "the queue is paused; p104ctl resume lets it go on"


def explain(snapshot: Snapshot, job: WaitingJob) -> Explanation:
    """Why ``job`` (in ``snapshot.waiting`` or not) does not start in ``plan(snapshot)``; ``STARTS_NOW`` if it does."""
    waiting = [other for other in snapshot.waiting if other.id != job.id]
    if job.family is not None:
        found = explain_model_job(msgspec.structs.replace(snapshot, waiting=(*waiting, job)), job, STARTS_NOW)
        return msgspec.structs.replace(found, waiting_because=PAUSED) if snapshot.paused else found
    turn = Round(snapshot)
    if snapshot.paused:
        return Explanation(waiting_because=PAUSED, cards=_answers(turn, job))
    for other in in_order([*waiting, job]):
        if other.id == job.id:
            break
        turn.serve(other)
    turn.settle(job)
    answers = _answers(turn, job)
    blocked = _host_because(turn, job)
    if turn.consider(job) is not None:
        return Explanation(waiting_because=STARTS_NOW, cards=answers)
    return Explanation(waiting_because=_because(snapshot, turn, job, blocked, answers), cards=answers)


def _answers(turn: Round, job: WaitingJob) -> tuple[CardRefusal, ...]:
    return tuple(CardRefusal(uuid=seat.view.uuid, refusal=_answer(turn, seat, job)) for seat in turn.seats)


def _answer(turn: Round, seat: Seat, job: WaitingJob) -> str | None:
    if job.requirement.cards == 0:
        return None
    refused = seat_refusal(seat, job.requirement)
    if refused is not None:
        return refused
    kept_for = turn.kept_from(seat, job)
    return None if kept_for is None else f"kept for job {kept_for}"


def _because(
    snapshot: Snapshot, turn: Round, job: WaitingJob, blocked: _Short | None, answers: Sequence[CardRefusal]
) -> str:
    never = impossible(snapshot.cards, snapshot.host, job.requirement)
    if never is not None:
        return f"can never run here: {never}; cancel it and submit it with less"
    mine = next((keep.reservation for keep in turn.keeps if keep.reservation.job_id == job.id), None)
    first = next((keep.reservation for keep in turn.keeps if keep.for_cards == (job.requirement.cards > 0)), None)
    if blocked is not None:
        return blocked.text if blocked.behind or mine is None else f"{blocked.text}{_first_for_host(turn, mine)}"
    kept = _model_job_before(turn, mine)
    if mine is not None and kept is None:
        return _first_in_line(turn, mine)
    before = kept if mine is not None or first is None else first
    if before is not None and (mine is not None or _only_kept(turn, job)):
        return f"waits behind job {before.job_id}, for which {names(turn.seats, before.cards)} {are(before.cards)} kept"
    return _no_room(turn, job, answers)


def _model_job_before(turn: Round, mine: Reservation | None) -> KeptCards | None:
    """The model job for which cards are kept, with ``mine`` some of those that are kept for this job after it."""
    kept = () if turn.models is None else turn.models.kept
    return next((each for each in kept if mine is None or not set(each.cards).isdisjoint(mine.cards)), None)


class _Short(NamedTuple):
    """What the host is short of, and whether another job is served with it before."""

    text: str
    behind: bool


def _host_because(turn: Round, job: WaitingJob) -> _Short | None:
    """What the host is short of at the job's turn, told apart from what is only kept for another."""
    req = job.requirement
    if turn.host_refusal(req) is None:
        return None
    short = host_refusal(
        req,
        ram_free_bytes=turn.ram_bytes(),
        slots_free=turn.slots_free,
        slots_total=turn.host.cpu_slots_total,
    )
    place = next((keep.reservation.job_id for keep in turn.keeps if keep.slots and req.cards == 0), None)
    memory = next((keep.reservation.job_id for keep in turn.keeps if keep.ram_bytes and req.ram_bytes), None)
    first = memory if memory is not None else place
    if short is not None:
        return _Short(short if first is None else f"{short}; waits behind job {first}", first is not None)
    if place is not None and turn.slots_free <= 1:
        return _Short(f"a place for a job without a card is free, but kept for job {place}", True)
    return _Short(f"host memory: {format_size(turn.ram_bytes())} free, but kept for job {memory}", True)


def _first_for_host(turn: Round, mine: Reservation) -> str:
    kept = f", {names(turn.seats, mine.cards)} too" if mine.cards else ""
    return f"; first in line: what gets free is kept for it{kept}"


def _first_in_line(turn: Round, mine: Reservation) -> str:
    kept = set(mine.cards)
    seats = [seat for seat in turn.seats if seat.view.uuid in kept]
    ending = {hold.job_id for seat in seats for hold in seat.holds}
    loading = [
        seat.model.label for seat in seats if seat.model is not None and seat.model.blocks is Obstacle.MODEL_LOADING
    ]
    by = "" if mine.starts_by is None else f", by {iso(mine.starts_by)} at the latest"
    until = [f"{jobs_text(ending)} end{'s' if len(ending) == 1 else ''}"] if ending else []
    until += [f"model {label} is loaded" for label in dict.fromkeys(loading)]
    waits = f"until {' and '.join(until or ['there is room'])}"
    return f"first in line: {names(turn.seats, mine.cards)} {are(mine.cards)} kept for it {waits}{by}"


def _only_kept(turn: Round, job: WaitingJob) -> bool:
    """Whether the job would have its cards, were none kept for another."""
    return sum(obstacle(seat, job.requirement) is None for seat in turn.seats) >= job.requirement.cards


def _no_room(turn: Round, job: WaitingJob, answers: Sequence[CardRefusal]) -> str:
    room = sum(answer.refusal is None for answer in answers)
    needs = job.requirement.cards
    if not turn.seats:
        return "no card is known yet"
    have = f"{room} {'has' if room == 1 else 'have'} room"
    lead = f"needs {cards_text(needs)}, {have}" if room else "no card has room"
    reasons = grouped(turn.seats, answers)
    return f"{lead}: {reasons}{_mend(turn, job, needs - room)}"


def _mend(turn: Round, job: WaitingJob, short: int) -> str:
    """What a person could do so that the job fits, where one kind of act is enough; drained cards come first."""
    req = job.requirement
    drained = [seat for seat in turn.seats if _drained(seat.view) and _takes_if_open(seat.view, req)]
    if len(drained) >= short:
        return f"; p104ctl undrain {' '.join(str(seat.view.index) for seat in drained[:short])}"
    found = [(seat, obstacle(seat, req)) for seat in turn.seats]
    foreign = [seat.view.index for seat, what in found if what is Obstacle.FOREIGN]
    if len(foreign) >= short:
        return f"; end the other processes on {indexes(foreign[:short])}"
    small = [seat.view.capacity_bytes for seat, what in found if what is Obstacle.BELOW_PROMISE and not seat.holds]
    if len(small) >= short:
        return "; a job with vram can use the smaller cards"
    return unpin([seat for seat, what in found if what is Obstacle.MODEL_PINNED], short)


def _drained(card: CardView) -> bool:
    return card.closed is not None and card.closed.startswith("drain")


def _takes_if_open(card: CardView, req: Requirement) -> bool:
    return obstacle(Seat(msgspec.structs.replace(card, closed=None)), req) is None


def blocked_by_hold(job_id: int) -> str:
    """A job that a person holds."""
    return f"held; p104ctl release {job_id} lets it go on"


def blocked_by_dependencies(ids: Iterable[int]) -> str:
    """A job whose dependencies (those not yet succeeded) have still to end."""
    known = set(ids)
    return f"waits until {jobs_text(known)} {'has' if len(known) == 1 else 'have'} succeeded"


def blocked_until(not_before: float, now: float) -> str:
    """A job with ``not_before`` in the future; Unix seconds."""
    return f"not before {iso(not_before)}, in {format_duration(max(0.0, not_before - now))}"


def blocked_by_backoff(next_try: float, now: float, *, failures: int, reason: str | None = None) -> str:
    """A job that waits for its next try after ``failures`` failures, the last for ``reason``; Unix seconds."""
    after = f" ({reason})" if reason else ""
    # An attempt that was taken back, or lost, is no failure.
    count = f", after {failures} failure{'s' if failures > 1 else ''}" if failures else ""
    return f"tries again at {iso(next_try)}, in {format_duration(max(0.0, next_try - now))}{count}{after}"


def blocked_by_inventory() -> str:
    """A job submitted before the first look at the cards is in."""
    return "the cards are still being counted"
