"""The report of a while: what the store added up, put together by job and by card, and which cards to look at."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from p104d.api import history as h
from p104d.core.units import iso
from p104d.daemon.views import public_reason
from p104d.store import records
from p104d.store import reports as store

Key = tuple[str, str | None]

#: Measurements that are added up, by what the report calls them. ``cost`` carries its currency as the unit.
_ENERGY, _COST, _TOKENS, _ITEMS = "energy_watt_hours", "cost", "generation_tokens", "items"
#: The speed that stands for a job where it has several, the first of these; else the one measured most often.
_SPEEDS = ("generation_tokens_per_second", "iterations_per_second", "seconds_per_iteration")
#: Fewer failures than this are chance; and so is a rate that others have nearly as well.
_FEW_FAILURES = 3
_MUCH_MORE = 3.0
#: A card that does the same work so much slower than its siblings is worth a look: runs of one card differ by 2-3 %.
_SLOW_PERCENT = 90.0
_FEW_RUNS = 5
#: A job of which more than half fails is worth a look too.
_MOST_FAIL = 0.5
_OUT = ("suspect", "missing")
_BAD = ("aliased", "faulty", "failed")
_MOST_CAUSES = 20


class CardNow(msgspec.Struct, frozen=True, kw_only=True):
    """A card as it stands while the report is made."""

    uuid: str
    index: int | None
    name: str
    state: str
    verdict: str
    warnings: tuple[str, ...] = ()


def make_report(conn: Connection, since: float, until: float, reached: float, cards: Sequence[CardNow]) -> h.Report:
    """The report of ``since`` to ``until``; ``reached`` is ``until`` or, where that is to come, now."""
    measured = list(records.figures(conn, records.Records(speeds=True, since=since, until=until), by_name=True))
    groups, failures = _groups(conn, since, until, measured)
    parts = _cards(conn, since, until, reached, cards)
    slow = _slow_cards(measured, cards)
    return h.Report(
        since=iso(since) or "",
        until=iso(until) or "",
        groups=groups,
        cards=parts,
        failures=failures,
        look_at=[*_cards_to_look_at(parts), *slow, *_jobs_to_look_at(groups)],
        notes=_notes(store.oldest_job(conn), since),
    )


def _notes(oldest: float | None, since: float) -> list[str]:
    if oldest is None or oldest - since < 86400.0:
        return []
    day = datetime.fromtimestamp(oldest).astimezone().strftime("%Y-%m-%d")
    return [f"no job that ended before {day} is kept; what such jobs measured is in p104ctl history"]


# --- by job ----------------------------------------------------------------------------------------------------------


class _Models:
    """A failed job measured nothing that tells its model: it counts with the one model that jobs of its name had."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._known: defaultdict[str, set[str]] = defaultdict(set)
        for row in rows:
            if row.model is not None:
                self._known[row.name].add(row.model)

    def key(self, row: Any) -> Key:
        if row.model is None and len(self._known.get(row.name, ())) == 1:
            return row.name, next(iter(self._known[row.name]))
        return row.name, row.model


