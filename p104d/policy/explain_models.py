"""Why a job waits that runs on a model: told from the finished round of all jobs, the one that ``plan`` plays."""

from __future__ import annotations

from collections.abc import Sequence

from p104d.core.plan import CardRefusal, Explanation
from p104d.core.snapshot import HostView, ModelFamily, Snapshot, WaitingJob
from p104d.core.units import format_size
from p104d.policy.explain_words import are, grouped, names
from p104d.policy.fit import Obstacle, Seat, both_sizes, cards_text, jobs_text, matches, model_text
from p104d.policy.models import Models
from p104d.policy.residency_reasons import because
from p104d.policy.residency_view import Ask, Decisions, Kept, Line
from p104d.policy.schedule import Round, in_order

UNKNOWN_MODEL = "its model is not known yet"


def explain_model_job(snapshot: Snapshot, job: WaitingJob, starts_now: str) -> Explanation:
    """Why ``job`` does not start in the plan for ``snapshot``, which has it; ``starts_now`` if it does."""
    turn = Round(snapshot)
    if not snapshot.paused:
        for each in in_order(snapshot.waiting):
            turn.serve(each)
    made = turn.finish()
    family = None if turn.models is None else turn.models.families.get(job.family or "")
    if turn.models is None or family is None:
        same = tuple(CardRefusal(uuid=seat.view.uuid, refusal=UNKNOWN_MODEL) for seat in turn.seats)
        return Explanation(waiting_because=UNKNOWN_MODEL, cards=same)
    answers = tuple(
        CardRefusal(uuid=seat.view.uuid, refusal=card_answer(turn, seat, job, family)) for seat in turn.seats
    )
    if any(start.job_id == job.id for start in made.starts):
        return Explanation(waiting_because=starts_now, cards=answers)
    return Explanation(waiting_because=_because(turn, turn.models, job, family, answers), cards=answers)


def card_answer(turn: Round, seat: Seat, job: WaitingJob, family: ModelFamily) -> str | None:
    """What a card says to a model job once the round is over; None: it has a copy of its, or could take one."""
    view, model, models = seat.view, seat.model, turn.models
    assert models is not None
    mine = model is not None and model.label == family.label
    if view.closed is not None:
        return view.closed
    if view.uuid not in family.fits and not mine:
        return _no_fit(seat, job, family)
    if seat.alone is not None or (model is not None and model.job_id is not None):
        return _busy(seat)
    if model is not None and model.blocks is not None and not (mine and model.blocks is Obstacle.MODEL_PINNED):
        return model_text(model.blocks, model.label)
    if seat.holds:
        return f"holds {jobs_text(hold.job_id for hold in seat.holds)}; a model needs the card whole"
    if (kept := _kept_for(turn, models, seat)) is not None and kept != job.id:
        return f"kept for job {kept}"
    if model is None and seat.foreign_bytes:
        return f"used by other processes: {format_size(seat.foreign_bytes)}"
    if model is not None and not mine and models.wanted(model):
        return f"holds model {model.label}, for which jobs wait"
    return None


def _kept_for(turn: Round, models: Models, seat: Seat) -> int | None:
    kept = models.kept_job(seat)
    return kept if kept is not None else turn.reserved_for(seat)


def _busy(seat: Seat) -> str:
    if seat.model is None:
        return f"holds job {seat.alone} alone"
    return f"holds model {seat.model.label} (job {seat.model.job_id} runs on it)"


def _no_fit(seat: Seat, job: WaitingJob, family: ModelFamily) -> str:
    req, view = job.requirement, seat.view
    if not matches(view, req.only):
        return f"not among this job's only: {', '.join(req.only)}"
    if req.vram_bytes is not None and req.vram_bytes > view.capacity_bytes:
        has, wants = both_sizes(view.capacity_bytes, req.vram_bytes)
        return f"has {has}, {wants} asked"
    return f"too small for model {family.label}: has {format_size(view.capacity_bytes)}"


