"""What holds of every decision on every rig: nobody's cards are taken, and no card idles that somebody could use."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torture import amount

from p104d.policy.residency import decide
from p104d.policy.residency_reasons import STARTS_NOW, because
from p104d.policy.residency_view import Ask, Begin, Family, Line, Load, Resident, RigCard, View

NOW = 1000.0
_TIMES = st.sampled_from([NOW, NOW - 5, NOW - 60, NOW - 100, NOW - 1000, NOW - 9000])


@st.composite
def views(draw: st.DrawFn) -> View:
    """Rigs of up to six cards with copies busy, idle, loading, pinned, closed; families of all widths; queues."""
    cards = tuple(
        RigCard(
            id=f"c{number}",
            closed=draw(st.integers(0, 5)) == 0,
            slowness=draw(st.sampled_from([1.0, 1.0, 4.4])),
        )
        for number in range(draw(st.integers(1, 6)))
    )
    families = tuple(_family(draw, number, len(cards)) for number in range(draw(st.integers(1, 5))))
    return View(
        now=NOW,
        cards=cards,
        residents=tuple(_residents(draw, cards, families)),
        families=families,
        lines=tuple(_lines(draw, families, len(cards))),
    )


def _family(draw: st.DrawFn, number: int, cards: int) -> Family:
    kept = draw(st.integers(0, 4)) > 0
    seen = draw(st.sampled_from([0, 1, 50]))
    return Family(
        name=f"f{number}",
        cards=draw(st.integers(1, cards)),
        load_seconds=draw(st.sampled_from([0.5, 10.0, 40.0])) if kept else 0.0,
        mean_seconds=draw(st.sampled_from([1.0, 20.0, 300.0])) if seen else None,
        seen=seen,
        kept=kept,
    )


def _residents(draw: st.DrawFn, cards: tuple[RigCard, ...], families: tuple[Family, ...]) -> list[Resident]:
    free = [card.id for card in draw(st.permutations(cards))]
    made: list[Resident] = []
    while free and draw(st.integers(0, 4)):
        family = draw(st.sampled_from(families))
        if family.cards > len(free):
            break
        mine, free = free[: family.cards], free[family.cards :]
        busy = (
            None if family.kept and draw(st.booleans()) else draw(st.sampled_from([NOW - 400, NOW - 2, NOW, NOW + 3]))
        )
        made.append(
            Resident(
                id=10 + len(made),
                family=family.name,
                cards=tuple(mine),
                last_used=draw(_TIMES),
                busy_since=busy,
                loading=busy == NOW + 3 and family.kept and draw(st.booleans()),
                pinned=family.kept and draw(st.integers(0, 4)) == 0,
            )
        )
    return made


def _lines(draw: st.DrawFn, families: tuple[Family, ...], cards: int) -> list[Line]:
    keys = draw(st.lists(st.tuples(st.sampled_from(families), st.sampled_from([0, 0, 5])), max_size=6))
    made = []
    for place, (family, priority) in enumerate(dict.fromkeys((each.name, priority) for each, priority in keys)):
        arrivals = sorted(draw(st.lists(_TIMES, min_size=1, max_size=cards)))
        first = tuple(Ask(100 * place + number, at) for number, at in enumerate(arrivals))
        more = draw(st.sampled_from([0, 0, 30])) if len(first) == cards else 0
        made.append(Line(family=family, priority=priority, count=len(first) + more, first=first))
    return made


@pytest.mark.torture
@settings(max_examples=amount(300, 5000), deadline=None)
@given(views())
def test_nobody_is_wronged(seen: View) -> None:
    found = decide(seen)
    families = {each.name: each for each in seen.families}
    residents = {each.id: each for each in seen.residents}
    closed = {card.id for card in seen.cards if card.closed}
    taken = {card: each.id for each in seen.residents for card in each.cards}
    line_of = {ask.id: line for line in seen.lines for ask in line.first}
    used: set[int] = set()
    started: list[int] = []
    for act in found.acts:
        family = line_of[act.job].family
        if isinstance(act, Begin):
            copy = residents[act.resident]
            assert copy.family == family and copy.busy_since is None and closed.isdisjoint(copy.cards)
            assert copy.id not in used, "an idle copy takes one job"
            used.add(copy.id)
            started.append(act.job)
            continue
        assert act.family == family and act.job not in started
        for number in act.evicts:
            gone = residents[number]
            assert gone.busy_since is None and not gone.pinned and number not in used
            assert not set(gone.cards).isdisjoint(act.cards), "unloaded for nothing"
            used.add(number)
            for card in gone.cards:
                del taken[card]
        assert len(set(act.cards)) == families[family].cards == len(act.cards)
        assert closed.isdisjoint(act.cards) and taken.keys().isdisjoint(act.cards)
        taken.update(dict.fromkeys(act.cards, -1))
        if not families[family].kept:
            started.append(act.job)
    assert len(started) == len(set(started))


@pytest.mark.torture
@settings(max_examples=amount(200, 4000), deadline=None)
@given(views())
def test_no_card_idles_that_somebody_could_use(seen: View) -> None:
    """Where nothing is kept: no job waits whose copy is idle, nor one without a copy for which there is room."""
    found = decide(seen)
    assume(not found.kept)
    begun = {act.job for act in found.acts if isinstance(act, Begin)}
    begun |= {act.job for act in found.acts if isinstance(act, Load) and not _of(seen, act.family).kept}
    loaded = {act.family for act in found.acts if isinstance(act, Load)}
    closed = {card.id for card in seen.cards if card.closed}
    usable = [each for each in seen.residents if closed.isdisjoint(each.cards)]
    working = {act.resident for act in found.acts if isinstance(act, Begin)}
    changed = working | {number for act in found.acts if isinstance(act, Load) for number in act.evicts}
    on = {card for act in found.acts if isinstance(act, Load) for card in act.cards}
    on |= {card for each in seen.residents if each.id not in changed for card in each.cards}
    idle = [each for each in usable if each.busy_since is None and each.id not in changed]
    room = len({card.id for card in seen.cards} - closed - on - _cards_of(seen, working)) + sum(
        len(each.cards) for each in idle if not each.pinned
    )
    for line in seen.lines:
        family = _of(seen, line.family)
        if all(ask.id in begun for ask in line.first):
            continue
        assert not family.kept or family.name not in {each.family for each in idle}
        cold = not family.kept or (family.name not in loaded and family.name not in {each.family for each in usable})
        assert not cold or room < family.cards


def _of(seen: View, name: str) -> Family:
    return next(family for family in seen.families if family.name == name)


def _cards_of(seen: View, copies: set[int]) -> set[str]:
    return {card for each in seen.residents if each.id in copies for card in each.cards}


@pytest.mark.torture
@settings(max_examples=amount(100, 2000), deadline=None)
@given(views(), st.randoms(use_true_random=False))
def test_the_order_in_which_things_are_listed_does_not_matter(seen: View, dice: object) -> None:
    def mixed(things: tuple) -> tuple:
        return tuple(dice.sample(things, len(things)))  # type: ignore[attr-defined]

    other = msgspec.structs.replace(
        seen, residents=mixed(seen.residents), families=mixed(seen.families), lines=mixed(seen.lines)
    )
    assert decide(other) == decide(seen) == decide(seen)


@pytest.mark.torture
@settings(max_examples=amount(150, 2000), deadline=None)
@given(views())
def test_every_job_that_waits_can_say_why(seen: View) -> None:
    found = decide(seen)
    begun = {act.job for act in found.acts if isinstance(act, Begin) or not _of(seen, act.family).kept}
    for line in seen.lines:
        told = because(seen, found, line, {})
        assert (told == STARTS_NOW) == (line.first[0].id in begun)
        assert "\n" not in told and len(told) > 10