def _groups(
    conn: Connection, since: float, until: float, measured: Sequence[records.Figures]
) -> tuple[list[h.Group], list[h.Cause]]:
    spent, ended = store.time_spent(conn, since, until), store.jobs_ended(conn, since, until)
    amounts = store.amounts(conn, since, until, (_ENERGY, _COST, _TOKENS, _ITEMS))
    models = _Models([*spent, *ended])
    states: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    causes: defaultdict[Key, Counter[str]] = defaultdict(Counter)
    for row in ended:
        states[models.key(row)][row.state] += row.count
        if row.state in ("failed", "lost"):
            causes[models.key(row)][public_reason(row.reason) or row.state] += row.count
    runs: defaultdict[Key, list[float]] = defaultdict(lambda: [0, 0.0])
    for row in spent:
        runs[models.key(row)][0] += row.attempts
        runs[models.key(row)][1] += row.seconds
    sums: defaultdict[Key, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in amounts:
        units = sums[models.key(row)][row.measure]
        units[row.unit] = units.get(row.unit, 0.0) + row.value
    fastest = _main_speeds(measured)
    keys = sorted({*states, *runs}, key=lambda key: (-runs[key][1], key[0], key[1] or ""))
    groups = [_group(key, states[key], runs[key], sums[key], fastest.get(key), causes[key]) for key in keys]
    return groups, _listed(sum(causes.values(), Counter()))


class _Speed(msgspec.Struct, frozen=True):
    """The speed that stands for a group."""

    measure: str
    unit: str
    median: float


def _main_speeds(measured: Sequence[records.Figures]) -> dict[Key, _Speed]:
    by_key: defaultdict[Key, defaultdict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in measured:
        assert each.name is not None
        by_key[each.name, each.model][each.measure, each.unit].extend(each.values)

    def worth(measure: str, values: Sequence[float]) -> tuple[int, int]:
        return -(_SPEEDS.index(measure) if measure in _SPEEDS else len(_SPEEDS)), len(values)

    best: dict[Key, _Speed] = {}
    for key, found in by_key.items():
        (measure, unit), values = max(found.items(), key=lambda item: worth(item[0][0], item[1]))
        best[key] = _Speed(measure, unit, median(values))
    return best


def _group(
    key: Key,
    states: Counter[str],
    run: Sequence[float],
    sums: Mapping[str, Mapping[str, float]],
    speed: _Speed | None,
    causes: Counter[str],
) -> h.Group:
    costs = sums.get(_COST, {})
    currency = next(iter(costs)) if len(costs) == 1 else None
    return h.Group(
        name=key[0],
        model=key[1],
        jobs=sum(states.values()),
        succeeded=states["succeeded"],
        failed=states["failed"] + states["lost"],
        cancelled=states["cancelled"],
        attempts=int(run[0]),
        hours=run[1] / 3600.0,
        energy_watt_hours=_sum(sums, _ENERGY),
        cost=costs[currency] if currency is not None else None,
        currency=currency,
        tokens=_sum(sums, _TOKENS),
        items=_sum(sums, _ITEMS),
        speed=speed.median if speed is not None else None,
        speed_unit=speed.unit if speed is not None else None,
        speed_measure=speed.measure if speed is not None else None,
        failures=_listed(causes),
    )


def _sum(sums: Mapping[str, Mapping[str, float]], measure: str) -> float | None:
    return sum(sums[measure].values()) if sums.get(measure) else None


def _listed(causes: Counter[str]) -> list[h.Cause]:
    return [h.Cause(reason, count) for reason, count in causes.most_common(_MOST_CAUSES)]


# --- by card ---------------------------------------------------------------------------------------------------------


def _cards(conn: Connection, since: float, until: float, reached: float, cards: Sequence[CardNow]) -> list[h.CardPart]:
    busy = {row.card_uuid: row.seconds for row in store.busy(conn, since, reached)}
    energy = {row.card_uuid: row.value for row in store.card_amounts(conn, since, until, (_ENERGY,))}
    tests = {row.card_uuid: (row.tests, int(row.bad)) for row in store.card_tests(conn, since, until)}
    attempts: Counter[str] = Counter()
    causes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in store.on_cards(conn, since, until):
        attempts[row.card_uuid] += row.count
        if row.outcome in ("failed", "lost"):
            causes[row.card_uuid][public_reason(row.reason) or row.outcome] += row.count
    return [
        h.CardPart(
            card=card.uuid,
            index=card.index,
            name=card.name,
            state=card.state,
            verdict=card.verdict,
            hours=busy.get(card.uuid, 0.0) / 3600.0,
            attempts=attempts[card.uuid],
            failed=sum(causes[card.uuid].values()),
            energy_watt_hours=energy.get(card.uuid),
            drawn_watt_hours=None,
            tests=tests.get(card.uuid, (0, 0))[0],
            tests_bad=tests.get(card.uuid, (0, 0))[1],
            failures=_listed(causes[card.uuid]),
            warnings=list(card.warnings),
        )
        for card in cards
    ]


def _cards_to_look_at(parts: Sequence[h.CardPart]) -> list[str]:
    found = []
    for part in parts:
        others = [other for other in parts if other.card != part.card]
        said = list(part.warnings)
        if not said and part.state in _OUT:
            said = [f"{_called(part)} is {part.state}; p104ctl status says more"]
        if not said and part.verdict in _BAD:
            said = [f"{_called(part)} is {part.verdict}; p104ctl cards {part.index} says what to do"]
        if _fails_more(part, others):
            causes = ", ".join(f"{cause.reason} ({cause.count})" for cause in part.failures[:3])
            rest = f"{part.failed} of {part.attempts} attempts failed, more than on others: {causes}"
            said.append(f"{_called(part)}: {rest}; look at its riser, power and heat, then p104ctl verify {part.index}")
        found += said
    return found


def _fails_more(part: h.CardPart, others: Sequence[h.CardPart]) -> bool:
    """Whether more of what ran on the card failed than chance and the jobs themselves explain."""
    ran, failed = sum(other.attempts for other in others), sum(other.failed for other in others)
    if part.failed < _FEW_FAILURES or ran == 0:
        return False
    # One more failure among the others than there was: with few of them, none is no proof.
    return part.failed / part.attempts > _MUCH_MORE * (failed + 1) / (ran + 1)


class _Slow(msgspec.Struct, frozen=True):
    """A card's worst case: the work, its median there, the siblings', and what per cent of their speed that is."""

    work: str
    unit: str
    here: float
    usual: float
    percent: float


def _slow_cards(measured: Sequence[records.Figures], cards: Sequence[CardNow]) -> list[str]:
    """Cards that are slower than others of their kind at the same work, each once, with its worst case."""
    known = {card.uuid: card for card in cards}
    worst: dict[str, _Slow] = {}
    for (work, _, unit, _), medians in _same_work(measured, known).items():
        for uuid, here in medians.items():
            others = [value for other, value in medians.items() if other != uuid]
            if not others:
                continue
            usual = median(others)
            percent = 100.0 * (usual / here if unit.startswith("s/") else here / usual)
            if percent < (worst[uuid].percent if uuid in worst else _SLOW_PERCENT):
                worst[uuid] = _Slow(work, unit, here, usual, percent)
    return [
        f"card {known[uuid].index} ({known[uuid].name}): {slow.work} runs at {slow.percent:.0f} % of the speed of its"
        f" siblings ({slow.here:.3g} against {slow.usual:.3g} {slow.unit}); look at heat, power limit, link, clocks:"
        f" p104ctl history --card {known[uuid].index} --plot"
        for uuid, slow in worst.items()
    ]


def _same_work(
    measured: Sequence[records.Figures], known: Mapping[str, CardNow]
) -> dict[tuple[str, str, str, str], dict[str, float]]:
    """(model or name, measure, unit, kind of card) -> card -> median, of cards with enough runs."""
    values: defaultdict[tuple[str, str, str, str], defaultdict[str, list[float]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for each in measured:
        card = known.get(each.card_uuid or "")
        if card is not None:
            work = each.model or each.name or ""
            values[work, each.measure, each.unit, card.name][card.uuid].extend(each.values)
    medians = {
        key: {uuid: median(found) for uuid, found in on_cards.items() if len(found) >= _FEW_RUNS}
        for key, on_cards in values.items()
    }
    return {key: {uuid: one for uuid, one in found.items() if one > 0} for key, found in medians.items()}


def _jobs_to_look_at(groups: Sequence[h.Group]) -> list[str]:
    return [
        f"job {group.name}: {group.failed} of {group.jobs} failed, mostly: {group.failures[0].reason}"
        for group in groups
        if group.failed >= _FEW_FAILURES and group.failed > _MOST_FAIL * group.jobs and group.failures
    ]


def _called(part: h.CardPart) -> str:
    return f"card {part.index} ({part.name})"