def _because(turn: Round, models: Models, job: WaitingJob, family: ModelFamily, answers: Sequence[CardRefusal]) -> str:
    never = never_fits(turn.seats, turn.host, family)
    if never is not None:
        return f"can never run here: {never}; cancel it, or give it a smaller model or context"
    reserved = _reserved(turn, models, family)
    if reserved is not None:
        return reserved
    loads = any(load.family == family.key for load in models.loads)
    warm = any(models.turn.rig.free_at(family.key))
    if not loads and family.key in models.turn.rig.short:
        has, wants = both_sizes(max(0, turn.ram_free_bytes), family.ram_bytes)
        return f"host memory: {has} free of the {wants} that loading {family.label} takes"
    kept = next((each for each in models.kept if each.job_id == job.id), None)
    until = () if kept is None else _unsure(turn, kept.cards)
    if kept is not None and until:
        where = f"{names(turn.seats, kept.cards)} {are(kept.cards)} kept for it"
        return f"{where} until {jobs_text(until)} end{'s' if len(until) == 1 else ''}"
    if not (loads or warm or kept) and sum(answer.refusal is None for answer in answers) < family.cards:
        return _no_room(turn, family, answers)
    return _as_residency_says(turn, models, job, family)


def _unsure(turn: Round, cards: Sequence[str]) -> tuple[int, ...]:
    """The commands on these cards of which nobody knows when they will end."""
    seats = [seat for seat in turn.seats if seat.view.uuid in cards and (seat.model is None or not seat.model.job_id)]
    return tuple({hold.job_id for seat in seats for hold in seat.holds if hold.ends_by is None})


def never_fits(seats: Sequence[Seat], host: HostView, family: ModelFamily) -> str | None:
    """Why no copy of ``family`` could ever be loaded on this rig; None: it could."""
    label, fits = family.label, sum(seat.view.uuid in family.fits for seat in seats)
    if not seats:
        return None
    if fits < family.cards:
        where = "none" if not fits else f"only {fits}"
        return f"model {label} needs {cards_text(family.cards)}, and {where} of this rig's {len(seats)} can take it"
    if family.ram_bytes > host.ram_total_bytes:
        has, wants = both_sizes(host.ram_total_bytes, family.ram_bytes)
        return f"loading model {label} takes {wants} of host memory; this host has {has} for jobs"
    return None


def _reserved(turn: Round, models: Models, family: ModelFamily) -> str | None:
    """All copies are on cards that a command before has kept for it."""
    own = models.cards_of(family.key)
    first = [turn.reserved_for(seat) for seat in turn.seats if seat.view.uuid in own]
    if not own or None in first or models.turn.rig.free_at(family.key):
        return None
    return f"{family.label} is loaded on {names(turn.seats, own)}, which {are(own)} kept for job {first[0]}"


def _no_room(turn: Round, family: ModelFamily, answers: Sequence[CardRefusal]) -> str:
    if not turn.seats:
        return "no card is known yet"
    room = sum(answer.refusal is None for answer in answers)
    have = f", {room} could be had" if room else ""
    reasons = grouped(turn.seats, answers)
    needs = f"{family.label} is not loaded and needs {cards_text(family.cards)}{have}"
    return f"{needs}: {reasons}{_mend(turn, family, room)}"


def _mend(turn: Round, family: ModelFamily, room: int) -> str:
    short = family.cards - room
    able = [seat for seat in turn.seats if seat.view.uuid in family.fits]
    drained = [seat.view.index for seat in able if (seat.view.closed or "").startswith("drain")]
    if len(drained) >= short:
        return f"; p104ctl undrain {' '.join(map(str, drained[:short]))}"
    return unpin(able, short)


def unpin(seats: Sequence[Seat], short: int) -> str:
    """The mend where pinned models are on as many of ``seats`` as are short; else nothing."""
    pinned = [
        seat.model.label for seat in seats if seat.model is not None and seat.model.blocks is Obstacle.MODEL_PINNED
    ]
    return f"; p104ctl models unpin {' '.join(dict.fromkeys(pinned[:short]))}" if 0 < short <= len(pinned) else ""


def _as_residency_says(turn: Round, models: Models, job: WaitingJob, family: ModelFamily) -> str:
    kept = list(models.decided_kept)
    reservation = turn.card_keep
    if reservation is not None:
        kept.append(Kept(reservation.job_id, reservation.cards, reservation.starts_by or turn.now))
    decisions = Decisions(acts=tuple(models.acts), kept=tuple(kept))
    line = Line(family=family.key, priority=job.priority, count=1, first=(Ask(job.id, job.arrival),))
    cards = {seat.view.uuid: str(seat.view.index) for seat in turn.seats}
    return because(models.view_now(), decisions, line, cards)
