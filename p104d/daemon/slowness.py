"""Warnings of cards that have grown slow: each result is compared with those before it, once it is on record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec

from p104d.core.errors import UnavailableError
from p104d.core.job import Measurement
from p104d.policy.slower import SPEEDS, Conditions, Finding, Usual, slower
from p104d.store import results
from p104d.store.engine import Database
from p104d.store.results import By, Place, Result

log = logging.getLogger(__name__)

#: Warnings of works that nobody runs any more go when there are too many; the oldest first.
_MOST_WARNINGS = 100

_SHARES = ("throttled_seconds", "power_capped_seconds")
_UNDER = ("max_temperature_celsius", "mean_sm_clock_mhz", "mean_memory_clock_mhz", "link_lanes_gen1")


class CardKind(msgspec.Struct, frozen=True):
    """A card as people know it: its index, and what its siblings share with it (its catalog name, say)."""

    index: int
    kind: str


class Slowness:
    """``kinds`` tells the present cards by UUID. A warning stays until the same work is as fast as usual again."""

    def __init__(self, database: Database, kinds: Callable[[], Mapping[str, CardKind]]) -> None:
        self._database, self._kinds = database, kinds
        self._warnings: dict[tuple[str, str, Place, str], str] = {}

    def warnings(self) -> list[str]:
        """What is slow now, each a line with cause and mend."""
        return list(self._warnings.values())

    def on_results(self, fresh: Sequence[Result]) -> list[str]:
        """Compare what has just gone on record; the new warnings. Never raises."""
        before = set(self._warnings.values())
        for result in fresh:
            try:
                self._compare(result)
            except UnavailableError as error:
                log.warning("%s", error.line(), extra={"action": "compare_failed"})
            except Exception:
                log.exception("job %d could not be compared", result.job_id, extra={"action": "compare_failed"})
        while len(self._warnings) > _MOST_WARNINGS:
            del self._warnings[next(iter(self._warnings))]
        found = [text for text in self._warnings.values() if text not in before]
        for text in found:
            log.warning("%s", text, extra={"action": "slower"})
        return found

    def _compare(self, result: Result) -> None:
        # A model says more of the work than a name; jobs of one name may load different ones.
        by: By = "name" if result.model is None else "model"
        work = result.name if result.model is None else result.model
        figures = {each.name: each for each in result.measurements}
        for measure in SPEEDS:
            if measure not in figures:
                continue
            key = (by, work, result.place, measure)
            self._warnings.pop(key, None)
            found = self._judge(by, work, figures[measure], result)
            if found is not None:
                self._warnings[key] = self._text(result, work, figures[measure], found)

    def _judge(self, by: By, work: str, figure: Measurement, result: Result) -> Finding | None:
        with self._database.read() as conn:
            known = results.recent(conn, by, work, figure.name, before=result.at)
            own = _usual(known.pop(result.place, []), figure.unit)
            siblings = [_usual(values, figure.unit) for place, values in known.items() if self._alike(place, result)]
            if slower(figure.name, figure.value, own, siblings) is None:
                return None  # nearly always: what it ran under need not be looked up
            under = results.usual(conn, by, work, _UNDER, before=result.at)
            shares = results.usual(conn, by, work, _SHARES, before=result.at, share=True)
        place = self._compared_with(result, known | {result.place: []} if own.count else known)
        before = _conditions({**under.get(place, {}), **shares.get(place, {})})
        return slower(figure.name, figure.value, own, siblings, now=_of(result), before=before)

    def _compared_with(self, result: Result, known: Mapping[Place, object]) -> Place:
        """Where the usual conditions are taken from: its own place, else that of a sibling."""
        alike = (place for place in known if self._alike(place, result))
        return result.place if result.place in known else next(alike, result.place)

    def _alike(self, place: Place, result: Result) -> bool:
        """Is it another place of the same kind: a card of the same name, or as many cards?"""
        mine, kinds = result.place, self._kinds()
        if place == mine or place.cards != mine.cards:
            return False
        if place.card_uuid is None or mine.card_uuid is None:
            return False  # what several cards did is told of no single one
        one, other = kinds.get(place.card_uuid), kinds.get(mine.card_uuid)
        return one is not None and other is not None and one.kind == other.kind

    def _text(self, result: Result, work: str, figure: Measurement, found: Finding) -> str:
        kinds = self._kinds()
        named = [str(kinds[uuid].index) if uuid in kinds else uuid for uuid in result.card_uuids]
        where = f"card{'s' if len(named) > 1 else ''} {', '.join(named)}" if named else "the host"
        than = "the same on cards of its kind" if found.siblings else "its own usual"
        return (
            f"{where}: {work} made {figure.value:.3g} {figure.unit} in job {result.job_id}, {100 * found.drop:.0f} % "
            f"slower than {than} {found.usual.median:.3g} (of {found.usual.count} results): {found.cause}"
        )


def _usual(values: Sequence[tuple[float, float, str]], unit: str) -> Usual:
    same = [value for _at, value, its_unit in values if its_unit == unit]
    if not same:
        return Usual(count=0, median=0.0)
    middle, spread = results.middle_and_spread(same)
    return Usual(count=len(same), median=middle, spread=spread)


def _of(result: Result) -> Conditions:
    """What it ran under itself."""
    figures = {each.name: each.value for each in result.measurements}
    for name in _SHARES:
        if name in figures:
            seconds = figures.pop(name)
            if result.seconds:
                figures[name] = min(1.0, seconds / result.seconds)
    return _conditions(figures)


def _conditions(figures: Mapping[str, float]) -> Conditions:
    return Conditions(
        throttled=figures.get("throttled_seconds"),
        capped=figures.get("power_capped_seconds"),
        temperature=figures.get("max_temperature_celsius"),
        sm_clock=figures.get("mean_sm_clock_mhz"),
        memory_clock=figures.get("mean_memory_clock_mhz"),
        lanes=figures.get("link_lanes_gen1"),
    )
