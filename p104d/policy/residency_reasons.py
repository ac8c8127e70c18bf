"""Why the first job of a line waits, in a sentence: told from the same view and the decisions taken on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from p104d.core.units import format_duration
from p104d.policy.residency_estimate import means, rest
from p104d.policy.residency_view import Begin, Decisions, Family, Line, Load, Resident, View

STARTS_NOW = "nothing: it starts now"
_MOST_NAMED = 4


def because(view: View, decisions: Decisions, line: Line, names: Mapping[str, str]) -> str:
    """Why the first job of ``line`` does not run after ``decisions``; ``names`` are the cards' as people know them."""
    job = line.first[0].id
    family = next(family for family in view.families if family.name == line.family)
    mine = [act for act in decisions.acts if act.job == job]
    if any(isinstance(act, Begin) or not family.kept for act in mine):
        return STARTS_NOW
    loads = [act for act in decisions.acts if isinstance(act, Load) and act.family == family.name]
    if family.kept and loads:
        return f"{family.label or family.name} is being loaded on {_cards(loads[0].cards, names)}"
    return _waits(view, decisions, family, job, names)


def _waits(view: View, decisions: Decisions, family: Family, job: int, names: Mapping[str, str]) -> str:
    kept = next((each for each in decisions.kept if each.job == job), None)
    if kept is not None:
        soon = _soon(kept.expected - view.now)
        return f"{_cards(kept.cards, names)} {_are(kept.cards)} kept for it, free {soon}"
    usable = [each for each in _own(view, family) if not _closed(view, each)] if family.kept else []
    if not usable:
        return _no_room(view, decisions, family, names)
    mean = means(view.families)[family.name]
    first = min(usable, key=lambda each: (rest(each, mean, view.now), each.id))
    where = _cards(first.cards, names)
    if first.loading:
        return f"{family.label or family.name} is being loaded on {where}, ready {_soon(rest(first, mean, view.now))}"
    if first.busy_since is None and (other := _kept_for(decisions, first.cards)) is not None:
        return f"{family.label or family.name} is loaded on {where}, which {_are(first.cards)} kept for job {other}"
    again = "" if len(usable) > 1 else "; another copy would not pay now"
    soon = _soon(rest(first, mean, view.now))
    return f"{family.label or family.name} is loaded on {where}, which {_are(first.cards)} at work, free {soon}{again}"


def _no_room(view: View, decisions: Decisions, family: Family, names: Mapping[str, str]) -> str:
    pinned = [each for each in view.residents if each.pinned]
    fixed = {card for each in pinned for card in each.cards}
    could = [card.id for card in view.cards if not card.closed and card.id not in fixed]
    needs = "1 card" if family.cards == 1 else f"{family.cards} cards"
    what = f"{family.label or family.name} is not loaded and needs" if family.kept else "needs"
    if len(could) < family.cards:
        closed = sum(card.closed for card in view.cards)
        return f"{what} {needs}, of which {len(could)} could be had: {closed} closed, {len(fixed)} with pinned models"
    kept = [card for card in could if _kept_for(decisions, [card]) is not None]
    if kept:
        return f"{what} {needs}; {_cards(kept, names)} {_are(kept)} kept for job {_kept_for(decisions, kept)}"
    return f"{what} {needs}; those there are work for the jobs before it, or for others whose model is loaded there"


def _own(view: View, family: Family) -> list[Resident]:
    return [each for each in view.residents if each.family == family.name]


def _closed(view: View, resident: Resident) -> bool:
    return any(card.closed and card.id in resident.cards for card in view.cards)


def _kept_for(decisions: Decisions, cards: Iterable[str]) -> int | None:
    wanted = set(cards)
    return next((each.job for each in decisions.kept if not wanted.isdisjoint(each.cards)), None)


def _cards(cards: Iterable[str], names: Mapping[str, str]) -> str:
    known = [names.get(card, card) for card in cards]
    more = f" and {len(known) - _MOST_NAMED} more" if len(known) > _MOST_NAMED else ""
    return f"card{'s' if len(known) > 1 else ''} {', '.join(known[:_MOST_NAMED])}{more}"


def _are(cards: Sequence[str]) -> str:
    return "are" if len(cards) > 1 else "is"


def _soon(seconds: float) -> str:
    return "in a moment" if seconds < 1 else f"in about {format_duration(round(seconds))}"
