"""The record drawn in the terminal: results over time, and a card's readings with its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from p104d.cli.chart import Bar, Mark, Sample, Window, lanes, line_chart, mark_chart, time_axis, window
from p104d.cli.proof import label
from p104d.cli.records import amount, work
from p104d.cli.terminal import terminal_width
from p104d.cli.text import local, paint, timestamp

#: A series has a gap where nothing was read for longer than this many of its usual steps.
GAP_STEPS = 2.5
#: Different works or measures that one call draws at most; more are asked for by name.
MOST_CHARTS = 4
UNITS = {"celsius": "°C", "watts": "W", "mhz": "MHz", "percent": "%", "bytes": "B"}
TITLES = {
    "temperature_celsius": "temperature",
    "power_watts": "power",
    "sm_clock_mhz": "clock",
    "memory_clock_mhz": "memory clock",
    "utilization_percent": "utilisation",
    "cpu_percent": "processor",
    "memory_used_bytes": "memory used",
}
_COLOURS = ("green", "cyan", "yellow", "magenta", "blue", "red")


def unit_of(series: Mapping[str, Any]) -> str:
    """A metric's unit as people write it."""
    return UNITS.get(series["unit"], str(series["unit"]))


def samples(series: Mapping[str, Any]) -> list[Sample]:
    """The points of a series as the wire has it."""
    times = (timestamp(at) or 0.0 for at in series["times"])
    return [Sample(*point) for point in zip(times, series["minimum"], series["mean"], series["maximum"], strict=True)]


def gap_of(series: Mapping[str, Any], points: Sequence[Sample]) -> float:
    """Where points are further apart than this many seconds nothing was read in between.

    Points may be rarer than the step that was asked for, where the daemon looks at the cards less often.
    """
    apart = [after.at - before.at for before, after in pairwise(points)]
    return GAP_STEPS * max(float(series["step_seconds"]), median(apart) if apart else 0.0)


def kinds(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """Results by (work, measure, unit), oldest first; those with the most first."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in sorted(results, key=lambda each: str(each["at"])):
        found.setdefault((work(one), one["measure"], one["unit"]), []).append(one)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def on_cards(one: Mapping[str, Any], indexes: Mapping[str, str]) -> str:
    """The cards of a result: ``0``, ``0,1``; ``host`` for none."""
    return ",".join(indexes.get(uuid, uuid[4:8]) for uuid in one["card_uuids"]) or "host"


def level(results: Sequence[Mapping[str, Any]]) -> float | None:
    """The speed on record, where all of these results are held against the same one."""
    found = {one["reference"]["value"] if one.get("reference") else None for one in results}
    return found.pop() if len(found) == 1 else None


def result_charts(results: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[str]:
    """A chart a work and measure, each result shown as the index of its card."""
    times = [timestamp(one["at"]) or 0.0 for one in results]
    spare = (max(times) - min(times)) * 0.02 or 30.0
    over = window(min(times) - spare, max(times) + spare, terminal_width())
    found: list[str] = []
    several = kinds(results)
    for (what, measure, unit), some in list(several.items())[:MOST_CHARTS]:
        values = [one["value"] for one in some]
        middle = f"median {amount(median(values), unit)} of {len(values)}"
        record = level(some)
        against = f", on record {amount(record, unit)}" if record is not None else ""
        heading = f"{what}: {measure}, {unit} ({middle}{against})"
        found += [*([""] if found else []), *mark_chart(heading, _marks(some, indexes), over, record), *time_axis(over)]
    cards = sorted({on_cards(one, indexes) for one in results})
    found.append(_shown_as(cards))
    if len(several) > MOST_CHARTS:
        found.append(f"and {len(several) - MOST_CHARTS} more; --name, --model or --measure choose")
    return found


def _shown_as(cards: Sequence[str]) -> str:
    single = [card for card in cards if card.isdigit() and len(card) == 1]
    rest = [card for card in cards if card not in single]
    said = [f"digits: the card{'s' * (len(single) > 1)} {', '.join(single)}"] if single else []
    return "; ".join(said + ([f"+: {' | '.join(rest)}"] if rest else [])) or "no results"


def _marks(results: Sequence[dict[str, Any]], indexes: Mapping[str, str]) -> list[Mark]:
    marks = []
    for one in results:
        card = on_cards(one, indexes)
        digit = card.isdigit() and len(card) == 1
        colour = _COLOURS[int(card) % len(_COLOURS)] if digit else None
        marks.append(Mark(timestamp(one["at"]) or 0.0, one["value"], card if digit else "+", colour))
    return marks


def card_charts(answer: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[str]:
    """A card's readings, one above the other, its results and its jobs below, on one axis of time."""
    since, until = (timestamp(answer[key]) or 0.0 for key in ("since", "until"))
    over = window(since, until, terminal_width())
    found = [paint(f"{title(answer)}, {local(answer['since'])} to {local(answer['until'])}", "bold")]
    drawn = 0
    for series in answer["series"]:
        points = samples(series)
        name = TITLES.get(series["metric"], series["metric"])
        if not points:
            found.append(f"{name}: no readings")
            continue
        drawn += 1
        mean = sum(point.mean for point in points) / len(points)
        heading = f"{name}, {unit_of(series)} (mean {mean:.0f}, most {max(point.high for point in points):.0f})"
        found += line_chart(heading, points, over, gap_of(series, points))
    found += _speed_charts(results, over)
    if answer.get("note"):
        found.append(answer["note"])
    bars = [_bar(span, until) for span in answer["jobs"]]
    if drawn or results or bars:
        found += time_axis(over)
    return [*found, *lanes(bars, over)]


def title(answer: Mapping[str, Any]) -> str:
    """Whose readings these are."""
    if answer.get("card") is None:
        return "host"
    return label({"index": answer.get("card_index"), "name": answer.get("card_name")})


def _speed_charts(results: Sequence[dict[str, Any]], over: Window) -> list[str]:
    found: list[str] = []
    for (what, measure, unit), some in list(kinds(results).items())[:2]:
        marks = [Mark(timestamp(one["at"]) or 0.0, one["value"], "•", "green") for one in some]
        heading = f"{what}: {measure}, {unit} ({len(some)} results)"
        found += mark_chart(heading, marks, over, level(some), parts=2)
    return found


def _bar(span: Mapping[str, Any], until: float) -> Bar:
    end = timestamp(span["ended_at"])
    return Bar(timestamp(span["started_at"]) or 0.0, until if end is None else end, f"{span['job_id']} {span['name']}")
